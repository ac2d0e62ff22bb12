import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from amem_cli.data.readers import ilids_vid
from amem_cli.data.readers.files import BadRows, frames_in_order
from amem_cli.data.readers.splits import draw_splits, read_split_file
from amem_cli.errors import BadData

PEOPLE = ("person001", "person002", "person005", "person009")
FRAMES = (7, 8, 30, 100, 1000)  # in this order only by number


def write_ilids(root: Path, people=PEOPLE) -> Path:
    for camera in ("cam1", "cam2"):
        for person in people:
            folder = root / "i-LIDS-VID" / "sequences" / camera / person
            folder.mkdir(parents=True)
            for frame in FRAMES:
                Image.new("RGB", (4, 8)).save(folder / f"{camera}_{person}_{frame}.png")
    shots = root / "i-LIDS-VID" / "images" / "cam1" / "person001"  # the single shots are no sequences
    shots.mkdir(parents=True)
    Image.new("RGB", (4, 8)).save(shots / "cam1_person001.png")
    return root


def test_drawn_splits_say_so_and_are_cross_camera(tmp_path):
    dataset = ilids_vid.read(write_ilids(tmp_path), "ilids-vid", seed=3)
    assert dataset.numbered
    assert len(dataset.splits) == 10
    for split in dataset.splits:
        assert split.source == "drawn with seed 3"
        queries = [t for t, query in zip(split.test, split.is_query, strict=True) if query]
        gallery = [t for t, query in zip(split.test, split.is_query, strict=True) if not query]
        assert [t.camera_id for t in queries] == [1, 1]
        assert [t.camera_id for t in gallery] == [2, 2]
        assert {t.person_id for t in queries} == {t.person_id for t in gallery}
        assert not {t.person_id for t in split.train} & {t.person_id for t in split.test}
    assert len({tuple(t.name for t in split.train) for split in dataset.splits}) > 1
    again = ilids_vid.read(tmp_path, "ilids-vid", seed=3)
    assert again == dataset
    assert ilids_vid.read(tmp_path, "ilids-vid", seed=4).splits != dataset.splits


def test_frames_are_ordered_by_number(tmp_path):
    tracklet = ilids_vid.read(write_ilids(tmp_path), "ilids-vid").splits[0].train[0]
    assert tracklet.files == tuple(f"{tracklet.name.replace('/', '_')}_{frame}.png" for frame in FRAMES)


def test_frames_with_the_same_number_are_refused():
    assert frames_in_order(["10.jpg", "9.jpg", "9_1.jpg"]) == ("9.jpg", "9_1.jpg", "10.jpg")
    with pytest.raises(ValueError, match="same number"):
        frames_in_order(["1.jpg", "01.jpg"])


def test_official_mat_tests_the_first_half_of_the_columns(tmp_path):
    root = write_ilids(tmp_path)
    (root / "train-test people splits").mkdir()
    path = root / "train-test people splits" / "train_test_splits_ilidsvid.mat"
    savemat(path, {"ls_set": np.array([[4, 1, 2, 3], [2, 3, 4, 1]])})
    (root / "splits.json").write_text("this is not looked at")
    dataset = ilids_vid.read(root, "ilids-vid")
    assert [split.source for split in dataset.splits] == ["file train_test_splits_ilidsvid.mat"] * 2
    assert [t.name for t in dataset.splits[0].test] == [
        "cam1/person001", "cam1/person009", "cam2/person001", "cam2/person009",
    ]  # fmt: skip
    assert [t.name for t in dataset.splits[1].train][::2] == ["cam1/person001", "cam1/person009"]
    assert [t.person_id for t in dataset.splits[0].train] == [2, 2, 5, 5]

    savemat(path, {"ls_set": np.array([[4, 1, 2, 2]])})
    with pytest.raises(BadRows, match="once each: row 0"):
        ilids_vid.read(root, "ilids-vid")
    savemat(path, {"ls_set": np.arange(1, 7)[None]})
    with pytest.raises(BadData, match=r"counts 6 people .* 4 are there"):
        ilids_vid.read(root, "ilids-vid")


@pytest.mark.parametrize("place", [".", "i-LIDS-VID"])
def test_splits_json_is_found_beside_the_data_and_one_level_up(tmp_path, place):
    root = write_ilids(tmp_path)
    splits = [{"train": ["person001", "person005"], "test": ["person002", "person009"]}]
    (root / place / "splits.json").write_text(json.dumps(splits))
    (split,) = ilids_vid.read(root, "ilids-vid").splits
    assert split.source == "file splits.json"
    assert {t.person_id for t in split.train} == {1, 5}


def test_people_of_the_list_who_are_not_there_are_named(tmp_path):
    root = write_ilids(tmp_path)
    splits = [{"train": ["person001", "person300"], "test": ["person002", "person299"]}]
    (root / "splits.json").write_text(json.dumps(splits))
    dataset = ilids_vid.read(root, "ilids-vid")
    assert dataset.notes == ("2 people of splits.json are not there in both cameras: person299; person300",)
    assert {t.person_id for t in dataset.splits[0].train} == {1}
    (root / "splits.json").write_text(json.dumps([{"train": ["person300"], "test": ["person002"]}]))
    with pytest.raises(BadRows, match="person300"):
        ilids_vid.read(root, "ilids-vid")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "not a list"),
        ("[]", "not a list"),
        ('[{"train": ["a"]}]', "split 0: not an object"),
        ('[{"train": ["a"], "test": []}]', "split 0: test is not a list of names"),
        ('[{"train": ["a"], "test": [1]}]', "split 0: test is not a list of names"),
        ('[{"train": ["a"], "test": ["b", "b"]}]', "repeats 'b'"),
        ('[{"train": ["a", "b"], "test": ["b"]}]', "'b' .1 in all. train and are tested"),
        ('[{"train": ["../../etc"], "test": ["b"]}]', "not a plain name"),
        ('[{"train": ["a\\u0000"], "test": ["/b"]}]', "not a plain name"),
        ('[{"train": ["C:\\\\x"], "test": ["b"]}]', "not a plain name"),
    ],
)
def test_bad_split_files_are_refused(tmp_path, content, why):
    path = tmp_path / "splits.json"
    path.write_text(content)
    with pytest.raises(BadData, match=why):
        read_split_file(path)


def test_a_drawn_split_does_not_depend_on_how_many_are_drawn():
    people = [f"p{k}" for k in range(11)]
    assert draw_splits(people, 10, 0.5, 0)[:3] == draw_splits(reversed(people), 3, 0.5, 0)
    for fraction, expected in ((0.01, 1), (0.5, 6), (0.99, 10)):
        split = draw_splits(people, 1, fraction, 0)[0]
        assert len(split.train) == expected
        assert sorted((*split.train, *split.test)) == sorted(people)


def test_no_images_is_bad_data(tmp_path):
    with pytest.raises(BadData, match="no sequences/cam1"):
        ilids_vid.read(tmp_path, "ilids-vid")
    for camera in ("cam1", "cam2"):
        (tmp_path / "sequences" / camera / "person001").mkdir(parents=True)
    with pytest.raises(BadData, match="nobody has images in both"):
        ilids_vid.read(tmp_path, "ilids-vid")


REAL_SPLIT = Path(os.environ.get("AMEM_TEST_REAL_DATA", "/nowhere")) / "ilids-split0.json"


@pytest.mark.realdata
@pytest.mark.skipif(not REAL_SPLIT.is_file(), reason="AMEM_TEST_REAL_DATA names no folder with ilids-split0.json")
def test_the_real_split_has_150_people_on_each_side(tmp_path):
    (split,) = read_split_file(REAL_SPLIT)
    assert (len(split.train), len(split.test)) == (150, 150)
    numbers = sorted(int(person.removeprefix("person")) for person in (*split.train, *split.test))
    assert (numbers[0], numbers[-1]) == (1, 319)
