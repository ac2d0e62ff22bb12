"""iLIDS-VID and PRID-2011: people in two cameras, official splits, the 27-frame rule."""

import json
import os
from pathlib import Path

import pytest
from scipy.io import savemat

from amem_cli.data.readers import ilids_vid, prid2011
from amem_cli.data.readers.files import BadRows
from amem_cli.data.readers.splits import Protocol, read_split_file
from amem_cli.errors import BadData

SEQUENCES = "i-LIDS-VID/sequences"
ILIDS = [1, 2, 4, 5, 300]
# frames of each person in cam_a and cam_b
PRID = {1: (27, 40), 2: (26, 40), 3: (30, 27), 7: (27, 21), 10: (50, 50), 200: (27, 27), 201: (60, 60)}
BY_RULE = ["person_0001", "person_0003", "person_0010", "person_0200"]


@pytest.fixture
def ilids(tree) -> Path:
    for camera in ("cam1", "cam2"):
        for person in (f"{camera}/person{number:03d}" for number in ILIDS):
            frames = [f"{SEQUENCES}/{person}/{person.replace('/', '_')}_{frame}.png" for frame in ("9", "00010")]
            root = tree(*frames, f"i-LIDS-VID/images/{person}/single.png")
    return root


@pytest.fixture
def prid(tree) -> Path:
    for person, lengths in PRID.items():
        for camera, frames in zip(("cam_a", "cam_b"), lengths, strict=True):
            place = f"{camera}/person_{person:04d}"
            root = tree(*(f"x/multi_shot/{place}/{frame:04d}.png" for frame in range(1, frames + 1)))
            tree(f"x/single_shot/{place}.png")
    return root


def test_ilids_drawn_splits(ilids):
    (ilids / SEQUENCES / "cam1" / "@eaDir").mkdir()
    dataset = ilids_vid.read(ilids, "ilids-vid", Protocol(splits=3, train_fraction=0.4, seed=2))
    assert (dataset.numbered, len(dataset.splits)) == (True, 3)
    assert dataset.notes[0].startswith("1 folder ignored")
    for split in dataset.splits:
        assert split.source == "drawn with seed 2"
        assert len(split.train) == 4
        assert [t.camera_id for t in split.test] == [1, 1, 1, 2, 2, 2]
        assert split.is_query == (True,) * 3 + (False,) * 3
        assert sorted({t.person_id for t in (*split.train, *split.test)}) == ILIDS
    one = next(t for t in dataset.splits[0].train if t.camera_id == 1)
    assert one.name == f"cam1/person{one.person_id:03d}"
    assert [file.rsplit("_")[-1] for file in one.files] == ["9.png", "00010.png"]
    assert all(path.is_file() and path.is_absolute() and "sequences" in path.parts for path in one.frames)


@pytest.mark.slow
def test_ilids_official_splits(ilids):
    table = [[3, 1, 2, 5, 4], [5, 4, 1, 3, 2]]  # the first half of a row (2 of 5) tests
    file = ilids / "train_test_splits_ilidsvid.mat"
    savemat(file, {"ls_set": table})
    (ilids / SEQUENCES / "cam1" / "person003").mkdir()  # empty: no person, so not counted
    dataset = ilids_vid.read(ilids, "ilids-vid", Protocol())
    assert [{t.person_id for t in split.test} for split in dataset.splits] == [{1, 4}, {5, 300}]
    assert [{t.person_id for t in split.train} for split in dataset.splits] == [{2, 5, 300}, {1, 2, 4}]
    assert dataset.notes[0].startswith("1 folder ignored")
    for bad, why in (([[1, 2, 3, 4, 4]], "row 0"), ([[1, 2, 3, 4]], "has 4 people, and 5 are here")):
        savemat(file, {"ls_set": bad})
        with pytest.raises(BadData, match=why):
            ilids_vid.read(ilids, "ilids-vid", Protocol())


def test_ilids_split_file_with_absent_people(ilids):
    file = ilids / "splits.json"
    file.write_text(json.dumps([{"train": ["person001", "person300"], "test": ["person002", "person299"]}]))
    dataset = ilids_vid.read(ilids, "ilids-vid", Protocol())
    assert dataset.notes == (
        "2 people not in splits.json: person004; person005",
        "1 person in splits.json without images in both cameras: person299",
    )
    assert [t.name for t in dataset.splits[0].test] == ["cam1/person002", "cam2/person002"]
    assert {t.person_id for t in dataset.splits[0].train} == {1, 300}
    file.write_text(json.dumps([{"train": ["person299"], "test": ["person002"]}]))
    with pytest.raises(BadRows, match="person299"):
        ilids_vid.read(ilids, "ilids-vid", Protocol())


def test_ilids_bad_folders_are_all_named(ilids, tree):
    names = ("cam1/nobody/1.png", "cam1/person0001/1.png", "cam2/person002/cam2_person002_010.png")
    tree(*names, below=SEQUENCES)
    with pytest.raises(BadRows) as caught:
        ilids_vid.read(ilids, "ilids-vid", Protocol())
    found = [row.partition(":")[0] for row in caught.value.rows]
    assert found == ["cam1/nobody", "cam1/person001", "cam2/person001", "cam2/person002"]


def test_ilids_images_at_other_levels(ilids, tree):
    tree("cam1/loose.png", "cam2/person001/deep/1.png", below=SEQUENCES)
    (note,) = ilids_vid.read(ilids, "ilids-vid", Protocol()).notes
    assert note == "2 folders with images left out, not in <camera>/<person>: cam1; cam2/person001/deep"


def test_ilids_without_people(tree):
    with pytest.raises(BadData, match="no sequences/cam1"):
        ilids_vid.read(tree(), "ilids-vid", Protocol())
    with pytest.raises(BadData, match="no person has images in both"):
        ilids_vid.read(tree("sequences/cam1/p1/1.png", "sequences/cam2/p2/1.png"), "ilids-vid", Protocol())


def test_prid_without_split_file_uses_the_rule(prid):
    dataset = prid2011.read(prid, "prid2011", Protocol())
    assert len(dataset.splits) == 10
    for split in dataset.splits:
        assert sorted({t.name.split("/")[1] for t in (*split.train, *split.test)}) == BY_RULE
        assert [t.camera_id for t in split.test] == [1, 1, 2, 2]
    assert dataset.notes == ()
    assert prid2011.extra_counts(prid) == {"people_in_cam_a": 7, "people_in_cam_b": 7, "people_by_rule": 4}


def test_prid_split_file(prid):
    file = prid / "x" / "splits_prid2011.json"
    splits = [{"train": ["person_0001", "person_0002"], "test": ["person_0003", "person_0010", "person_0150"]}]
    file.write_text(json.dumps(splits))
    dataset = prid2011.read(prid, "prid2011", Protocol())
    assert dataset.notes == (
        "2 people in splits_prid2011.json or of the 27-frame rule, not both: person_0002; person_0200",
        "1 person in splits_prid2011.json without images in both cameras: person_0150",
    )
    assert dataset.splits[0].source == "file splits_prid2011.json"
    # beyond 200 the numbers are different people in the two cameras
    file.write_text(json.dumps([{"train": ["person_0001"], "test": ["person_0201"]}]))
    with pytest.raises(BadData, match="person_0201"):
        prid2011.read(prid, "prid2011", Protocol())


REAL = Path(os.environ.get("AMEM_TEST_REAL_DATA", "/nowhere"))


@pytest.mark.realdata
@pytest.mark.skipif(not (REAL / "splits_prid2011.json").is_file(), reason="AMEM_TEST_REAL_DATA names no such folder")
def test_real_split_files():
    (split,) = read_split_file(REAL / "ilids-split0.json")
    assert (len(split.train), len(split.test)) == (150, 150)
    splits = read_split_file(REAL / "splits_prid2011.json")
    assert [(len(split.train), len(split.test)) for split in splits] == [(89, 89)] * 10
    (people,) = {frozenset((*split.train, *split.test)) for split in splits}
    assert max(int(person.removeprefix("person_")) for person in people) <= prid2011.IN_BOTH_CAMERAS


def test_third_camera_is_refused(ilids, tree):
    tree("cam3/person001/1.png", below=SEQUENCES)
    with pytest.raises(BadData, match=r'cam3 next to cam1 and cam2.*folders = "camera/person"'):
        ilids_vid.read(ilids, "ilids-vid", Protocol())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("i-LIDS-VID/train-test_people_splits", "Train_Test_Splits.mat"),
        ("a/b/c", "splits.mat"),  # three folders deep
        (SEQUENCES, "splits.mat"),
        (".", "ilidsvid.mat"),  # the only .mat file
    ],
)
def test_split_file_of_any_name_is_used(ilids, tree, place, name):
    savemat(tree(name, below=place) / place / name, {"ls_set": [[3, 1, 2, 5, 4]]})
    (split,) = ilids_vid.read(ilids, "ilids-vid", Protocol()).splits
    assert split.source == f"file {name}"


def test_matlab_file_next_to_the_data_set_is_not_used(ilids):
    savemat(ilids / "PETA.mat", {"ls_set": [[3, 1, 2, 5, 4]]})
    (split,) = ilids_vid.read(ilids / "i-LIDS-VID", "ilids-vid", Protocol(splits=1)).splits
    assert split.source == "drawn with seed 0"


def test_prid_with_short_tracklets_alone(tree):
    root = tree("cam_a/person_0001/1.png", "cam_b/person_0001/1.png")
    with pytest.raises(BadData, match=r"no person up to 200 has 27 frames in both.*folders = .camera/person"):
        prid2011.read(root, "prid2011", Protocol())


@pytest.mark.slow
def test_prid_official_splits(prid):
    savemat(prid / "train_test_splits_prid.mat", {"ls_set": [[4, 1, 3, 2]]})
    (split,) = prid2011.read(prid, "prid2011", Protocol()).splits
    assert sorted({t.person_id for t in split.test}) == [1, 200]
    savemat(prid / "train_test_splits_prid.mat", {"ls_set": [[1, 2]]})
    with pytest.raises(BadData, match="has 2 people, and 4 are here"):
        prid2011.read(prid, "prid2011", Protocol())


@pytest.mark.parametrize(
    ("names", "why"), [(["folds.txt"], "neither a .json nor"), (["a/split.json", "train.json"], "several files")]
)
def test_split_files_that_cannot_be_used(ilids, tree, names, why):
    with pytest.raises(BadData, match=why):
        ilids_vid.read(tree(*names), "ilids-vid", Protocol())
