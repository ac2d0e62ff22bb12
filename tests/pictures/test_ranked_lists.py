"""Ranked lists: the answers of a small gallery worked out by hand, and their marks in the picture."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from amem_cli.artifacts.features import Features
from amem_cli.errors import BadData
from amem_cli.pictures.ranked_lists import (
    VERDICTS,
    Answer,
    RankedRow,
    choose_queries,
    rank_answers,
    ranked_lists_figure,
)

# One feature axis, the query at 0: the squared distance is the square of the feature.
#         name       person camera query feature
ROWS = [
    ("query", 7, 1, True, 0.0),
    ("same-camera", 7, 1, False, 0.1),
    ("junk", -1, 2, False, 0.2),
    ("other", 8, 2, False, 0.3),
    ("match", 7, 2, True, 0.4),  # the same person's query of another camera
    ("distractor", 0, 3, False, 0.5),
    ("other-same-camera", 9, 1, False, 0.6),
    ("late-match", 7, 3, False, 0.7),
]
EVERYTHING = np.ones(len(ROWS), bool)


def features_of(rows=ROWS) -> Features:
    names, people, cameras, queries, values = map(np.array, zip(*rows, strict=True))
    return Features("toy", names.tolist(), people, cameras, queries, values.astype(np.float32)[:, None], {})


def test_rank_answers_by_hand():
    row = rank_answers(features_of(), 0, EVERYTHING, 0.45, top=10, show_ignored=True)
    assert [(answer.tracklet, answer.verdict, answer.rank) for answer in row.answers] == [
        ("same-camera", "ignored", None),
        ("junk", "ignored", None),
        ("other", "wrong", 1),
        ("match", "right", 2),
        ("distractor", "wrong", 3),
        ("other-same-camera", "wrong", 4),
        ("late-match", "right", 5),
    ]
    assert [answer.distance for answer in row.answers] == pytest.approx([0.01, 0.04, 0.09, 0.16, 0.25, 0.36, 0.49])
    assert (row.query.tracklet, row.query.person_id, row.query.camera_id) == ("query", 7, 1)
    assert [answer.person for answer in row.answers[1:5]] == ["junk", "person 8", "person 7", "distractor"]
    assert row.summary == "average precision 45.0 %, first right answer at rank 2"
    assert replace(row, average_precision=math.nan).summary == "no match in the gallery"


def test_rank_answers_gallery_and_top():
    table = features_of()
    shown = rank_answers(table, 0, EVERYTHING, 1.0, top=2, show_ignored=False).answers
    assert [(answer.tracklet, answer.rank) for answer in shown] == [("other", 1), ("match", 2)]
    shown = rank_answers(table, 0, ~table.is_query, 1.0, top=1, show_ignored=True).answers
    assert [answer.tracklet for answer in shown] == ["same-camera", "junk", "other"]
    shown = rank_answers(table, 0, ~table.is_query, 1.0, top=9, show_ignored=True).answers
    assert "match" not in [answer.tracklet for answer in shown]


def test_rank_answers_many_ignored_do_not_hide_the_others():
    ignored = [(f"same-{i}", 1, 1, False, 0.01 * i) for i in range(20)]
    rows = [("q", 1, 1, True, 0.0), *ignored, ("match", 1, 2, False, 0.5), ("other", 2, 2, False, 0.6)]
    shown = rank_answers(features_of(rows), 0, np.ones(len(rows), bool), 1.0, top=2, show_ignored=True).answers
    assert [answer.tracklet for answer in shown] == [*(f"same-{i}" for i in range(5)), "match", "other"]
    late = features_of([rows[0], *rows[-2:], ("same-late", 1, 1, False, 0.9)])
    shown = rank_answers(late, 0, np.ones(4, bool), 1.0, top=2, show_ignored=True).answers
    assert [answer.tracklet for answer in shown] == ["match", "other"]  # none after the last rank


def test_rank_answers_ties_keep_the_order_of_the_file():
    # few values and many rows: an unstable sort moves equal ones
    values = np.random.default_rng(0).integers(1, 4, 400) / 4
    rows = [("q", 1, 1, True, 0.0), *((f"g{i:03}", 1 + i % 5, 2, False, value) for i, value in enumerate(values))]
    row = rank_answers(features_of(rows), 0, np.ones(401, bool), 1.0, top=400, show_ignored=True)
    expected = sorted(rows[1:], key=lambda columns: (columns[4], columns[0]))
    assert [answer.tracklet for answer in row.answers] == [name for name, *_ in expected]


def test_choose_queries_best_worst_random():
    precisions = np.array([0.5, 1.0, np.nan, 0.1, 0.9, 0.3, 0.1, 0.7, 0.6])
    chosen = choose_queries(precisions, 6, seed=3)
    assert (chosen["best"], chosen["worst"]) == ([1, 4], [3, 6])
    assert len(chosen["random"]) == 2
    assert set(chosen["random"]) <= {0, 5, 7, 8}
    assert chosen == choose_queries(precisions, 6, seed=3)
    assert len({tuple(choose_queries(precisions, 6, seed)["random"]) for seed in range(10)}) > 1
    for how_many in range(1, 12):  # none twice, none without a match
        rows = [row for rows in choose_queries(precisions, how_many).values() for row in rows]
        assert len(rows) == len(set(rows) - {2}) == min(how_many, 8)
    with pytest.raises(BadData, match="no query has a match"):
        choose_queries(np.array([np.nan]), 3)


def test_ranked_lists_figure_marks(tmp_path):
    path = tmp_path / "frame.png"
    Image.new("RGB", (40, 90), (10, 20, 200)).save(path)
    answers = [Answer(name, 7, 2, 0.25, name, place) for name, place in (("right", 1), ("wrong", 2), ("ignored", None))]
    row = RankedRow(Answer("$q_1$ \n", 7, 1, 0.0, "ignored", None), tuple(answers), 1.0)
    frames_of = {answer.tracklet: [path] * 5 for answer in (row.query, *answers)}
    figure = ranked_lists_figure([row, row], frames_of)
    figure.draw_without_rendering()  # a dollar sign is no formula
    first, *shown = figure.axes[:4]
    assert first.get_images()[0].get_array().shape[1] == 3 * 96 + 2 * 4  # three frames of the query
    for answer, axes in zip(answers, shown, strict=True):
        mark, colour, _ = VERDICTS[answer.verdict]
        assert axes.get_title() == (f"{answer.rank}  {mark}" if answer.rank else mark)
        assert to_hex(axes.spines["left"].get_edgecolor()) == colour
        assert axes.get_xlabel() == "person 7\ncamera 2\nd² = 0.250"
    assert len({mark for mark, _, _ in VERDICTS.values()}) == 3  # they differ without colour
    gone = Path("gone.png")
    ranked_lists_figure([row], frames_of | {"right": [path, gone, gone], "wrong": [gone, gone, path]})
    with pytest.raises(BadData, match=r"gone\.png \(not found"):
        ranked_lists_figure([row], frames_of | {"right": [gone, gone]})
