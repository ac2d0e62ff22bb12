"""Ranked lists: a query and the gallery's first answers to it, right and wrong ones told apart.

The rules are those of the evaluation: person -1 is junk and ignored; the query's own person seen by the query's own
camera is ignored; everybody else counts, distractors (person 0) too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from amem_cli.errors import BadData, listing
from amem_cli.person_ids import DISTRACTOR, JUNK
from amem_cli.pictures.frames import GAP, INK, MARGIN, RULE, SOFT_INK, font, read_frames
from amem_cli.randomness import keyed_generator

Verdict = Literal["right", "wrong", "ignored"]

VERDICT_COLOURS: dict[Verdict, tuple[int, int, int]] = {
    "right": (0, 135, 75),
    "wrong": (205, 35, 40),
    "ignored": (150, 150, 150),
}
VERDICT_MEANINGS: dict[Verdict, str] = {
    "right": "right: same person, another camera",
    "wrong": "wrong: another person",
    "ignored": "ignored: junk, or same person and same camera",
}
BORDER = 4  # pixels of colour around a frame
QUERY_GAP = 30  # between the query and its answers


@dataclass(frozen=True, slots=True)
class Answer:
    """A tracklet in a ranked list: `path` is one of its frames, `distance` the one to the query (Euclidean)."""

    path: Path
    person_id: int
    camera_id: int
    distance: float
    verdict: Verdict
    tracklet: str = ""


@dataclass(frozen=True, slots=True)
class RankedRow:
    """A query (distance 0; its verdict says nothing) and its answers, nearest first.

    `average_precision` is the query's, in [0, 1], over the whole gallery; NaN when nothing in it matches.
    `query_frames` are drawn in place of `query.path` when a strip of several is wanted.
    """

    query: Answer
    answers: tuple[Answer, ...]
    average_precision: float
    query_frames: tuple[Path, ...] = ()

    @property
    def ranks(self) -> tuple[int | None, ...]:
        """Each answer's rank, from 1; ignored answers have none and take none."""
        counted = np.cumsum([answer.verdict != "ignored" for answer in self.answers])
        return tuple(
            None if answer.verdict == "ignored" else int(rank)
            for answer, rank in zip(self.answers, counted, strict=True)
        )


class ChosenQueries(NamedTuple):
    """Positions of queries worth a look; no query is in two of them."""

    best: tuple[int, ...]
    worst: tuple[int, ...]
    random: tuple[int, ...]


def rank_answers(
    tracklet: Sequence[str],
    person_id: np.ndarray,
    camera_id: np.ndarray,
    is_query: np.ndarray,
    features: np.ndarray,
    frames: Mapping[str, Path],
    query_row: int,
    top: int = 10,
    *,
    queries_in_gallery: bool,
    show_ignored: bool = True,
) -> RankedRow:
    """The `top` nearest gallery tracklets to the tracklet in row `query_row` of a features file.

    Columns as in the file: `tracklet` (N) names, `person_id` and `camera_id` (N,) int64, `is_query` (N,) bool,
    `features` (N, D) float. `frames` maps a tracklet's name to the frame that stands for it; only those shown need be
    there. With `queries_in_gallery` (MARS) every row is an answer, without (two-camera splits) only those that are no
    query. The query itself is never shown: it would be first in every list, and ignored.

    Distances are Euclidean, computed in float64; equal ones keep the order of the rows. Average precision is the mean
    of the precision at each hit. `show_ignored=False` leaves ignored answers out, so that `top` ranks are seen.

    Raises `BadData` when the row is no query, the gallery is empty or a shown tracklet has no frame, `ValueError` when
    the columns differ in length.
    """
    columns = (tracklet, person_id, camera_id, is_query, features)
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"columns of one features file are equally long, not {[len(column) for column in columns]}")
    if not 0 <= query_row < len(tracklet) or not is_query[query_row]:
        raise BadData("features", why=f"row {query_row} is not a query")
    is_gallery = np.ones(len(tracklet), bool) if queries_in_gallery else ~np.asarray(is_query, bool)
    is_gallery[query_row] = False
    gallery = np.flatnonzero(is_gallery)  # (G,)
    if not gallery.size:
        raise BadData("features", why=f"the gallery of query {tracklet[query_row]} is empty")

    query_feature = np.asarray(features[query_row], dtype=np.float64)
    distances = np.linalg.norm(np.asarray(features, dtype=np.float64)[gallery] - query_feature, axis=1)  # (G,)
    order = np.argsort(distances, kind="stable")
    gallery, distances = gallery[order], distances[order]

    same_person = person_id[gallery] == person_id[query_row]
    ignored = (person_id[gallery] == JUNK) | (same_person & (camera_id[gallery] == camera_id[query_row]))
    hits = same_person[~ignored]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    average_precision = float(precision[hits].mean()) if hits.any() else math.nan

    shown = np.flatnonzero(~ignored | show_ignored)[:top]
    names = [str(tracklet[row]) for row in (query_row, *gallery[shown])]
    without_frame = [name for name in names if name not in frames]
    if without_frame:
        raise BadData(
            "ranked list",
            why=f"no frame is known for {listing(without_frame)}",
            remedy="Features and data set must be the same: check --dataset and --data-root",
        )
    verdicts: list[Verdict] = [
        "ignored" if ignored[place] else "right" if same_person[place] else "wrong" for place in shown
    ]

    def seen(row: int, distance: float, verdict: Verdict) -> Answer:
        name = str(tracklet[row])
        return Answer(Path(frames[name]), int(person_id[row]), int(camera_id[row]), float(distance), verdict, name)

    return RankedRow(
        query=seen(query_row, 0.0, "ignored"),
        answers=tuple(
            seen(gallery[place], distances[place], verdict) for place, verdict in zip(shown, verdicts, strict=True)
        ),
        average_precision=average_precision,
    )


def choose_queries(average_precisions: np.ndarray, how_many: int, seed: int = 0) -> ChosenQueries:
    """Positions of `how_many` queries in all: a third the best, a third the worst, the rest drawn from the others.

    `average_precisions` is (Q,) float in [0, 1], NaN where a query has no match (never chosen). Equal ones keep their
    order. The worst come worst first, the drawn ones in the order of the file. When there are fewer queries, all are
    chosen. The draw depends on `seed` alone.

    >>> choose_queries(np.array([0.2, 1.0, 0.1, 0.9]), 2)
    ChosenQueries(best=(1,), worst=(2,), random=())

    Raises `BadData` when no query has a match.
    """
    average_precisions = np.asarray(average_precisions, dtype=float)
    matched = np.flatnonzero(~np.isnan(average_precisions))
    if not matched.size:
        raise BadData("ranked lists", why="no query has a match in the gallery")
    how_many = min(how_many, len(matched))
    # Two queries are one good and one bad example; the random ones come with the third.
    extremes = how_many // 3 if how_many >= 3 else how_many // 2
    best_count = extremes if how_many > 1 else how_many
    best = matched[np.argsort(-average_precisions[matched], kind="stable")][:best_count]
    rest = np.setdiff1d(matched, best)
    worst = rest[np.argsort(average_precisions[rest], kind="stable")][:extremes]
    rest = np.setdiff1d(rest, worst)
    drawn = keyed_generator(seed, "ranked lists").choice(rest, how_many - len(best) - len(worst), replace=False)
    return ChosenQueries(*(tuple(int(row) for row in rows) for rows in (best, worst, np.sort(drawn))))


def ranked_lists(rows: Sequence[RankedRow], columns: int = 10, frame_size: tuple[int, int] = (128, 64)) -> Image.Image:
    """Draw rows of query and first answers; an RGB picture on white, ready for a paper.

    Right answers have a green frame and a tick, wrong ones a red frame and a cross, ignored ones a grey frame and a
    dash; above an answer stands its rank, below it person, camera and distance d. `columns` is how many answers a row
    shows at most, `frame_size` (H, W) in pixels; text grows with it.

    Raises `BadData` when there is no row, or with every frame that cannot be read.
    """
    if not rows:
        raise BadData("ranked lists", why="there is no query to draw")
    layout = _Layout.of(rows, columns, frame_size)
    queries = [read_frames(row.query_frames or (row.query.path,), frame_size) for row in rows]
    answers = [read_frames([answer.path for answer in row.answers[:columns]], frame_size) for row in rows]

    picture = Image.new("RGB", layout.picture_size, "white")
    draw = ImageDraw.Draw(picture)
    bold, plain = font(layout.text, bold=True), font(layout.text)
    for number, row in enumerate(rows):
        top = layout.row_top(number)
        if number:
            rule = top - layout.text
            draw.line((MARGIN, rule, layout.picture_size[0] - MARGIN, rule), fill=RULE)
        name = _name(row)
        draw.text((MARGIN, top), name, font=bold, fill=INK, anchor="la")
        draw.text((MARGIN + bold.getlength(name) + layout.text, top), _summary(row), font=plain, fill=INK, anchor="la")

        left, frame_top, _, bottom = layout.query_box(number)
        for place, frame in enumerate(queries[number]):
            x = left + BORDER + place * (frame_size[1] + 2)
            picture.paste(frame, (x, frame_top + BORDER))
        right = x + frame_size[1] + BORDER
        draw.rectangle((left, frame_top, right - 1, bottom - 1), outline=INK, width=2)
        draw.text((left, frame_top - 5), "query", font=bold, fill=INK, anchor="ls")
        _lines(draw, ((left + right) / 2, bottom + 4), (_person(row.query), f"camera {row.query.camera_id}"), layout)

        for column, (answer, rank, frame) in enumerate(
            zip(row.answers[:columns], row.ranks[:columns], answers[number], strict=True)
        ):
            left, frame_top, right, bottom = layout.answer_box(number, column)
            colour = VERDICT_COLOURS[answer.verdict]
            draw.rectangle((left, frame_top, right - 1, bottom - 1), fill=colour)
            picture.paste(frame, (left + BORDER, frame_top + BORDER))
            mark = layout.text
            if rank is not None:
                draw.text((left, frame_top - 5), str(rank), font=bold, fill=INK, anchor="ls")
            _mark(picture, (right - mark - 2, frame_top - mark - 4), mark, answer.verdict)
            lines = (_person(answer), f"camera {answer.camera_id}", f"d = {answer.distance:.3f}")
            _lines(draw, ((left + right) / 2, bottom + 4), lines, layout)

    x, y = MARGIN, MARGIN + len(rows) * layout.row_height
    for verdict, meaning in VERDICT_MEANINGS.items():
        _mark(picture, (x, y), layout.text, verdict)
        draw.text((x + layout.text * 1.6, y + layout.text / 2), meaning, font=plain, fill=SOFT_INK, anchor="lm")
        if layout.legend_in_one_line:
            x += math.ceil(layout.text * 3.5 + plain.getlength(meaning))
        else:
            y += 2 * layout.text
    return picture


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand, in pixels from the upper left corner."""

    text: int
    frame_size: tuple[int, int]
    query_width: int
    cell_width: int
    row_height: int
    picture_size: tuple[int, int]
    legend_in_one_line: bool

    @classmethod
    def of(cls, rows: Sequence[RankedRow], columns: int, frame_size: tuple[int, int]) -> "_Layout":
        height, width = frame_size
        text = max(11, width // 8)
        bold, plain = font(text, bold=True), font(text)
        strip = max(len(row.query_frames) or 1 for row in rows)
        people = [_person(row.query) for row in rows]
        people += [_person(answer) for row in rows for answer in row.answers[:columns]]
        widest = math.ceil(max(plain.getlength(words) for words in people))
        query_width = max(strip * (width + 2) - 2 + 2 * BORDER, widest)
        cell_width = max(width + 2 * BORDER, widest) + GAP
        answers = max(min(columns, len(row.answers)) for row in rows)
        # Title, ranks, frame, three lines below it, air.
        row_height = 2 * text + round(1.8 * text) + height + 2 * BORDER + 4 + 3 * _line_height(text) + 2 * text
        titles = max(bold.getlength(_name(row)) + text + plain.getlength(_summary(row)) for row in rows)
        meanings = [text * 1.6 + plain.getlength(meaning) for meaning in VERDICT_MEANINGS.values()]
        inner = max(query_width + QUERY_GAP + answers * cell_width - GAP, math.ceil(titles), math.ceil(max(meanings)))
        # The legend stands in one line where it fits, else in a line each: never cut off.
        one_line = sum(meanings) + 2 * 1.9 * text <= inner
        legend_height = text if one_line else (2 * len(meanings) - 1) * text
        size = (inner + 2 * MARGIN, MARGIN + len(rows) * row_height + legend_height + MARGIN)
        return cls(text, frame_size, query_width, cell_width, row_height, size, one_line)

    def row_top(self, row: int) -> int:
        return MARGIN + row * self.row_height

    def query_box(self, row: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the query's frames with their border; right and bottom are outside."""
        top = self.row_top(row) + 2 * self.text + round(1.8 * self.text)
        return MARGIN, top, MARGIN + self.query_width, top + self.frame_size[0] + 2 * BORDER

    def answer_box(self, row: int, column: int) -> tuple[int, int, int, int]:
        _, top, query_right, bottom = self.query_box(row)
        width = self.frame_size[1] + 2 * BORDER
        left = query_right + QUERY_GAP + column * self.cell_width + (self.cell_width - GAP - width) // 2
        return left, top, left + width, bottom


def _name(row: RankedRow) -> str:
    return row.query.tracklet or row.query.path.name


def _summary(row: RankedRow) -> str:
    if math.isnan(row.average_precision):
        return "no match in the gallery"
    found = [rank for rank, answer in zip(row.ranks, row.answers, strict=True) if answer.verdict == "right"]
    first = f", first right answer at rank {found[0]}" if found else ""
    return f"AP {row.average_precision:.3f}{first}"


def _person(answer: Answer) -> str:
    return {JUNK: "junk", DISTRACTOR: "distractor"}.get(answer.person_id, f"person {answer.person_id}")


def _line_height(text: int) -> int:
    return round(1.35 * text)


def _lines(draw: ImageDraw.ImageDraw, middle_top: tuple[float, float], lines: Sequence[str], layout: _Layout) -> None:
    x, y = middle_top
    for number, line in enumerate(lines):
        ink = INK if number == 0 else SOFT_INK
        draw.text((x, y + number * _line_height(layout.text)), line, font=font(layout.text), fill=ink, anchor="ma")


def _mark(picture: Image.Image, corner: tuple[int, int], size: int, verdict: Verdict) -> None:
    """A tick, a cross or a dash in a square of `size` pixels, in the verdict's colour, with smooth edges."""
    strokes = {
        "right": (((0.05, 0.55), (0.38, 0.88), (0.95, 0.12)),),
        "wrong": (((0.12, 0.12), (0.88, 0.88)), ((0.88, 0.12), (0.12, 0.88))),
        "ignored": (((0.1, 0.5), (0.9, 0.5)),),
    }[verdict]
    finer = 4
    mask = Image.new("L", (size * finer, size * finer))
    for stroke in strokes:
        points = [(x * size * finer, y * size * finer) for x, y in stroke]
        ImageDraw.Draw(mask).line(points, fill=255, width=round(size * finer * 0.19), joint="curve")
    mask = mask.resize((size, size), Image.LANCZOS)
    picture.paste(VERDICT_COLOURS[verdict], (*corner, corner[0] + size, corner[1] + size), mask)
