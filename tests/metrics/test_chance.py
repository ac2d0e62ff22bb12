import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amem_cli.metrics.chance import chance


def every_order(matches: int, others: int, ranks: int) -> tuple[np.ndarray, float]:
    """Mean CMC and AP over every order of `matches` + `others` items."""
    places = list(itertools.combinations(range(1, matches + others + 1), matches))
    cmc = np.mean([np.arange(1, ranks + 1) >= hits[0] for hits in places], axis=0)
    return cmc, float(np.mean([np.mean([(i + 1) / rank for i, rank in enumerate(hits)]) for hits in places]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    queries=st.lists(st.tuples(st.integers(-1, 4), st.integers(1, 3)), min_size=1, max_size=6),
    gallery=st.lists(st.tuples(st.integers(-1, 4), st.integers(1, 3)), min_size=1, max_size=10),
    ranks=st.integers(1, 12),
)
def test_chance_every_order(queries, gallery, ranks):
    (query_ids, query_cameras), (gallery_ids, gallery_cameras) = np.array(queries).T, np.array(gallery).T
    expected = []
    for person, camera in queries:
        kept = [(i, c) for i, c in gallery if i != -1 and not (i == person and c == camera)]
        matches = sum(i == person for i, _ in kept)
        if matches:
            expected.append(every_order(matches, len(kept) - matches, ranks))
    cmc, mean = chance(query_ids, gallery_ids, query_cameras, gallery_cameras, ranks=ranks)
    if not expected:
        assert np.isnan(cmc).all()
        assert cmc.shape == (ranks,)
        assert np.isnan(mean)
        return
    np.testing.assert_allclose(cmc, np.mean([c for c, _ in expected], axis=0), atol=1e-12)
    assert mean == pytest.approx(np.mean([m for _, m in expected]), abs=1e-12)


def test_chance_large_gallery():
    # One match among 200,000: rank-k is k / n exactly; logarithms of binomials lose seven digits here.
    n = 200_000
    cmc, mean = chance(np.array([1]), np.r_[1, np.full(n - 1, 2)], np.array([1]), np.full(n, 2), ranks=50)
    np.testing.assert_allclose(cmc, np.arange(1, 51) / n, rtol=1e-10)
    assert mean == pytest.approx((1 / np.arange(1, n + 1)).sum() / n, rel=1e-12)
