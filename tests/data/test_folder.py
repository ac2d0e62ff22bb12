import json
import os
from pathlib import Path

import pytest
from PIL import Image

from amem_cli.data.readers import folder
from amem_cli.errors import BadData


def write_people(root: Path, cameras_of: dict[str, tuple[str, ...]], frames=("1.jpg", "2.png", "10.bmp")) -> Path:
    for person, cameras in cameras_of.items():
        for camera in cameras:
            (root / person / camera).mkdir(parents=True)
            for frame in frames:
                Image.new("RGB", (4, 8)).save(root / person / camera / frame)
    return root


TWO = ("1", "2")


def test_integer_names_are_ids_and_frames_are_ordered_by_number(tmp_path):
    write_people(tmp_path, {"0002": TWO, "10": ("2", "10"), "7": TWO, "0100": TWO})
    dataset = folder.read(tmp_path, "own", splits=3)
    tracklets = {t.name: t for t in (*dataset.splits[0].train, *dataset.splits[0].test)}
    assert {name: (t.person_id, t.camera_id) for name, t in tracklets.items()}["10/10"] == (10, 10)
    assert tracklets["0100/1"].person_id == 100
    assert tracklets["7/1"].files == ("1.jpg", "2.png", "10.bmp")
    assert all(path.is_file() and path.is_absolute() for t in tracklets.values() for path in t.frames)
    assert dataset.numbered
    assert len(dataset.splits) == 3


def test_other_names_are_counted_from_one_in_sorted_order(tmp_path):
    write_people(tmp_path, {"bea": ("door", "hall"), "0": ("door", "hall"), "ada": ("door", "hall")})
    split = folder.read(tmp_path, "own").splits[0]
    ids = {t.name: (t.person_id, t.camera_id) for t in (*split.train, *split.test)}
    assert ids["0/door"] == (1, 1)
    assert ids["ada/hall"] == (2, 2)
    assert ids["bea/door"] == (3, 1)


def test_ids_never_are_those_of_junk_and_distractors(tmp_path):
    write_people(tmp_path, {"0": TWO, "1": TWO, "-1": TWO})
    split = folder.read(tmp_path, "own").splits[0]
    assert sorted({t.person_id for t in (*split.train, *split.test)}) == [1, 2, 3]


def test_queries_are_the_first_camera_and_lone_people_are_distractors(tmp_path):
    write_people(tmp_path, {"1": ("3", "10", "4"), "2": TWO, "3": TWO, "4": TWO, "5": ("2",), "6": ("1",)})
    dataset = folder.read(tmp_path, "own", splits=20, train_fraction=0.25, seed=1)
    assert dataset.notes == ("2 people seen in one camera only are in the galleries alone: 5; 6",)
    trained = set()
    for split in dataset.splits:
        assert {t.person_id for t in split.train} <= {1, 2, 3, 4}
        assert len({t.person_id for t in split.train}) == 1
        trained |= {t.person_id for t in split.train}
        queries = {t.name for t, query in zip(split.test, split.is_query, strict=True) if query}
        assert queries <= {"1/3", "2/1", "3/1", "4/1"}
        assert len(queries) == 3
        names = {t.name for t in split.test}
        assert {"5/2", "6/1"} <= names - queries
        assert ("1/10" in names) == ("1/4" in names) == ("1/3" in queries)
    assert trained == {1, 2, 3, 4}


def test_train_fraction(tmp_path):
    write_people(tmp_path, {str(k): TWO for k in range(1, 11)}, frames=("1.jpg",))
    for fraction, people in ((0.5, 5), (0.8, 8), (0.999, 9), (0.001, 1)):
        assert len(folder.read(tmp_path, "own", splits=1, train_fraction=fraction).splits[0].train) == 2 * people


def test_a_split_file_names_the_people(tmp_path):
    root = write_people(tmp_path / "data", {"ada": TWO, "bea": TWO, "cleo": ("1",), "dora": TWO})
    file = tmp_path / "splits.json"
    file.write_text(json.dumps([{"train": ["ada"], "test": ["bea", "cleo"]}]))
    dataset = folder.read(root, "own", split_file=file)
    (split,) = dataset.splits
    assert [t.name for t in split.train] == ["ada/1", "ada/2"]
    assert [t.name for t in split.test] == ["bea/1", "bea/2", "cleo/1"]
    assert split.is_query == (True, False, False)
    assert split.source == "file splits.json"
    assert dataset.notes == ("1 people are not in splits.json: dora",)

    for content, why in (
        ([{"train": ["ada"], "test": ["bea", "zoe", "eve"]}], "not in .*: eve; zoe"),
        ([{"train": ["ada"], "test": ["../data/bea"]}], "not a plain name"),
        ([{"train": ["ada"], "test": ["cleo"]}], "without a test person who is seen in two cameras: 0"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(BadData, match=why):
            folder.read(root, "own", split_file=file)


def test_what_cannot_be_read_is_named_all_at_once(tmp_path):
    write_people(tmp_path, {"1": TWO, "01": TWO, "3": TWO})
    Image.new("RGB", (4, 8)).save(tmp_path / "3" / "2" / "001.jpg")
    with pytest.raises(BadData, match=r"'01' and '1' are the same number; 3/2: .* have the same number"):
        folder.read(tmp_path, "own")


def test_names_that_cannot_be_stored_are_refused(tmp_path):
    write_people(tmp_path, {"a": TWO, "b": TWO})
    try:
        os.rename(tmp_path / "b", os.fsencode(tmp_path) + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(BadData, match="cannot be stored"):
        folder.read(tmp_path, "own")


def test_empty_and_misplaced_images(tmp_path):
    with pytest.raises(BadData, match="no images"):
        folder.read(tmp_path, "own")
    write_people(tmp_path, {"1": TWO})
    with pytest.raises(BadData, match="1 people are seen in at least two cameras"):
        folder.read(tmp_path, "own")
    write_people(tmp_path, {"2": TWO})
    (tmp_path / "2" / "3").mkdir()
    Image.new("RGB", (4, 8)).save(tmp_path / "1" / "9.jpg")
    assert folder.read(tmp_path, "own").notes == (
        "folders without images: 2/3",
        "images of 1 that lie in no camera's folder are left out",
    )
