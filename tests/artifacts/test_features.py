"""The features file: unit rows, whoever made them."""

import h5py
import numpy as np
import pytest

from amem_cli.artifacts import features
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData


def rows(count=4, width=8):
    values = np.random.default_rng(0).normal(size=(count, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def plain(path, **changed):
    """The contract's file, written with nothing but h5py."""
    content = {
        "tracklet": ["a", "b", "c", "d"],
        "person_id": np.array([1, 1, 2, 2]),
        "camera_id": np.array([0, 1, 0, 1]),
        "is_query": np.array([True, False, True, False]),
        "features": rows(),
    }
    with h5py.File(path, "w") as file:
        file.attrs.update({"kind": features.KIND, "schema": 1, "dataset": "mars", "created_by": "my model"})
        file.attrs["provenance"] = "{}"
        for name, values in (content | changed).items():
            file[name] = values
    return path


def test_roundtrip(tmp_path):
    given = features.Features(
        dataset="prid2011",
        tracklet=["cam_a/person_0001", "cam_b/person_0001"],
        person_id=np.array([1, 1], np.int32),
        camera_id=np.array([0, 1], np.uint8),
        is_query=np.array([1, 0]),
        features=rows(2).astype(np.float64),
        provenance={},
    )
    path = features.write(tmp_path / "x.h5", given, Provenance("extract-features", {"seed": 0}))
    found = features.read(path)
    assert (found.dataset, found.tracklet) == (given.dataset, given.tracklet)
    np.testing.assert_array_equal(found.features, rows(2))
    np.testing.assert_array_equal(found.is_query, [True, False])
    dtypes = [found.person_id.dtype, found.camera_id.dtype, found.is_query.dtype, found.features.dtype]
    assert dtypes == [np.int64, np.int64, np.bool_, np.float32]
    assert found.provenance["command"] == "extract-features"


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"is_query": np.array([1, 0, 1, 0], np.uint8)},
        {"tracklet": np.array([b"a", b"b", b"c", b"d"])},
        {"features": rows().astype(np.float64)},
        {"features": rows().astype(np.float16).astype(np.float32)},  # of unit length within half precision
    ],
)
def test_files_of_any_other_model(tmp_path, changed):
    found = features.read(plain(tmp_path / "x.h5", **changed))
    assert found.tracklet == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(found.is_query, [True, False, True, False])
    np.testing.assert_allclose(found.features, rows(), atol=1e-3)


def test_rows_that_are_not_normalised_are_named(tmp_path):
    values = rows()
    values[1] *= 1.01
    values[3] = 0
    with pytest.raises(BadData, match=r"not L2-normalised: 1; 3\. Divide each row by its norm\."):
        features.read(plain(tmp_path / "x.h5", features=values))


@pytest.mark.filterwarnings("ignore:overflow")
def test_rows_too_large_to_square_are_named_not_accepted(tmp_path):
    values = rows()
    values[2] = 1e30
    with pytest.raises(BadData, match="not L2-normalised: 2"):
        features.read(plain(tmp_path / "x.h5", features=values))


def test_mirrored_features_are_optional_and_checked_alike(tmp_path):
    assert features.read(plain(tmp_path / "without.h5")).features_flip is None
    found = features.read(plain(tmp_path / "with.h5", features_flip=rows()))
    np.testing.assert_array_equal(found.features_flip, rows())
    again = features.write(tmp_path / "again.h5", found, Provenance("extract-features", {}))
    np.testing.assert_array_equal(features.read(again).features_flip, rows())
    with pytest.raises(BadData, match="'features_flip' has rows that are not L2-normalised: 0; 1; 2; 3"):
        features.read(plain(tmp_path / "long.h5", features_flip=2 * rows()))
    with pytest.raises(BadData, match="unequal length"):
        features.read(plain(tmp_path / "short.h5", features_flip=rows(3)))
