"""The pseudo-labels file."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from amem_cli.artifacts import pseudo_labels
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import ATTRIBUTES
from amem_cli.errors import BadData, InputMissing

PROVENANCE = Provenance("label-videos", {"threshold": 0.5})


def some(count=3, **changed):
    probabilities = np.random.default_rng(0).uniform(size=(count, len(ATTRIBUTES)))
    labels = pseudo_labels.PseudoLabels(
        dataset="mars",
        tracklet=[f"{row:04d}C1T0001" for row in range(count)],
        person_id=np.arange(count),
        camera_id=np.ones(count, int),
        frames=np.arange(count) + 8,
        probabilities=probabilities.astype(np.float32),
        labels=(probabilities > 0.5).astype(np.uint8),
        attributes=ATTRIBUTES,
        threshold=0.5,
        provenance={},
    )
    return dataclasses.replace(labels, **changed)


def test_roundtrip_and_contract(tmp_path):
    path = pseudo_labels.write(tmp_path / "mars.h5", some(), PROVENANCE)
    found = pseudo_labels.read(path)
    for field, value in vars(some()).items():
        if field != "provenance":
            np.testing.assert_array_equal(getattr(found, field), value)
    assert (found.probabilities.dtype, found.labels.dtype) == (np.float32, np.uint8)
    assert type(found.threshold) is float
    with h5py.File(path, "r") as file:
        assert sorted(file) == ["camera_id", "frames", "labels", "person_id", "probabilities", "tracklet"]
        assert list(file.attrs["attributes"]) == list(ATTRIBUTES)
        assert file.attrs["kind"] == "amem-pseudo-labels"
        assert file.attrs["threshold"] == 0.5


def test_rows_by_name_in_the_order_asked_for():
    labels = some()
    found = labels.rows_for(["0002C1T0001", "0000C1T0001"], Path("x"), "amem label-videos")
    np.testing.assert_array_equal(found, labels.labels[[2, 0]])


def test_tracklets_without_labels_are_listed():
    wanted = ["0000C1T0001", *(f"new {number}" for number in range(7))]
    with pytest.raises(BadData) as raised:
        some().rows_for(wanted, Path("mars.h5"), "amem label-videos --dataset mars")
    assert str(raised.value) == (
        "pseudo-labels mars.h5: does not cover 7 of 8 training tracklets "
        "(new 0; new 1; new 2; new 3; new 4; ... (7 in all)). Run: amem label-videos --dataset mars."
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": np.full((3, len(ATTRIBUTES)), 2, np.uint8)}, "do not fit together"),
        ({"labels": np.zeros((3, 104), np.uint8)}, "do not fit together"),
        ({"attributes": ATTRIBUTES[:-1]}, "do not fit together"),
        ({"tracklet": ["a", "a", "b"]}, "do not fit together"),
        ({"probabilities": np.full((3, len(ATTRIBUTES)), 1.5)}, r"outside \[0, 1\]"),
        ({"probabilities": np.full((3, len(ATTRIBUTES)), -0.1)}, r"outside \[0, 1\]"),
        ({"probabilities": np.full((3, len(ATTRIBUTES)), np.nan)}, "NaN or infinity"),
        ({"frames": np.arange(2)}, "unequal length"),
    ],
)
def test_contents_that_do_not_fit(tmp_path, changed, message):
    path = pseudo_labels.write(tmp_path / "mars.h5", some(**changed), PROVENANCE)
    with pytest.raises(BadData, match=message):
        pseudo_labels.read(path)


@pytest.mark.parametrize(("name", "value"), [("threshold", None), ("attributes", None), ("threshold", "half")])
def test_attributes_that_are_missing_or_odd(tmp_path, name, value):
    path = tmp_path / "mars.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"kind": pseudo_labels.KIND, "schema": 1, "dataset": "mars", "created_by": "me"})
        file.attrs.update({"threshold": 0.5, "attributes": list(ATTRIBUTES)})
        for column in ("tracklet", "person_id", "camera_id", "frames", "probabilities", "labels"):
            file[column] = getattr(some(), column)
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value
    with pytest.raises(BadData, match="lacks the attributes"):
        pseudo_labels.read(path)


def test_missing(tmp_path):
    with pytest.raises(InputMissing, match="Run: amem label-videos"):
        pseudo_labels.read(tmp_path / "none.h5")
