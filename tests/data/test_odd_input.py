"""Data sets, images and tables that readers do not expect."""

import json
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from amem_cli.data.check import check_dataset, find_datasets
from amem_cli.data.datasets import read_videos
from amem_cli.data.images import open_image
from amem_cli.data.manifest import load_manifest
from amem_cli.data.readers import ilids_vid, market1501, tracks
from amem_cli.data.readers.features import read_foreign
from amem_cli.data.readers.splits import Protocol
from amem_cli.errors import BadData, DiskError


@pytest.fixture
def ilids(tree) -> Path:
    """Four people of iLIDS-VID, with a split file of one split."""
    names = [f"ilids-vid/sequences/cam{camera}/person{person:03d}" for person in range(1, 5) for camera in (1, 2)]
    root = tree(*(f"{name}/{name[-14:].replace('/', '_')}_{frame:05d}.png" for name in names for frame in (1, 2)))
    people = [f"person{person:03d}" for person in range(1, 5)]
    (root / "ilids-vid/splits.json").write_text(json.dumps([{"train": people[:2], "test": people[2:]}]))
    return root


def test_read_videos_other_number_of_splits_than_the_protocol(ilids: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"file splits\.json has 1 split, and the protocol has 10\. .*splits = 1;"):
        read_videos(load_manifest("ilids-vid"), ilids)
    own = tmp_path / "own.toml"
    own.write_text(f'name = "own"\nlayout = "ilids-vid"\nroot = {json.dumps(str(ilids / "ilids-vid"))}\n')
    own.write_text(own.read_text() + "[protocol]\nsplits = 1\n")
    assert len(read_videos(load_manifest(str(own)), tmp_path).splits) == 1


def test_split_file_of_another_data_set_is_not_used(ilids: Path) -> None:
    (ilids / "splits_prid2011.json").write_text('[{"train": ["person_0001"], "test": ["person_0002"]}]')
    (split,) = ilids_vid.read(ilids / "ilids-vid", "ilids-vid", Protocol()).splits
    assert split.source == "file splits.json"


def test_market1501_person_of_each_kind_of_name(tree) -> None:
    names = {"0002_c1s1_000451_03.jpg": 2, "-1_c1s1_1_0.jpg": -1, "0003/c1/000451_03.jpg": 3, "0004/000451_03.jpg": 4}
    names |= {"c1/0005_c1s1_000451_03.jpg": 5, "0006_7.jpg": 6, "c2/0007_8.jpg": 7, "1/0008_c1s1_000451_03.jpg": 8}
    assert market1501._people(tree(*names)) == names


@pytest.mark.parametrize("text", ['door/0001,"door,a.mp4,1,9,0,1,9,1\n' + "x\n" * 90000, 'door/0001,"a,1\n'])
def test_tables_of_tracks_with_a_stray_quote(text: str, tmp_path: Path) -> None:
    for name, columns, read in (
        ("tracks.csv", tracks.TRACK_COLUMNS, tracks.read_times),
        ("boxes.csv", tracks.BOX_COLUMNS, lambda folder: tracks.read_boxes(folder, ["door/0001"])),
    ):
        (tmp_path / name).write_text(",".join(columns) + "\n" + text)
        with pytest.raises(BadData, match="no CSV"):
            read(tmp_path)


def test_open_image_with_a_very_long_side(tmp_path: Path) -> None:
    for height, fits in ((65535, True), (65536, False)):
        Image.new("P", (1, height)).save(tmp_path / "a.png")
        if fits:
            open_image(tmp_path / "a.png")
        else:
            with pytest.raises(BadData, match="a side is longer than 65535 pixels"):
                open_image(tmp_path / "a.png")


def test_data_check_proposes_a_manifest_for_any_folder(tmp_path: Path) -> None:
    place = tmp_path / "own\U0001f600"
    for person in "ab":
        for camera in "12":
            (place / person / camera).mkdir(parents=True)
            Image.new("RGB", (4, 8)).save(place / person / camera / "1.png")
    (found,) = find_datasets(place)
    assert tomllib.loads(found.manifest)["root"] == str(place)


def test_data_check_deep_on_a_full_disk_still_reports(ilids: Path, tmp_path: Path, monkeypatch) -> None:
    for path in ilids.rglob("*.png"):
        Image.new("RGB", (4, 8)).save(path)

    def full(path: Path, content: bytes) -> None:
        raise DiskError("file", path, why="no space left", remedy="Free some space")

    monkeypatch.setattr("amem_cli.data.check.write_bytes", full)
    report = check_dataset(load_manifest("ilids-vid"), ilids, deep=True)
    assert any(remark.startswith("no list of images: ") for remark in report.remarks)


# -- features of other programs ----------------------------------------------------------------------------------------


def test_features_texts_in_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["camids"] = np.eye(3, dtype=np.float32), np.array([1, 2, 2])
        file["pids"], file["names"] = ["bob", "amy", "bob"], ["x", "y", "z"]
        file["is_query"] = np.array([1, 0, 0])
    table, notes = read_foreign(tmp_path / "a.h5", "mars")
    assert (table.tracklet, table.person_id.tolist()) == (["x", "y", "z"], [2, 1, 2])
    assert any("person_id are texts, numbered: amy = 1; bob = 2" in note for note in notes)


def test_features_text_ids_with_a_distractor_among_the_queries(tmp_path: Path) -> None:
    columns = {"features": np.eye(4, dtype=np.float32), "camids": [1, 1, 2, 2], "is_query": [1, 1, 0, 0]}
    np.savez(tmp_path / "a.npz", pids=["0", "amy", "0", "amy"], **columns)
    table, _ = read_foreign(tmp_path / "a.npz", "mars")
    numbers = table.provenance["options"]["person_id"]
    assert table.person_id.tolist() == [numbers[text] for text in ("0", "amy", "0", "amy")]


def test_features_queries_of_an_empty_list(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.eye(2, dtype=np.float32), pids=[1, 1], camids=[1, 2])
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(BadData, match=r"none\.txt: no names in it"):
        read_foreign(tmp_path / "a.npz", "mars", queries=str(tmp_path / "none.txt"))
