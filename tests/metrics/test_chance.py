"""Chance: the closed form against full enumeration and against many random rankings."""

import itertools

import numpy as np
import pytest

from amem_cli.metrics.chance import chance
from amem_cli.metrics.ranking import evaluate_distances


def enumerated(matches: int, others: int, ranks: int) -> tuple[np.ndarray, float]:
    """Mean CMC and AP over every order of `matches` + `others` items."""
    n = matches + others
    cmc, precisions = np.zeros(ranks), []
    places = list(itertools.combinations(range(1, n + 1), matches))
    for hits in places:
        cmc += np.arange(1, ranks + 1) >= hits[0]
        precisions.append(np.mean([(i + 1) / rank for i, rank in enumerate(hits)]))
    return cmc / len(places), float(np.mean(precisions))


@pytest.mark.parametrize(("matches", "others"), [(1, 0), (1, 1), (1, 5), (2, 0), (2, 3), (3, 4), (4, 2), (5, 5)])
def test_one_query_against_every_order(matches: int, others: int) -> None:
    gallery = np.array([1] * matches + [2] * others)
    cmc, mean = chance(np.array([1]), gallery, np.array([1]), np.full(len(gallery), 2), ranks=12)
    expected_cmc, expected_mean = enumerated(matches, others, 12)
    np.testing.assert_allclose(cmc, expected_cmc, atol=1e-9)
    assert mean == pytest.approx(expected_mean, abs=1e-12)


def test_the_rules_of_evaluation_hold() -> None:
    # junk, and the query's own person in its own camera, do not count; distractors and others of the camera do
    gallery_ids = np.array([-1, 1, 0, 2, 1])
    gallery_cameras = np.array([2, 1, 2, 1, 2])
    cmc, mean = chance(np.array([1]), gallery_ids, np.array([1]), gallery_cameras, ranks=3)
    expected_cmc, expected_mean = enumerated(1, 2, 3)
    np.testing.assert_allclose(cmc, expected_cmc)
    assert mean == pytest.approx(expected_mean)


def test_queries_without_a_match_are_left_out() -> None:
    ids, cameras = np.array([1, 2]), np.array([2, 2])
    with_orphan = chance(np.array([1, 9]), ids, np.array([1, 1]), cameras, ranks=2)
    without = chance(np.array([1]), ids, np.array([1]), cameras, ranks=2)
    np.testing.assert_array_equal(with_orphan[0], without[0])
    assert with_orphan[1] == without[1]
    cmc, mean = chance(np.array([9]), ids, np.array([1]), cameras, ranks=2)
    assert np.isnan(cmc).all()
    assert np.isnan(mean)


def test_random_rankings_agree() -> None:
    generator = np.random.default_rng(0)
    query_ids, gallery_ids = generator.integers(1, 6, 20), generator.integers(-1, 6, 40)
    query_cameras, gallery_cameras = generator.integers(1, 4, 20), generator.integers(1, 4, 40)
    labels = (query_ids, gallery_ids, query_cameras, gallery_cameras)
    cmc, mean = chance(*labels, ranks=10)
    runs = [evaluate_distances(generator.random((20, 40)), *labels) for _ in range(300)]
    # the deviation of the mean of 300 runs is below 0.005 here
    np.testing.assert_allclose(np.mean([run.cmc[:10] for run in runs], axis=0), cmc, atol=0.02)
    assert np.mean([run.mAP for run in runs]) == pytest.approx(mean, abs=0.01)


def test_cmc_rises_to_one_at_mars_size() -> None:
    gallery = np.repeat(np.arange(626), 15)
    cmc, mean = chance(np.array([5]), gallery, np.array([1]), np.full(len(gallery), 2), ranks=50)
    assert (np.diff(cmc) > 0).all()
    assert cmc[0] == pytest.approx(15 / len(gallery))
    assert 15 / len(gallery) < mean < 0.01
