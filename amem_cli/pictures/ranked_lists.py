"""Ranked lists: a query and the gallery's first answers to it, with right, wrong and ignored ones marked.

The rules are those of the evaluation: junk (person -1) is ignored, and so is the query's person seen by the query's
camera; all other tracklets count, distractors (person 0) too.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from amem_cli.artifacts.features import Features
from amem_cli.data.clips import evenly_spaced
from amem_cli.errors import BadData, printable
from amem_cli.person_ids import DISTRACTOR, JUNK
from amem_cli.pictures.frames import read_frames, show_frame, side_by_side
from amem_cli.pictures.style import IGNORED, INK, RIGHT, SOFT, WRONG, styled
from amem_cli.randomness import keyed_generator

Verdict = Literal["right", "wrong", "ignored"]
Frames = Mapping[str, Sequence[Path]]  # of a tracklet by its name, in order

VERDICTS: dict[Verdict, tuple[str, str, str]] = {  # mark, colour, meaning
    "right": ("✓", RIGHT, "right: same person, another camera"),
    "wrong": ("✗", WRONG, "wrong: another person"),
    "ignored": ("–", IGNORED, "ignored: junk, or same person and same camera"),
}
FRAME_SIZE = (192, 96)
QUERY_FRAMES, MOST_ANSWERS = 3, 10
MOST_IGNORED = 5  # in a list


@dataclass(frozen=True, slots=True)
class Answer:
    """A tracklet in a ranked list: its squared Euclidean `distance` to the query and its `rank`, None when ignored."""

    tracklet: str
    person_id: int
    camera_id: int
    distance: float
    verdict: Verdict
    rank: int | None

    @property
    def person(self) -> str:
        return {JUNK: "junk", DISTRACTOR: "distractor"}.get(self.person_id, f"person {self.person_id}")


@dataclass(frozen=True, slots=True)
class RankedRow:
    """A query (distance 0, no rank) and its answers, nearest first.

    `average_precision` is the query's, over the whole gallery; NaN when nothing in the gallery matches.
    """

    query: Answer
    answers: tuple[Answer, ...]
    average_precision: float

    @property
    def summary(self) -> str:
        """Average precision and the rank of the first right answer in the list."""
        if math.isnan(self.average_precision):
            return "no match in the gallery"
        ranks = [answer.rank for answer in self.answers if answer.verdict == "right"]
        first = f"first right answer at rank {ranks[0]}" if ranks else "no right answer among those shown"
        return f"average precision {100 * self.average_precision:.1f} %, {first}"


def rank_answers(
    table: Features, query_row: int, gallery: np.ndarray, average_precision: float, *, top: int, show_ignored: bool
) -> RankedRow:
    """The `top` gallery tracklets that are nearest to the query in row `query_row` of a features file.

    `gallery` (N,) bool marks the rows of the gallery; the query itself is left out. Equal distances keep the order of
    the rows, as in the evaluation, which gave `average_precision`. With `show_ignored` up to `MOST_IGNORED` others
    among them, which do not count, are shown, too.
    """
    rows = np.flatnonzero(gallery & (np.arange(len(gallery)) != query_row))
    differences = table.features[rows].astype(np.float64) - table.features[query_row]
    distances = np.square(differences).sum(axis=1)
    order = np.argsort(distances, kind="stable")
    rows, distances = rows[order], distances[order]
    same_person = table.person_id[rows] == table.person_id[query_row]
    same_camera = table.camera_id[rows] == table.camera_id[query_row]
    ignored = (table.person_id[rows] == JUNK) | (same_person & same_camera)
    ranks = np.cumsum(~ignored)

    def answer(row: int, distance: float, verdict: Verdict, rank: int | None) -> Answer:
        ids = int(table.person_id[row]), int(table.camera_id[row])
        return Answer(str(table.tracklet[row]), *ids, float(distance), verdict, rank)

    among = ignored & (ranks < top) & (np.cumsum(ignored) <= MOST_IGNORED) & show_ignored
    shown = np.flatnonzero((~ignored & (ranks <= top)) | among)
    verdicts: list[Verdict] = ["ignored" if ignored[i] else "right" if same_person[i] else "wrong" for i in shown]
    answers = tuple(
        answer(rows[i], distances[i], verdict, None if ignored[i] else int(ranks[i]))
        for i, verdict in zip(shown, verdicts, strict=True)
    )
    return RankedRow(answer(query_row, 0.0, "ignored", None), answers, average_precision)


def choose_queries(average_precisions: np.ndarray, how_many: int, seed: int = 0) -> dict[str, list[int]]:
    """Positions of queries to show: a third of `how_many` with the highest average precision ("best"), a third with the
    lowest ("worst"), and others drawn by `seed` ("random"); none is in two of them.

    `average_precisions` (Q,) has NaN for queries without a match, which are never chosen. Equal ones keep their order.
    Raises `BadData` when no query has a match.
    """
    matched = np.flatnonzero(~np.isnan(average_precisions))
    if not matched.size:
        raise BadData("ranked lists", why="no query has a match in the gallery")
    how_many = min(how_many, len(matched))
    ordered = matched[np.argsort(-average_precisions[matched], kind="stable")]
    # 2 queries: the best and the worst; from 3 on also random ones
    extremes = how_many // 3 if how_many >= 3 else how_many // 2
    best = ordered[: max(1, extremes)]
    rest = np.setdiff1d(matched, best)
    worst = rest[np.argsort(average_precisions[rest], kind="stable")][:extremes]
    rest = np.setdiff1d(rest, worst)
    drawn = keyed_generator(seed, "ranked lists").choice(rest, how_many - len(best) - len(worst), replace=False)
    return {"best": best.tolist(), "worst": worst.tolist(), "random": np.sort(drawn).tolist()}


@styled
def ranked_lists_figure(rows: Sequence[RankedRow], frames_of: Frames) -> Figure:
    """Rows of a query (three of its frames) and its first answers (their middle frame), with marks of `VERDICTS`, rank,
    person, camera and squared distance. `frames_of` maps a tracklet to its frames, in order. Raises `BadData` with
    every frame that cannot be read."""
    columns = min(MOST_ANSWERS, max(len(row.answers) for row in rows))
    height = 1.5 * len(rows) + 1.1 * (len(rows) - 1)
    figure = Figure(figsize=(0.95 * columns + 2.25, height))
    grid = figure.subplots(
        len(rows), columns + 1, squeeze=False, width_ratios=[QUERY_FRAMES, *[1] * columns],
        gridspec_kw={"wspace": 0.25, "hspace": 1.1 / 1.5, "left": 0, "right": 1, "top": 1, "bottom": 0},
    )  # fmt: skip
    for row, axes in zip(rows, grid, strict=True):
        for each in axes[len(row.answers) + 1 :]:
            each.set_axis_off()
        _draw_query(axes[0], row, frames_of)
        for answer, each in zip(row.answers, axes[1:], strict=False):
            mark, colour, _ = VERDICTS[answer.verdict]
            above = mark if answer.rank is None else f"{answer.rank}  {mark}"
            frame = _middle_frame(frames_of[answer.tracklet])
            show_frame(each, frame, above, f"{_below(answer)}\nd² = {answer.distance:.3f}", colour)
    handles = [
        Line2D([], [], linestyle="", marker="s", color=colour, label=f"{mark} {meaning}")
        for mark, colour, meaning in VERDICTS.values()
    ]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.7 / height), ncols=3, borderpad=0)
    return figure


def _middle_frame(frames: Sequence[Path]) -> np.ndarray:
    """The frame in the middle of a tracklet, or the next that can be read; (H, W, 3)."""
    for frame in frames[len(frames) // 2 :]:
        with contextlib.suppress(BadData):
            return read_frames([frame], FRAME_SIZE)[0]
    return read_frames(frames, FRAME_SIZE)[0]


def _draw_query(axes: Axes, row: RankedRow, frames_of: Frames) -> None:
    frames = read_frames(evenly_spaced(frames_of[row.query.tracklet], QUERY_FRAMES), FRAME_SIZE)
    show_frame(axes, side_by_side(frames, len(frames)), "query", _below(row.query), INK)
    axes.annotate(printable(row.query.tracklet), (0, 1), (0, 30), "axes fraction", "offset points", fontweight="bold")
    axes.annotate(row.summary, (0, 1), (0, 19), "axes fraction", "offset points", color=SOFT)


def _below(answer: Answer) -> str:
    return f"{answer.person}\ncamera {answer.camera_id}"
