"""Own data in folders: ids, cameras, distractors, split files, folders that are ignored."""

import json
import os
from pathlib import Path

import pytest

from amem_cli.data.readers import folder
from amem_cli.data.readers.splits import Protocol
from amem_cli.errors import BadData

TWO = ("1", "2")


def write_people(root: Path, cameras_of: dict[str, tuple[str, ...]], frames=("1.jpg", "2.png", "10.bmp")) -> Path:
    for person, cameras in cameras_of.items():
        for camera in cameras:
            (root / person / camera).mkdir(parents=True)
            for frame in frames:
                (root / person / camera / frame).touch()
    return root


def ids(dataset) -> dict[str, tuple[int, int]]:
    split = dataset.splits[0]
    return {t.name: (t.person_id, t.camera_id) for t in (*split.train, *split.test)}


def test_read_ids_are_the_numbers(tmp_path):
    write_people(tmp_path, {"0002": TWO, "10": ("2", "10"), "7": TWO})
    dataset = folder.read(tmp_path, "own", Protocol(splits=3))
    assert (dataset.numbered, len(dataset.splits), dataset.notes) == (True, 3, ())
    assert ids(dataset) == {
        "0002/1": (2, 1), "0002/2": (2, 2), "10/2": (10, 2), "10/10": (10, 10), "7/1": (7, 1), "7/2": (7, 2),
    }  # fmt: skip
    tracklets = (*dataset.splits[0].train, *dataset.splits[0].test)
    assert all(t.files == ("1.jpg", "2.png", "10.bmp") and Path(t.folder).is_absolute() for t in tracklets)


@pytest.mark.parametrize("names", [("0", "ada", "bea"), ("-1", "0", "1"), ("0", "1", "2")])
def test_read_other_names_are_counted_from_one(tmp_path, names):
    write_people(tmp_path, dict.fromkeys(names, ("door", "hall")))
    first, second, third = names
    assert ids(folder.read(tmp_path, "own", Protocol())) == {
        f"{first}/door": (1, 1), f"{first}/hall": (1, 2), f"{second}/door": (2, 1), f"{second}/hall": (2, 2),
        f"{third}/door": (3, 1), f"{third}/hall": (3, 2),
    }  # fmt: skip


def test_read_system_and_empty_folders_change_no_ids(tmp_path):
    write_people(tmp_path, {"5": TWO, "9": TWO, "@eaDir": TWO})
    for name in ("lost+found", "empty", "3/1", "5/empty", "9/@eaDir/1.jpg"):
        (tmp_path / name).mkdir(parents=True)
    dataset = folder.read(tmp_path, "own", Protocol())
    assert ids(dataset) == {"5/1": (5, 1), "5/2": (5, 2), "9/1": (9, 1), "9/2": (9, 2)}
    (note,) = dataset.notes
    assert note.startswith("6 folders ignored")


def test_read_lone_people_are_distractors(tmp_path):
    write_people(tmp_path, {"1": ("3", "10", "4"), "2": TWO, "3": TWO, "4": TWO, "5": ("2",), "6": ("1",)})
    dataset = folder.read(tmp_path, "own", Protocol(splits=20, train_fraction=0.25, seed=1))
    assert dataset.notes == ("2 people seen in one camera are in the galleries only: 5; 6",)
    for split in dataset.splits:
        assert len({t.person_id for t in split.train}) == 1
        queries = {t.name for t, query in zip(split.test, split.is_query, strict=True) if query}
        assert queries < {"1/3", "2/1", "3/1", "4/1"}
        assert len(queries) == 3
        assert {"5/2", "6/1"} <= {t.name for t in split.test} - queries
    assert {t.person_id for split in dataset.splits for t in split.train} == {1, 2, 3, 4}


def test_read_split_file(tmp_path):
    root = write_people(tmp_path / "data", {"ada": TWO, "bea": TWO, "cleo": ("1",), "dora": TWO})
    file = tmp_path / "splits.json"
    file.write_text(json.dumps([{"train": ["ada"], "test": ["bea", "cleo"]}]))
    dataset = folder.read(root, "own", Protocol(file=str(file)))
    (split,) = dataset.splits
    assert [t.name for t in split.train] == ["ada/1", "ada/2"]
    assert [t.name for t in split.test] == ["bea/1", "bea/2", "cleo/1"]
    assert split.is_query == (True, False, False)
    assert split.source == "file splits.json"
    assert dataset.notes == ("1 people are not in splits.json: dora",)
    for test, why in ((["bea", "zoe", "eve"], "not in .*: eve; zoe"), (["cleo"], "two cameras: split 0")):
        file.write_text(json.dumps([{"train": ["ada"], "test": test}]))
        with pytest.raises(BadData, match=why):
            folder.read(root, "own", Protocol(file=str(file)))


def test_read_faults_are_named_at_once(tmp_path):
    write_people(tmp_path, {"1": TWO, "01": TWO, "3": TWO})
    (tmp_path / "3" / "2" / "001.jpg").touch()
    with pytest.raises(BadData, match=r"'01' and '1' are the same number; 3/2: .* have the same number"):
        folder.read(tmp_path, "own", Protocol())


def test_read_names_that_cannot_be_stored(tmp_path):
    write_people(tmp_path, {"a": TWO, "b": TWO})
    os.rename(tmp_path / "b", os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(BadData, match="cannot be stored"):
        folder.read(tmp_path, "own", Protocol())


def test_read_too_few_people_and_loose_images(tmp_path):
    with pytest.raises(BadData, match="no images"):
        folder.read(tmp_path, "own", Protocol())
    write_people(tmp_path, {"1": TWO, "3": ("1",)})
    with pytest.raises(BadData, match="there are 1"):
        folder.read(tmp_path, "own", Protocol())
    write_people(tmp_path, {"2": TWO})
    (tmp_path / "1" / "9.jpg").touch()
    assert "images of 1 that are in no camera's folder are left out" in folder.read(tmp_path, "own", Protocol()).notes
