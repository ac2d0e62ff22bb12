"""MARS: the tables checked against the image names, complete and incomplete, and the real tables."""

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from amem_cli.data.datasets import count_differences
from amem_cli.data.manifest import load_manifest
from amem_cli.data.readers import mars
from amem_cli.data.readers.files import BadRows
from amem_cli.data.tracklets import VideoDataset
from amem_cli.errors import BadData

TRAIN = [(1, 1, 3), (1, 1, 2), (1, 2, 4), (7, 1, 2), (7, 3, 1)]  # person, camera, frames of each tracklet
TEST = [(-1, 1, 2), (-1, 2, 3), (0, 1, 2), (2, 1, 4), (2, 1, 2), (2, 2, 3), (4, 1, 1), (4, 2, 2)]
QUERIES = [4, 6, 7]


def make_tables(tracklets):
    """The list of image names and the table of [first, last, person, camera] rows."""
    names, rows, count = [], [], {}
    for person, camera, frames in tracklets:
        number = count[person, camera] = count.get((person, camera), 0) + 1
        stem = f"{'00-1' if person == -1 else f'{person:04d}'}C{camera}T{number:04d}"
        rows.append([len(names) + 1, len(names) + frames, person, camera])
        names += [f"{stem}F{frame:03d}.jpg" for frame in range(1, frames + 1)]
    return names, np.array(rows, dtype=np.int64)


def write_table(path: Path, variable: str, rows) -> None:
    """A MATLAB file without a time in its header, so that the reader's cache can reuse it."""
    file = io.BytesIO()
    savemat(file, {variable: np.array(rows, dtype=float)})
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + file.getvalue()[116:])


@pytest.fixture(params=[pytest.param(False, id="no name files"), pytest.param(True, id="name files")])
def copy(tree, request):
    """Makes a copy of MARS, with or without the two files of image names."""

    def make(train=TRAIN, name=lambda name: name):
        for side, tracklets in (("train", train), ("test", TEST)):
            names, rows = make_tables(tracklets)
            names = list(map(name, names))
            root = tree(*(f"{image[:4]}/{image}" for image in names), below=f"MARS/bbox_{side}") / "MARS"
            write_table(root / "info" / f"tracks_{side}_info.mat", f"track_{side}_info", rows)
            if request.param:
                (root / "info" / f"{side}_name.txt").write_text("\n".join(sorted(names)) + "\n")
        write_table(root / "info" / "query_IDX.mat", "query_IDX", [QUERIES])
        return root

    return make


@pytest.mark.slow
def test_read_converted_images(copy):
    root = copy()
    for path in list(root.rglob("*.jpg")):
        path.rename(path.with_suffix(".JPG"))
    split = mars.read(root, "mars").splits[0]
    assert [len(t) for t in split.train] == [frames for _, _, frames in TRAIN]
    assert all(frame.is_file() for t in (*split.train, *split.test) for frame in t.frames)


def test_read_without_images_says_what_is_there(copy):
    root = copy()
    for path in list((root / "bbox_train").rglob("*.jpg")):
        path.rename(path.with_suffix(".webp"))
    with pytest.raises(BadData, match=r"but 12 \.webp files"):
        mars.read(root, "mars")


def test_read_in_the_order_of_the_tables(copy):
    dataset = mars.read(copy().parent, "mars")
    (split,) = dataset.splits
    assert [(t.person_id, t.camera_id, len(t)) for t in split.train] == TRAIN
    assert [(t.person_id, t.camera_id, len(t)) for t in split.test] == TEST
    assert [row for row, query in enumerate(split.is_query, start=1) if query] == QUERIES
    assert [t.name for t in split.test][:4] == ["00-1C1T0001", "00-1C2T0001", "0000C1T0001", "0002C1T0001"]
    assert split.train[1].files == ("0001C1T0002F001.jpg", "0001C1T0002F002.jpg")
    assert all(path.is_file() and path.is_absolute() for t in (*split.train, *split.test) for path in t.frames)
    assert (dataset.numbered, dataset.notes, split.source) == (False, (), "official")


@pytest.mark.slow
def test_read_folders_of_their_own_name_and_lists_of_paths(copy):
    root = copy()
    for side in ("train", "test"):
        (root / f"bbox_{side}").rename(root / "inner")
        (root / f"bbox_{side}").mkdir()
        (root / "inner").rename(root / f"bbox_{side}" / f"bbox_{side}")
        for file in (root / "info").glob(f"{side}_name.txt"):
            file.write_text("".join(f'"bbox_{side}\\{name[:4]}/{name}"\r\n' for name in file.read_text().split()))
    (split,) = mars.read(root, "mars").splits
    assert [(t.person_id, t.camera_id, len(t)) for t in (*split.train, *split.test)] == TRAIN + TEST
    assert all(path.is_file() for t in split.train for path in t.frames)


@pytest.mark.slow
def test_read_unpadded_frames_in_order_of_number(copy):
    root = copy([(1, 1, 12), (1, 2, 1), (7, 1, 2)], name=lambda name: re.sub("F0+", "F", name))
    first = mars.read(root, "mars").splits[0].train[0]
    assert first.files == tuple(f"0001C1T0001F{n}.jpg" for n in range(1, 13))


@pytest.mark.slow
def test_read_part_of_mars_and_ignored_folders(copy):
    root = copy()
    for path in (*(root / "bbox_train" / "0001").iterdir(), *(root / "bbox_test" / "00-1").iterdir()):
        path.unlink()  # the empty folder is kept
    (root / "bbox_test" / "@eaDir" / "0002C1T0001F001.jpg").mkdir(parents=True)
    dataset = mars.read(root, "mars")
    assert [t.person_id for t in dataset.splits[0].train] == [7, 7]
    assert [t.person_id for t in dataset.splits[0].test] == [0, 2, 2, 2, 4, 4]
    assert dataset.splits[0].is_query == (False, True, False, True, True, False)
    counts = [re.findall("[0-9]+", note.partition(":")[0]) for note in dataset.notes]
    assert counts == [["1"], ["2"], ["3", "5"], ["2", "8"]]


@pytest.mark.slow
def test_read_missing_frame(copy):
    root = copy()
    (root / "bbox_test" / "0002" / "0002C1T0001F003.jpg").unlink()
    with pytest.raises(BadData, match=r"row 4 \[8, 11, 2, 1\]: 1 of its 4 images|0002: 8 images, 9"):
        mars.read(root, "mars")


@pytest.mark.slow
def test_read_missing_and_bad_tables(copy):
    root = copy()
    table = root / "info" / "tracks_test_info.mat"
    write_table(table, "track_test_info", np.zeros((3, 5)))
    with pytest.raises(BadData, match="shape"):
        mars.read(root, "mars")
    write_table(table, "track_test_info", make_tables(TEST)[1])
    (root / "info" / "train_name.txt").write_text("portrait.jpg\n")
    with pytest.raises(BadRows, match=r"portrait\.jpg"):
        mars.read(root, "mars")
    (root / "info" / "tracks_train_info.mat").unlink()
    with pytest.raises(BadData, match=r"no tracks_train_info\.mat in it\. Take info/ from the code MARS-evaluation"):
        mars.read(root, "mars")
    (root / "bbox_test").rename(root / "other")
    (root / "bbox_test.zip").touch()
    with pytest.raises(BadData, match=r"no bbox_test in it, but archives that are not unpacked: bbox_test\.zip"):
        mars.read(root, "mars")
    with pytest.raises(BadData, match="no bbox_train"):
        mars.read(root / "info", "mars")


# ---- parse_info -----------------------------------------------------------------------------------------------------


def parse(test_rows=None, queries=QUERIES, test_names=None):
    (train_names, train_rows), (names, rows) = make_tables(TRAIN), make_tables(TEST)
    test_rows = rows if test_rows is None else test_rows
    return mars.parse_info(train_names, test_names or names, train_rows, test_rows, np.array(queries, dtype=int))


def test_parse_info_moved_boundary():
    rows = make_tables(TEST)[1]
    rows[3, 1] -= 1
    rows[4, 0] -= 1
    with pytest.raises(BadRows, match="test row 5") as caught:
        parse(rows)
    assert len(caught.value.rows) == 1


def test_parse_info_other_names():
    names = make_tables(TEST)[0]
    for place, name, why in (
        (7, "portrait.jpg", r"row 4 .*its images are portrait\.jpg to"),
        (8, "0002C1T0007F002.jpg", "row 4 .*its images are"),
        (8, names[7], "row 4 .*have the same number"),
        (11, "0002C1T0001F009.jpg", "row 5 .*its images are"),
        (13, "0002C1T0001F009.jpg", "row 6 .*its images are"),
    ):
        with pytest.raises(BadRows, match=why):
            parse(test_names=[*names[:place], name, *names[place + 1 :]])


@pytest.mark.parametrize(
    ("queries", "why"),
    [([0], "row 0 "), ([9], "row 9 "), ([4, 4], "row 4 is listed twice"), ([1], "row 1 "), ([3], "row 3 ")],
)
def test_parse_info_bad_queries(queries, why):
    with pytest.raises(BadRows, match=why):
        parse(queries=queries)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(TEST) - 1), st.integers(0, 3), st.integers(-3, 25) | st.integers(-(2**40), 2**40))
def test_parse_info_any_changed_number(row, column, value):
    rows = make_tables(TEST)[1]
    if rows[row, column] == value:
        return
    rows[row, column] = value
    with pytest.raises(BadRows) as caught:
        parse(rows)
    named = (f"test row {row + 1} ", f"test row {row + 2} ", "test table: ends at image ")
    assert any(bad.startswith(named) for bad in caught.value.rows)


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(0, len(TEST) - 1), min_size=1))
def test_parse_info_any_missing_rows(missing):
    with pytest.raises(BadRows):
        parse(np.delete(make_tables(TEST)[1], list(missing), axis=0), queries=[])


# ---- the real tables ------------------------------------------------------------------------------------------------

REAL = Path(os.environ.get("AMEM_TEST_REAL_DATA", "/nowhere")) / "mars-info"


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="AMEM_TEST_REAL_DATA names no folder with mars-info")
def test_parse_info_real_tables_give_the_published_counts():
    """The names of the images follow from the lists of tracklets next to the tables."""
    tables, names = [], []
    for side in ("train", "test"):
        rows = mars.read_table(REAL / f"tracks_{side}_info.mat", f"track_{side}_info", 4)
        stems = [line.split()[0].split("/")[1] for line in (REAL / f"list_{side}_seq.txt").read_text().splitlines()]
        lengths = (rows[:, 1] - rows[:, 0] + 1).tolist()
        names.append([f"{stem}F{k:03d}.jpg" for stem, n in zip(stems, lengths, strict=True) for k in range(1, n + 1)])
        tables.append(rows)
    queries = mars.read_table(REAL / "query_IDX.mat", "query_IDX", 1)[:, 0]
    split = mars.parse_info(*names, *tables, queries)
    assert count_differences(load_manifest("mars"), VideoDataset("mars", (split,), numbered=False)) == []
    tables[1][[5000, 5001]] = tables[1][[5001, 5000]]
    with pytest.raises(BadRows, match="test row 5001"):
        mars.parse_info(*names, *tables, queries)
