"""Single pictures from artifacts: ranked lists, CMC curve, predicted frames, attributes, attention."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import checkpoint, features, pseudo_labels, results
from amem_cli.artifacts.paths import Workspace
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.data.tracklets import Split, Tracklet
from amem_cli.errors import BadData, UsageError, did_you_mean, listing
from amem_cli.metrics.ranking import Ranking, evaluate_ranking
from amem_cli.models.amem import AMEM
from amem_cli.pictures.attention import attention_strip
from amem_cli.pictures.attributes import AttributedTracklet, attribute_bars, attribute_comparison
from amem_cli.pictures.cmc import plot_cmc
from amem_cli.pictures.frames import (
    PredictedClip,
    animate,
    evenly_spaced,
    predicted_frames_strip,
    save_picture,
    stack_strips,
)
from amem_cli.pictures.ranked_lists import RankedRow, choose_queries, rank_answers, ranked_lists
from amem_cli.stages.extract_features import load_main_model
from amem_cli.stages.output import split_numbers
from amem_cli.stages.train_amem import build_amem
from amem_cli.tools.samples import attention_maps, predict_clips

KINDS = ("ranking", "frames", "attributes", "cmc", "attention")
CLIPS_OF_FRAMES = 8  # tracklets whose predicted frames are drawn and measured


def show(
    kind: str,
    names: Sequence[str],
    out: Path,
    dataset: str,
    data_root: Path,
    workspace: Workspace,
    *,
    split: str = "",
    rounds: int | None = None,
    seed: int = 0,
) -> tuple[Path, dict[str, Any]]:
    """One picture of `kind`, one of `KINDS`, of the tracklets named; returns its path and figures about it.

    Without names: ranked lists of the best, the worst and some random queries; predicted frames of six queries; the
    first labelled tracklet's attributes; the attention of two queries. `rounds` is how many frames MEM predicts, by
    default as many as it was trained with. Raises `UsageError` for a name that the split does not have.
    """
    if kind not in KINDS:
        remedy = f"{did_you_mean(kind, KINDS)}Known are {', '.join(KINDS)}"
        raise UsageError("picture", kind, why="there is none of this kind", remedy=remedy)
    manifest = load_manifest(dataset)
    if kind == "cmc":
        if names:
            raise UsageError("tracklet", names[0], why="a CMC curve is over all queries", remedy="Leave it out")
        if manifest.protocol is None:
            raise UsageError("data set", dataset, why="has no tracklets, so no protocol")
        protocol = manifest.protocol.name
        remedy = f"Run: amem evaluate --protocol {protocol if manifest.shipped else dataset}"
        result = results.read(workspace.results(protocol), remedy=remedy)
        return draw_cmc(out, {"AMEM": result}), {"rank": result["rank"], "mAP": result["mAP"]}
    name, number, content = read_split(dataset, data_root, split)
    on = f"--dataset {dataset}" + ("" if number is None else f" --split {number}")
    if kind == "ranking":
        remedy = f"Run: amem extract-features {on}"
        table = features.read(workspace.features(name, number), remedy=remedy)
        rows, _ = ranked_rows(table, content, number, names, seed=seed)
        return _save_ranked_lists(out, rows, content), {
            "queries": {row.query.tracklet: _rate(row.average_precision) for row in rows}
        }
    if kind == "attributes":
        return draw_attributes(out, workspace.labels(name), dataset, data_root, *names), {}
    if kind == "frames":
        tracklets = named_tracklets(content, names) if names else some_queries(content, CLIPS_OF_FRAMES)
        return draw_predicted_frames(out, workspace.amem(name, number), tracklets, rounds=rounds)
    tracklets = named_tracklets(content, names) if names else some_queries(content, 2)
    return draw_attention(out, workspace.amem_main(name, number), tracklets)


def read_split(dataset: str, data_root: Path, split: str = "") -> tuple[str, int | None, Split]:
    """The data set's name, the number and the content of one split."""
    manifest = load_manifest(dataset)
    videos = read_videos(manifest, data_root)
    number = split_numbers(videos, split)[0]
    return manifest.name, number, videos.splits[number or 0]


def named_tracklets(content: Split, names: Sequence[str]) -> list[Tracklet]:
    """The tracklets of a split by their names; `UsageError` lists those it does not have."""
    known = {tracklet.name: tracklet for tracklet in (*content.train, *content.test)}
    unknown = [name for name in names if name not in known]
    if unknown:
        remedy = f"{did_you_mean(unknown[0], known)}Known are {listing(known, 3)}"
        raise UsageError("tracklet", listing(unknown), why="the data set has none of this name", remedy=remedy)
    return [known[name] for name in names]


def some_queries(content: Split, how_many: int) -> list[Tracklet]:
    """Queries of a split, evenly spaced."""
    queries = [tracklet for tracklet, query in zip(content.test, content.is_query, strict=True) if query]
    return evenly_spaced(queries, how_many)


# -- ranked lists and CMC ----------------------------------------------------------------------------------------------


def score_queries(table: features.Features, *, queries_in_gallery: bool) -> Ranking:
    """The ranking of a features file under its protocol; `average_precision` has the queries in their file's order."""
    query = np.flatnonzero(table.is_query)
    gallery = np.arange(len(table.is_query)) if queries_in_gallery else np.flatnonzero(~table.is_query)
    return evaluate_ranking(
        table.features[query], table.features[gallery],
        table.person_id[query], table.person_id[gallery], table.camera_id[query], table.camera_id[gallery],
    )  # fmt: skip


def ranked_rows(
    table: features.Features,
    content: Split,
    number: int | None,
    names: Sequence[str] = (),
    *,
    queries: int = 6,
    seed: int = 0,
    top: int = 10,
    show_ignored: bool = False,
) -> tuple[list[RankedRow], list[str]]:
    """The ranked lists of the named queries, or of `queries` chosen ones, and why each was chosen ("named", "best",
    "worst", "random"). `number` is the split's, None for an official one, whose gallery keeps the queries."""
    frame_of = {tracklet.name: tracklet.frames[len(tracklet) // 2] for tracklet in content.test}
    query_rows = np.flatnonzero(table.is_query)
    if names:
        row_of = {table.tracklet[row]: int(row) for row in query_rows}
        unknown = [name for name in names if name not in row_of]
        if unknown:
            remedy = f"{did_you_mean(unknown[0], row_of)}Queries are {listing(row_of, 3)}"
            raise UsageError("tracklet", listing(unknown), why="no query has this name", remedy=remedy)
        chosen = [("named", row_of[name]) for name in names]
    else:
        precisions = score_queries(table, queries_in_gallery=number is None).average_precision
        picked = choose_queries(precisions, queries, seed)
        chosen = [(why, int(query_rows[at])) for why, group in picked._asdict().items() for at in group]
    columns = (table.tracklet, table.person_id, table.camera_id, table.is_query, table.features)
    rows = [
        rank_answers(*columns, frame_of, row, top, queries_in_gallery=number is None, show_ignored=show_ignored)
        for _, row in chosen
    ]
    return rows, [why for why, _ in chosen]


def draw_ranked_lists(
    out: Path, dataset: str, data_root: Path, features_file: Path, *, split: str = "", queries: int = 6, seed: int = 0
) -> Path:
    """The ranked lists of some queries: the best, the worst and some drawn at random."""
    _, number, content = read_split(dataset, data_root, split)
    rows, _ = ranked_rows(features.read(features_file), content, number, queries=queries, seed=seed)
    return _save_ranked_lists(out, rows, content)


def _save_ranked_lists(out: Path, rows: list[RankedRow], content: Split) -> Path:
    strips = {tracklet.name: tuple(evenly_spaced(tracklet.frames, 3)) for tracklet in content.test}
    shown = [dataclasses.replace(row, query_frames=strips[row.query.tracklet]) for row in rows]
    return save_picture(ranked_lists(shown), out)


def draw_cmc(out: Path, results: dict[str, dict[str, Any]]) -> Path:
    """The CMC curves of some results (as `artifacts.results.read` gives them), with the first one's chance."""
    first = next(iter(results.values()))
    curves = {name: np.array(result["cmc"]) for name, result in results.items()}
    chance = np.array(first["chance"]["cmc"]) if "cmc" in first["chance"] else None
    return plot_cmc(curves, out, chance, title=f"{first['protocol']}: {first['queries']} queries")


# -- attributes --------------------------------------------------------------------------------------------------------


def draw_attributes(out: Path, labels_file: Path, dataset: str, data_root: Path, *names: str) -> Path:
    """What the attribute model saw in one labelled tracklet (the first one, unless named), or in two side by side."""
    command = f"amem label-videos --dataset {dataset} --part all"
    labels = pseudo_labels.read(labels_file, remedy=f"Run: amem label-videos --dataset {dataset}")
    content = read_split(dataset, data_root)[2]
    known = {t.name: t for t in (*content.train, *content.test)}
    row_of = {name: row for row, name in enumerate(labels.tracklet) if name in known}
    if not row_of:
        raise BadData("pseudo-labels", labels_file, why="name no tracklet of this data set", remedy=f"Run: {command}")
    if len(names) > 2:
        raise UsageError("tracklets", why=f"{len(names)} were named", remedy="Name one, or two to compare them")
    unknown = [name for name in names if name not in row_of]
    if unknown:
        why = "no labelled tracklet has this name" if unknown[0] not in known else "this tracklet has no pseudo-labels"
        remedy = f"Labelled are {listing(row_of, 3)}; {command} --workspace ANOTHER labels the rest"
        raise UsageError("tracklet", listing(unknown), why=why, remedy=remedy)
    shown = names or (next(iter(row_of)),)
    if len(shown) == 1:
        frames, row = evenly_spaced(known[shown[0]].frames, 6), row_of[shown[0]]
        return attribute_bars(frames, labels.attributes, labels.probabilities[row], out, title=shown[0])
    query, answer = (AttributedTracklet(name, known[name].frames, labels.probabilities[row_of[name]]) for name in shown)
    return attribute_comparison(query, answer, labels.attributes, out)


# -- predicted frames --------------------------------------------------------------------------------------------------


def load_trained(model_file: Path) -> tuple[AMEM, dict[str, Any]]:
    """The training model of a checkpoint `amem-model`, in eval mode on the CPU, and its description."""
    saved = checkpoint.load(model_file, "amem-model")
    with checkpoint.described_by(saved):
        described = saved.description["model"]
        model, _ = build_amem(described, None)
    checkpoint.load_into(model, saved, "amem.")
    return model.eval(), described


def mean_errors(clips: Sequence[PredictedClip]) -> dict[str, Any]:
    """The means of the clips' `errors`; `mse_ratio` and `other_motion_ratio`, in units of copying's, are those of the
    means, None when nothing moves."""
    names = ("mse", "mse_copied", "mse_other_motion", "psnr", "psnr_copied", "ssim", "ssim_copied")
    means: dict[str, Any] = {}
    for name in names:
        # an exact frame has no finite PSNR
        values = [clip.errors[name] for clip in clips if clip.errors[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    for ratio, error in (("mse_ratio", "mse"), ("other_motion_ratio", "mse_other_motion")):
        known = means["mse_copied"] and means[error] is not None
        means[ratio] = means[error] / means["mse_copied"] if known else None
    return means


def draw_predicted_frames(
    out: Path,
    model_file: Path,
    tracklets: Sequence[Tracklet],
    *,
    rounds: int | None = None,
    measured: Sequence[Tracklet] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """The paper's Figure 4: MEM's predictions for one clip of each tracklet; also the errors beside copying.

    The clip is the tracklet's middle one; frame 1 (zero-based) is the current one. A .gif walks: the clips stand below
    each other, true, predicted and copied frames side by side. The errors are means over the clips that are drawn, or
    over those of `measured`.
    """
    model, described = load_trained(model_file)
    require_motion(model_file, described)
    clips = predict_clips(model, described, tracklets, rounds)
    errors = mean_errors(clips if measured is None else predict_clips(model, described, measured, rounds))
    if Path(out).suffix.lower() == ".gif":
        stacked = (
            np.concatenate(frames, axis=-3)  # one clip's rows of pixels below the other's
            for frames in zip(*((clip.current, clip.true, clip.predicted) for clip in clips), strict=True)
        )
        return animate(*stacked, out, copied=True), errors
    strips = [
        predicted_frames_strip(clip.current, clip.true, clip.predicted, copied=True, title=clip.title) for clip in clips
    ]
    return save_picture(stack_strips(strips, columns=2), out), errors


def require_motion(model_file: Path, described: dict[str, Any]) -> None:
    """Raise `UsageError` when a model has no MEM that could predict."""
    if not described["motion"]:
        why = f"was trained as '{described['modules']}', without MEM"
        raise UsageError("model", model_file, why=why, remedy="Train with --modules amem or mem to predict frames")


# -- attention ---------------------------------------------------------------------------------------------------------


def draw_attention(out: Path, model_file: Path, tracklets: Sequence[Tracklet]) -> tuple[Path, dict[str, Any]]:
    """Where f_B, f_A and f_M look in the middle clip of each tracklet, and each one's share of ||f_s||^2.

    The formula stands in `models.attention`: class-activation maps of the clip's similarity with itself.
    """
    model, described = load_main_model(model_file)
    model.eval()
    strips, shares = [], {}
    for tracklet in tracklets:
        frames, rows, shares[tracklet.name] = attention_maps(model, described, tracklet)
        strips.append(attention_strip(frames, rows, title=tracklet.name))
    return save_picture(stack_strips(strips), out), {"shares": shares}


def draw_all(
    folder: Path, workspace: Workspace, dataset: str, data_root: Path, result: dict[str, Any]
) -> tuple[list[Path], dict[str, Any]]:
    """Every picture that a finished chain allows, into `folder`; also the errors of predicted frames."""
    name, number, content = read_split(dataset, data_root)
    pictures = [
        draw_ranked_lists(folder / "ranked-lists.png", dataset, data_root, workspace.features(name, number)),
        draw_cmc(folder / "cmc.png", {"AMEM": result}),
        draw_attributes(folder / "attributes.png", workspace.labels(name), dataset, data_root),
    ]
    path, errors = draw_predicted_frames(
        folder / "predicted-frames.png", workspace.amem(name, number), some_queries(content, 6)
    )
    return [*pictures, path], errors


def _rate(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
