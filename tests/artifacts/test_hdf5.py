"""The HDF5 tables: what other programs may read and write, and what hostile files may not do."""

import contextlib
import io
import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amem_cli.artifacts import atomic, hdf5
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import AmemError, BadData, InputMissing

KIND = "amem-features"
WANTED = {"name": ("str", 1), "number": ("int64", 1), "flag": ("bool", 1), "value": ("float32", 2)}
PROVENANCE = Provenance("extract-features", {"seed": 0}, {"main": {"name": "m", "sha256": "1"}}, "data")
REMEDY = "Run: amem extract-features"


def columns(rows=3):
    return {
        "name": [f"0001C1T{row:04d} é" for row in range(rows)],
        "number": np.arange(rows),
        "flag": np.arange(rows) % 2 == 0,
        "value": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2),
    }


def write(path, rows=3):
    return hdf5.write(path, KIND, "mars", columns(rows), PROVENANCE, threshold=0.5, attributes=["hat", "bag"])


def read(path):
    return hdf5.Table(path, KIND, WANTED, remedy=REMEDY)


def foreign(path, change=lambda file: None, *, attributes=None):
    """A file as another program writes it with plain h5py, then changed."""
    with h5py.File(path, "w") as file:
        head = {"kind": KIND, "schema": 1, "dataset": "mars", "created_by": "another program"}
        for name, value in (head | (attributes or {})).items():
            if value is not None:
                file.attrs[name] = value
        for name, values in columns().items():
            file[name] = values
        change(file)
    return path


def replace(name, **dataset):
    def change(file):
        del file[name]
        file.create_dataset(name, **dataset)

    return change


def test_plain_h5py_reads_the_contract(tmp_path):
    with h5py.File(write(tmp_path / "x.h5"), "r") as file:
        assert {**file.attrs}.keys() >= {"kind", "schema", "dataset", "created_by", "provenance"}
        assert (file.attrs["kind"], file.attrs["schema"], file.attrs["dataset"]) == (KIND, 1, "mars")
        assert file.attrs["created_by"].startswith("amem ")
        document = json.loads(file.attrs["provenance"])
        assert document["options"] == {"seed": 0}
        assert document["parents"] == {"main": {"name": "m", "sha256": "1"}}
        assert "torch" in document["versions"]
        assert list(file.attrs["attributes"]) == ["hat", "bag"]
        assert sorted(file) == sorted(WANTED)
        assert file["name"].asstr()[0] == "0001C1T0000 é"
        assert h5py.check_string_dtype(file["name"].dtype).encoding == "utf-8"
        assert (file["number"].dtype, file["flag"].dtype, file["value"].dtype) == (np.int64, np.bool_, np.float32)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_roundtrip(tmp_path, rows):
    table = read(write(tmp_path / "x.h5", rows))
    for name, values in columns(rows).items():
        np.testing.assert_array_equal(table.columns[name], values)
    assert all(type(name) is str for name in table.columns["name"])
    assert table.columns["flag"].dtype == np.bool_
    assert table.dataset == "mars"
    assert PROVENANCE.differences(table.provenance) == []


SCRIPT = """
import sys
import numpy as np
from pathlib import Path
from amem_cli.artifacts import hdf5
from amem_cli.artifacts.provenance import Provenance
columns = {"name": ["a", "b"], "number": np.arange(2)}
hdf5.write(Path(sys.argv[1]), "amem-features", "mars", columns, Provenance("c", {"a": 1, "b": 2}), names=["x", "y"])
"""


def test_same_content_same_bytes_in_any_process(tmp_path):
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / hash_seed], check=True, env=environment)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_names_that_are_no_unicode_are_told_before_anything_is_written(tmp_path):
    broken = columns() | {"name": ["good", os.fsdecode(b"\xff.jpg"), "good too"]}
    with pytest.raises(BadData, match=r"'name' must be Unicode \('\\udcff.jpg'\)"):
        hdf5.write(tmp_path / "x.h5", KIND, "mars", broken, PROVENANCE)
    assert list(tmp_path.iterdir()) == []


# -- made by others, and welcome ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda file: None,
        replace("name", data=np.array([b"a", b"bb", "é".encode()], dtype="S4")),
        replace("flag", data=np.array([1, 0, 1], dtype=np.uint8)),
        replace("flag", data=np.array([1, 0, 1], dtype=np.int64)),
        replace("number", data=np.array([0, 1, 2], dtype=np.int32)),
        replace("number", data=np.array([0, 1, 2], dtype=np.uint16)),
        replace("value", data=columns()["value"].astype(np.float64)),
        replace("value", data=columns()["value"].astype(">f4")),
        replace("value", data=columns()["value"], compression="gzip", chunks=(1, 2)),
        lambda file: file.create_dataset("more", data=[1]),
    ],
)
def test_files_of_another_program(tmp_path, change):
    table = read(foreign(tmp_path / "x.h5", change))
    for name in ("number", "flag", "value"):
        np.testing.assert_array_equal(table.columns[name], columns()[name])
        assert table.columns[name].dtype == np.dtype(WANTED[name][0])
        assert table.columns[name].dtype.isnative
    assert len(table.columns["name"]) == 3
    assert all(type(name) is str for name in table.columns["name"])
    assert table.provenance == {}


def test_attributes_of_fixed_length(tmp_path):
    head = {"kind": np.bytes_(KIND), "dataset": np.bytes_("mars"), "schema": np.array([1.0])}
    table = read(foreign(tmp_path / "x.h5", attributes=head | {"attributes": np.array([b"hat", b"bag"])}))
    assert table.dataset == "mars"
    assert list(table.attributes["attributes"]) == ["hat", "bag"]


# -- hostile or broken -------------------------------------------------------------------------------------------------


def external_link(file):
    del file["value"]
    file["value"] = h5py.ExternalLink("secret.h5", "/value")


def soft_link(file):
    file["elsewhere"] = file["value"][()]
    del file["value"]
    file["value"] = h5py.SoftLink("/elsewhere")


def virtual(file):
    del file["value"]
    layout = h5py.VirtualLayout((3, 2), np.float32)
    layout[:] = h5py.VirtualSource("secret.h5", "value", (3, 2))
    file.create_virtual_dataset("value", layout)


def group(file):
    del file["value"]
    file.create_group("value")


def nan_rows(file):
    file["value"][1, 0] = np.nan
    file["value"][2, 1] = np.inf


def references(file):
    del file["number"]
    file.create_dataset("number", (3,), dtype=h5py.ref_dtype)


def empty(file):
    del file["value"]
    file["value"] = h5py.Empty("f4")


HOSTILE = {
    "external link": (external_link, "'value' is not a plain data set"),
    "soft link": (soft_link, "'value' is not a plain data set"),
    "virtual": (virtual, "'value' points to another file"),
    "external storage": (
        replace("value", shape=(3, 2), dtype="f4", external=[("/etc/passwd", 0, 24)]),
        "'value' points to another file",
    ),
    "group": (group, "'value' is not a plain data set"),
    "missing": (lambda file: file.pop("flag"), "has no column 'flag'"),
    "nan": (nan_rows, r"'value' has NaN or infinity in the rows 1; 2"),
    "overflow": (replace("value", data=np.full((3, 2), 1e300)), r"NaN or infinity in the rows 0; 1; 2"),
    "references": (references, "'number' holds object, not int64"),
    "compound": (replace("number", data=np.zeros(3, [("a", "i4"), ("b", "f8")])), "not int64"),
    "complex": (replace("value", data=np.zeros((3, 2), np.complex64)), "'value' holds complex64, not float32"),
    "floats as ids": (replace("number", data=[0.0, 1.5, 2.0]), "'number' holds float64, not int64"),
    "strings as ids": (replace("number", data=["0", "1", "2"]), "'number' holds object, not int64"),
    "numbers as names": (replace("name", data=[1, 2, 3]), "'name' holds int64, not strings"),
    "flag of 2": (replace("flag", data=np.array([0, 1, 2], np.uint8)), "'flag' holds values that are no bool"),
    "id too large": (replace("number", data=np.array([0, 1, 2**64 - 1], np.uint64)), "values that are no int64"),
    "names not utf-8": (replace("name", data=np.array([b"a", b"\xff", b"c"])), "not a readable HDF5 file"),
    "axes": (replace("value", data=np.zeros(3, np.float32)), "'value' has 1 axes, not 2"),
    "lengths": (replace("number", data=np.arange(2)), "columns of unequal length.*'number': 2"),
    "null space": (empty, "has 0 axes, not 2"),
    "huge": (replace("value", shape=(2**40, 2), dtype="f4", chunks=(1, 2)), r"'value' claims \(1099511627776, 2\)"),
    "never written": (replace("value", shape=(3, 2), dtype="f4", chunks=(1, 2)), "more than the file holds"),
    "bomb": (replace("value", shape=(2**27, 8), dtype="f4", chunks=(1, 8)), "more than the file holds"),
    "many names": (replace("name", shape=(2**32,), dtype=h5py.string_dtype(), chunks=(1,)), "more than the file holds"),
}


def test_strings_are_counted_as_they_are_read(tmp_path, monkeypatch):
    """Many references to one long string take little in a file."""
    monkeypatch.setattr(hdf5, "LARGEST_TEXTS", 300)
    with pytest.raises(BadData, match="the strings of 'name' are longer than"):
        read(foreign(tmp_path / "x.h5", replace("name", data=["a" * 101] * 3)))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path, name):
    foreign(tmp_path / "secret.h5")
    change, message = HOSTILE[name]
    path = foreign(tmp_path / "x.h5", change)
    with pytest.raises(BadData, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"kind": "amem-pseudo-labels"}, "is of kind amem-pseudo-labels, not amem-features"),
        ({"kind": np.array([1, 2])}, "not a readable"),
        ({"schema": 2}, r"another version of amem does \(schema 2\); this version reads schema 1"),
        ({"schema": "1"}, r"\(schema 1\)"),
        ({"kind": None, "dataset": None}, "lacks the attributes kind, dataset"),
        ({"dataset": np.bytes_(b"\xff")}, "not a readable"),
        ({"provenance": "not JSON"}, "not JSON"),
        ({"provenance": "[]"}, "not a JSON object"),
        ({"provenance": 5}, "not JSON"),
        ({"provenance": h5py.Empty("S1")}, "not JSON"),
        ({"provenance": "[" * 50_000}, "not JSON"),
        ({"provenance": '{"options": []}'}, "not made of JSON objects"),
        ({"provenance": '{"parents": {"arm": "x"}}'}, "not made of JSON objects"),
    ],
)
def test_heads_that_do_not_fit(tmp_path, attributes, message):
    with pytest.raises(BadData, match=message):
        read(foreign(tmp_path / "x.h5", attributes=attributes))


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\0" * 2000])
def test_what_is_no_hdf5(tmp_path, content):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    with pytest.raises(BadData, match=r"not a readable HDF5 file.*Run: amem extract-features"):
        read(path)


def test_missing_and_folder(tmp_path):
    with pytest.raises(InputMissing, match="Run: amem extract-features"):
        read(tmp_path / "none.h5")
    with pytest.raises(BadData, match="folder"):
        read(tmp_path)


def test_a_file_too_large_is_not_read(tmp_path):
    path = tmp_path / "x.h5"
    with open(path, "wb") as file:
        file.truncate(hdf5.LARGEST_FILE + 1)  # sparse: takes no room
    with pytest.raises(BadData, match="larger than 8 GiB"):
        read(path)


@given(content=st.binary(max_size=400))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_no_bytes_raise_anything_else(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "hypothesis.h5"
    for head in (b"", b"\x89HDF\r\n\x1a\n\0\0\0\0"):
        path.write_bytes(head + content)
        with pytest.raises(AmemError):
            read(path)


@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_changed_bytes_without_a_seal_raise_nothing_else(tmp_path_factory, data):
    """A file of another program has no seal, so its changes reach HDF5 itself."""
    good = _foreign_bytes()
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.h5"
    path.write_bytes(content[: data.draw(st.integers(len(good) // 2, len(good)))])
    with contextlib.suppress(AmemError):
        read(path)


def _foreign_bytes():
    buffer = io.BytesIO()
    foreign(buffer, lambda file: [file.pop("name"), file.create_dataset("name", data=np.array([b"a", b"b", b"c"]))])
    return buffer.getvalue()


def test_the_seal_stands_in_the_user_block(tmp_path):
    content = write(tmp_path / "x.h5").read_bytes()
    assert content.startswith(atomic.CHECKSUM_MARK)
    assert content[hdf5.USER_BLOCK :].startswith(b"\x89HDF")
