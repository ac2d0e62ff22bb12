"""`amem show`: one picture from artifacts. Ranked lists, CMC curve, predicted frames, attributes, attention."""

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from amem_cli.artifacts import pseudo_labels, results
from amem_cli.artifacts.paths import Workspace
from amem_cli.data.clips import evenly_spaced
from amem_cli.errors import BadData, listing, require_known
from amem_cli.metrics.prediction import mean_errors
from amem_cli.models.checkpoints import load_amem, load_main_model
from amem_cli.pictures.attention import attention_figure
from amem_cli.pictures.attributes import AttributedTracklet, attributes_figure, comparison_figure
from amem_cli.pictures.cmc import cmc_figure
from amem_cli.pictures.predicted_frames import predicted_frames_figure
from amem_cli.pictures.ranked_lists import RankedRow, choose_queries, rank_answers, ranked_lists_figure
from amem_cli.pictures.style import save_picture
from amem_cli.runtime.progress import Progress
from amem_cli.tools.predictions import CLIPS_MEASURED, attention_of, predict_clips
from amem_cli.tools.source import Picture, Source

CLIPS_DRAWN = 8  # of the measured clips
QUERIES_SHOWN = 6
Drawn = tuple[Figure, dict[str, Any]]  # a picture, and figures about it


def show(kind: str, picture: Picture, source: Source, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """Draw one picture of `kind`, one of `KINDS`; returns its path and figures about it.

    Without names, the tracklets are chosen. Raises `UsageError` for an unknown tracklet.
    """
    figure, figures = KINDS[kind](picture, source, progress)
    return save_picture(figure, picture.out), figures


def show_all(folder: Path, source: Source, progress: Progress) -> tuple[list[Path], dict[str, Any]]:
    """Every picture but the attention of a finished chain, into `folder`; also the errors of predicted frames."""
    names = {"ranking": "ranked-lists", "cmc": "cmc", "attributes": "attributes", "frames": "predicted-frames"}
    drawn = {kind: show(kind, Picture((), folder / f"{name}.png"), source, progress) for kind, name in names.items()}
    return [path for path, _ in drawn.values()], drawn["frames"][1]


def draw_ranking(picture: Picture, source: Source, progress: Progress) -> Drawn:
    """The ranked lists of the named queries, or of some chosen ones."""
    row_of = {source.features.tracklet[row]: row for row in source.average_precisions}
    require_known("tracklet", picture.names, row_of, "no query has this name")
    chosen = [row_of[name] for name in picture.names]
    rows = ranked_rows(source, chosen or [row for _, row in choose_query_rows(source, QUERIES_SHOWN, picture.seed)])
    frames_of = {tracklet.name: tracklet.frames for tracklet in source.content.test}
    precisions = {
        row.query.tracklet: None if np.isnan(row.average_precision) else round(row.average_precision, 6) for row in rows
    }
    return ranked_lists_figure(rows, frames_of), {"queries": precisions}


def draw_cmc(picture: Picture, source: Source, progress: Progress) -> Drawn:
    """The CMC curve of the protocol's result, with chance."""
    result = results.read(source.workspace.results(source.protocol.name), remedy=source.chain.remedy("evaluate"))
    chance = result["chance"].get("cmc")
    title = f"{result['protocol']}: {results.queries_of(result)}"
    figure = cmc_figure({source.model_name(result): result["cmc"]}, chance, title)
    names = ("rank", "mAP", "queries", "valid_queries", "gallery")
    return figure, {name: result.get(name) for name in names}


def draw_attributes(picture: Picture, source: Source, progress: Progress) -> Drawn:
    """The pseudo-labels of one tracklet (the first one, unless named), or of two side by side."""
    path = source.workspace.labels(source.manifest.name)
    labels = pseudo_labels.read(path, remedy=source.chain.remedy("label-videos"))
    known = {tracklet.name: tracklet for tracklet in (*source.content.train, *source.content.test)}
    row_of = {name: row for row, name in enumerate(labels.tracklet) if name in known}
    if not row_of:
        raise BadData("pseudo-labels", path, why="no tracklet of this data set", remedy=f"Run: {source.label_all()}")
    names = picture.names or [next(iter(row_of))]
    source.tracklets(names)
    root = Path(f"{os.path.abspath(source.workspace.root)}-all")
    command = replace(source, workspace=Workspace(root)).label_all()
    why = f"it has no pseudo-labels; {command} --arm {shlex.quote(str(source.workspace.arm))} makes them, for "
    why += f"show attributes --workspace {shlex.quote(str(root))}"
    require_known("tracklet", names, row_of, why)
    shown = [AttributedTracklet(name, known[name].frames, labels.probabilities[row_of[name]]) for name in names]
    draw: Callable[..., Any] = attributes_figure if len(shown) == 1 else comparison_figure
    return draw(*shown, labels.attributes), {}


def draw_frames(picture: Picture, source: Source, progress: Progress) -> Drawn:
    """The paper's Figure 4 for the named tracklets, or for some of the measured queries.

    The figures are means over the named tracklets, or over up to 100 queries, evenly spaced.
    """
    tracklets = source.tracklets(picture.names) or evenly_spaced(source.queries, CLIPS_MEASURED)
    model = load_amem(source.workspace.amem(*source.key), remedy=source.chain.remedy("train-amem"))
    clips = predict_clips(*model, tracklets, progress, rounds=picture.rounds)
    drawn = clips if picture.names else evenly_spaced(clips, CLIPS_DRAWN)
    return predicted_frames_figure(drawn), mean_errors([clip.errors for clip in clips])


def draw_attention(picture: Picture, source: Source, progress: Progress) -> Drawn:
    """Attention maps of f_B, f_A and f_M for the middle clip of each tracklet, and the share of each in ||f_s||^2."""
    tracklets = source.tracklets(picture.names) or evenly_spaced(source.queries, 2)
    model, config = load_main_model(source.workspace.amem_main(*source.key), remedy=source.chain.remedy("train-amem"))
    maps = [attention_of(model.eval(), config, tracklet) for tracklet in tracklets]
    shares = {attention.title: parts for attention, parts in maps}
    return attention_figure([attention for attention, _ in maps]), {"shares": shares}


KINDS: dict[str, Callable[[Picture, Source, Progress], Drawn]] = {
    "ranking": draw_ranking,
    "frames": draw_frames,
    "attributes": draw_attributes,
    "cmc": draw_cmc,
    "attention": draw_attention,
}


def choose_query_rows(source: Source, how_many: int, seed: int) -> list[tuple[str, int]]:
    """Rows of the features file with queries to show, each with the reason: "best", "worst" or "random"."""
    rows, precisions = zip(*source.average_precisions.items(), strict=True)
    picked = choose_queries(np.array(precisions), how_many, seed)
    return [(why, rows[place]) for why, places in picked.items() for place in places]


def ranked_rows(
    source: Source, query_rows: Sequence[int], *, top: int = 10, show_ignored: bool = False
) -> list[RankedRow]:
    """The ranked lists of the queries in these rows of the features file; `BadData` for tracklets without frames."""
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
