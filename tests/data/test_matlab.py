import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from amem_cli.data.readers.matlab import read_matlab
from amem_cli.errors import AmemError, BadData, InputMissing

TABLE = np.array([[1, 16, -1, 1], [17, 95, 1500, 6], [96, 110, 1, 2]])


def cells(*values):
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = values
    return array


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
def test_numbers(tmp_path, packed, dtype):
    savemat(tmp_path / "a.mat", {"before": [[1]], "table": TABLE.astype(dtype)}, do_compression=packed)
    table = read_matlab(tmp_path / "a.mat", "table", "table")
    assert np.array_equal(table, TABLE.astype(dtype))


@pytest.mark.parametrize("packed", [False, True])
def test_structs_cells_and_texts(tmp_path, packed):
    content = {
        "names": cells("hat", "säck", ""),
        "parts": cells({"train": TABLE[:, :1], "test": 3.5}, {"train": 1, "test": [[]]}),
        "one": 7,
        "text": "walking",
    }
    savemat(tmp_path / "a.mat", {"peta": content}, do_compression=packed)
    peta = read_matlab(tmp_path / "a.mat", "peta", "table")
    assert peta["names"] == ["hat", "säck", ""]
    assert peta["parts"][0]["train"].tolist() == [1, 17, 96]
    assert peta["parts"][0]["test"] == 3.5
    assert peta["parts"][1]["test"].size == 0
    assert (peta["one"], peta["text"]) == (7, "walking")


def test_files_of_the_other_byte_order(tmp_path):
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + b"\0" * (-len(content) % 8)

    matrix = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 2, 2)) + element(1, b"table")
    matrix += element(3, struct.pack(">hhhh", 1, 2, -3, 400))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    (tmp_path / "a.mat").write_bytes(header + element(14, matrix))
    assert read_matlab(tmp_path / "a.mat", "table", "table").tolist() == [[1, -3], [2, 400]]


def test_what_is_no_such_file_is_told(tmp_path):
    path = tmp_path / "a.mat"
    with pytest.raises(InputMissing):
        read_matlab(path, "table", "table")
    for content, why in (
        (b"", "not a MATLAB 5"),
        (b"<html></html>" * 50, "not a MATLAB 5"),
        (b"MATLAB 7.3 MAT-file".ljust(600), "7.3"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadData, match=why):
            read_matlab(path, "table", "table")
    savemat(path, {"other": TABLE, "third": TABLE})
    with pytest.raises(BadData, match="no variable table, but other; third"):
        read_matlab(path, "table", "table")
    for strange in (TABLE * 1j, np.eye(3) > 2):
        savemat(path, {"table": strange})
        if np.iscomplexobj(strange):
            with pytest.raises(BadData, match="complex"):
                read_matlab(path, "table", "table")
        else:
            assert not read_matlab(path, "table", "table").any()


def test_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("amem_cli.data.readers.matlab.MOST_BYTES_OF_METADATA", 10_000)
    savemat(tmp_path / "a.mat", {"table": np.zeros((2000, 4))}, do_compression=True)
    with pytest.raises(BadData, match="too large"):
        read_matlab(tmp_path / "a.mat", "table", "table")
    deep = np.array([[1.0]])
    for _ in range(20):
        deep = cells(deep)
    savemat(tmp_path / "a.mat", {"table": deep})
    with pytest.raises(BadData, match="deep"):
        read_matlab(tmp_path / "a.mat", "table", "table")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("matlab") / "a.mat"
    parts = cells({"train": [1, 2], "val": [3], "test": [4]}, {"train": [1], "val": [2], "test": [3, 4]})
    savemat(path, {"peta": {"data": TABLE, "attribute": cells("hat", "coat"), "partion_attribute": parts}})
    return path, path.read_bytes()


@settings(deadline=None, max_examples=500)
@given(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=3), st.integers(0, 2**16))
def test_damaged_bytes_give_an_error_or_a_value_never_a_crash(whole, changes, length):
    path, content = whole
    damaged = bytearray(content[: length % len(content) + 1] if length % 3 == 0 else content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    path.write_bytes(damaged)
    with contextlib.suppress(AmemError):
        read_matlab(path, "peta", "table")
