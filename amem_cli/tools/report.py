"""`amem report`: collects what a workspace holds, section by section, for one HTML page."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amem_cli.artifacts import atomic, pseudo_labels, results
from amem_cli.artifacts.metrics_log import recorded_seconds
from amem_cli.artifacts.paths import metrics_path
from amem_cli.artifacts.status import ArtifactState
from amem_cli.data.chain import chain_of
from amem_cli.data.counts import count_differences
from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import AmemError, InputMissing, UsageError
from amem_cli.runtime.progress import Progress
from amem_cli.tools.show import choose_query_rows, name_of_result, ranked_rows
from amem_cli.tools.source import Source

if TYPE_CHECKING:
    from amem_cli.models.amem import AMEM
    from amem_cli.models.config import ModelConfig
    from amem_cli.pictures.ranked_lists import RankedRow
    from amem_cli.pictures.report.content import Artifact, CameraPair, Curves, Missing, Predictions, RankedLists, Report

LARGEST_PAGE = 15_000_000  # bytes
FRAMES_PER_TRACKLET = (32, 16, 8, 4)  # in the dialog; fewer when the page would be too large
COUNTED_ANSWERS, SHOWN_ANSWERS = 10, 15  # answers with a rank; with the ignored ones between them
CLIPS_DRAWN = 4  # of those that are measured


def report(out: Path, source: Source, progress: Progress, *, queries: int, seed: int) -> Path:
    """Write the page of one data set (and split) to `out`; returns it.

    A section that cannot be made says why, and which command makes what it needs. Raises `UsageError` for a data set
    without tracklets, a split that it does not have, and so many queries that the page would exceed 15 MB.
    """
    if queries < 1:
        raise UsageError("--queries", str(queries), why="at least 1 is needed")
    source.check()
    from amem_cli.pictures.report.page import report_page

    collected = _Collector(source, progress).report(queries, seed)
    for frames in FRAMES_PER_TRACKLET:
        page = report_page(collected, frames).encode()
        if len(page) <= LARGEST_PAGE:
            return atomic.write_bytes(out, page)
    why = f"the page would have {len(page) / 1e6:.0f} MB, more than {LARGEST_PAGE / 1e6:.0f}"
    raise UsageError("--queries", str(queries), why=why, remedy="Ask for fewer")


class _Unavailable(Exception):
    """Why a section cannot be made."""

    def __init__(self, missing: "Missing"):
        super().__init__(missing.why)
        self.missing = missing


class _Collector:
    """Collects the sections of one report."""

    def __init__(self, source: Source, progress: Progress):
        self.source, self.progress = source, progress
        self.states = chain_of(source.manifest, source.workspace.root, source.number)

    def report(self, queries: int, seed: int) -> "Report":
        from amem_cli.pictures.report.content import Missing, Report

        source, result = self.source, self._section(lambda: self.result)
        return Report(
            dataset=source.manifest.name,
            split=source.number,
            model="this model" if isinstance(result, Missing) else name_of_result(source, result),
            workspace=source.workspace.root,
            notes=self._notes(),
            result=result,
            camera_pairs=self._section(self._camera_pairs),
            ranked_lists=self._section(lambda: self._ranked_lists(queries, seed)),
            predictions=self._section(self._predictions),
            curves=self._curves(),
            artifacts=[_artifact(state) for state in self.states],
        )

    def _section(self, collect: Callable[[], Any]) -> Any:
        """What `collect` returns, or `Missing` with the reason."""
        from amem_cli.pictures.report.content import Missing

        try:
            return collect()
        except _Unavailable as reason:
            return reason.missing
        except AmemError as error:
            if str(error) not in self.progress.warnings:
                self.progress.warn(str(error))
            return Missing(str(error))

    def _made_by(self, stage: str, read: Callable[[], Any]) -> Any:
        """What `read` returns of the artifact of `stage`; raises `_Unavailable` with the command that makes it."""
        from amem_cli.pictures.report.content import Missing

        try:
            return read()
        except InputMissing as error:
            raise _Unavailable(Missing(f"{error.path} does not exist yet", self._command(stage))) from error
        except AmemError as error:
            command = f"{self._command(stage).removesuffix(' --force')} --force"
            raise _Unavailable(Missing(str(error), command)) from error

    def _command(self, stage: str) -> str:
        return next(state.command for state in self.states if state.stage == stage) or self.source.command(stage)

    @cached_property
    def result(self) -> dict[str, Any]:
        return self._made_by("evaluate", lambda: results.read(self.states[-1].path))

    @cached_property
    def model(self) -> "tuple[AMEM, ModelConfig]":
        from amem_cli.models.checkpoints import load_amem

        return self._made_by("train-amem", lambda: load_amem(self.source.amem_file))

    def _notes(self) -> list[str]:
        try:
            differences = count_differences(self.source.manifest, self.source.videos)
        except AmemError:  # the sections that need the data set say so
            return []
        if not differences:
            return []
        shown = "; ".join(differences[:3])
        return [f"This is not the complete data set {self.source.manifest.title} ({shown}): its figures cannot be "
                "compared with published ones."]  # fmt: skip

    def _camera_pairs(self) -> "list[CameraPair]":
        self._made_by("extract-features", lambda: self.source.features)
        return camera_pairs(self.source)

    def _ranked_lists(self, queries: int, seed: int) -> "RankedLists":
        from amem_cli.pictures.report.content import Comparison, Missing, RankedLists, RankedQuery
        from amem_cli.tools.predictions import attention_of

        tracklets = {tracklet.name: tracklet for tracklet in self.source.content.test}
        self._made_by("extract-features", lambda: self.source.features)
        chosen = choose_query_rows(self.source, queries, seed)
        found = ranked_rows(self.source, [row for _, row in chosen], top=60, show_ignored=True)
        rows = [_shorten(row) for row in found]
        model = self._section(lambda: self.model)
        compared = [_answers_to_compare(row) for row in rows]
        wanted = {row.query.tracklet for row in rows} | {name for pairs in compared for _, name in pairs}
        names, probabilities, origin = self._attributes([tracklets[name] for name in sorted(wanted)], model)
        lists = []
        for (why, _), row, pairs in zip(chosen, rows, compared, strict=True):
            query = row.query.tracklet
            comparisons = [
                Comparison(answer_is, names, probabilities[query], probabilities[name])
                for answer_is, name in pairs
                if probabilities
            ]
            no_model = isinstance(model, Missing)
            attention = None if no_model else attention_of(model[0].main, model[1], tracklets[query])[0]
            lists.append(RankedQuery(why, row, comparisons, attention))
        seen = {answer.tracklet for row in rows for answer in (row.query, *row.answers)}
        return RankedLists(
            queries=lists,
            frames_of={name: tracklets[name].frames for name in sorted(seen)},
            attributes=origin,
            no_attention=Missing(f"No attention maps: {model.why}", model.command) if no_model else None,
        )

    def _attributes(
        self, tracklets: Sequence[Tracklet], model: "tuple[AMEM, ModelConfig] | Missing"
    ) -> "tuple[Sequence[str], dict[str, np.ndarray], str | Missing]":
        """Attribute names, probabilities (A,) by tracklet, and where they come from.

        Pseudo-labels where they cover these tracklets, else the heads of AEM: by default only training tracklets are
        labelled.
        """
        from amem_cli.pictures.report.content import Missing
        from amem_cli.tools.predictions import CLIPS_FOR_ATTRIBUTES, attribute_probabilities

        if self.source.labels_file.is_file():
            labels = pseudo_labels.read(self.source.labels_file)
            rows = {name: row for row, name in enumerate(labels.tracklet)}
            if all(tracklet.name in rows for tracklet in tracklets):
                found = {tracklet.name: labels.probabilities[rows[tracklet.name]] for tracklet in tracklets}
                return labels.attributes, found, "the pseudo-labels of the attribute model, means over all frames"
        if isinstance(model, Missing):
            return (), {}, Missing("No attributes: the pseudo-labels do not cover these tracklets", model.command)
        amem, config = model
        if amem.aem is None:
            why = (
                f"No attributes: the model was trained with --modules {config.modules}, without AEM, and the "
                "pseudo-labels do not cover these tracklets"
            )
            return (), {}, Missing(why, f"{self.source.command('label-videos')} --part all")
        probabilities = {tracklet.name: attribute_probabilities(amem, config, tracklet) for tracklet in tracklets}
        origin = f"the attribute heads (AEM) of the model, means over up to {CLIPS_FOR_ATTRIBUTES} clips of a tracklet"
        return config.attributes, probabilities, origin

    def _predictions(self) -> "Predictions":
        from amem_cli.metrics.prediction import mean_errors
        from amem_cli.pictures.frames import evenly_spaced
        from amem_cli.pictures.report.content import Predictions
        from amem_cli.tools.predictions import CLIPS_MEASURED, predict_clips

        tracklets = evenly_spaced(self.source.queries(), CLIPS_MEASURED)
        clips = predict_clips(*self.model, tracklets, self.progress)
        return Predictions(evenly_spaced(clips, CLIPS_DRAWN), mean_errors([clip.errors for clip in clips]))

    def _curves(self) -> "list[Curves | Missing]":
        from amem_cli.tools.training_curves import training_curves

        trained = [state for state in self.states if state.stage.startswith("train-")]
        return [training_curves(state.stage, state.path.parent, self._command(state.stage)) for state in trained]


def camera_pairs(source: Source) -> "list[CameraPair]":
    """Rank-1 and mAP of the queries of each camera when the gallery is that of one other camera.

    The rules are those of the evaluation; a rate is over the queries that have a match in that camera.
    """
    from amem_cli.metrics.ranking import evaluate_ranking
    from amem_cli.pictures.report.content import CameraPair

    table, gallery, pairs = source.features, source.gallery, []
    cameras = np.unique(table.camera_id).tolist()
    for asked, answering in itertools.permutations(cameras, 2):
        query = np.flatnonzero(table.is_query & (table.camera_id == asked))
        answers = np.flatnonzero(gallery & (table.camera_id == answering))
        if not len(query) or not len(answers):
            continue
        ranking = evaluate_ranking(
            table.features[query], table.features[answers],
            table.person_id[query], table.person_id[answers], table.camera_id[query], table.camera_id[answers],
        )  # fmt: skip
        pairs.append(CameraPair(asked, answering, ranking.valid_queries, float(ranking.cmc[0]), float(ranking.mAP)))
    return pairs


def _shorten(row: "RankedRow") -> "RankedRow":
    """The list up to the tenth answer with a rank, with the ignored ones between, 15 answers in all."""
    from amem_cli.pictures.ranked_lists import RankedRow

    counted = [place for place, answer in enumerate(row.answers) if (answer.rank or 0) in range(1, COUNTED_ANSWERS + 1)]
    end = counted[-1] + 1 if counted else len(row.answers)
    return RankedRow(row.query, row.answers[: min(end, SHOWN_ANSWERS)], row.average_precision)


def _answers_to_compare(row: "RankedRow") -> list[tuple[str, str]]:
    """The first answer and, where that is wrong, the first right one: (description, tracklet)."""
    ranked = [answer for answer in row.answers if answer.rank is not None]
    chosen = ranked[:1]
    if chosen and chosen[0].verdict == "wrong":
        chosen += [answer for answer in ranked if answer.verdict == "right"][:1]
    return [(f"the answer at rank {answer.rank} ({answer.verdict})", answer.tracklet) for answer in chosen]


def _artifact(state: ArtifactState) -> "Artifact":
    from amem_cli.pictures.report.content import Artifact

    exists, provenance = state.path.is_file(), state.provenance or {}
    parents = provenance.get("parents", {})
    return Artifact(
        stage=state.stage,
        path=state.path,
        state=state.state,
        why=state.why,
        command=state.command,
        sha256=atomic.sha256_file(state.path) if exists else "",
        megabytes=state.path.stat().st_size / 1e6 if exists else None,
        seconds=recorded_seconds(metrics_path(state.path)) or None if exists else None,
        details={
            "Options": _texts(provenance.get("options", {})),
            "Parents": {str(role): " ".join(map(str, parent.values())) for role, parent in parents.items()},
            "Data": {"sha256 of the listing": str(provenance["data"])} if provenance.get("data") else {},
            "Versions": _texts(provenance.get("versions", {})),
        },
    )


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as text, JSON for those that are not."""
    return {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in sorted(values.items())}
