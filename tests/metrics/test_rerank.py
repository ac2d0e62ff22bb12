import numpy as np
import pytest

from amem_cli.errors import BadData
from amem_cli.metrics import rerank as module
from amem_cli.metrics.rerank import rerank, rerank_bytes


def published(query, gallery, k1=20, k2=6, lambda_value=0.3):
    """Section 3 of the paper on dense matrices, one probe and one neighbour at a time; stable order, float64."""
    x = np.concatenate([query, gallery]).astype(np.float64)
    n = len(x)
    d = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    ranks = np.argsort(d, axis=1, kind="stable")
    d = d / d.max(axis=1, keepdims=True)

    def reciprocal(p, k):
        return {g for g in ranks[p, : k + 1] if p in ranks[g, : k + 1]}

    v = np.zeros((n, n))
    for p in range(n):
        expanded = set(reciprocal(p, k1))
        for candidate in reciprocal(p, k1):
            others = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(others & reciprocal(p, k1)) > 2 / 3 * len(others):
                expanded |= others
        for g in expanded:
            v[p, g] = np.exp(-d[p, g])
        v[p] /= v[p].sum()
    if k2 > 1:
        v = np.stack([v[ranks[p, :k2]].mean(axis=0) for p in range(n)])
    result = np.empty((len(query), len(gallery)))
    for p in range(len(query)):
        for g in range(len(gallery)):
            other = v[len(query) + g]
            jaccard = 1 - np.minimum(v[p], other).sum() / np.maximum(v[p], other).sum()
            result[p, g] = (1 - lambda_value) * jaccard + lambda_value * d[p, len(query) + g]
    return result


def people(rng, count, copies, spread=0.4, dimensions=8):
    centres = rng.standard_normal((count, dimensions))
    return np.repeat(centres, copies, axis=0) + spread * rng.standard_normal((count * copies, dimensions))


@pytest.mark.parametrize("parameters", [(), (5, 1, 0.0), (6, 3, 1.0), (2, 9, 0.5), (1, 2, 0.3)])
def test_rerank_published_algorithm(parameters, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    features = people(np.random.default_rng(1), 12, 6) / 10  # so that the largest distance is below 1
    query, gallery = features[::6], features[np.arange(72) % 6 > 0]
    np.testing.assert_allclose(rerank(query, gallery, *parameters), published(query, gallery, *parameters), atol=1e-6)


def test_rerank_ties():
    rng = np.random.default_rng(0)
    query, gallery = rng.integers(0, 3, (6, 3)).astype(float), rng.integers(0, 3, (50, 3)).astype(float)
    for k2 in (3, 1):
        np.testing.assert_allclose(rerank(query, gallery, 8, k2), published(query, gallery, 8, k2), atol=1e-6)
    assert np.isfinite(rerank(np.ones((2, 3)), np.ones((30, 3)))).all()


def test_rerank_queries_in_the_gallery_and_fewer_items_than_k():
    gallery = people(np.random.default_rng(1), 3, 4)
    for k2 in (6, 30):
        expected = published(gallery[:4], gallery, 20, k2)
        np.testing.assert_allclose(rerank(gallery[:4], gallery, 20, k2), expected, atol=1e-6)


def test_rerank_float32():
    features = people(np.random.default_rng(2), 10, 5).astype(np.float32)
    distances = rerank(features[::5], features)
    assert distances.dtype == np.float32
    np.testing.assert_allclose(distances, published(features[::5], features), atol=1e-4)


def test_rerank_bad_input():
    features = np.zeros((3, 2), np.float32)
    with pytest.raises(BadData, match="row 0 is not finite"):
        rerank(features, features + np.nan)


def test_rerank_bytes() -> None:
    assert rerank_bytes(2, 10, 3) == 4 * (2 * 2 * 10 + 2 * 10 * 3 + 3 * 512 * 10) + 2000 * 10
