"""`amem show`: one picture from artifacts. Ranked lists, CMC curve, predicted frames, attributes, attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amem_cli.artifacts import pseudo_labels, results
from amem_cli.errors import BadData, UsageError, did_you_mean, listing
from amem_cli.runtime.progress import Progress
from amem_cli.tools.source import Source, require_known

if TYPE_CHECKING:
    from amem_cli.artifacts.features import Features
    from amem_cli.pictures.predicted_frames import PredictedClip
    from amem_cli.pictures.ranked_lists import RankedRow

FORMATS = (".png", ".svg", ".pdf")
CLIPS_DRAWN = 8  # of those that are measured
QUERIES_SHOWN = 6


@dataclass(frozen=True)
class Picture:
    """What to draw: the tracklets by `names`, the file, the rounds of predicted frames, the key of drawn queries."""

    names: Sequence[str]
    out: Path
    rounds: int | None = None
    seed: int = 0


def show(kind: str, picture: Picture, source: Source, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """Draw one picture of `kind`, one of `KINDS`; returns its path and figures about it.

    Without names: ranked lists of the best, the worst and some random queries; predicted frames of queries, evenly
    spaced; the first labelled tracklet's attributes; the attention of two queries. Raises `UsageError` for an unknown
    kind, suffix, split or tracklet.
    """
    if kind not in KINDS:
        remedy = f"{did_you_mean(kind, KINDS)}Available: {', '.join(KINDS)}"
        raise UsageError("picture", kind, why="unknown kind", remedy=remedy)
    formats = (*FORMATS, ".gif") if kind == "frames" else FORMATS
    if picture.out.suffix.lower() not in formats:
        raise UsageError("--out", picture.out, why=f"its suffix is none of {', '.join(formats)}")
    if kind == "cmc" and picture.names:
        raise UsageError("tracklet", picture.names[0], why="a CMC curve is over all queries", remedy="Leave it out")
    if kind == "attributes" and len(picture.names) > 2:
        why = f"{len(picture.names)} were named"
        raise UsageError("tracklets", why=why, remedy="Name one, or two to compare them")
    source.check()
    return KINDS[kind](picture, source, progress)


def draw_ranking(picture: Picture, source: Source, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """The ranked lists of the named queries, or of some chosen ones."""
    from amem_cli.pictures.ranked_lists import ranked_lists_figure
    from amem_cli.pictures.style import save_picture

    if picture.names:
        chosen = _named_queries(source.features, picture.names)
    else:
        chosen = [row for _, row in choose_query_rows(source, QUERIES_SHOWN, picture.seed)]
    rows = ranked_rows(source, chosen)
    frames_of = {tracklet.name: tracklet.frames for tracklet in source.content.test}
    precisions = {row.query.tracklet: _rate(row.average_precision) for row in rows}
    return save_picture(ranked_lists_figure(rows, frames_of), picture.out), {"queries": precisions}


def draw_cmc(picture: Picture, source: Source, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """The CMC curve of the protocol's result, with chance."""
    from amem_cli.pictures.cmc import cmc_figure
    from amem_cli.pictures.style import save_picture

    result = results.read(source.workspace.results(source.protocol.name), remedy=f"Run: {source.command('evaluate')}")
    chance = result["chance"].get("cmc")
    title = f"{result['protocol']}: {result['queries']} queries"
    figure = cmc_figure({name_of_result(source, result): result["cmc"]}, chance, title)
    return save_picture(figure, picture.out), {"rank": result["rank"], "mAP": result["mAP"]}


def draw_attributes(picture: Picture, source: Source, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """The pseudo-labels of one tracklet (the first one, unless named), or of two side by side."""
    from amem_cli.pictures.attributes import AttributedTracklet, attributes_figure, comparison_figure
    from amem_cli.pictures.style import save_picture

    command = source.command("label-videos")
    labels = pseudo_labels.read(source.labels_file, remedy=f"Run: {command}")
    known = {tracklet.name: tracklet for tracklet in (*source.content.train, *source.content.test)}
    row_of = {name: row for row, name in enumerate(labels.tracklet) if name in known}
    if not row_of:
        why = "it has no tracklet of this data set"
        raise BadData("pseudo-labels", source.labels_file, why=why, remedy=f"Run: {command} --part all")
    names = picture.names or [next(iter(row_of))]
    source.tracklets(names)
    require_known(names, row_of, f"it has no pseudo-labels; {command} --part all --workspace ANOTHER makes them")
    shown = [AttributedTracklet(name, known[name].frames, labels.probabilities[row_of[name]]) for name in names]
    draw: Callable[..., Any] = attributes_figure if len(shown) == 1 else comparison_figure
    return save_picture(draw(*shown, labels.attributes), picture.out), {}


def draw_frames(picture: Picture, source: Source, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """The paper's Figure 4 for the named tracklets, or for some of the queries that are measured; as .gif, walking.

    The figures are means over the named tracklets, or over up to 100 queries, evenly spaced.
    """
    from amem_cli.metrics.prediction import mean_errors
    from amem_cli.pictures.frames import evenly_spaced
    from amem_cli.pictures.predicted_frames import animate, predicted_frames_figure
    from amem_cli.pictures.style import save_picture

    clips = measured_clips(source, progress, picture.names, picture.rounds)
    drawn = clips if picture.names else evenly_spaced(clips, CLIPS_DRAWN)
    errors = mean_errors([clip.errors for clip in clips])
    if picture.out.suffix.lower() == ".gif":
        return animate(drawn, picture.out), errors
    return save_picture(predicted_frames_figure(drawn), picture.out), errors


def draw_attention(picture: Picture, source: Source, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """Where f_B, f_A and f_M look in the middle clip of each tracklet, and each one's share of ||f_s||^2."""
    from amem_cli.models.checkpoints import load_main_model
    from amem_cli.pictures.attention import attention_figure
    from amem_cli.pictures.frames import evenly_spaced
    from amem_cli.pictures.style import save_picture
    from amem_cli.tools.predictions import attention_of

    tracklets = source.tracklets(picture.names) or evenly_spaced(source.queries(), 2)
    model, config = load_main_model(source.main_file, remedy=f"Run: {source.command('train-amem')}")
    found = [attention_of(model.eval(), config, tracklet) for tracklet in tracklets]
    shares = {attention.title: parts for attention, parts in found}
    return save_picture(attention_figure([attention for attention, _ in found]), picture.out), {"shares": shares}


KINDS = {
    "ranking": draw_ranking,
    "frames": draw_frames,
    "attributes": draw_attributes,
    "cmc": draw_cmc,
    "attention": draw_attention,
}


def show_all(folder: Path, source: Source, progress: Progress) -> tuple[list[Path], dict[str, Any]]:
    """Every picture but the attention of a finished chain, into `folder`; also the errors of predicted frames."""
    names = {"ranking": "ranked-lists", "cmc": "cmc", "attributes": "attributes", "frames": "predicted-frames"}
    drawn = {kind: show(kind, Picture((), folder / f"{name}.png"), source, progress) for kind, name in names.items()}
    return [path for path, _ in drawn.values()], drawn["frames"][1]


# -- shared with the report --------------------------------------------------------------------------------------------


def choose_query_rows(source: Source, how_many: int, seed: int) -> list[tuple[str, int]]:
    """Rows of the features file with queries to show, each with why: "best", "worst" or "random"."""
    from amem_cli.pictures.ranked_lists import choose_queries

    rows, precisions = zip(*source.average_precisions.items(), strict=True)
    picked = choose_queries(np.array(precisions), how_many, seed)
    return [(why, rows[place]) for why, places in picked._asdict().items() for place in places]


def ranked_rows(
    source: Source, query_rows: Sequence[int], *, top: int = 10, show_ignored: bool = False
) -> "list[RankedRow]":
    """The ranked lists of the queries in these rows of the features file; `BadData` for tracklets without frames."""
    from amem_cli.pictures.ranked_lists import rank_answers

    gallery, precisions = source.gallery, source.average_precisions
    rows = [
        rank_answers(source.features, row, gallery, precisions[row], top=top, show_ignored=show_ignored)
        for row in query_rows
    ]
    known = {tracklet.name for tracklet in source.content.test}
    shown = [answer.tracklet for row in rows for answer in (row.query, *row.answers)]
    if unknown := [name for name in shown if name not in known]:
        remedy = "Features and data set must belong together: check --dataset and --data-root"
        raise BadData("features", source.features_file, why=f"no frames of {listing(unknown)}", remedy=remedy)
    return rows


def measured_clips(
    source: Source, progress: Progress, names: Sequence[str] = (), rounds: int | None = None
) -> "list[PredictedClip]":
    """The predicted frames of the named tracklets, or of the queries by which every command measures predictions."""
    from amem_cli.models.checkpoints import load_amem
    from amem_cli.pictures.frames import evenly_spaced
    from amem_cli.tools.predictions import CLIPS_MEASURED, predict_clips

    tracklets = source.tracklets(names) or evenly_spaced(source.queries(), CLIPS_MEASURED)
    return predict_clips(*load_amem(source.amem_file), tracklets, progress, rounds=rounds)


def name_of_result(source: Source, result: dict[str, Any]) -> str:
    """The name of the model that a result is of, where the features it was made from are still in the workspace."""
    from amem_cli.artifacts.atomic import sha256_file

    path = source.features_file
    recorded = {entry.get("sha256") for entry in result.get("provenance", {}).get("parents", {}).values()}
    return source.model_name if path.is_file() and sha256_file(path) in recorded else "this model"


def _named_queries(table: "Features", names: Sequence[str]) -> list[int]:
    row_of = {table.tracklet[row]: int(row) for row in np.flatnonzero(table.is_query)}
    require_known(names, row_of, "no query has this name")
    return [row_of[name] for name in names]


def _rate(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
