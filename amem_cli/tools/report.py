"""`amem report`: collects what a workspace holds, section by section, for one HTML page; what is missing is said."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import atomic, features, pseudo_labels, results
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.metrics_log import recorded_seconds
from amem_cli.artifacts.paths import Workspace, metrics_path
from amem_cli.artifacts.status import ArtifactState, ChainOf, chain
from amem_cli.data.manifest import Manifest, load_manifest
from amem_cli.data.tracklets import Split, Tracklet
from amem_cli.errors import AmemError, UsageError
from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.models.amem import AMEM
from amem_cli.pictures.ranked_lists import RankedRow
from amem_cli.pictures.report.content import (
    Attention,
    CameraPair,
    Comparison,
    Link,
    Missing,
    Predictions,
    RankedLists,
    RankedQuery,
    Report,
)
from amem_cli.pictures.report.page import report_page
from amem_cli.runtime.progress import Progress
from amem_cli.tools.samples import CLIPS_FOR_ATTRIBUTES, attention_maps, attribute_probabilities, predict_clips
from amem_cli.tools.show import (
    load_trained,
    mean_errors,
    ranked_rows,
    read_split,
    require_motion,
    some_queries,
)
from amem_cli.tools.training_curves import training_curves

LARGEST_PAGE = 15_000_000  # bytes
FRAMES_PER_TRACKLET = (32, 16, 8, 4)  # in the dialog; fewer when the page would be too large
COUNTED_ANSWERS, SHOWN_ANSWERS = 10, 15  # answers that take a rank; with the ignored ones between them
PREDICTED_CLIPS = 4


def report(
    out: Path,
    dataset: str,
    data_root: Path,
    workspace: Path,
    progress: Progress,
    *,
    split: int | None = None,
    queries: int = 12,
    seed: int = 0,
) -> Path:
    """Write the page of one data set (and split) to `out`; returns it.

    Every section that cannot be made says why and which command makes what it needs. Raises `UsageError` when so many
    queries are asked for that the page would exceed 15 MB.
    """
    if queries < 1:
        raise UsageError("--queries", str(queries), why="at least 1 is shown")
    manifest = load_manifest(dataset)
    if manifest.protocol is None:
        raise UsageError("data set", dataset, why="has no tracklets, so no chain of six stages")
    numbered = manifest.protocol.kind != "single-split"
    number = (split or 0) if numbered else None
    if split is not None and not numbered:
        raise UsageError("--split", str(split), why=f"{manifest.name} has one official split", remedy="Leave it out")
    places = Workspace(workspace)
    argument = manifest.name if manifest.shipped else dataset
    splits = manifest.protocol.splits if numbered else None
    states = chain(ChainOf(workspace, argument, manifest.name, number, manifest.protocol.name, splits))
    commands = {state.stage: state.command or _command(state.stage, argument, number, manifest) for state in states}

    collected = Report(
        dataset=manifest.name,
        split=number,
        workspace=workspace,
        result=_result(places, manifest, commands),
        camera_pairs=_camera_pairs(places, manifest, number, commands),
        **_from_data(places, dataset, data_root, number, manifest, commands, queries, seed, progress),
        curves=[
            training_curves(stage, folder, commands[stage]) for stage, folder in _trained(places, manifest.name, number)
        ],
        chain=[_link(state) for state in states],
    )
    for frames in FRAMES_PER_TRACKLET:
        page = report_page(collected, frames).encode()
        if len(page) <= LARGEST_PAGE:
            return atomic.write_bytes(out, page)
    why = f"the page would have {len(page) / 1e6:.0f} MB, more than {LARGEST_PAGE / 1e6:.0f}"
    raise UsageError("--queries", str(queries), why=why, remedy="Ask for fewer")


def _command(stage: str, argument: str, number: int | None, manifest: Manifest) -> str:
    if stage == "evaluate":
        return f"amem evaluate --protocol {manifest.protocol.name if manifest.shipped else argument}"
    if stage in ("train-arm", "train-tae"):
        return f"amem {stage}"
    split = "" if number is None or stage == "label-videos" else f" --split {number}"
    return f"amem {stage} --dataset {argument}{split}"


# -- results -----------------------------------------------------------------------------------------------------------


def _result(places: Workspace, manifest: Manifest, commands: dict[str, str]) -> dict[str, Any] | Missing:
    path = places.results(manifest.protocol.name)
    if not path.is_file():
        return Missing("There is no result yet", commands["evaluate"])
    try:
        return results.read(path)
    except AmemError as error:
        return Missing(str(error), f"{commands['evaluate']} --force")


def _camera_pairs(
    places: Workspace, manifest: Manifest, number: int | None, commands: dict[str, str]
) -> list[CameraPair] | Missing:
    table = _features(places, manifest, number, commands)
    return table if isinstance(table, Missing) else camera_pairs(table, queries_in_gallery=number is None)


def _features(
    places: Workspace, manifest: Manifest, number: int | None, commands: dict[str, str]
) -> Features | Missing:
    path = places.features(manifest.name, number)
    if not path.is_file():
        return Missing("There are no features yet", commands["extract-features"])
    try:
        return features.read(path)
    except AmemError as error:
        return Missing(str(error), f"{commands['extract-features']} --force")


def camera_pairs(table: Features, *, queries_in_gallery: bool) -> list[CameraPair]:
    """Rank-1 and mAP of the queries of each camera when the gallery is that of one other camera.

    The rules are those of the evaluation; a rate is over the queries that have a match in that camera.
    """
    gallery = np.ones(len(table.is_query), bool) if queries_in_gallery else ~table.is_query
    pairs = []
    cameras = np.unique(table.camera_id).tolist()
    for asked, answering in itertools.product(cameras, cameras):
        query = np.flatnonzero(table.is_query & (table.camera_id == asked))
        answers = np.flatnonzero(gallery & (table.camera_id == answering))
        if asked == answering or not len(query) or not len(answers):
            continue
        ranking = evaluate_ranking(
            table.features[query], table.features[answers],
            table.person_id[query], table.person_id[answers], table.camera_id[query], table.camera_id[answers],
        )  # fmt: skip
        rate = float(ranking.cmc[0]), float(ranking.mAP)
        pairs.append(CameraPair(asked, answering, ranking.valid_queries, *rate))
    return pairs


# -- what needs the data set's frames ----------------------------------------------------------------------------------


def _from_data(
    places: Workspace,
    dataset: str,
    data_root: Path,
    number: int | None,
    manifest: Manifest,
    commands: dict[str, str],
    queries: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """The sections `ranked_lists` and `predictions`."""
    try:
        _, _, content = read_split(dataset, data_root, "" if number is None else str(number))
    except UsageError:
        raise
    except AmemError as error:
        progress.warn(str(error))
        return {"ranked_lists": Missing(str(error)), "predictions": Missing(str(error))}
    model: tuple[AMEM, dict[str, Any]] | Missing
    path = places.amem(manifest.name, number)
    if not path.is_file():
        model = Missing("There is no trained model yet", commands["train-amem"])
    else:
        try:
            model = load_trained(path)
        except AmemError as error:
            model = Missing(str(error), f"{commands['train-amem']} --force")
    table = _features(places, manifest, number, commands)
    lists: RankedLists | Missing
    if isinstance(table, Missing):
        lists = table
    else:
        try:
            lists = _ranked_lists(table, content, number, places.labels(manifest.name), model, commands, queries, seed)
        except AmemError as error:
            progress.warn(str(error))
            lists = Missing(str(error))
    return {"ranked_lists": lists, "predictions": _predictions(path, model, content)}


def _ranked_lists(
    table: Features,
    content: Split,
    number: int | None,
    labels_file: Path,
    model: tuple[AMEM, dict[str, Any]] | Missing,
    commands: dict[str, str],
    queries: int,
    seed: int,
) -> RankedLists:
    rows, chosen = ranked_rows(table, content, number, queries=queries, seed=seed, top=60, show_ignored=True)
    rows = [_shortened(row) for row in rows]
    tracklets = {tracklet.name: tracklet for tracklet in content.test}
    seen = {answer.tracklet for row in rows for answer in (row.query, *row.answers)}
    compared = [_answers_to_compare(row) for row in rows]
    wanted = {row.query.tracklet for row in rows} | {name for found in compared for _, name in found}
    names, probabilities, source = _attributes(
        [tracklets[name] for name in sorted(wanted)], labels_file, model, commands
    )
    return RankedLists(
        queries=[
            RankedQuery(
                why,  # type: ignore[arg-type]
                row,
                [
                    Comparison(what, names, probabilities[row.query.tracklet], probabilities[name])
                    for what, name in found
                    if {name, row.query.tracklet} <= probabilities.keys()
                ],
                None if isinstance(model, Missing) else _attention(model, tracklets[row.query.tracklet]),
            )
            for why, row, found in zip(chosen, rows, compared, strict=True)
        ],
        frames_of={name: tracklets[name].frames for name in seen},
        attributes_from=source,
        no_attention=Missing("No maps of attention without the model", model.command)
        if isinstance(model, Missing)
        else None,
    )


def _shortened(row: RankedRow) -> RankedRow:
    """The list up to the tenth answer that takes a rank, with the ignored ones between, at most fifteen in all."""
    counted = [rank for rank in row.ranks if rank is not None and rank <= COUNTED_ANSWERS]
    last = row.ranks.index(counted[-1]) + 1 if counted else len(row.answers)
    return RankedRow(row.query, row.answers[: min(last, SHOWN_ANSWERS)], row.average_precision, row.query_frames)


def _answers_to_compare(row: RankedRow) -> list[tuple[str, str]]:
    """The first answer and, where that is wrong, the first right one: (in words, tracklet)."""
    ranked = [(rank, answer) for rank, answer in zip(row.ranks, row.answers, strict=True) if rank is not None]
    chosen = ranked[:1]
    if chosen and chosen[0][1].verdict == "wrong":
        chosen += [(rank, answer) for rank, answer in ranked if answer.verdict == "right"][:1]
    return [(f"the answer at rank {rank} ({answer.verdict})", answer.tracklet) for rank, answer in chosen]


def _attributes(
    tracklets: Sequence[Tracklet],
    labels_file: Path,
    model: tuple[AMEM, dict[str, Any]] | Missing,
    commands: dict[str, str],
) -> tuple[Sequence[str], dict[str, np.ndarray], str | Missing]:
    """Attribute names, probabilities (A,) by tracklet, and where they come from.

    Pseudo-labels where they cover these (test) tracklets, else what the heads of AEM say: by default only the training
    tracklets are labelled.
    """
    if labels_file.is_file():
        labels = pseudo_labels.read(labels_file)
        rows = {name: row for row, name in enumerate(labels.tracklet)}
        covered = {t.name: labels.probabilities[rows[t.name]] for t in tracklets if t.name in rows}
        if len(covered) == len(tracklets):
            return labels.attributes, covered, "the attribute model's pseudo-labels (means over all frames)"
    if isinstance(model, Missing):
        return (), {}, Missing("No attributes: the pseudo-labels do not cover these tracklets", model.command)
    trained, described = model
    if trained.attribute_heads is None:
        why = (
            f"No attributes: the model was trained as '{described['modules']}', without AEM, and the pseudo-labels do "
        )
        return (), {}, Missing(why + "not cover test tracklets", f"{commands['label-videos']} --part all")
    probabilities = {tracklet.name: attribute_probabilities(trained, described, tracklet) for tracklet in tracklets}
    source = f"what the model's own attribute heads (AEM) see in up to {CLIPS_FOR_ATTRIBUTES} clips of a tracklet"
    return described["attributes"], probabilities, source


def _attention(model: tuple[AMEM, dict[str, Any]], query: Tracklet) -> Attention:
    frames, rows, _ = attention_maps(model[0].main, model[1], query)
    return Attention(frames, rows)


def _predictions(path: Path, model: tuple[AMEM, dict[str, Any]] | Missing, content: Split) -> Predictions | Missing:
    if isinstance(model, Missing):
        return model
    try:
        require_motion(path, model[1])
        clips = predict_clips(*model, some_queries(content, PREDICTED_CLIPS))
    except AmemError as error:
        return Missing(str(error))
    return Predictions(clips, mean_errors(clips))


# -- training and chain ------------------------------------------------------------------------------------------------


def _trained(places: Workspace, dataset: str, number: int | None) -> list[tuple[str, Path]]:
    return [
        ("train-arm", places.arm.parent),
        ("train-tae", places.tae.parent),
        ("train-amem", places.amem(dataset, number).parent),
    ]


def _link(state: ArtifactState) -> Link:
    there = state.path.is_file()
    provenance = state.provenance or {}
    parents = provenance.get("parents", {})
    return Link(
        stage=state.stage,
        path=state.path,
        state=state.state,
        why=state.why,
        command=state.command,
        sha256=atomic.sha256_file(state.path) if there else "",
        megabytes=state.path.stat().st_size / 1e6 if there else None,
        seconds=recorded_seconds(metrics_path(state.path)) or None if there else None,
        details={
            "Options": {str(key): _text(value) for key, value in sorted(provenance.get("options", {}).items())},
            "Parents": {str(role): _named(entry) for role, entry in sorted(parents.items())},
            "Data": {"sha256 of the listing": str(provenance["data"])} if provenance.get("data") else {},
            "Versions": {str(key): _text(value) for key, value in provenance.get("versions", {}).items()},
        },
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _named(entry: dict[str, Any]) -> str:
    return f"{entry.get('name', '')} {entry.get('sha256', '')}".strip()
