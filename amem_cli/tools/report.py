"""`amem report`: one HTML page of a workspace, whose content is collected section by section."""

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import atomic, pseudo_labels, results
from amem_cli.artifacts.metrics_log import read_lines, recorded_seconds
from amem_cli.artifacts.paths import is_generated, metrics_path, sample_pictures
from amem_cli.data.chain import ArtifactState
from amem_cli.data.clips import evenly_spaced
from amem_cli.data.datasets import count_differences
from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import AmemError, InputMissing, UsageError
from amem_cli.metrics.prediction import mean_errors
from amem_cli.models.amem import AMEM
from amem_cli.models.checkpoints import load_amem
from amem_cli.models.config import ModelConfig
from amem_cli.pictures import report as content
from amem_cli.pictures.html import require_page
from amem_cli.pictures.ranked_lists import RankedRow
from amem_cli.pictures.report import Curves, Missing, report_page
from amem_cli.runtime.progress import Progress
from amem_cli.tools import predictions
from amem_cli.tools.show import choose_query_rows, ranked_rows
from amem_cli.tools.source import Source

RANKS_SHOWN = 10
CLIPS_DRAWN = 4  # of the measured clips
Model = tuple[AMEM, ModelConfig]
Attributes = tuple[Sequence[str], dict[str, np.ndarray], str]  # names, probabilities (A,) by tracklet, their origin
CURVE_POINTS = 300
PANELS = {  # by the group or kind of a figure in metrics.jsonl
    "validation": "Validation",
    "weighted": "Weighted losses: the terms of the loss that is trained",
    "unweighted": "Unweighted losses",
    "predicted": "Squared error of predicted frames and of copying the last one",
    "accuracy": "Accuracy of the person classifier on training clips",
    "gradient_norms": "Gradient norm of each weighted loss at the backbone maps",
}
PANEL_AND_NAME = {"image": ("predicted",) * 2, "copy_image": ("predicted", "copied"), "accuracy": ("accuracy",) * 2}
NO_CURVES = ("step", "epoch", "seconds", "queries", "people", "images")
LARGEST_PAGE = 15_000_000  # bytes
FRAMES_PER_TRACKLET = (32, 16, 8, 4)  # in the dialog; fewer when the page would be too large


def report(out: Path, source: Source, progress: Progress, *, queries: int, seed: int) -> Path:
    """Write the page of one data set (and split) to `out`; returns it.

    A section that cannot be made shows the reason and a command. Raises `UsageError` for so many queries that the page
    would exceed 15 MB.
    """
    require_page(out)
    collected = Collector(source, progress).report(queries, seed)
    sections = (collected.result, collected.ranked_lists, collected.predictions, *collected.curves)
    tracks = [one for one in collected.artifacts if one.sha256 and source.manifest.layout == "tracks"]
    if not tracks and all(isinstance(section, Missing) for section in sections):
        command = next((one.state.command for one in collected.artifacts if one.state.command), "")
        remedy = f"Run: {command}" if command else "Check --workspace and --dataset"
        raise InputMissing("workspace", source.workspace.root, why="nothing to report on", remedy=remedy)
    for frames in FRAMES_PER_TRACKLET:
        page = report_page(collected, frames).encode()
        if len(page) <= LARGEST_PAGE:
            return atomic.write_bytes(out, page)
    why = f"makes a page of {len(page) / 1e6:.0f} MB, more than {LARGEST_PAGE / 1e6:.0f}"
    raise UsageError("--queries", str(queries), why=why, remedy="Ask for fewer")


class Collector:
    """Collects the sections of one report."""

    def __init__(self, source: Source, progress: Progress):
        self.source, self.progress = source, progress
        self.states = source.chain.states()

    def report(self, queries: int, seed: int) -> content.Report:
        source, command, remedy = self.source, self.source.chain.command, self.source.chain.remedy("evaluate")
        result = self._people_section(lambda: results.read(self.states[-1].path, remedy=remedy))
        return content.Report(
            dataset=source.manifest.name,
            split=source.number,
            model="this model" if isinstance(result, Missing) else source.model_name(result),
            workspace=source.workspace.root,
            generated=is_generated(source.manifest.folder(source.data_root).parent),
            notes=self._notes(),
            result=result,
            camera_pairs=self._people_section(lambda: camera_pairs(source)),
            ranked_lists=self._people_section(lambda: self._ranked_lists(queries, seed)),
            predictions=self._people_section(self._predictions),
            curves=[
                self._section(partial(training_curves, one.stage, one.path.parent, one.command or command(one.stage)))
                for one in self.states
                if one.stage.startswith("train-")
            ],
            artifacts=[_artifact(state) for state in self.states],
        )

    def _people_section(self, collect: Callable[[], Any]) -> Any:
        if self.source.manifest.layout == "tracks":
            return Missing("These tracks have no identities: amem search, link and find compare them")
        return self._section(collect)

    def _section(self, collect: Callable[[], Any]) -> Any:
        """What `collect` returns, or `Missing` with the reason and the command that helps."""
        try:
            return collect()
        except AmemError as error:
            self.progress.warn(str(error))
            if not error.remedy.startswith("Run: "):
                return Missing(str(error))
            return Missing(f"{error.what} {error.path}: {error.why}", error.remedy.removeprefix("Run: "))

    @cached_property
    def model(self) -> Model:
        return load_amem(self.source.workspace.amem(*self.source.key), remedy=self.source.chain.remedy("train-amem"))

    def _notes(self) -> list[str]:
        try:
            differences = count_differences(self.source.manifest, self.source.videos)
        except AmemError:  # the sections that need the data set report the error
            return []
        title, shown = self.source.manifest.title, "; ".join(differences[:3])
        note = f"This is not the complete data set {title} ({shown}): do not compare its figures with published ones."
        return [note] if differences else []

    def _ranked_lists(self, queries: int, seed: int) -> content.RankedLists:
        tracklets = {tracklet.name: tracklet for tracklet in self.source.content.test}
        chosen = choose_query_rows(self.source, queries, seed)
        rows = ranked_rows(self.source, [row for _, row in chosen], top=RANKS_SHOWN, show_ignored=True)
        compared = [_answers_to_compare(row) for row in rows]
        wanted = {row.query.tracklet for row in rows} | {name for pairs in compared for _, name in pairs}
        model = self._section(lambda: self.model)
        compared_ones = [tracklets[name] for name in sorted(wanted)]
        attributes = self._section(lambda: self._attributes(compared_ones, model))
        lists = []
        for (why, _), row, pairs in zip(chosen, rows, compared, strict=True):
            query = row.query.tracklet
            comparisons, attention = [], None
            if not isinstance(attributes, Missing):
                names, values, _ = attributes
                comparisons = [content.Comparison(answer, names, values[query], values[name]) for answer, name in pairs]
            if not isinstance(model, Missing):
                found = self._section(partial(predictions.attention_of, model[0].main, model[1], tracklets[query]))
                attention = None if isinstance(found, Missing) else found[0]
            lists.append(content.RankedQuery(why, row, comparisons, attention))
        seen = sorted({answer.tracklet for row in rows for answer in (row.query, *row.answers)})
        return content.RankedLists(
            queries=lists,
            frames_of={name: tracklets[name].frames for name in seen},
            attributes=attributes if isinstance(attributes, Missing) else attributes[2],
            no_attention=replace(model, why=f"No attention maps: {model.why}") if isinstance(model, Missing) else None,
        )

    def _attributes(self, tracklets: Sequence[Tracklet], model: Model | Missing) -> Attributes | Missing:
        """From pseudo-labels if they cover the tracklets, else from AEM's heads: by default only training tracklets
        are labelled."""
        labels_file = self.source.workspace.labels(self.source.manifest.name)
        if labels_file.is_file():
            labels = pseudo_labels.read(labels_file)
            rows = {name: row for row, name in enumerate(labels.tracklet)}
            if all(tracklet.name in rows for tracklet in tracklets):
                means = {tracklet.name: labels.probabilities[rows[tracklet.name]] for tracklet in tracklets}
                return labels.attributes, means, "the pseudo-labels of the attribute model, means over all frames"
        label_all = self.source.label_all() + " --force" * labels_file.is_file()
        if isinstance(model, Missing):
            lack = "do not cover these tracklets" if labels_file.is_file() else "are missing"
            return Missing(f"No attributes: the pseudo-labels {lack}", label_all)
        amem, config = model
        if amem.aem is None:
            why = f"No attributes: these tracklets have no pseudo-labels, and the model no AEM ({config.modules})"
            return Missing(why, label_all)
        probabilities = {one.name: predictions.attribute_probabilities(amem, config, one) for one in tracklets}
        most = predictions.CLIPS_FOR_ATTRIBUTES
        origin = f"the attribute heads (AEM) of the model, means over up to {most} clips of a tracklet"
        return config.attributes, probabilities, origin

    def _predictions(self) -> content.Predictions:
        tracklets = evenly_spaced(self.source.queries, predictions.CLIPS_MEASURED)
        clips = predictions.predict_clips(*self.model, tracklets, self.progress)
        return content.Predictions(evenly_spaced(clips, CLIPS_DRAWN), mean_errors([clip.errors for clip in clips]))


def camera_pairs(source: Source) -> list[content.CameraPair]:
    """Rank-1 and mAP of the queries of each camera against the gallery of one other camera.

    The rules are those of the evaluation; a rate is over the queries that have a match in that camera.
    """
    pairs, cameras = [], source.features.camera_id
    for first, second in itertools.permutations(np.unique(cameras).tolist(), 2):
        query, answers = source.features.is_query & (cameras == first), source.gallery & (cameras == second)
        if query.any() and answers.any():
            ranking = source.ranking(query, answers)
            rates = float(ranking.cmc[0]), float(ranking.mAP)
            pairs.append(content.CameraPair(first, second, ranking.valid_queries, *rates))
    return pairs


def _answers_to_compare(row: RankedRow) -> list[tuple[str, str]]:
    """The first answer and, if it is wrong, the first right one: (description, tracklet)."""
    ranked = [answer for answer in row.answers if answer.rank is not None]
    chosen = ranked[:1]
    if chosen and chosen[0].verdict == "wrong":
        chosen += [answer for answer in ranked if answer.verdict == "right"][:1]
    return [(f"the answer at rank {answer.rank} ({answer.verdict})", answer.tracklet) for answer in chosen]


def _artifact(state: ArtifactState) -> content.Artifact:
    exists, provenance = state.path.is_file(), state.provenance or {}
    parents, seconds = provenance.get("parents", {}), 0.0
    with contextlib.suppress(AmemError):  # the section of the curves reports the error
        seconds = recorded_seconds(metrics_path(state.path))
    return content.Artifact(
        state,
        sha256=atomic.sha256_file(state.path) if exists else "",
        megabytes=state.path.stat().st_size / 1e6 if exists else None,
        seconds=seconds or None if exists else None,
        details={
            "Options": _texts(provenance.get("options", {})),
            "Parents": {str(role): " ".join(map(str, parent.values())) for role, parent in parents.items()},
            "Data": {"sha256 of the listing": str(provenance["data"])} if provenance.get("data") else {},
            "Versions": _texts(provenance.get("versions", {})),
        },
    )


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as text; other values than strings as JSON."""
    return {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in sorted(values.items())}


def training_curves(stage: str, folder: Path, command: str) -> Curves | Missing:
    """The curves, duration and sample pictures of the training in `folder`; `command` runs it."""
    path = folder / "metrics.jsonl"
    records = [record for _, record in read_lines(path) if isinstance(record.get("step"), int | float)]
    if not records:
        why = f"{path} has no line that can be read" if path.exists() else f"{stage} has no curves yet"
        return Missing(why, "" if path.exists() else command)
    return Curves(stage, path, curve_panels(records), recorded_seconds(path) or None, sample_pictures(folder))


def curve_panels(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """The figures of metrics.jsonl as panels of lines on one scale: title -> name -> (steps, values).

    Values that are not finite are left out; long runs are thinned to means over equal numbers of records.
    """
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {panel: {} for panel in PANELS}
    for record in records:
        for panel, name, value in _figures(record):
            if panel in PANELS and isinstance(value, int | float) and name not in NO_CURVES and math.isfinite(value):
                steps, values = panels[panel].setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(float(value))
    for lines in panels.values():
        for name, line in lines.items():
            if len(line[0]) > CURVE_POINTS:
                steps, values = ([float(p.mean()) for p in np.array_split(each, CURVE_POINTS)] for each in line)
                lines[name] = steps, values
    return {PANELS[panel]: lines for panel, lines in panels.items() if lines}


def _figures(record: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """The figures of one record as (panel, name, value)."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from ((name, key, figure) for key, figure in value.items())
        elif name.startswith("weighted_"):
            yield "weighted", name.removeprefix("weighted_"), value
        else:
            yield *PANEL_AND_NAME.get(name, ("unweighted", name)), value
