"""MATLAB files read in the child process: values, and damaged files, which never end this process."""

import contextlib

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from amem_cli.artifacts import child
from amem_cli.data.readers import matlab
from amem_cli.data.readers.features import read_foreign
from amem_cli.data.readers.matlab import read_matlab
from amem_cli.errors import AmemError, BadData, InputMissing

TABLE = np.array([[1, 16, -1, 1], [17, 95, 1500, 6], [96, 110, 1, 2]])


def cells(*values):
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = values
    return array


@pytest.mark.slow
def test_read_matlab_structs_cells_and_texts(tmp_path):
    content = {
        "names": cells("hat", "säck"),
        "parts": cells({"train": TABLE[:, :1], "test": 3.5}, {"train": 1, "test": [[]]}),
        "text": "walking",
    }
    savemat(tmp_path / "a.mat", {"before": 1, "peta": content}, do_compression=True)
    assert read_matlab(tmp_path / "a.mat", "peta", "table") == {
        "names": ["hat", "säck"],
        "parts": [{"train": [1, 17, 96], "test": 3.5}, {"train": 1, "test": []}],
        "text": "walking",
    }


@pytest.mark.slow
def test_read_foreign_names_structs_cells_and_groups_that_it_does_not_use(tmp_path):
    arrays = {"f": np.eye(3), "pids": [1, 2, 1], "camids": [1, 1, 2]}
    savemat(tmp_path / "a.mat", arrays | {"opt": {"lr": 0.1}, "names": cells(1, "a"), "label": {"x": 1}})
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
        for name in ("opt", "label", "#refs#"):
            file.create_group(name)
        file["names"] = h5py.ExternalLink("elsewhere.h5", "/x")
    for name in ("a.mat", "b.h5"):
        table, notes = read_foreign(tmp_path / name, "mars", queries="1")
        np.testing.assert_array_equal(table.features, np.eye(3))
        (unused,) = [note for note in notes if note.startswith("not used: ")]
        assert sorted(unused.removeprefix("not used: ").split("; ")) == ["label", "names", "opt"]
    savemat(tmp_path / "c.mat", arrays | {"f": {"values": 1}})
    with pytest.raises(BadData, match=r"no features in it, but pids; camids; f\."):
        read_foreign(tmp_path / "c.mat", "mars", queries="1")
    with h5py.File(tmp_path / "vectors.h5", "w") as file:
        file.create_group("opt")
        file["0001_c1s1_1"], file["0002_c2s1_1"] = np.eye(2)
    assert "not used: opt" in read_foreign(tmp_path / "vectors.h5", "mars", queries="1")[1]


@pytest.mark.slow
def test_read_matlab_refuses_other_files(tmp_path):
    path = tmp_path / "a.mat"
    with pytest.raises(InputMissing):
        read_matlab(path, "table", "table")
    for content, why in ((b"<html></html>" * 50, "not a readable"), (b"MATLAB 7.3 MAT-file".ljust(600), "-v7")):
        path.write_bytes(content)
        with pytest.raises(BadData, match=why):
            read_matlab(path, "table", "table")
    savemat(path, {"other": TABLE, "complex": TABLE * 1j})
    with pytest.raises(BadData, match="no variable table in it, but other, complex"):
        read_matlab(path, "table", "table")
    with pytest.raises(BadData, match="complex"):
        read_matlab(path, "complex", "table")


@pytest.mark.slow
def test_read_matlab_memory_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "MEMORY", 300 * 2**20)
    savemat(tmp_path / "a.mat", {"table": np.zeros((1, 64 * 2**20), np.int8)}, do_compression=True)
    with pytest.raises(BadData, match=r"allocate|memory|MemoryError"):
        read_matlab(tmp_path / "a.mat", "table", "table")


@pytest.mark.slow
def test_read_matlab_damaged_bytes_never_crash(tmp_path):
    path = tmp_path / "a.mat"
    savemat(path, {"peta": {"data": TABLE, "attribute": cells("hat", "coat"), "parts": cells({"train": [1, 2]}, {})}})
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(8):
        damaged = bytearray(content)
        for place in generator.integers(128, len(content), 3):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(AmemError):
            read_matlab(path, "peta", "table")


@pytest.mark.parametrize("answer", [b"\x80\x04.", b"[" * 100000, ValueError("some reason")])
def test_read_matlab_child_fails(tmp_path, monkeypatch, answer):
    def child(*_, **__):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(matlab, "call_in_child", child)
    matlab._read.cache_clear()
    (tmp_path / "a.mat").write_bytes(b"content")
    with pytest.raises(BadData, match="not a readable"):
        read_matlab(tmp_path / "a.mat", "table", "table")


def test_read_matlab_once_per_content(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(matlab, "call_in_child", lambda *_, **__: calls.append(1) or b"[1, 2]")
    matlab._read.cache_clear()
    for content in (b"a", b"a", b"b"):
        (tmp_path / "a.mat").write_bytes(content)
        assert read_matlab(tmp_path / "a.mat", "table", "table") == [1, 2]
    assert len(calls) == 2
