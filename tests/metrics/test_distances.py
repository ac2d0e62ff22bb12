import re

import numpy as np
import pytest

from amem_cli.errors import BadData
from amem_cli.metrics.distances import distance_blocks, read_features, squared_distances, squared_norms


def test_squared_distances_by_hand():
    query, gallery = np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[3.0, 4.0], [1.0, 2.0]])
    np.testing.assert_array_equal(squared_distances(query, gallery, *squared_norms(query, gallery)), [[25, 5], [8, 0]])


def test_squared_distances_never_negative():
    features = np.random.default_rng(0).standard_normal((50, 64), np.float32)
    distances = squared_distances(features, features, *squared_norms(features, features))
    assert distances.min() == 0


@pytest.mark.parametrize("precision", ["f4", "f8"])
@pytest.mark.parametrize("width", [1, 3, 512])
def test_distance_blocks_equal_rows_have_equal_distances(precision, width):
    """A matrix product adds in another order at the edges of its blocks."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((40, width)).astype(precision)
    gallery = rows[generator.integers(0, 40, 303)]
    query = generator.standard_normal((7, width)).astype(precision)
    distances = distance_blocks(query, gallery, "cpu")(slice(2, 7))
    for row in rows:
        same = distances[:, (gallery == row).all(1)]
        assert (same == same[:, :1]).all()
    squares = squared_norms(query, gallery)
    expected = squared_distances(query, gallery, *squares)[2:] - squares[0][2:, None]
    np.testing.assert_allclose(distances, expected, atol=1e-3 if precision == "f4" else 1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e19, -1e19])
def test_squared_norms_no_finite_distance(value):
    good, bad = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)
    bad[1, 0] = value
    with np.errstate(all="raise"):
        with pytest.raises(BadData, match="gallery_features row 1 is not finite or too large"):
            squared_norms(good, bad)
        with pytest.raises(BadData, match="query_features row 1 is not finite or too large"):
            squared_norms(bad, good)


def test_squared_norms_largest_finite_distance():
    features = np.array([[9e18], [-9e18]], np.float32)
    assert np.isfinite(squared_distances(features, features, *squared_norms(features, features))).all()


@pytest.mark.parametrize(
    ("query", "gallery", "wanted"), [("f4", "f4", "f4"), ("f4", "f8", "f8"), ("f8", "f4", "f8"), ("f2", "i8", "f4")]
)
def test_read_features_precision(query, gallery, wanted):
    given = np.ones((2, 3), query), np.ones((4, 3), gallery)
    for before, after in zip(given, read_features(*given), strict=True):
        assert after.dtype == wanted
        assert np.shares_memory(before, after) == (before.dtype == wanted)


@pytest.mark.parametrize(("query", "gallery"), [((3, 2), (3, 4)), ((2,), (3, 2)), ((3, 2), (2,)), ((0, 2), (3, 2))])
def test_read_features_bad_shapes(query, gallery):
    with pytest.raises(BadData, match=re.escape(f"query features {query} and gallery features {gallery} cannot be")):
        read_features(np.zeros(query), np.zeros(gallery))
    with pytest.raises(BadData, match="cannot be compared"):
        read_features(np.zeros(gallery), np.zeros(query))
