"""Ranked lists: the verdicts of a gallery small enough to judge by hand, and the colours that show them."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amem_cli.errors import BadData
from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.pictures.ranked_lists import (
    BORDER,
    VERDICT_COLOURS,
    Answer,
    RankedRow,
    _Layout,
    choose_queries,
    rank_answers,
    ranked_lists,
)

# One feature axis, the query at 0: the distance is the feature itself.
#         name       person camera query feature
GALLERY = [
    ("query", 7, 1, True, 0.0),
    ("same-camera", 7, 1, False, 0.1),
    ("junk", -1, 2, False, 0.2),
    ("other", 8, 2, False, 0.3),
    ("match", 7, 2, True, 0.4),  # the same person's query of another camera
    ("distractor", 0, 3, False, 0.5),
    ("other-same-camera", 9, 1, False, 0.6),
    ("late-match", 7, 3, False, 0.7),
]


def table(rows=GALLERY) -> dict:
    names, people, cameras, queries, features = zip(*rows, strict=True)
    return {
        "tracklet": list(names),
        "person_id": np.array(people),
        "camera_id": np.array(cameras),
        "is_query": np.array(queries),
        "features": np.array(features, dtype=np.float32)[:, None],
        "frames": {name: Path(f"{name}.png") for name in names},
    }


def names_and_verdicts(row: RankedRow) -> list[tuple[str, str]]:
    return [(answer.tracklet, answer.verdict) for answer in row.answers]


def test_verdicts_follow_the_rules_of_the_evaluation():
    row = rank_answers(**table(), query_row=0, queries_in_gallery=True)
    assert names_and_verdicts(row) == [
        ("same-camera", "ignored"),
        ("junk", "ignored"),
        ("other", "wrong"),
        ("match", "right"),
        ("distractor", "wrong"),
        ("other-same-camera", "wrong"),
        ("late-match", "right"),
    ]
    assert row.ranks == (None, None, 1, 2, 3, 4, 5)
    assert row.average_precision == pytest.approx((1 / 2 + 2 / 5) / 2)
    assert [answer.distance for answer in row.answers] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert (row.query.tracklet, row.query.person_id, row.query.camera_id) == ("query", 7, 1)
    assert row.answers[3].path == Path("match.png")


def test_a_gallery_without_queries_has_no_query_in_it():
    row = rank_answers(**table(), query_row=0, queries_in_gallery=False)
    assert "match" not in [answer.tracklet for answer in row.answers]
    assert row.average_precision == pytest.approx(1 / 4)


def test_top_counts_ranks_when_ignored_answers_are_left_out():
    row = rank_answers(**table(), query_row=0, top=2, queries_in_gallery=True, show_ignored=False)
    assert names_and_verdicts(row) == [("other", "wrong"), ("match", "right")]
    assert row.average_precision == pytest.approx((1 / 2 + 2 / 5) / 2), "over the whole gallery, not over those shown"
    shown = rank_answers(**table(), query_row=0, top=2, queries_in_gallery=True)
    assert names_and_verdicts(shown) == [("same-camera", "ignored"), ("junk", "ignored")]


def test_equal_distances_keep_the_order_of_the_file():
    # Few values and many rows: an unstable sort of these does move equal ones.
    values = np.random.default_rng(0).integers(1, 4, 400) / 4
    rows = [("q", 1, 1, True, 0.0), *((f"g{i:03}", 1 + i % 5, 2, False, value) for i, value in enumerate(values))]
    row = rank_answers(**table(rows), query_row=0, top=400, queries_in_gallery=False)
    expected = sorted(rows[1:], key=lambda columns: (columns[4], columns[0]))
    assert [answer.tracklet for answer in row.answers] == [name for name, *_ in expected]


def test_average_precision_against_a_loop_and_the_evaluation():
    generator = np.random.default_rng(0)
    n = 60
    columns = {
        "tracklet": [f"t{i}" for i in range(n)],
        "person_id": generator.integers(-1, 5, n),
        "camera_id": generator.integers(1, 4, n),
        "is_query": np.ones(n, bool),
        "features": generator.normal(size=(n, 3)),
        "frames": {f"t{i}": Path(f"{i}.png") for i in range(n)},
    }
    people, cameras = columns["person_id"], columns["camera_id"]
    for query in np.flatnonzero(people > 0):
        rank, found, precisions = 0, 0, []
        for other in sorted(range(n), key=lambda i: math.dist(columns["features"][i], columns["features"][query])):
            if people[other] == -1 or (people[other] == people[query] and cameras[other] == cameras[query]):
                continue
            rank += 1
            if people[other] == people[query]:
                found += 1
                precisions.append(found / rank)
        row = rank_answers(**columns, query_row=int(query), queries_in_gallery=True)
        assert row.average_precision == pytest.approx(np.mean(precisions))
        scored = evaluate_ranking(
            columns["features"][[query]], columns["features"], people[[query]], people, cameras[[query]], cameras
        )
        assert row.average_precision == pytest.approx(scored.mAP), "the list shows what the evaluation counted"


def test_a_query_without_a_match_has_no_average_precision():
    rows = [("q", 1, 1, True, 0.0), ("g", 2, 2, False, 0.5)]
    assert math.isnan(rank_answers(**table(rows), query_row=0, queries_in_gallery=False).average_precision)


def test_bad_input_is_named():
    with pytest.raises(BadData, match="row 1 is not a query"):
        rank_answers(**table(), query_row=1, queries_in_gallery=True)
    with pytest.raises(BadData, match="gallery of query q is empty"):
        rank_answers(**table([("q", 1, 1, True, 0.0)]), query_row=0, queries_in_gallery=True)
    columns = table()
    del columns["frames"]["junk"], columns["frames"]["other"]
    with pytest.raises(BadData, match="junk; other"):
        rank_answers(**columns, query_row=0, queries_in_gallery=True)
    with pytest.raises(ValueError, match="equally long"):
        rank_answers(**{**table(), "camera_id": np.array([1])}, query_row=0, queries_in_gallery=True)


def test_chosen_queries_are_the_best_the_worst_and_some_others():
    average_precisions = np.array([0.5, 1.0, np.nan, 0.1, 0.9, 0.3, 0.1, 0.7, 0.6])
    chosen = choose_queries(average_precisions, 6, seed=3)
    assert chosen.best == (1, 4)
    assert chosen.worst == (3, 6)  # the worst first, equal ones in the order of the file
    assert len(chosen.random) == 2
    assert set(chosen.random) <= {0, 5, 7, 8}
    assert chosen == choose_queries(average_precisions, 6, seed=3)
    assert len({choose_queries(average_precisions, 6, seed).random for seed in range(10)}) > 1


@pytest.mark.parametrize("how_many", range(1, 12))
def test_no_query_is_chosen_twice_and_none_without_a_match(how_many):
    average_precisions = np.array([0.5, 0.5, np.nan, 0.5, 0.5, 0.5, 0.5, 0.5])
    rows = sum(choose_queries(average_precisions, how_many), ())
    assert len(rows) == len(set(rows)) == min(how_many, 7)
    assert 2 not in rows


def test_no_query_with_a_match_is_an_error():
    with pytest.raises(BadData, match="no query has a match"):
        choose_queries(np.array([np.nan]), 3)


@pytest.fixture
def row(tmp_path) -> RankedRow:
    """A query and a right, a wrong and an ignored answer, each a frame of one flat blue."""
    path = tmp_path / "frame.png"
    Image.new("RGB", (40, 90), (10, 20, 200)).save(path)
    answers = (
        Answer(path, 7, 2, 0.25, "right", "a"),
        Answer(path, 0, 2, 0.5, "wrong", "b"),
        Answer(path, -1, 1, 0.75, "ignored", "c"),
    )
    return RankedRow(Answer(path, 7, 1, 0.0, "ignored", "q"), answers, 1.0)


@pytest.mark.parametrize("frame_size", [(128, 64), (256, 128), (50, 20)])
def test_answers_stand_in_frames_of_their_verdicts_colour(row, frame_size):
    picture = ranked_lists([row, row], frame_size=frame_size)
    layout = _Layout.of([row, row], 10, frame_size)
    assert picture.size == layout.picture_size
    assert picture.mode == "RGB"
    for number in range(2):
        for column, answer in enumerate(row.answers):
            left, top, right, bottom = layout.answer_box(number, column)
            assert (bottom - top, right - left) == (frame_size[0] + 2 * BORDER, frame_size[1] + 2 * BORDER)
            middle = ((left + right) // 2, (top + bottom) // 2)
            for x, y in [(left, top), (right - 1, bottom - 1), (middle[0], top + BORDER - 1), (left, middle[1])]:
                assert picture.getpixel((x, y)) == VERDICT_COLOURS[answer.verdict]
            assert picture.getpixel(middle) == (10, 20, 200)
            assert picture.getpixel((left + BORDER, top + BORDER)) == (10, 20, 200)
            assert picture.getpixel((left - 1, middle[1])) == (255, 255, 255)


def test_verdicts_differ_in_shape_too(row):
    picture = ranked_lists([row])
    layout = _Layout.of([row], 10, (128, 64))
    shapes = set()
    for column in range(3):
        _, top, right, _ = layout.answer_box(0, column)
        mark = picture.crop((right - layout.text - 2, top - layout.text - 4, right - 2, top - 4))
        inked = np.asarray(mark.convert("L")) < 225
        assert inked.any()
        shapes.add(inked.tobytes())
    assert len(shapes) == 3


def test_green_red_and_grey():
    assert VERDICT_COLOURS["right"][1] > 2 * VERDICT_COLOURS["right"][0]
    assert VERDICT_COLOURS["wrong"][0] > 2 * VERDICT_COLOURS["wrong"][1]
    assert len(set(VERDICT_COLOURS["ignored"])) == 1


def test_the_picture_grows_with_columns_rows_and_the_querys_strip(row):
    many = RankedRow(row.query, row.answers * 4, 1.0)
    assert ranked_lists([many], columns=10).width > ranked_lists([many], columns=5).width
    assert ranked_lists([row] * 3).height > ranked_lists([row]).height
    strip = RankedRow(row.query, row.answers * 4, 1.0, query_frames=(row.query.path,) * 3)
    assert ranked_lists([strip]).width == ranked_lists([many]).width + 2 * (64 + 2)


def test_nothing_is_cut_off_at_the_right(row):
    long = Answer(row.query.path, 7, 1, 0.0, "ignored", "a tracklet's name that is much longer than its answers " * 2)
    picture = np.asarray(ranked_lists([RankedRow(long, row.answers[:1], 0.5)]))
    assert (picture[:, -10:] == 255).all()


def test_empty_and_unreadable_input(row, tmp_path):
    with pytest.raises(BadData, match="no query"):
        ranked_lists([])
    (tmp_path / "text.png").write_text("no image")
    gone = Answer(tmp_path / "gone.png", 1, 1, 0.1, "wrong")
    text = Answer(tmp_path / "text.png", 1, 1, 0.1, "wrong")
    with pytest.raises(BadData, match=r"gone\.png \(is not there.*text\.png \(cannot be decoded"):
        ranked_lists([RankedRow(row.query, (gone, text), math.nan)])
