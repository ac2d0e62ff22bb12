from pathlib import Path

import pytest
from PIL import Image

from amem_cli.data.readers import market1501
from amem_cli.errors import BadData

TRAIN = ("0007_c2s1_000100_01.jpg", "0002_c1s1_000451_03.jpg", "0002_c1s1_000451_01.jpg", "-1_c1s1_000001_01.jpg")
TEST = ("0000_c1s1_000001_00.jpg", "-1_c1s1_000001_02.jpg", "0001_c1s1_000001_00.jpg.jpg", "0003_c1s1_000001_00.jpg")


def write_market(root: Path) -> Path:
    for part, names in (("bounding_box_train", TRAIN), ("bounding_box_test", TEST), ("query", TEST[2:])):
        (root / part).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (4, 8)).save(root / part / name)
        (root / part / "Thumbs.db").write_bytes(b"Windows")
    return root


@pytest.mark.parametrize("archive", [".", "Market-1501-v15.09.15"])
def test_training_images_sorted_without_junk(tmp_path, archive):
    write_market(tmp_path / archive)
    dataset = market1501.read(tmp_path, "market1501")
    assert [path.name for path in dataset.paths] == [TRAIN[2], TRAIN[1], TRAIN[0]]
    assert dataset.person_ids == (2, 2, 7)
    assert all(path.is_file() and path.is_absolute() for path in dataset.paths)
    assert dataset.notes == ("1 junk images (person -1) left out",)


def test_counts_of_the_parts_no_stage_reads(tmp_path):
    assert market1501.extra_counts(write_market(tmp_path)) == {
        "test_images": 4,
        "distractor_images": 1,
        "junk_images": 1,
        "real_test_images": 2,
        "query_images": 2,
    }


def test_bad_names_are_all_named(tmp_path):
    root = write_market(tmp_path)
    for name in ("portrait.jpg", "x_c1.jpg"):
        Image.new("RGB", (4, 8)).save(root / "bounding_box_train" / name)
    with pytest.raises(BadData, match=r"'portrait.jpg'; 'x_c1.jpg'"):
        market1501.read(root, "market1501")


def test_no_images_is_bad_data(tmp_path):
    with pytest.raises(BadData, match="no bounding_box_train"):
        market1501.read(tmp_path, "market1501")
    (tmp_path / "bounding_box_train").mkdir()
    with pytest.raises(BadData, match="no images"):
        market1501.read(tmp_path, "market1501")
