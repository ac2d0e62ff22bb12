import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from amem_cli.data.readers import prid2011
from amem_cli.data.readers.splits import read_split_file
from amem_cli.errors import BadData

LENGTHS = {1: (27, 40), 2: (26, 40), 3: (30, 27), 7: (27, 21), 10: (50, 50), 200: (27, 27), 201: (60, 60)}
BY_RULE = ["person_0001", "person_0003", "person_0010", "person_0200"]


def write_prid(root: Path, lengths=LENGTHS) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    source = root / "frame.png"
    Image.new("RGB", (4, 8)).save(source)
    for person, both in lengths.items():
        for camera, frames in zip(("cam_a", "cam_b"), both, strict=True):
            folder = root / "prid_2011" / "multi_shot" / camera / f"person_{person:04d}"
            folder.mkdir(parents=True)
            for frame in range(1, frames + 1):
                shutil.copyfile(source, folder / f"{frame:04d}.png")
    for camera in ("cam_a", "cam_b"):
        single = root / "prid_2011" / "single_shot" / camera
        single.mkdir(parents=True)
        shutil.copyfile(source, single / "person_0001.png")
    source.unlink()
    return root


def test_without_a_list_the_people_are_those_of_the_27_frame_rule(tmp_path):
    dataset = prid2011.read(write_prid(tmp_path), "prid2011")
    assert len(dataset.splits) == 10
    for split in dataset.splits:
        names = {t.name.split("/")[1] for t in (*split.train, *split.test)}
        assert sorted(names) == BY_RULE
        assert split.source == "drawn with seed 0"
        assert [t.camera_id for t in split.test] == [1, 1, 2, 2]
        assert split.is_query == (True, True, False, False)
    assert dataset.notes == ()


@pytest.mark.parametrize("place", [".", "prid_2011"])
def test_the_list_and_the_rule_agree(tmp_path, place):
    root = write_prid(tmp_path)
    splits = [{"train": BY_RULE[:2], "test": BY_RULE[2:]}, {"train": BY_RULE[1:3], "test": BY_RULE[::3]}]
    (root / place / "splits_prid2011.json").write_text(json.dumps(splits))
    dataset = prid2011.read(root, "prid2011")
    assert [{t.person_id for t in split.train} for split in dataset.splits] == [{1, 3}, {3, 10}]
    assert [split.source for split in dataset.splits] == ["file splits_prid2011.json"] * 2
    assert dataset.notes == ()


def test_where_list_and_rule_differ_the_people_are_named(tmp_path):
    root = write_prid(tmp_path)
    splits = [{"train": ["person_0001", "person_0002"], "test": ["person_0003", "person_0010", "person_0150"]}]
    (root / "splits_prid2011.json").write_text(json.dumps(splits))
    assert prid2011.read(root, "prid2011").notes == (
        "people of the 27-frame rule who are not in splits_prid2011.json: person_0200",
        "people of splits_prid2011.json with fewer than 27 frames: person_0002",
        "1 people of splits_prid2011.json are not there in both cameras: person_0150",
    )


def test_persons_beyond_200_are_different_people_in_the_two_cameras(tmp_path):
    root = write_prid(tmp_path)
    (root / "splits_prid2011.json").write_text(json.dumps([{"train": ["person_0001"], "test": ["person_0201"]}]))
    with pytest.raises(BadData, match="person_0201"):
        prid2011.read(root, "prid2011")


def test_extra_counts(tmp_path):
    assert prid2011.extra_counts(write_prid(tmp_path)) == {
        "people_in_cam_a": 7,
        "people_in_cam_b": 7,
        "people_by_rule": 4,
    }


def test_no_images_is_bad_data(tmp_path):
    with pytest.raises(BadData, match="no multi_shot"):
        prid2011.read(tmp_path, "prid2011")
    with pytest.raises(BadData, match="1 people have 27 frames"):
        prid2011.read(write_prid(tmp_path, {1: (27, 27), 2: (5, 5)}), "prid2011")


REAL_SPLITS = Path(os.environ.get("AMEM_TEST_REAL_DATA", "/nowhere")) / "splits_prid2011.json"


@pytest.mark.realdata
@pytest.mark.skipif(not REAL_SPLITS.is_file(), reason="AMEM_TEST_REAL_DATA names no folder with splits_prid2011.json")
def test_the_real_list_has_ten_splits_of_the_same_178_people():
    splits = read_split_file(REAL_SPLITS)
    assert [(len(split.train), len(split.test)) for split in splits] == [(89, 89)] * 10
    people = {frozenset((*split.train, *split.test)) for split in splits}
    assert len(people) == 1
    assert len(next(iter(people))) == 178
    assert max(int(person.removeprefix("person_")) for person in next(iter(people))) <= prid2011.IN_BOTH_CAMERAS
