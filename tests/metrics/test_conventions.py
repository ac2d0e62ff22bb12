"""Figures as other code bases count them: worked out by hand, and from the definitions in plain loops."""

import itertools

import numpy as np
import pytest

from amem_cli.metrics.conventions import CONVENTIONS, RANKS, count_by_conventions, one_per_person_cmc

# position: 0 query p1 c1 | 1 p2 c2 | 2 p1 c2 | 3 p3 c1 | 4 p2 c3 | 5 p1 c3 | 6 distractor c2 | 7 p1 c1 | 0.5 junk |
# 9 query p4 c1 | 10 query p4 c2. Query 0 counts 1 wrong, 2 HIT, 3 wrong, 4 wrong, 5 HIT; 9 and 10 find each other.
POSITION = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0.5, 9, 10], np.float32)[:, None]
PEOPLE = np.array([1, 2, 1, 3, 2, 1, 0, 1, -1, 4, 4])
CAMERAS = np.array([1, 2, 2, 1, 3, 3, 2, 1, 2, 1, 2])
IS_QUERY = np.isin(np.arange(11), (0, 9, 10))


def counted(mars=True):
    rows = count_by_conventions(POSITION, PEOPLE, CAMERAS, IS_QUERY, mars=mars, device=None)
    return {row["code_base"]: row for row in rows}


@pytest.mark.parametrize(
    ("code_base", "rank_1", "rank_5", "mean", "queries", "gallery"),
    [
        # trapezoids: hit at rank 2 (0 + 1/2) / 2, at rank 5 (1/4 + 2/5) / 2, mean 0.2875; the others 1
        ("official MATLAB", 2 / 3, 1, (0.2875 + 1 + 1) / 3, 3, 10),
        ("AP3D", 2 / 3, 1, ((1 / 2 + 2 / 5) / 2 + 1 + 1) / 3, 3, 10),
        ("TF-CLIP", 2 / 3, 1, ((1 / 2 + 2 / 5) / 2 + 1 + 1) / 3, 3, 10),
        # without the queries 9 and 10 have no match
        ("torchreid", 0, 1, (1 / 2 + 2 / 5) / 2, 1, 7),
        ("fast-reid", 0, 1, (1 / 2 + 2 / 5) / 2, 1, 7),
        ("Video-Person-ReID", 0, 1, (1 / 2 + 2 / 5) / 2, 1, 7),
        ("KeyRe-ID", 0, 1, (1 / 2 + 2 / 5) / 2, 1, 7),
        ("open-reid market1501", 0, 1, (1 / 2 + 2 / 5) / 2, 1, 7),
        ("open-reid allshots", 0, 1, (1 / 2 + 2 / 5) / 2, 1, 7),
        # cameras 2 and 3: of p1 2 or 5 is drawn, of p2 1 or 4; rank 1 only for 2 and 4
        ("open-reid cuhk03", 1 / 4, 1, (1 / 2 + 2 / 5) / 2, 1, 7),
    ],
)
def test_count_by_conventions_by_hand(code_base, rank_1, rank_5, mean, queries, gallery):
    row = counted()[code_base]
    assert list(row["rank"]) == ["1", "5", "10", "20"]
    assert row["rank"]["1"] == pytest.approx(rank_1)
    assert row["rank"]["5"] == pytest.approx(rank_5)
    assert row["mAP"] == pytest.approx(mean)
    assert (row["queries"], row["gallery"]) == (queries, gallery)


def test_count_by_conventions_other_data_sets():
    """AP3D and the MATLAB code keep the queries on MARS alone, TF-CLIP everywhere; MATLAB counts every query."""
    rows = counted(mars=False)
    assert rows["TF-CLIP"]["mAP"] == counted()["TF-CLIP"]["mAP"]
    assert rows["AP3D"]["mAP"] == rows["torchreid"]["mAP"]
    assert rows["official MATLAB"]["mAP"] == pytest.approx(0.2875 / 3)
    assert rows["official MATLAB"]["rank"]["5"] == pytest.approx(1 / 3)
    assert rows["official MATLAB"]["queries_in_gallery"] is False


def test_count_by_conventions_no_match_without_queries():
    rows = count_by_conventions(POSITION[:4], np.array([1, 1, 2, 3]), np.array([1, 2, 1, 1]),
                                np.array([True, True, False, False]), mars=True, device=None)  # fmt: skip
    by_name = {row["code_base"]: row for row in rows}
    assert by_name["AP3D"]["rank"]["1"] == 1
    assert (by_name["torchreid"]["rank"], by_name["torchreid"]["mAP"], by_name["torchreid"]["queries"]) == (
        None,
        None,
        0,
    )


def by_definition(convention, positions, people, cameras, is_query, mars):
    """({rank: rate}, mAP) of a convention in plain loops over sorted lists."""
    stay = convention.queries_stay == "always" or (mars and convention.queries_stay == "MARS")
    gallery = [i for i in range(len(people)) if people[i] != -1 and (stay or not is_query[i])]
    curves, averages, queries = [], [], np.flatnonzero(is_query)
    for query in queries:
        order = sorted(gallery, key=lambda i: (abs(positions[i] - positions[query]), i))
        order = [i for i in order if people[i] != people[query] or cameras[i] != cameras[query]]
        hits = [people[i] == people[query] for i in order]
        if not any(hits):
            continue
        places = [place for place, hit in enumerate(hits, 1) if hit]
        precisions = [number / place for number, place in enumerate(places, 1)]
        before = [number / (place - 1) if place > 1 else 1.0 for number, place in enumerate(places)]
        if convention.average_precision == "trapezoids":
            precisions = [(a + b) / 2 for a, b in zip(before, precisions, strict=True)]
        averages.append(np.mean(precisions))
        if convention.cmc == "first match":
            chances = [places]
        elif convention.cmc == "every match":
            chances = [[place - number] for number, place in enumerate(places)]
        else:
            others = [i for i in order if cameras[i] != cameras[query]]
            groups = [[i for i in others if people[i] == person] for person in {people[i] for i in others}]
            chances = []
            for drawn in itertools.product(*groups):
                ranked = [i for i in others if i in drawn]
                chances.append([1 + [people[i] == people[query] for i in ranked].index(True)])
        curves.append([np.mean([one[0] <= k for one in chances]) for k in RANKS])
    number = len(queries) if convention.all_queries else len(averages)
    return np.sum(curves, axis=0) / number, np.sum(averages) / number


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mars", [True, False])
def test_count_by_conventions_by_definition(seed, mars):
    random = np.random.default_rng(seed)
    rows = 26
    positions = random.integers(0, 9, rows)  # many are equally far
    people, cameras = random.integers(-1, 5, rows), random.integers(1, 4, rows)
    is_query = (random.random(rows) < 0.3) & (people > 0)
    found = count_by_conventions(
        positions.astype(np.float32)[:, None], people, cameras, is_query, mars=mars, device=None
    )
    for row, convention in zip(found, CONVENTIONS, strict=True):
        curve, mean = by_definition(convention, positions, people, cameras, is_query, mars)
        np.testing.assert_allclose(list(row["rank"].values()), curve, atol=1e-12, err_msg=convention.code_base)
        assert row["mAP"] == pytest.approx(mean), convention.code_base


def test_one_per_person_cmc_blocks(monkeypatch):
    """The same in blocks of one query; 25 people before the match leave the first 20 ranks empty."""
    people, positions = np.arange(1, 31), np.arange(30, dtype=np.float32)[:, None]
    queries = np.array([26, 3, 30])
    arguments = (np.zeros((3, 1), np.float32), positions, queries, people, np.ones(3), np.full(30, 2))
    whole = one_per_person_cmc(*arguments)
    np.testing.assert_allclose(whole, np.where(np.arange(1, 21) >= 3, 1 / 3, 0))
    monkeypatch.setattr("amem_cli.metrics.conventions.BLOCK_VALUES", 1)
    np.testing.assert_allclose(one_per_person_cmc(*arguments), whole)


def test_one_per_person_cmc_camera_without_a_match():
    gallery, cameras = np.array([[0.0], [1.0]]), np.array([3, 3])
    query_people, query_cameras, people = np.array([9, 7]), np.array([1, 2]), np.array([7, 8])
    found = one_per_person_cmc(np.zeros((2, 1)), gallery, query_people, people, query_cameras, cameras)
    np.testing.assert_array_equal(found, np.ones(20))
