import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from amem_cli.data import manifest as manifests
from amem_cli.data.readers import mars
from amem_cli.data.readers.files import BadRows
from amem_cli.data.tracklets import Split, Tracklet, VideoDataset
from amem_cli.errors import BadData

TRAIN = [(1, 1, 3), (1, 1, 2), (1, 2, 4), (7, 1, 2), (7, 3, 1)]  # person, camera, frames of each tracklet
TEST = [(-1, 1, 2), (-1, 2, 3), (0, 1, 2), (2, 1, 4), (2, 1, 2), (2, 2, 3), (4, 1, 1), (4, 2, 2)]
QUERIES = [4, 6, 7]


def make_tables(tracklets):
    """The list of image names and the table of [first, last, person, camera] rows."""
    names, rows, count = [], [], {}
    for person, camera, frames in tracklets:
        number = count[person, camera] = count.get((person, camera), 0) + 1
        stem = f"{mars.person_folder(person)}C{camera}T{number:04d}"
        rows.append([len(names) + 1, len(names) + frames, person, camera])
        names += [f"{stem}F{frame:03d}.jpg" for frame in range(1, frames + 1)]
    return names, np.array(rows, dtype=np.int64)


def write_mars(root: Path, *, name_files: bool = False) -> Path:
    (root / "info").mkdir(parents=True)
    for part, tracklets in (("train", TRAIN), ("test", TEST)):
        names, rows = make_tables(tracklets)
        for name in names:
            folder = root / f"bbox_{part}" / name[:4]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 8)).save(folder / name)
        savemat(root / "info" / f"tracks_{part}_info.mat", {f"track_{part}_info": rows.astype(float)})
        if name_files:
            (root / "info" / f"{part}_name.txt").write_text("\n".join(names) + "\n")
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([QUERIES], dtype=np.uint16)})
    return root


@pytest.mark.parametrize("name_files", [False, True])
def test_tracklets_come_in_the_order_of_the_tables(tmp_path, name_files):
    dataset = mars.read(write_mars(tmp_path / "mars", name_files=name_files), "mars")
    (split,) = dataset.splits
    assert [(t.person_id, t.camera_id, len(t)) for t in split.train] == TRAIN
    assert [(t.person_id, t.camera_id, len(t)) for t in split.test] == TEST
    assert [row for row, query in enumerate(split.is_query, start=1) if query] == QUERIES
    assert [t.name for t in split.test][:4] == ["00-1C1T0001", "00-1C2T0001", "0000C1T0001", "0002C1T0001"]
    assert split.train[1].files == ("0001C1T0002F001.jpg", "0001C1T0002F002.jpg")
    assert all(path.is_file() and path.is_absolute() for t in (*split.train, *split.test) for path in t.frames)
    assert (dataset.numbered, dataset.notes, split.source) == (False, (), "official")


def test_counts_by_hand(tmp_path):
    counts = manifests.dataset_counts(mars.read(write_mars(tmp_path), "mars"))
    assert {key: counts[key] for key in counts if key not in ("splits", "people", "tracklets", "images")} == {
        "shortest": 1, "longest": 4,
        "train_people": 2, "train_tracklets": 5, "train_images": 12, "train_shortest": 1, "train_longest": 4,
        "train_under_32_frames": 5, "train_under_16_frames": 5,
        "test_people": 2, "test_tracklets": 8, "test_images": 19, "test_shortest": 1, "test_longest": 4,
        "junk_tracklets": 2, "distractor_tracklets": 1, "real_test_tracklets": 5,
        "query_people": 2, "query_tracklets": 3, "query_images": 8,
        # 3 queries leave 0000C1, 0002C1T2 and 0004C2; the query 0004C1 finds 0004C2, 0002C2 finds 0002C1T2
        "gallery_tracklets": 6, "gallery_tracklets_without_queries": 3, "queries_unmatched_without_queries": 1,
    }  # fmt: skip


def test_other_arrangements_of_the_same_data(tmp_path):
    plain = mars.read(write_mars(tmp_path / "a"), "mars")
    root = write_mars(tmp_path / "b" / "MARS-v1" / "MARS")
    (tmp_path / "b" / "evaluation").mkdir()
    (root / "info").rename(tmp_path / "b" / "evaluation" / "info")
    savemat(tmp_path / "b" / "evaluation" / "info" / "query_IDX.mat", {"query_IDX": np.array(QUERIES)[:, None]})
    other = mars.read(tmp_path / "b", "mars")
    assert [t.name for t in other.splits[0].test] == [t.name for t in plain.splits[0].test]
    assert other.splits[0].is_query == plain.splits[0].is_query


@pytest.mark.parametrize("name_files", [False, True])
def test_a_part_of_mars_leaves_out_people_and_says_so(tmp_path, name_files):
    root = write_mars(tmp_path, name_files=name_files)
    for folder in (root / "bbox_train" / "0001", root / "bbox_test" / "00-1"):
        for image in folder.iterdir():
            image.unlink()
        folder.rmdir()
    dataset = mars.read(root, "mars")
    assert [t.person_id for t in dataset.splits[0].train] == [7, 7]
    assert [t.person_id for t in dataset.splits[0].test] == [0, 2, 2, 2, 4, 4]
    assert dataset.splits[0].is_query == (False, True, False, True, True, False)
    assert dataset.notes == (
        "3 of the 5 tracklets in the train table have no images here",
        "2 of the 8 tracklets in the test table have no images here",
    )


@pytest.mark.parametrize("name_files", [False, True])
def test_a_missing_frame_is_named(tmp_path, name_files):
    root = write_mars(tmp_path, name_files=name_files)
    (root / "bbox_test" / "0002" / "0002C1T0001F003.jpg").unlink()
    with pytest.raises(
        BadData, match=r"row 4 \[8, 11, 2, 1\]: 1 of its 4 images" if name_files else "0002: 8 images, 9"
    ):
        mars.read(root, "mars")


def test_images_without_tables_and_tables_without_images(tmp_path):
    with pytest.raises(BadData, match="no bbox_train"):
        mars.read(tmp_path, "mars")
    root = write_mars(tmp_path / "mars")
    (root / "info" / "tracks_train_info.mat").unlink()
    with pytest.raises(BadData, match=r"no tracks_train_info\.mat"):
        mars.read(root, "mars")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (np.zeros((3, 5)), "shape"),
        (np.full((3, 4), 0.5), "whole numbers"),
        (np.full((3, 4), np.nan), "finite"),
        (np.array([["a", "b"]], dtype=object), "not numbers"),
    ],
)
def test_a_table_of_another_kind_is_refused(tmp_path, content, why):
    root = write_mars(tmp_path)
    savemat(root / "info" / "tracks_test_info.mat", {"track_test_info": content})
    with pytest.raises(BadData, match=why):
        mars.read(root, "mars")


def test_files_that_are_no_matlab_files_are_refused(tmp_path):
    root = write_mars(tmp_path)
    path = root / "info" / "tracks_test_info.mat"
    whole = path.read_bytes()
    for content in (b"", b"<html>not found</html>", whole[: len(whole) // 2], b"\x89HDF\r\n\x1a\n" + b"\0" * 600):
        path.write_bytes(content)
        with pytest.raises(BadData, match="tracks_test_info"):
            mars.read(root, "mars")
    savemat(path, {"something_else": np.zeros((2, 4))})
    with pytest.raises(BadData, match="no variable track_test_info, but something_else"):
        mars.read(root, "mars")


def tables():
    (train_names, train_rows), (test_names, test_rows) = make_tables(TRAIN), make_tables(TEST)
    return train_names, test_names, train_rows, test_rows, np.array(QUERIES)


def test_swapped_rows_are_both_named():
    train_names, test_names, train_rows, test_rows, queries = tables()
    test_rows[[3, 5]] = test_rows[[5, 3]]
    with pytest.raises(BadRows) as caught:
        mars.parse_info(train_names, test_names, train_rows, test_rows, queries)
    assert {row.split(" [")[0] for row in caught.value.rows} >= {"test row 4", "test row 6"}
    assert "reordered" in str(caught.value)


def test_a_boundary_moved_between_two_tracklets_of_one_person_is_found():
    train_names, test_names, train_rows, test_rows, queries = tables()
    test_rows[3, 1] -= 1
    test_rows[4, 0] -= 1
    with pytest.raises(BadRows, match="test row 5") as caught:
        mars.parse_info(train_names, test_names, train_rows, test_rows, queries)
    assert len(caught.value.rows) == 1


@pytest.mark.parametrize(
    ("queries", "why"),
    [
        ([0], "not in the test table"),
        ([4, 4], "twice"),
        ([1], "junk"),
        ([3], "a distractor"),
        ([99], "not in the test"),
    ],
)
def test_queries_must_be_rows_of_people(queries, why):
    train_names, test_names, train_rows, test_rows, _ = tables()
    with pytest.raises(BadRows, match=why):
        mars.parse_info(train_names, test_names, train_rows, test_rows, np.array(queries))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(TEST) - 1), st.integers(0, 3), st.integers(-(2**40), 2**40))
def test_any_changed_number_is_found_and_its_row_named(row, column, value):
    train_names, test_names, train_rows, test_rows, queries = tables()
    if test_rows[row, column] == value:
        return
    test_rows[row, column] = value
    with pytest.raises(BadRows) as caught:
        mars.parse_info(train_names, test_names, train_rows, test_rows, queries)
    assert any(bad.startswith((f"test row {row + 1} ", f"test row {row + 2} ")) for bad in caught.value.rows)


@settings(deadline=None, max_examples=100)
@given(st.permutations(range(len(TEST))))
def test_any_reordering_is_found(order):
    train_names, test_names, train_rows, test_rows, queries = tables()
    if list(order) == sorted(order):
        return
    with pytest.raises(BadRows):
        mars.parse_info(train_names, test_names, train_rows, test_rows[list(order)], queries)


@settings(deadline=None, max_examples=50)
@given(st.sets(st.integers(0, len(TEST) - 1), min_size=1))
def test_any_missing_rows_are_found(missing):
    train_names, test_names, train_rows, test_rows, _ = tables()
    with pytest.raises(BadRows):
        mars.parse_info(
            train_names, test_names, train_rows, np.delete(test_rows, list(missing), axis=0), np.array([], dtype=int)
        )


# ---- the real tables ------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(
    not (Path(os.environ.get("AMEM_TEST_REAL_DATA", "/nowhere")) / "mars-info").is_dir(),
    reason="AMEM_TEST_REAL_DATA names no folder with mars-info",
)


@pytest.fixture(scope="module")
def real_tables():
    """The real tables with the image names that the lists of tracklets beside them imply."""
    folder = Path(os.environ["AMEM_TEST_REAL_DATA"]) / "mars-info"

    def names(part, rows):
        stems = [line.split()[0].split("/")[1] for line in (folder / f"list_{part}_seq.txt").read_text().splitlines()]
        lengths = rows[:, 1] - rows[:, 0] + 1
        return [f"{stem}F{k:03d}.jpg" for stem, n in zip(stems, lengths, strict=True) for k in range(1, n + 1)]

    train, test = mars._table(folder / "tracks_train_info.mat"), mars._table(folder / "tracks_test_info.mat")
    return names("train", train), names("test", test), train, test, mars._query_rows(folder / "query_IDX.mat")


@real
@pytest.mark.realdata
def test_the_real_tables_give_the_published_counts(real_tables):
    info = mars.parse_info(*real_tables)

    def tracklets(rows):
        return tuple(Tracklet(row.name, row.person_id, row.camera_id, "", row.files) for row in rows)

    split = Split(tracklets(info.train), tracklets(info.test), info.is_query, "official")
    manifest = manifests.load_manifest("mars")
    dataset = VideoDataset("mars", (split,), numbered=False)
    assert manifests.count_differences(manifest, dataset) == []
    assert set(manifest.counts) <= set(manifests.dataset_counts(dataset))


@real
@pytest.mark.realdata
def test_two_swapped_rows_of_the_real_table_are_found(real_tables):
    train_names, test_names, train, test, queries = real_tables
    swapped = test.copy()
    swapped[[5000, 5001]] = swapped[[5001, 5000]]
    with pytest.raises(BadRows, match="test row 5001"):
        mars.parse_info(train_names, test_names, train, swapped, queries)
