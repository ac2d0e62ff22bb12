"""Market-1501: training images without junk, counts of the folders that no stage reads."""

from pathlib import Path

import pytest

from amem_cli.data.readers import market1501
from amem_cli.errors import BadData

TRAIN = ("0007_c2s1_000100_01.jpg", "0002_c1s1_000451_03.jpg", "0002_c1s1_000451_01.jpg", "-1_c1s1_000001_01.jpg")
TEST = ("0000_c1s1_000001_00.jpg", "-1_c1s1_000001_02.jpg", "0001_c1s1_000001_00.jpg.jpg", "0003_c1s1_000001_00.jpg")


@pytest.fixture
def market(tmp_path) -> Path:
    for part, names in (("bounding_box_train", TRAIN), ("bounding_box_test", TEST), ("query", TEST[2:])):
        folder = tmp_path / "Market-1501-v15.09.15" / part
        folder.mkdir(parents=True)
        for name in (*names, "Thumbs.db"):
            (folder / name).touch()
    return tmp_path


def test_read(market):
    dataset = market1501.read(market, "market1501")
    assert [path.name for path in dataset.paths] == [TRAIN[2], TRAIN[1], TRAIN[0]]
    assert dataset.person_ids == (2, 2, 7)
    assert all(path.is_file() and path.is_absolute() for path in dataset.paths)
    assert dataset.notes == ("1 junk images (person -1) left out",)


def test_extra_counts(market):
    assert market1501.extra_counts(market) == {
        "test_images": 4, "distractor_images": 1, "junk_images": 1, "real_test_images": 2, "query_images": 2,
    }  # fmt: skip


def test_read_refuses(market, tmp_path_factory):
    for name in ("portrait.jpg", "x_c1.jpg"):
        (market / "Market-1501-v15.09.15" / "bounding_box_train" / name).touch()
    with pytest.raises(BadData, match=r"'portrait.jpg'; 'x_c1.jpg'"):
        market1501.read(market, "market1501")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(BadData, match="no bounding_box_train"):
        market1501.read(empty, "market1501")
    (empty / "bounding_box_train").mkdir()
    with pytest.raises(BadData, match="no images"):
        market1501.read(empty, "market1501")
