"""`amem features convert`: every format there and back, refusals, the command."""

import importlib.util
import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from writers import some_features

from amem_cli.artifacts import atomic, features
from amem_cli.artifacts.provenance import Provenance
from amem_cli.cli.app import run
from amem_cli.errors import BadData, DiskError, InputMissing, OutputExists, UsageError
from amem_cli.tools import convert_features
from amem_cli.tools.convert_features import convert


@pytest.fixture
def table():
    return some_features(
        tracklet=["a", "b,c", "é", "d"], person_id=np.array([3, 3, 0, -1]), camera_id=np.array([1, 2, 1, 2]),
        is_query=np.array([True, False, False, False]), features=np.eye(4, 5, dtype=np.float32),
    )  # fmt: skip


@pytest.fixture
def source(tmp_path, table):
    return features.write(tmp_path / "mars.h5", table, Provenance("extract-features", {"seed": 1}))


def there_and_back(tmp_path, source, suffix):
    convert(source, tmp_path / f"out{suffix}")
    found = convert(tmp_path / f"out{suffix}", tmp_path / "back.h5", "mars")
    return found, features.read(tmp_path / "back.h5", people=False)


def assert_same_rows(found, table, names=True):
    np.testing.assert_array_equal(found.features, table.features)
    for name in ("person_id", "camera_id", "is_query"):
        np.testing.assert_array_equal(getattr(found, name), getattr(table, name))
    assert not names or found.tracklet == table.tracklet


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".npz"])
def test_convert_there_and_back(tmp_path, source, table, suffix):
    told, found = there_and_back(tmp_path, source, suffix)
    assert_same_rows(found, table, names=suffix != ".npz")
    assert told["notes"] == []
    assert (told["rows"], told["queries"], told["dimensions"]) == (4, 1, 5)
    assert found.provenance["command"] == ("extract-features" if suffix == ".parquet" else "features convert")
    assert found.provenance["parents"]["features 0"]["name"] == f"out{suffix}"


def test_convert_source_replaced_after_it_was_read(tmp_path, source, monkeypatch):
    convert(source, tmp_path / "x.parquet")
    read, path = convert_features._read, tmp_path / "x.parquet"
    replaced = lambda *given: (read(*given), atomic.write_bytes(path, b""))[0]  # noqa: E731
    monkeypatch.setattr(convert_features, "_read", replaced)
    with pytest.raises(BadData, match=r"x\.parquet: it was replaced while this run read it"):
        convert(path, tmp_path / "back.h5")


def test_convert_parquet_keeps_the_record(tmp_path, table):
    """Without it features of other models, options or data sets could be compared."""
    made = {"parts": 4, "image_size": "64x32"}
    provenance = Provenance("extract-features", made, {"amem-main": {"name": "m", "sha256": "0" * 64}}, "digest")
    tracks = replace(table, dataset="people", folder="/people")
    source = features.write(tmp_path / "people.h5", tracks, provenance)
    convert(source, tmp_path / "x.parquet")
    told = convert(tmp_path / "x.parquet", tmp_path / "back.h5")
    assert (told["notes"], told["numbered"]) == ([], {})
    found = features.read(tmp_path / "back.h5")
    assert (found.dataset, found.folder, found.extraction.parts, found.image_size) == ("people", "/people", 4, "64x32")
    assert (found.model("sha256"), found.provenance["data"]) == ("0" * 64, "digest")
    with pytest.raises(UsageError, match=r"--dataset mars: \S*x\.parquet holds its data set's name"):
        convert(tmp_path / "x.parquet", tmp_path / "y.h5", "mars")
    from pyarrow import parquet

    ours = parquet.read_table(tmp_path / "x.parquet")
    record = {key.decode(): value.decode() for key, value in ours.schema.metadata.items()}
    for provenance in ("our cluster", "[1]", "{}"):  # of another program
        theirs = ours.replace_schema_metadata(record | {"provenance": provenance})
        parquet.write_table(theirs, tmp_path / "y.parquet")
        assert convert(tmp_path / "y.parquet", tmp_path / "y.h5", "own", force=True)["notes"] == []
        assert features.read(tmp_path / "y.h5").dataset == "own"
    for changed, why in (({"folder": "a\0b"}, "NUL"), ({"provenance": '{"command": "x", "parents": 1}'}, "malformed")):
        parquet.write_table(ours.replace_schema_metadata(record | changed), tmp_path / "y.parquet")
        with pytest.raises(BadData, match=why):
            convert(tmp_path / "y.parquet", tmp_path / "y.h5", force=True)
    assert convert(source, tmp_path / "x.npy")["notes"] == [
        ".npy files do not say which model made the features, nor with which options"
    ]


@pytest.mark.slow
def test_convert_mat_there_and_back(tmp_path, source, table):
    assert_same_rows(there_and_back(tmp_path, source, ".mat")[1], table, names=False)


def test_convert_names_of_other_programs(tmp_path, source, table):
    convert(source, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        assert set(arrays) == {"qf", "q_pids", "q_camids", "gf", "g_pids", "g_camids"}
        np.testing.assert_array_equal(arrays["g_pids"], [3, 0, -1])
        np.testing.assert_array_equal(arrays["qf"], table.features[:1])


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_convert_tracks_without_people(tmp_path, table, suffix):
    seen = {"camera": ["hall", "door"] * 2, "first_seconds": np.arange(4.0), "last_seconds": np.arange(4.0) + 0.1}
    values = {name: getattr(table, name) for name in ("tracklet", "camera_id", "is_query", "features")}
    tracks = some_features(**values, person_id=np.zeros(0, np.int64), **seen)
    path = features.write(tmp_path / "tracks.h5", tracks, Provenance("extract-features", {}))
    found = there_and_back(tmp_path, path, suffix)[1]
    assert not found.has_people
    assert found.camera == seen["camera"]
    np.testing.assert_array_equal(found.last_seconds, seen["last_seconds"])
    with pytest.raises(BadData, match=r"no person_id\. Write \.parquet or \.npy instead"):
        convert(path, tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_convert_full_disk_leaves_nothing(tmp_path, source, monkeypatch):
    def full(*arguments):
        raise OSError("14336 requested and 8160 written")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DiskError, match="no space left"):
        convert(source, tmp_path / "x.npy")
    assert not list(tmp_path.glob("x.*"))


def test_convert_parquet_of_blocks(tmp_path, source, table, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("amem_cli.tools.convert_features.BLOCK_ROWS", 3)
    convert(source, tmp_path / "x.parquet")
    file = parquet.ParquetFile(tmp_path / "x.parquet")
    assert str(file.schema_arrow.field("features").type) == "fixed_size_list<element: float>[5]"
    assert file.num_row_groups == 2
    np.testing.assert_array_equal(file.read()["features"].to_pylist(), table.features)
    assert file.read()["tracklet"].to_pylist() == table.tracklet


def test_convert_without_pyarrow(tmp_path, source, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputMissing, match=r"pyarrow: not installed\. Run: python -m pip install pyarrow"):
        convert(source, tmp_path / "x.parquet")
    assert not list(tmp_path.glob("*x.parquet*"))
    (tmp_path / "y.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputMissing, match="pyarrow: not installed"):
        convert(tmp_path / "y.parquet", tmp_path / "y.h5", "mars")


def test_convert_refuses(tmp_path, source):
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(OutputExists, match=r"out\.csv: it exists\. Choose another name, or --force"):
        convert(source, tmp_path / "out.npy")
    assert (tmp_path / "out.csv").read_text() == "mine"
    assert not (tmp_path / "out.npy").exists()
    convert(source, tmp_path / "out.npy", force=True)
    assert (tmp_path / "out.csv").read_text().startswith("tracklet,person_id,camera_id,is_query\na,3,1,True\n")
    with pytest.raises(UsageError, match=r"unknown format '\.txt'"):
        convert(source, tmp_path / "x.txt")
    with pytest.raises(UsageError, match="this is a features file of amem"):
        convert(source, tmp_path / "x.h5")
    with pytest.raises(UsageError, match="this is a features file of amem"):
        convert(source, tmp_path / "x.npz", queries="3")
    with pytest.raises(UsageError, match=r"--dataset mine: .*mars\.h5 holds its data set's name\. Leave it out"):
        convert(source, tmp_path / "x.parquet", "mine")
    for suffix in (".npz", ".npy", ".mat"):
        with pytest.raises(
            UsageError, match=rf"--dataset mine: \{suffix} files do not hold the name of a data set\. Leave"
        ):
            convert(tmp_path / "x.pt", tmp_path / f"x{suffix}", "mine")


def test_command_features_convert(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", feats=np.eye(3) * 2, pids=["b", "a", "b"], camids=[1, 2, 2])
    arguments = ["features", "convert", str(tmp_path / "x.npz"), str(tmp_path / "x.h5"), "--dataset", "prid2011"]
    assert run(arguments) == 2
    assert "--queries N" in capsys.readouterr().err
    assert run([*arguments, "--queries", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["numbered"] == {"person_id": {"a": 1, "b": 2}}
    assert len(document["notes"]) == 2
    table = features.read(tmp_path / "x.h5")
    assert table.dataset == "prid2011"
    assert table.provenance["options"]["person_id"] == {"a": 1, "b": 2}
    assert run([*arguments, "--queries", "1"]) == 73
    (tmp_path / "my cameras.toml").write_text('name = "cameras"\nlayout = "folder"\n')
    own = [*arguments[:3], str(tmp_path / "y.h5"), "--dataset", str(tmp_path / "my cameras.toml"), "--queries", "1"]
    assert run([*own, "--quiet"]) == 0
    assert features.read(tmp_path / "y.h5").dataset == "cameras"
    capsys.readouterr()
    assert run([*arguments, "--queries", "1", "--force"]) == 0
    captured = capsys.readouterr()
    assert "3 rows, 1 query" in captured.out
    assert "a = 1; b = 2" in captured.err


def test_read_foreign_file_as_ours(tmp_path):
    with pytest.raises(BadData, match=r"not an HDF5 file\. Run: amem features convert '.*my x\.npz' '.*my x\.h5'"):
        features.read(tmp_path / "my x.npz")


def test_convert_hash_bomb(tmp_path):
    key: object = ()
    for _ in range(40):  # hashing it would take 2^40 steps
        key = (key, key)
    pickled = b"\x80\x02}" + pickle.dumps(key, 2)[2:-1] + b"K\x01s."
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3")
    with pytest.raises(BadData, match="unbounded time"):
        convert(tmp_path / "x.pt", tmp_path / "x.h5", "mars")


def test_convert_columns_of_one_name(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(2))
    (tmp_path / "x.csv").write_text("pid,pid,camid,is_query\n1,2,1,1\n1,2,2,0\n")
    with pytest.raises(BadData, match=r"x\.csv has two columns of one name"):
        convert(tmp_path / "x.npy", tmp_path / "x.h5", "mars")
