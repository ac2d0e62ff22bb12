"""The pseudo-labels file."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from writers import some_labels

from amem_cli.artifacts import pseudo_labels
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, InputMissing

PROVENANCE = Provenance("label-videos", {"threshold": 0.5})


def test_roundtrip_and_contract(tmp_path):
    path = pseudo_labels.write(tmp_path / "mars.h5", some_labels(), PROVENANCE)
    found = pseudo_labels.read(path)
    for field, value in vars(some_labels(probabilities=some_labels().probabilities.astype(np.float32))).items():
        if field != "provenance":
            np.testing.assert_array_equal(getattr(found, field), value)
    assert (found.probabilities.dtype, found.labels.dtype) == (np.float32, np.uint8)
    assert type(found.threshold) is float
    with h5py.File(path, "r") as file:
        assert sorted(file) == ["camera_id", "frames", "labels", "person_id", "probabilities", "tracklet"]
        assert list(file.attrs["attributes"]) == ["hat", "bag"]
        assert (file.attrs["kind"], file.attrs["threshold"]) == ("amem-pseudo-labels", 0.5)


def test_rows_for_order():
    labels = some_labels(labels=np.array([[0, 1], [1, 1]]))
    np.testing.assert_array_equal(labels.rows_for(["b", "a"], Path("x"), "amem label-videos"), [[1, 1], [0, 1]])


def test_rows_for_missing_tracklets():
    with pytest.raises(BadData) as raised:
        some_labels().rows_for(
            ["a", *(f"new {n}" for n in range(7))], Path("mars.h5"), "Run: amem label-videos --force"
        )
    assert str(raised.value) == (
        "pseudo-labels mars.h5: does not cover 7 of 8 training tracklets "
        "(new 0; new 1; new 2; new 3; new 4; ... (7 in all)). Run: amem label-videos --force."
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": np.full((2, 2), 2)}, "do not fit together"),
        ({"labels": np.zeros((2, 3))}, "do not fit together"),
        ({"attributes": ("hat",)}, "do not fit together"),
        ({"tracklet": ["a", "a"]}, "do not fit together"),
        ({"probabilities": np.full((2, 2), 1.5)}, r"outside \[0, 1\]"),
        ({"probabilities": np.full((2, 2), -0.1)}, r"outside \[0, 1\]"),
        ({"threshold": "half"}, "lacks 'attributes' or 'threshold'"),
    ],
)
def test_read_contradictions(tmp_path, changed, message):
    path = pseudo_labels.write(tmp_path / "mars.h5", some_labels(**changed), PROVENANCE)
    with pytest.raises(BadData, match=message):
        pseudo_labels.read(path)


def test_read_missing(tmp_path):
    with pytest.raises(InputMissing, match="amem label-videos writes such a file"):
        pseudo_labels.read(tmp_path / "none.h5")
