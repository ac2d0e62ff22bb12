"""The features file: rows of unit length, from amem and from other programs."""

import tracemalloc

import numpy as np
import pytest
from writers import some_features

from amem_cli.artifacts import features
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData

PROVENANCE = Provenance("extract-features", {"seed": 0})


def rewritten(tmp_path, **changed):
    return features.read(features.write(tmp_path / "x.h5", some_features(**changed), PROVENANCE))


def test_roundtrip_casts(tmp_path):
    found = rewritten(tmp_path, person_id=np.array([1, 1], np.int32), is_query=np.array([1, 0]))
    assert (found.dataset, found.tracklet, found.features_flip) == ("mars", ["a", "é"], None)
    np.testing.assert_array_equal(found.features, some_features().features)
    np.testing.assert_array_equal(found.is_query, [True, False])
    dtypes = [found.person_id.dtype, found.camera_id.dtype, found.is_query.dtype, found.features.dtype]
    assert dtypes == [np.int64, np.int64, np.bool_, np.float32]
    assert found.provenance["command"] == "extract-features"


def test_write_and_read_hold_the_features_once(tmp_path):
    table = some_features(
        features=np.tile(np.eye(2, 1024, dtype=np.float32), (1024, 1)),
        tracklet=list(map(str, range(2048))),
        **{name: np.ones(2048, int) for name in ("person_id", "camera_id", "is_query")},
    )
    size = table.features.nbytes
    tracemalloc.start()
    path = features.write(tmp_path / "x.h5", table, PROVENANCE)
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    features.read(path)
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written < 1.5 * size  # the file
    assert read < 0.5 * size  # a block of rows is squared at a time


def test_read_rows_not_normalised(tmp_path):
    values = np.eye(4, dtype=np.float32)
    values[1] *= 1.01
    values[2] = 1e30  # its square overflows
    values[3, 3] = 1.0005
    many = {"tracklet": list("abcd"), "person_id": np.ones(4), "camera_id": np.ones(4), "is_query": np.ones(4)}
    with pytest.raises(BadData, match=r"'features' has rows that are not L2-normalised: 1; 2\. Divide each row"):
        rewritten(tmp_path, features=values, **many)


def test_read_flipped_features(tmp_path):
    np.testing.assert_array_equal(rewritten(tmp_path, features_flip=np.eye(2)).features_flip, np.eye(2))
    with pytest.raises(BadData, match="'features_flip' has rows that are not L2-normalised: 0; 1"):
        rewritten(tmp_path, features_flip=2 * np.eye(2))


def test_read_repeated_tracklet(tmp_path):
    with pytest.raises(BadData, match="several rows of one tracklet"):
        rewritten(tmp_path, tracklet=["a", "a"])
