"""Own data in folders, trees of images, and Market-1501: levels, ids, cameras, distractors, splits."""

import json
import os
import unicodedata
from pathlib import Path

import pytest

from amem_cli.data.readers import folder, images, market1501
from amem_cli.data.readers.files import BadRows
from amem_cli.data.readers.splits import Protocol
from amem_cli.errors import BadData

TWO = ("1", "2")
TRAIN = ("0007_c2s1_000100_01.jpg", "0002_c1s1_000451_03.jpg", "0002_c1s1_000451_01.jpg", "-1_c1s1_000001_01.jpg")
TEST = ("0000_c1s1_000001_00.jpg", "-1_c1s1_000001_02.jpg", "0001_c1s1_000001_00.jpg.jpg", "0003_c1s1_000001_00.jpg")


@pytest.fixture
def people(tree):
    """Makes three frames for each camera of each person."""

    def make(cameras_of, frames=("1.jpg", "2.png", "10.bmp")):
        names = [f"{person}/{camera}" for person, cameras in cameras_of.items() for camera in cameras]
        return tree(*(f"{name}/{frame}" for name in names for frame in frames))

    return make


def ids(dataset) -> dict[str, tuple[int, int]]:
    split = dataset.splits[0]
    return {t.name: (t.person_id, t.camera_id) for t in (*split.train, *split.test)}


def test_read_ids_are_the_numbers(people):
    dataset = folder.read(people({"0002": TWO, "10": ("2", "10"), "7": TWO}), "own", Protocol(splits=3))
    assert (dataset.numbered, len(dataset.splits), dataset.notes) == (True, 3, ())
    expected = {"0002/1": (2, 1), "0002/2": (2, 2), "10/2": (10, 2), "10/10": (10, 10), "7/1": (7, 1), "7/2": (7, 2)}
    assert ids(dataset) == expected
    tracklets = (*dataset.splits[0].train, *dataset.splits[0].test)
    assert all(t.files == ("1.jpg", "2.png", "10.bmp") and Path(t.folder).is_absolute() for t in tracklets)


@pytest.mark.parametrize("names", [("0", "ada", "bea"), ("-1", "0", "1"), ("0", "1", "2")])
def test_read_other_names_are_counted_from_one(people, names):
    found = ids(folder.read(people(dict.fromkeys(names, ("door", "hall"))), "own", Protocol()))
    assert [found[f"{name}/hall"] for name in names] == [(1, 2), (2, 2), (3, 2)]
    assert [found[f"{name}/door"] for name in names] == [(1, 1), (2, 1), (3, 1)]


def test_read_system_and_empty_folders_change_no_ids(people):
    root = people({"5": TWO, "9": TWO, "@eaDir": TWO})
    for name in ("lost+found", "empty", "3/1", "5/empty", "9/@eaDir/1.jpg"):
        (root / name).mkdir(parents=True)
    dataset = folder.read(root, "own", Protocol())
    assert ids(dataset) == {"5/1": (5, 1), "5/2": (5, 2), "9/1": (9, 1), "9/2": (9, 2)}
    (note,) = dataset.notes
    assert note.startswith("6 folders ignored")


def test_read_images_at_other_levels_are_reported(people, tree):
    root = people({"5": TWO, "9": TWO})
    for name in ("5/loose.jpg", "5/1/more/1.jpg", "backup/5/1/1.jpg", "5/1/none/readme.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    ignored, left_out = folder.read(root, "own", Protocol()).notes
    assert left_out == "3 folders with images left out, not in <person>/<camera>: 5; 5/1/more; backup"
    assert ignored.startswith("1 folder ignored")
    assert ignored.endswith(": 5/1/none")


def test_read_lone_people_are_distractors(people):
    root = people({"1": ("3", "10", "4"), "2": TWO, "3": TWO, "4": TWO, "5": ("2",), "6": ("1",)})
    dataset = folder.read(root, "own", Protocol(splits=20, train_fraction=0.25, seed=1))
    assert dataset.notes == ("2 people seen in one camera, in the galleries only: 5; 6",)
    for split in dataset.splits:
        assert len({t.person_id for t in split.train}) == 1
        queries = {t.name for t, query in zip(split.test, split.is_query, strict=True) if query}
        assert queries < {"1/3", "2/1", "3/1", "4/1"}
        assert len(queries) == 3
        assert {"5/2", "6/1"} <= {t.name for t in split.test} - queries
    assert {t.person_id for split in dataset.splits for t in split.train} == {1, 2, 3, 4}


def test_read_split_file(people):
    root = people({"ada": TWO, "bea": TWO, "cleo": ("1",), "dora": TWO})
    file = root / "splits.json"
    file.write_text(json.dumps([{"train": ["ada"], "test": ["bea", "cleo"]}]))
    dataset = folder.read(root, "own", Protocol(file=str(file)))
    (split,) = dataset.splits
    assert [t.name for t in split.train] == ["ada/1", "ada/2"]
    assert [t.name for t in split.test] == ["bea/1", "bea/2", "cleo/1"]
    assert (split.is_query, split.source) == ((True, False, False), "file splits.json")
    assert dataset.notes == ("1 person not in splits.json: dora",)
    for test, why in ((["bea", "zoe", "eve"], "not in .*: eve; zoe"), (["cleo"], "two cameras: split 0")):
        file.write_text(json.dumps([{"train": ["ada"], "test": test}]))
        with pytest.raises(BadData, match=why):
            folder.read(root, "own", Protocol(file=str(file)))


def test_read_refuses(people, tree):
    with pytest.raises(BadData, match="no images"):
        folder.read(tree(), "own", Protocol())
    with pytest.raises(BadData, match="there are 1"):
        folder.read(people({"1": TWO, "3": ("1",)}), "own", Protocol())
    root = people({"2": TWO})
    tree("1/9.jpg")
    assert "1 folder with images left out, not in <person>/<camera>: 1" in folder.read(root, "own", Protocol()).notes
    people({"01": TWO})
    tree("2/2/001.jpg")
    with pytest.raises(BadData, match=r"'01' and '1' are the same number; 2/2: .* have the same number"):
        folder.read(root, "own", Protocol())
    os.rename(root / "01", os.fsencode(root) + b"/caf\xe9")
    with pytest.raises(BadData, match="cannot be stored as a name"):
        folder.read(root, "own", Protocol())


def test_market1501(tree):
    for part, names in (("bounding_box_train", TRAIN), ("bounding_box_test", TEST), ("query", TEST[2:])):
        root = tree(*names, "Thumbs.db", below=f"Market-1501-v15.09.15/{part}")
    dataset = market1501.read(root, "market1501")
    assert [path.name for path in dataset.paths] == [TRAIN[2], TRAIN[1], TRAIN[0]]
    assert dataset.person_ids == (2, 2, 7)
    assert all(path.is_file() and path.is_absolute() for path in dataset.paths)
    assert dataset.notes == ("1 junk image (person -1) left out",)
    counts = market1501.extra_counts(root)
    assert counts == {
        "test_images": 4, "distractor_images": 1, "junk_images": 1, "real_test_images": 2, "query_images": 2,
    }  # fmt: skip
    tree("portrait.jpg", "x_c1.jpg", below="Market-1501-v15.09.15/bounding_box_train")
    with pytest.raises(BadData, match=r"'portrait.jpg'; 'x_c1.jpg'"):
        market1501.read(root, "market1501")


def test_market1501_without_images(tree):
    with pytest.raises(BadData, match="no bounding_box_train"):
        market1501.read(tree(), "market1501")
    with pytest.raises(BadData, match="no images"):
        market1501.read(tree("bounding_box_train/Thumbs.db"), "market1501")


def test_market1501_by_person_folders(tree):
    root = tree("0002/c1/0002_c1s1_000451_03.jpg", "0007/a.jpg", "-1/b.jpg", "@eaDir/c.jpg", below=market1501.TRAIN)
    dataset = market1501.read(root, "market1501")
    assert dataset.person_ids == (2, 7)
    assert dataset.notes[0].endswith(": @eaDir")


FORMS = {
    "camera/person": "cam{camera}/{person:04d}/{frame}.jpg",
    "person/camera/tracklet": "{person:04d}/c{camera}/t1/{frame}.jpg",
    "camera/person/tracklet": "cam_{camera}/{person:04d}/a/{frame}.jpg",
    "person/tracklet": "{person:04d}/{camera}7/{person:04d}_C{camera}_F{frame}.jpg",
    "split/person/camera": "{side}/{person:04d}/c{camera}/{frame}.jpg",
}


@pytest.fixture
def form(tree):
    """Makes four people in two cameras in one of `FORMS`; people 1 and 2 are in train, 3 and 4 in test."""

    def make(levels: str, sides=("train", "train", "test", "test")) -> Path:
        people = [(person, camera, frame) for person in range(1, 5) for camera in (1, 2) for frame in (1, 2)]
        names = [
            FORMS[levels].format(person=person, camera=camera, frame=frame, side=sides[person - 1])
            for person, camera, frame in people
        ]
        return tree(*names, below="own")

    return make


@pytest.mark.parametrize("levels", FORMS)
def test_read_levels(form, levels):
    root = form(levels)
    place, guessed = folder.guess(root)
    assert guessed == levels
    dataset = folder.read(place, "own", Protocol(splits=1), guessed)
    (split,) = dataset.splits
    tracklets = (*split.train, *split.test)
    assert {(t.person_id, t.camera_id) for t in tracklets} == {(p, c) for p in range(1, 5) for c in (1, 2)}
    assert all(len(t) == 2 and t.frames[0].is_file() for t in tracklets)
    assert len({t.person_id for t in split.train}) == 2
    assert sum(split.is_query) == 2
    assert dataset.notes == ()
    if "split" in levels:
        assert {t.person_id for t in split.train} == {1, 2}
    assert ids(folder.read(root, "own", Protocol(), guessed)) == ids(dataset)  # below an archive's folder


def test_read_several_tracklets_in_a_camera(tree):
    names = [f"{person}/{camera}/{number}/1.jpg" for person in "12" for camera in "12" for number in ("2", "10")]
    root = tree(*names, "3/1/1/1.jpg", "3/1/2/1.jpg")
    dataset = folder.read(root, "own", Protocol(splits=1), "person/camera/tracklet")
    (split,) = dataset.splits
    assert [t.name.split("/", 1)[1] for t in split.test[:4]] == ["1/2", "1/10", "2/2", "2/10"]
    assert split.is_query == (True, True, False, False, False, False)
    assert dataset.notes == ("1 person seen in one camera, in the galleries only: 3",)


def test_read_level_split_with_queries(tree, form):
    root = form("split/person/camera")
    tree("query/0003/c2/9.jpg", "query/0004/c1/9.jpg", below="own")
    (split,) = folder.read(root, "own", Protocol(), "split/person/camera").splits
    queries = {t.name for t, query in zip(split.test, split.is_query, strict=True) if query}
    assert queries == {"query/0003/c2", "query/0004/c1"}
    tree("dev/0003/c1/1.jpg", "train/0003/c1/1.jpg", below="own")
    with pytest.raises(BadData, match=r"dev/0003/c1: its folder is not named train.*; 0003 is in training and test"):
        folder.read(root, "own", Protocol(), "split/person/camera")


def test_read_level_split_with_validation_people(form):
    root = form("split/person/camera", sides=("training", "validation", "testing", "testing"))
    place, levels = folder.guess(root)
    (split,) = folder.read(place, "own", Protocol(), levels).splits
    assert {t.person_id for t in split.train} == {1, 2}
    assert split.source == "the folders of the level split, val among train"


def test_read_level_split_without_training(form):
    root = form("split/person/camera", sides=("query", "query", "gallery", "gallery"))
    with pytest.raises(BadData, match="no training people"):
        folder.read(root, "own", Protocol(), "split/person/camera")


def test_read_doubts_cameras_first(people):
    root = people({"hallA": ("0001", "0002", "0003"), "hallB": ("0001", "0002", "0003")})
    (note,) = folder.read(root, "own", Protocol()).notes
    assert note.startswith("2 people in 3 cameras")
    assert folder.read(root, "own", Protocol(), "person/camera").notes == ()
    assert folder.guess(root)[1] == "camera/person"  # people outnumber cameras


def test_guess_cameras_before_people_and_tracklets(people, tree):
    root = people({f"{hall}/{person}": ("t1", "t2") for hall in ("hallA", "hallB") for person in ("1", "2", "3")})
    assert folder.guess(root)[1] == "camera/person/tracklet"
    one = tree(*(f"{n}/day1/{c}/1.jpg" for n in "123" for c in "ab"), below="one") / "one"
    assert folder.guess(one)[1] == "person/tracklet/camera"  # one name is no camera
    single = tree(*(f"{n}/000{n}_c{c}s1_1.jpg" for n in "12" for c in "12"), below="images/train")
    assert folder.guess(single / "images") is None  # single images, of several cameras


def test_read_doubts_names_of_cameras(people):
    root = people({f"cam{n}": ("0001", "0002") for n in range(3)})
    (note,) = folder.read(root, "own", Protocol()).notes
    assert note.startswith("3 people in 2 cameras: if the first level is the camera")


def test_read_other_depth_names_the_levels(form):
    with pytest.raises(BadData, match=r'for example own/0001/c1/t1/1.jpg\. Set folders = "person/camera/tracklet"'):
        folder.read(form("person/camera/tracklet"), "own", Protocol())


def test_read_second_copies(people):
    root = people({"1": TWO, "2": TWO}, frames=("1.jpg", "2.jpg", "2 (1).jpg", "3 (1).jpg"))
    (note,) = folder.read(root, "own", Protocol()).notes
    assert note.startswith("4 images with the name of a second copy: 1/1/2 (1).jpg")


@pytest.mark.parametrize("name", ["my_Splits.json", "train_ids.txt", "Partition.mat", "query.txt", "val.lst"])
@pytest.mark.parametrize("place", ["", "inner/", "meta/a/b/"])
def test_read_split_file_that_is_not_named(people, name, place):
    root = people({f"{place}1": TWO, f"{place}2": TWO} if place == "inner/" else {"1": TWO, "2": TWO})
    (root / place).mkdir(parents=True, exist_ok=True)
    (root / place / "latest.txt").write_text("no splits")
    folder.read(root, "own", Protocol())
    (root / place / name).write_text("[]")
    with pytest.raises(BadData, match=f"{name} may hold its splits"):
        folder.read(root, "own", Protocol())


def test_read_folder_of_split_files(people):
    root = people({"1": TWO, "2": TWO})
    (root / "people_splits").mkdir()
    folder.read(root, "own", Protocol())
    (root / "people_splits" / "0.txt").write_text("1")
    with pytest.raises(BadData, match="people_splits may hold its splits"):
        folder.read(root, "own", Protocol())


def test_read_two_names_of_one_spelling(people):
    root = people({unicodedata.normalize(form, "é"): TWO for form in ("NFC", "NFD")} | {"bea": TWO})
    with pytest.raises(BadRows, match="are the same name, with the letters composed"):
        folder.read(root, "own", Protocol())


def test_read_frames_of_unknown_order(people):
    root = people({"1": TWO, "2": TWO}, frames=("a1.jpg", "b1.jpg"))
    (note,) = folder.read(root, "own", Protocol()).notes
    assert note.startswith("4 folders with frame names of several kinds")


def test_read_split_file_in_other_unicode(people, tmp_path):
    root = people({unicodedata.normalize("NFD", "é"): TWO, "bea": TWO})
    (tmp_path / "s.txt").write_bytes(json.dumps([{"train": ["bea"], "test": ["é"]}]).encode("utf-16"))
    (split,) = folder.read(root, "own", Protocol(file=str(tmp_path / "s.txt"))).splits
    assert len(split.test) == 2
    (tmp_path / "s.txt").write_bytes('[{"train": ["bea"], "test": ["é"]}]'.encode("latin-1"))
    with pytest.raises(BadData, match="Save it in UTF-8"):
        folder.read(root, "own", Protocol(file=str(tmp_path / "s.txt")))


def test_images_of_any_tree(tree):
    flat = images.read(tree("b.jpg", "a.png", below="flat") / "flat", "own")
    assert ([path.name for path in flat.paths], flat.person_ids) == (["a.png", "b.jpg"], (1, 2))
    root = tree("x/ann/1.jpg", "y/bob/1.jpg", "x/ann/2.jpg", "@eaDir/1.jpg", below="tree")
    people = images.read(root / "tree", "own")
    assert people.person_ids == (1, 1, 2)
    names = images.read(tree("q/0002_c1s1_1.jpg", "g/0002C3T1F1.jpg", "-1_c1.jpg", below="m") / "m", "own")
    assert (names.person_ids, names.notes) == ((2, 2), ("1 junk image (person -1) left out",))
    with pytest.raises(BadData, match=r"1 .webp files"):
        images.read(tree("1.webp", below="none") / "none", "own")


def test_market1501_second_copies(tree):
    root = tree(TRAIN[0], TRAIN[0].replace(".jpg", " (1).jpg"), below="bounding_box_train")
    (note,) = market1501.read(root, "market1501").notes
    assert note.startswith("1 image with the name of a second copy: bounding_box_train/0007_c2s1_000100_01 (1).jpg")
