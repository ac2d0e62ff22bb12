"""Features of other programs: names, files, ids, what must be asked for, and damage."""

import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from amem_cli.data.readers import features
from amem_cli.data.readers.features import read_foreign
from amem_cli.errors import AmemError, BadData, InputMissing, UsageError

QUERIES = np.array([[1, 0], [0, 1]], np.float32)
GALLERY = np.array([[0.6, 0.8], [0.8, 0.6], [-1, 0]], np.float32)
PEOPLE, CAMERAS = ([1, 2], [1, 2, 0]), ([1, 1], [2, 2, 3])
ALL_PEOPLE, ALL_CAMERAS = [1, 2, 1, 2, 0], [1, 1, 2, 2, 3]
TORCHREID = {"qf": QUERIES, "gf": GALLERY, "q_pids": PEOPLE[0], "g_pids": PEOPLE[1]}
TORCHREID |= {"q_camids": CAMERAS[0], "g_camids": CAMERAS[1]}
FAST_REID = {"feats": np.concatenate([QUERIES, GALLERY]), "pids": ALL_PEOPLE, "camids": ALL_CAMERAS}


def npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)
    return path


def read(path: Path, **told: object):
    return read_foreign(path, "mars", **told)


def assert_is_the_table(table) -> None:
    np.testing.assert_allclose(table.features, np.concatenate([QUERIES, GALLERY]))
    assert table.features.dtype == np.float32
    np.testing.assert_array_equal(table.is_query, [True, True, False, False, False])
    np.testing.assert_array_equal(table.person_id, [1, 2, 1, 2, 0])
    np.testing.assert_array_equal(table.camera_id, [1, 1, 2, 2, 3])
    assert table.person_id.dtype == table.camera_id.dtype == np.int64
    assert len(set(table.tracklet)) == 5


@pytest.mark.parametrize(
    "names",
    [
        "qf gf q_pids g_pids q_camids g_camids",  # torchreid, Video-Person-ReID, AP3D
        "query_f gallery_f query_label gallery_label query_cam gallery_cam",  # layumi
        "feat_query feat_gallery label_query label_gallery cam_query cam_gallery",  # the MARS evaluation
        "query_features gallery_features query_ids gallery_ids query_cams gallery_cams",  # open-reid
    ],
)
def test_read_foreign_two_sets(tmp_path, names):
    table, notes = read(npz(tmp_path / "x.npz", **dict(zip(names.split(), TORCHREID.values(), strict=True))))
    assert_is_the_table(table)
    assert (table.dataset, notes) == ("mars", [])


def test_read_foreign_gallery_in_a_second_file(tmp_path):
    parts = [npz(tmp_path / f"{n}.npz", feats=f, pids=p, camids=c) for n, f, p, c in
             zip("qg", (QUERIES, GALLERY), PEOPLE, CAMERAS, strict=True)]  # fmt: skip
    assert_is_the_table(read(parts[0], gallery=parts[1])[0])
    queries = npz(tmp_path / "named.npz", **{name: TORCHREID[name] for name in ("qf", "q_pids", "q_camids")})
    assert_is_the_table(read(queries, gallery=parts[1])[0])
    with pytest.raises(UsageError, match=r"no features of the gallery.*--gallery"):
        read(queries)
    with pytest.raises(UsageError, match="has a gallery"):
        read(npz(tmp_path / "both.npz", **TORCHREID), gallery=parts[1])


def test_read_foreign_queries_asked_for(tmp_path):
    path = npz(tmp_path / "x.npz", **FAST_REID)
    with pytest.raises(UsageError, match=r"nothing says which of the 5 rows are queries\. Say it: .*--queries N"):
        read(path)
    assert_is_the_table(read(path, queries="2")[0])
    assert read(path, queries="5")[0].is_query.all()
    with pytest.raises(UsageError, match="there are 5 rows"):
        read(path, queries="6")
    assert_is_the_table(read(npz(tmp_path / "y.npz", **FAST_REID, num_query=2))[0])
    stated = npz(tmp_path / "z.npz", **FAST_REID, is_query=np.array([1, 1, 0, 0, 0]))
    assert_is_the_table(read(stated)[0])
    with pytest.raises(UsageError, match="says which rows are queries"):
        read(stated, queries="1")


def test_read_foreign_queries_by_name(tmp_path):
    names = ["0001_c1s1_1.jpg", "0002_c1s1_1.jpg", "0001_c2s1_1.jpg", "0002_c2s1_1.jpg", "0000_c3s1_1.jpg"]
    path = npz(tmp_path / "x.npz", feats=FAST_REID["feats"], names=names)
    (tmp_path / "queries.txt").write_text("0002_c1s1_1\n0001_c1s1_1.jpg\n")
    table, notes = read(path, queries=str(tmp_path / "queries.txt"))
    assert_is_the_table(table)  # people and cameras from the names
    assert table.tracklet == names
    assert notes == [f"person_id and camera_id are taken from names such as {names[0]}"]
    given = npz(tmp_path / "given.npz", feats=FAST_REID["feats"], names=names, pids=[7, 8, 9, 8, 7])
    table, notes = read(given, queries="2")
    assert (table.person_id.tolist(), table.camera_id.tolist()) == ([7, 8, 9, 8, 7], ALL_CAMERAS)
    assert notes == [f"camera_id are taken from names such as {names[0]}"]
    (tmp_path / "queries.txt").write_text("0002_c1s1_1\nsomeone\n")
    with pytest.raises(BadData, match=r"not among the rows of .*: someone"):
        read(path, queries=str(tmp_path / "queries.txt"))


@pytest.mark.parametrize(
    ("name", "ids"),
    [("0001C2T0001F001", (1, 2)), ("00-1C6T0001", (-1, 6)), ("00000012_03_0001", (12, 3)), ("-1_c4s1_1", (-1, 4))],
)
def test_read_foreign_ids_of_names(tmp_path, name, ids):
    table, _ = read(npz(tmp_path / "x.npz", feats=QUERIES[:1], names=[name]), queries="0")
    assert (table.person_id[0], table.camera_id[0]) == ids


def test_read_foreign_queries_within_the_gallery(tmp_path):
    """AP3D puts the queries before the gallery. A copy in another camera is another row."""
    arrays = dict(TORCHREID)
    for role, values in (("f", QUERIES), ("_pids", PEOPLE[0]), ("_camids", CAMERAS[0])):
        arrays[f"g{role}"] = np.concatenate([values, arrays[f"g{role}"]])
    table, notes = read(npz(tmp_path / "x.npz", **arrays))
    assert_is_the_table(table)
    assert notes == ["2 rows of the gallery are queries, they are kept once"]
    twice = {
        name: np.concatenate([values[:1], values]) if name[0] == "g" else values for name, values in arrays.items()
    }
    assert len(read(npz(tmp_path / "x.npz", **twice))[0].tracklet) == 6  # a second copy is a row of the gallery
    arrays["g_camids"] = np.array([1, 7, *CAMERAS[1]])
    table, notes = read(npz(tmp_path / "x.npz", **arrays))
    assert (len(table.tracklet), notes[0][:5]) == (6, "1 row")


def test_read_foreign_text_ids(tmp_path):
    people = (["anna", "-1"], ["bert", "anna", "0000"])
    cameras = (["hall", "door"], ["door", "door", "hall"])
    arrays = TORCHREID | {"q_pids": people[0], "g_pids": people[1], "q_camids": cameras[0], "g_camids": cameras[1]}
    table, notes = read(npz(tmp_path / "x.npz", **arrays))
    np.testing.assert_array_equal(table.person_id, [1, -1, 2, 1, 0])
    np.testing.assert_array_equal(table.camera_id, [2, 1, 1, 1, 2])
    assert notes[0] == "camera_id are texts, numbered: door = 1; hall = 2"
    assert table.provenance["options"]["person_id"] == {"-1": -1, "0000": 0, "anna": 1, "bert": 2}
    for one, two, zero in (("0001", "0002", "0000"), ("1.0", "2.0", "0.0"), (b"1", b"2", b"0")):
        written = {"q_pids": [one, two], "g_pids": [one, two, zero]}
        table, notes = read(npz(tmp_path / "x.npz", **TORCHREID | written))
        assert_is_the_table(table)
        assert notes == []
    for missing in ("", "NaN"):
        with pytest.raises(BadData, match="person_id has missing values: row 3"):
            read(npz(tmp_path / "x.npz", **TORCHREID | {"q_pids": ["1", "2"], "g_pids": ["1", missing, "0"]}))


def test_read_foreign_people_from_zero(tmp_path):
    arrays = TORCHREID | {"q_pids": [0, 1], "g_pids": [0, 1, -1]}
    table, notes = read(npz(tmp_path / "x.npz", **arrays))
    np.testing.assert_array_equal(table.person_id, [1, 2, 1, 2, -1])
    assert "numbered from 0" in notes[0]


def test_read_foreign_unit_length_up_to_rounding(tmp_path):
    arrays = TORCHREID | {"qf": QUERIES.astype(np.float64) * 7, "g_pids": np.array(PEOPLE[1], np.float64)}
    table, notes = read(npz(tmp_path / "x.npz", **arrays))
    assert_is_the_table(table)
    assert "not L2-normalised" in notes[0]
    for length, changed in ((1.0009, False), (1.0011, True)):
        table, notes = read(npz(tmp_path / "x.npz", **TORCHREID | {"gf": GALLERY * np.float32(length)}))
        assert (len(notes), np.linalg.norm(table.features[2])) == (changed, pytest.approx(1 if changed else length))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e300])
def test_read_foreign_row_without_direction(tmp_path, value):
    gallery = GALLERY.astype(np.float64)
    gallery[1] = value
    with pytest.raises(BadData, match="zero, not finite or too large: 3"):
        read(npz(tmp_path / "x.npz", **TORCHREID | {"gf": gallery}))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"g_pids": [1, 2]}, "2 person_id, 3 camera_id and 3 features|3 features"),
        ({"gf": GALLERY[:, :1]}, r"\(2, 2\), the gallery \(3, 1\)"),
        ({"gf": GALLERY[None]}, "not a matrix"),
        ({"q_pids": [1.5, 2.0]}, "not whole numbers"),
        ({"q_pids": np.zeros(2, "M8[D]")}, r"person_id holds datetime64\[D\], neither numbers nor texts"),
        ({"query_label": [1, 2]}, "'q_pids' and 'query_label' are both person_id"),
        ({"g_pids": None}, "gallery camera_id; features"),
    ],
)
def test_read_foreign_wrong_columns(tmp_path, changed, why):
    arrays = {name: values for name, values in (TORCHREID | changed).items() if values is not None}
    with pytest.raises(BadData, match=why):
        read(npz(tmp_path / "x.npz", **arrays))


def test_read_foreign_no_features(tmp_path):
    ids = {name: values for name, values in TORCHREID.items() if name[1] == "_"}
    with pytest.raises(BadData, match=r"no features in it, but .*distmat.* Distances cannot be converted"):
        read(npz(tmp_path / "x.npz", distmat=np.zeros((2, 3)), **ids))
    with pytest.raises(BadData, match="it has no cameras"):
        read(npz(tmp_path / "x.npz", qf=QUERIES, gf=GALLERY))
    with pytest.raises(UsageError, match=r"unknown kind of file '\.json'"):
        read(tmp_path / "x.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadData, match=r"no \.npy files in it"):
        read(tmp_path / "folder")


def test_read_foreign_npz_that_unpacks_to_too_much(tmp_path, monkeypatch):
    path = npz(tmp_path / "x.npz", **TORCHREID)
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    monkeypatch.setattr(features, "free_memory", lambda: size)
    assert_is_the_table(read(path)[0])
    monkeypatch.setattr(features, "free_memory", lambda: size - 1)
    with pytest.raises(UsageError, match=r"x\.npz: needs at least 0\.0 GB of memory"):
        read(path)


def test_read_foreign_times_cameras_and_repeated_names(tmp_path):
    columns = {"camera_id": ALL_CAMERAS, "camera": [*"aabbc"], "first_seconds": ["0", "1.5", "2", "3", "4"],
               "names": ["x", "x", "y", "z", "w"]}  # fmt: skip
    table, notes = read(npz(tmp_path / "x.npz", feats=FAST_REID["feats"], pids=ALL_PEOPLE, num_query=2, **columns))
    assert_is_the_table(table)
    assert (table.camera, table.first_seconds.tolist()) == ([*"aabbc"], [0.0, 1.5, 2.0, 3.0, 4.0])
    assert table.tracklet[1:3] == ["query-0000001", "gallery-0000002"]
    assert notes == ["names repeat: rows are named by their number"]


def test_read_foreign_unused_and_turned(tmp_path):
    arrays = TORCHREID | {"qf": np.concatenate([QUERIES] * 2, 1).T, "gf": np.concatenate([GALLERY] * 2, 1).T}
    table, notes = read(npz(tmp_path / "x.npz", **arrays, mquery_f=QUERIES))
    np.testing.assert_allclose(table.features[0], [0.5**0.5, 0, 0.5**0.5, 0], atol=1e-6)
    assert notes[0] == "not used: mquery_f"
    assert "as in MATLAB" in notes[1]


# -- other files -------------------------------------------------------------------------------------------------------


def test_read_foreign_torch(tmp_path):
    arrays = {name: torch.tensor(np.array(values)) for name, values in TORCHREID.items()}
    for people in (PEOPLE[1], list(np.array(PEOPLE[1]))):
        torch.save(arrays | {"q_pids": np.array(PEOPLE[0]), "g_pids": people}, tmp_path / "x.pt")
        assert_is_the_table(read(tmp_path / "x.pt")[0])
    two = {"feats": torch.tensor(QUERIES).bfloat16(), "pids": torch.tensor(PEOPLE[0]), "camids": CAMERAS[0]}
    torch.save(two, tmp_path / "x.pt")
    np.testing.assert_array_equal(read(tmp_path / "x.pt", queries="1")[0].features, QUERIES)
    names = [f"{p:08d}_{c:02d}_0000.jpg" for p, c in zip(ALL_PEOPLE, ALL_CAMERAS, strict=True)]
    vectors = dict(zip(names, torch.tensor(FAST_REID["feats"]), strict=True))
    for content in (vectors, {"features": vectors, "labels": dict(zip(names, ALL_PEOPLE, strict=True))}):
        torch.save(content, tmp_path / "x.pth")
        assert_is_the_table(read(tmp_path / "x.pth", queries="2")[0])


def test_read_foreign_csv(tmp_path):
    np.save(tmp_path / "x.npy", QUERIES)
    (table := tmp_path / "x.csv").write_text('tracklet,pid,camid,is_query\n"a,\nb",1,1,True\nc\u2028d,2,2,False\n')
    assert read(tmp_path / "x.npy")[0].tracklet == ["a,\nb", "c\u2028d"]
    for separator, end, coding in ((";", "\r\n", "utf-16"), ("\t", "\r", "utf-8-sig")):
        rows = ("tracklet", "pid", "camid", "is_query"), ("a", "01", "1", "1"), (), ("b", "2", "2", "0"), ()
        table.write_bytes(end.join(map(separator.join, rows)).encode(coding))
        assert read(tmp_path / "x.npy")[0].person_id.tolist() == [1, 2]
    for content, why in (
        ("pid,camid\n1,1\n2\n", "damaged, or not a .npy file"),
        ("pid,camid\n1,1\n", "1 person_id, 1 camera_id and 2 features"),
        ("camid,is_query\n1,yes\n1,no\n", "is_query holds no; yes"),
        ("camid,is_query,first_seconds\n1,1,0.5\n1,0,soon\n", "first_seconds is not a number"),
    ):
        table.write_text(content)
        with pytest.raises(BadData, match=why):
            read(tmp_path / "x.npy", queries="" if "is_query" in content else "1")
    table.unlink()
    with pytest.raises(InputMissing, match=r"x\.csv: not found"):
        read(tmp_path / "x.npy")


def test_read_foreign_parquet_of_another_program(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"embedding": QUERIES.tolist(), "person": ["x", None], "camera": [1, 2], "is_query": [True, False]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    with pytest.raises(BadData, match="person_id has missing values"):
        read(tmp_path / "x.parquet")
    parquet.write_table(pyarrow.table(columns | {"person": [1, 2], "name": ["x", None]}), tmp_path / "x.parquet")
    with pytest.raises(BadData, match="tracklet has missing values"):
        read(tmp_path / "x.parquet")
    parquet.write_table(pyarrow.table(columns | {"person": ["x", "y"]}), tmp_path / "x.parquet")
    np.testing.assert_array_equal(read(tmp_path / "x.parquet")[0].person_id, [1, 2])
    parquet.write_table(pyarrow.table(columns | {"embedding": [[1.0, 0.0], [1.0]]}), tmp_path / "x.parquet")
    with pytest.raises(BadData, match="the lists of 'embedding' have several lengths"):
        read(tmp_path / "x.parquet")


def test_read_foreign_ragged(tmp_path):
    torch.save({"feats": torch.tensor(QUERIES), "camids": [[1, 2], [3]], "pids": [1, 2]}, tmp_path / "x.pt")
    with pytest.raises(BadData, match="camera_id is not a table"):
        read(tmp_path / "x.pt", queries="1")


def test_read_foreign_folder(tmp_path):
    for name, row in zip(["0001_c1s1", "0002_c1s1", "1001_c2s1"], GALLERY, strict=True):
        np.save(tmp_path / f"{name}.npy", row[None])  # fast-reid's demo
    table, _ = read(tmp_path, queries="1")
    np.testing.assert_array_equal(table.person_id, [1, 2, 1001])
    np.testing.assert_allclose(table.features, GALLERY)


@pytest.mark.slow
def test_read_foreign_matlab(tmp_path):
    names = ["query_f", "gallery_f", "query_label", "gallery_label", "query_cam", "gallery_cam"]
    arrays = dict(zip(names, TORCHREID.values(), strict=True))
    savemat(tmp_path / "pytorch_result.mat", arrays)
    assert_is_the_table(read(tmp_path / "pytorch_result.mat")[0])
    with h5py.File(tmp_path / "v73.mat", "w", userblock_size=512) as file:
        for name, values in arrays.items():
            file[name] = np.atleast_2d(values).T  # by columns
        del file["query_label"]
        file["query_label"] = np.array([[ord("1"), ord("2")], [ord(" "), ord(" ")]], np.uint16)  # "1 " and "2 "
        file["query_label"].attrs["MATLAB_class"] = np.bytes_("char")
        file["query_cam_link"] = h5py.ExternalLink("elsewhere.h5", "/x")
    content = bytearray((tmp_path / "v73.mat").read_bytes())
    content[:10] = b"MATLAB 7.3"
    (tmp_path / "v73.mat").write_bytes(content)
    assert_is_the_table(read(tmp_path / "v73.mat")[0])
    (tmp_path / "cut.mat").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadData, match="not a readable MATLAB or HDF5 file"):
        read(tmp_path / "cut.mat")


@pytest.mark.slow
def test_read_foreign_hdf5_by_rows(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:  # its queries are a square matrix
        for name, values in TORCHREID.items():
            file[name] = [[0.6, 0.8], [0.0, 1.0]] if name == "qf" else values
    table, notes = read(tmp_path / "x.h5")
    np.testing.assert_allclose(table.features, [[0.6, 0.8], [0, 1], *GALLERY])
    assert notes == []


@pytest.mark.slow
def test_read_foreign_open_reid_database(tmp_path):
    names = [f"{p:08d}_{c:02d}_0000.jpg" for p, c in zip((1, 1, 2), (0, 1, 0), strict=True)]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, row in zip(names, GALLERY, strict=True):
            file[name] = row
    table, _ = read(tmp_path / "x.h5", queries="1")
    assert table.tracklet == names
    np.testing.assert_array_equal(table.camera_id, [0, 1, 0])
    np.testing.assert_allclose(table.features, GALLERY)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt"])
def test_read_foreign_never_unpickles(tmp_path, suffix):
    path, trap = tmp_path / f"x{suffix}", Trap(tmp_path / "sprung")
    if suffix == ".npz":
        npz(path, **TORCHREID | {"q_pids": np.array([trap, trap], object)})
    elif suffix == ".npy":
        path.write_bytes(pickle.dumps(trap))
        (tmp_path / "x.csv").write_text("person_id\n")
    else:
        torch.save({"qf": trap}, path)
    with pytest.raises(BadData) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not trap.path.exists()


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt", ".parquet"])
def test_read_foreign_damaged(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    pytest.importorskip("pyarrow")
    with pytest.raises(InputMissing, match="not found"):
        read(path)
    npz(tmp_path / "good.npz", **TORCHREID)
    np.save(tmp_path / "good.npy", FAST_REID["feats"])
    torch.save({"qf": torch.tensor(QUERIES)}, tmp_path / "good.pt")
    from pyarrow import parquet, table

    columns = {"features": FAST_REID["feats"].tolist(), "pids": FAST_REID["pids"]}
    parquet.write_table(table(columns), tmp_path / "good.parquet")
    (tmp_path / "x.csv").write_text("person_id,camera_id\n1,1\n")
    content = (tmp_path / f"good{suffix}").read_bytes()
    for end in (0, 9, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:end])
        with pytest.raises(AmemError) as caught:
            read(path)
        assert caught.value.exit_code == 65, end
        assert "\n" not in str(caught.value)
