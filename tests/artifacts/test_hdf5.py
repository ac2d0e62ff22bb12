"""HDF5 tables: files of other programs, damaged and hostile files."""

import json
import os
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from faults import flip_bit

from amem_cli.artifacts import hdf5
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, InputMissing

KIND = "amem-features"
COLUMNS = {"name": ("str", 1), "number": ("int64", 1), "flag": ("bool", 1), "value": ("float32", 2)}
PROVENANCE = Provenance("extract-features", {"seed": 0}, {"main": {"name": "m", "sha256": "1"}}, "data")


@pytest.fixture
def in_process(monkeypatch):
    """Files of other programs are parsed in this process only, which is faster than the child process."""
    monkeypatch.setattr(hdf5, "call_in_child", lambda *_, **__: b"")


def values(rows=3):
    return {
        "name": [f"0001C1T{row:04d} é" for row in range(rows)],
        "number": np.arange(rows),
        "flag": np.arange(rows) % 2 == 0,
        "value": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2),
    }


def test_opened_with_too_little_memory(tmp_path):
    """It is not damage."""
    with pytest.raises(MemoryError), hdf5.opened(write(tmp_path / "x.h5"), KIND):
        raise MemoryError


def write(path, rows=3, **changed):
    table = SimpleNamespace(dataset="mars", **values(rows) | changed)
    return hdf5.write(path, KIND, table, COLUMNS, PROVENANCE, threshold=0.5, attributes=["hat", "bag"])


def read(path):
    return hdf5.read(path, KIND, COLUMNS, remedy="Run: amem extract-features")


def other_program_file(path, change=lambda file: None, **attributes):
    """A file that another program wrote with h5py, then changed."""
    with h5py.File(path, "w") as file:
        head = {"kind": KIND, "schema": 1, "dataset": "mars", "created_by": "another program"}
        for name, value in (head | attributes).items():
            if value is not None:
                file.attrs[name] = value
        for name, column in values().items():
            file[name] = column
        change(file)
    return path


def replace(name, **dataset):
    def change(file):
        del file[name]
        if dataset:
            file.create_dataset(name, **dataset)

    return change


def test_write_contract(tmp_path):
    path = write(tmp_path / "x.h5")
    with h5py.File(path, "r") as file:
        assert (file.attrs["kind"], file.attrs["schema"], file.attrs["dataset"]) == (KIND, 1, "mars")
        assert file.attrs["created_by"].startswith("amem ")
        assert PROVENANCE.differences(json.loads(file.attrs["provenance"])) == []
        assert sorted(file) == sorted(COLUMNS)
        assert h5py.check_string_dtype(file["name"].dtype).encoding == "utf-8"
        assert (file["number"].dtype, file["flag"].dtype, file["value"].dtype) == (np.int64, np.bool_, np.float32)
    assert path.read_bytes().startswith(b"amem-seal-sha256:")
    assert path.read_bytes() == write(tmp_path / "y.h5").read_bytes()


@pytest.mark.parametrize("rows", [0, 300])
def test_roundtrip(tmp_path, rows):
    attributes, columns = read(write(tmp_path / "x.h5", rows))
    for name, expected in values(rows).items():
        np.testing.assert_array_equal(columns[name], expected)
    assert all(type(name) is str for name in columns["name"])
    assert list(attributes["attributes"]) == ["hat", "bag"]
    assert PROVENANCE.differences(attributes["provenance"]) == []


def test_write_names_not_unicode(tmp_path):
    with pytest.raises(BadData, match=r"'name' must be Unicode \('\\udcff.jpg'\)"):
        write(tmp_path / "x.h5", name=["good", os.fsdecode(b"\xff.jpg"), "good too"])
    assert list(tmp_path.iterdir()) == []


def test_read_checks_the_checksum_first(tmp_path, monkeypatch):
    path = write(tmp_path / "x.h5")
    monkeypatch.setattr(hdf5.h5py, "File", lambda *_: pytest.fail("HDF5 saw a damaged file"))
    content = path.read_bytes()
    for at in (0, 20, 512, 700, -2):  # the mark, the checksum, the signature, inside, near the end
        path.write_bytes(content)
        flip_bit(path, at)
        for call in (read, lambda path: hdf5.read_attributes(path, "file")):
            with pytest.raises(BadData, match=r"the file is damaged|no amem checksum"):
                call(path)


def test_read_attributes(tmp_path):
    assert hdf5.read_attributes(write(tmp_path / "x.h5"), "file")["dataset"] == "mars"
    assert (
        hdf5.read_attributes(other_program_file(tmp_path / "y.h5", kind=np.bytes_("other")), "file")["kind"] == "other"
    )


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    "change",
    [
        replace("name", data=np.array([b"a", b"bb", "é".encode()], dtype="S4")),
        replace("flag", data=np.array([1, 0, 1], dtype=np.uint8)),
        replace("number", data=np.array([0, 1, 2], dtype=np.uint16)),
        replace("value", data=values()["value"].astype(">f8")),
        replace("value", data=values()["value"], compression="gzip", chunks=(1, 2)),
    ],
)
def test_read_file_of_another_program(tmp_path, change):
    head = {"dataset": np.bytes_("mars"), "schema": np.array([1.0]), "attributes": np.array([b"hat", b"bag"])}
    attributes, columns = read(other_program_file(tmp_path / "x.h5", change, **head))
    for name in ("number", "flag", "value"):
        np.testing.assert_array_equal(columns[name], values()[name])
        assert columns[name].dtype == np.dtype(COLUMNS[name][0])
    assert [type(name) for name in columns["name"]] == [str] * 3
    assert attributes["dataset"] == "mars"
    assert list(attributes["attributes"]) == ["hat", "bag"]
    assert attributes["provenance"] == {}


def external_link(file):
    del file["value"]
    file["value"] = h5py.ExternalLink("secret.h5", "/value")


def virtual(file):
    del file["value"]
    layout = h5py.VirtualLayout((3, 2), np.float32)
    layout[:] = h5py.VirtualSource("secret.h5", "value", (3, 2))
    file.create_virtual_dataset("value", layout)


ODD_VALUES = np.array([[0, 1], [np.nan, 0], [0, np.inf]])
PASSWORDS = {"shape": (3, 2), "dtype": "f4", "external": [("/etc/passwd", 0, 24)]}
HOSTILE = {
    "external link": (external_link, "'value' is not a plain data set"),
    "virtual": (virtual, "'value' is not a plain data set"),
    "external storage": (replace("value", **PASSWORDS), "'value' is not a plain data set"),
    "missing": (replace("flag"), "has no column 'flag'"),
    "nan": (replace("value", data=ODD_VALUES), r"'value' has NaN or infinity in rows 1; 2"),
    "overflow": (replace("value", data=np.full((3, 2), 1e300)), r"NaN or infinity in rows 0; 1; 2"),
    "floats as ids": (replace("number", data=[0.0, 1.5, 2.0]), "'number' holds float64, not int64"),
    "numbers as names": (replace("name", data=[1, 2, 3]), "'name' holds int64, not strings"),
    "flag of 2": (replace("flag", data=np.array([0, 1, 2], np.uint8)), "'flag' holds values that do not fit bool"),
    "names not utf-8": (replace("name", data=np.array([b"a", b"\xff", b"c"])), "not a readable HDF5 file"),
    "axes": (replace("value", data=np.zeros(3, np.float32)), "'value' has 1 axes, not 2"),
    "lengths": (replace("number", data=np.arange(2)), "columns of unequal length.*'number': 2"),
    "never written": (replace("value", shape=(3, 2), dtype="f4", chunks=(1, 2)), "more than the file holds"),
    "huge": (replace("name", shape=(2**32,), dtype=h5py.string_dtype(), chunks=(1,)), "more than the file holds"),
}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", HOSTILE)
def test_read_hostile_file(tmp_path, name):
    other_program_file(tmp_path / "secret.h5")
    change, message = HOSTILE[name]
    path = other_program_file(tmp_path / "x.h5", change)
    with pytest.raises(BadData, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("in_process")
def test_read_compressed(tmp_path, monkeypatch):
    zeros = replace("value", data=np.zeros((10_000, 2), np.float32), compression="gzip", chunks=(10_000, 2))
    path, columns = other_program_file(tmp_path / "x.h5", zeros), {"value": ("float32", 2)}
    assert hdf5.read(path, KIND, columns, remedy="")[1]["value"].shape == (10_000, 2)
    monkeypatch.setattr(hdf5, "LARGEST_FILE", 100_000)
    with pytest.raises(BadData, match="more than the file holds"):
        hdf5.read(path, KIND, columns, remedy="")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"kind": "amem-pseudo-labels"}, "is of kind amem-pseudo-labels, not amem-features"),
        ({"schema": 2}, r"another version of amem \(schema 2\)"),
        ({"kind": None, "dataset": None}, "lacks the attributes kind, dataset"),
        ({"dataset": np.bytes_(b"\xff")}, "not a readable"),
        ({"provenance": "[" * 50_000}, "not JSON"),
        ({"provenance": h5py.Empty("S1")}, "its provenance is malformed"),
        ({"provenance": '{"parents": {"arm": "x"}}'}, "its provenance is malformed"),
    ],
)
def test_read_head(tmp_path, attributes, message):
    with pytest.raises(BadData, match=message):
        read(other_program_file(tmp_path / "x.h5", **attributes))


def test_read_missing_or_too_large(tmp_path):
    with pytest.raises(InputMissing, match="Run: amem extract-features"):
        read(tmp_path / "none.h5")
    (tmp_path / "x.h5").touch()
    with pytest.raises(BadData, match=r"it is empty\. Run: amem extract-features"):
        read(tmp_path / "x.h5")
    with open(tmp_path / "x.h5", "wb") as file:
        file.truncate(hdf5.LARGEST_FILE + 1)  # sparse: needs no disk space
    with pytest.raises(BadData, match="larger than 8 GiB"):
        read(tmp_path / "x.h5")


# -- the child process for files of other programs ---------------------------------------------------------------------


def test_read_no_hdf5(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "_parse", lambda *_: pytest.fail("this process opened it too"))
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 2000)
    with pytest.raises(BadData, match=r"not a readable HDF5 file.*Run: amem extract-features"):
        read(tmp_path / "x.h5")
