"""Chance: the closed form against full enumeration and against many random rankings."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln

from amem_cli.metrics.chance import chance
from amem_cli.metrics.ranking import evaluate_distances
from amem_cli.person_ids import JUNK


def query_by_query(
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_cameras: np.ndarray,
    ranks: int,
) -> tuple[np.ndarray, float]:
    """The plain twin: every query counts its gallery, binomial coefficients by logarithms."""

    def log_choose(n: int, k: np.ndarray) -> np.ndarray:
        return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)

    cmc, precisions = [], []
    for person, camera in zip(query_ids, query_cameras, strict=True):
        same = gallery_ids == person
        kept = (gallery_ids != JUNK) & ~(same & (gallery_cameras == camera))
        n, m = int(kept.sum()), int((kept & same).sum())
        if not m:
            continue
        harmonic = (1 / np.arange(1, n + 1)).sum()
        precisions.append((harmonic + (n - harmonic) * (m - 1) / max(n - 1, 1)) / n)
        k = np.minimum(np.arange(1, ranks + 1), n - m)
        none = np.exp(log_choose(n - m, k) - log_choose(n, k))
        cmc.append(np.where(np.arange(1, ranks + 1) > n - m, 1.0, 1 - none))
    if not cmc:
        return np.full(ranks, np.nan), float("nan")
    return np.mean(cmc, axis=0), float(np.mean(precisions))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    queries=st.lists(st.tuples(st.integers(-1, 6), st.integers(1, 4)), min_size=1, max_size=12),
    gallery=st.lists(st.tuples(st.integers(-1, 6), st.integers(1, 4)), min_size=1, max_size=60),
    ranks=st.integers(1, 70),
)
def test_query_by_query_gives_the_same(queries: list, gallery: list, ranks: int) -> None:
    (query_ids, query_cameras), (gallery_ids, gallery_cameras) = np.array(queries).T, np.array(gallery).T
    labels = (query_ids, gallery_ids, query_cameras, gallery_cameras)
    cmc, mean = chance(*labels, ranks=ranks)
    expected_cmc, expected_mean = query_by_query(*labels, ranks)
    np.testing.assert_allclose(cmc, expected_cmc, rtol=0, atol=1e-12)
    np.testing.assert_allclose(mean, expected_mean, rtol=0, atol=1e-12)


def test_a_large_gallery_keeps_every_digit() -> None:
    # one match among 200,000: rank-k is k / n exactly; logarithms of binomials lose seven digits here
    n = 200_000
    cmc, mean = chance(np.array([1]), np.r_[1, np.full(n - 1, 2)], np.array([1]), np.full(n, 2), ranks=50)
    np.testing.assert_allclose(cmc, np.arange(1, 51) / n, rtol=1e-10)
    assert mean == pytest.approx((1 / np.arange(1, n + 1)).sum() / n, rel=1e-12)


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
