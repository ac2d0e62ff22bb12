import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from amem_cli.data import manifest as manifests
from amem_cli.data.datasets import READERS
from amem_cli.data.manifest import KINDS, SHIPPED, load_manifest, manifest_of_protocol
from amem_cli.data.tracklets import ImageDataset
from amem_cli.errors import BadData, InputMissing, UsageError


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_manifests_are_complete(name):
    manifest = load_manifest(name)
    assert (manifest.name, manifest.root, manifest.shipped, manifest.path.stem) == (name, name, True, name)
    assert manifest.citation
    assert manifest.licence
    assert "http" in manifest.request
    assert manifest.counts
    assert set(manifest.notes) <= set(manifest.counts)
    assert (manifest.protocol is not None) == (manifest.kind == "video")
    assert all(len(digest) == 64 for digest in manifest.sha256.values())


def test_every_layout_has_exactly_one_reader():
    assert READERS.keys() == KINDS.keys()


def test_protocols():
    assert manifest_of_protocol("mars").name == "mars"
    assert manifest_of_protocol("ilids-10split").name == "ilids-vid"
    assert manifest_of_protocol("prid-10split").protocol.splits == 10
    with pytest.raises(UsageError, match="Did you mean ilids-10split"):
        manifest_of_protocol("ilids-10splits")


@pytest.mark.parametrize(("typed", "meant"), [("marss", "mars"), ("ilids", "ilids-vid"), ("Market-1501", "market1501")])
def test_mistyped_names(typed, meant):
    with pytest.raises(UsageError, match=f"Did you mean {meant}") as caught:
        load_manifest(typed)
    assert caught.value.exit_code == 2


def write_own(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_people(root: Path, people=("1", "2", "3")) -> None:
    for person in people:
        for camera in ("1", "2"):
            (root / person / camera).mkdir(parents=True)
            Image.new("RGB", (4, 8)).save(root / person / camera / "1.jpg")


def test_own_manifest(tmp_path):
    text = """
        name = "shop"
        layout = "folder"
        root = "images"
        [protocol]
        kind = "cross-camera-splits"
        splits = 3
        train_fraction = 0.34
        seed = 5
    """
    manifest = load_manifest(write_own(tmp_path / "shop.toml", text))
    assert (manifest.kind, manifest.shipped, manifest.protocol.name) == ("video", False, "shop")
    assert manifest.folder("elsewhere") == tmp_path / "images"
    write_people(tmp_path / "images")
    dataset = manifests.read_videos(manifest, "elsewhere")
    assert dataset.name == "shop"
    assert [len(split.train) for split in dataset.splits] == [2, 2, 2]
    assert dataset.splits[0].source == "drawn with seed 5"
    assert manifests.count_differences(manifest, dataset) == []


def test_own_manifest_without_root_lies_in_the_data_root(tmp_path):
    manifest = load_manifest(write_own(tmp_path / "shop.toml", 'name = "shop"\nlayout = "folder"\n'))
    assert manifest.folder(tmp_path / "data") == tmp_path / "data" / "shop"
    assert (manifest.protocol.splits, manifest.protocol.train_fraction, manifest.protocol.seed) == (10, 0.5, 0)


def test_own_manifest_with_a_split_file(tmp_path):
    text = 'name = "shop"\nlayout = "folder"\nroot = "."\n[protocol]\nfile = "files/splits.json"\n'
    manifest = load_manifest(write_own(tmp_path / "shop.toml", text))
    write_people(tmp_path, ("anna", "bert"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "splits.json").write_text(json.dumps([{"train": ["anna"], "test": ["bert"]}]))
    # `files` has no images and so is no person
    assert [t.name for t in manifests.read_videos(manifest, "data").splits[0].test] == ["bert/1", "bert/2"]


@pytest.mark.parametrize("layout", ["market1501", "peta"])
def test_own_images_and_attributes(tmp_path, layout):
    manifest = load_manifest(write_own(tmp_path / "own.toml", f'name = "own"\nlayout = "{layout}"\nroot = "data"\n'))
    if layout == "market1501":
        folder = tmp_path / "data" / "bounding_box_train"
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 8)).save(folder / "0001_c1.png")
        assert manifests.read_images(manifest, "x").person_ids == (1,)
    else:
        folder = tmp_path / "data" / "ours" / "archive"
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 8)).save(folder / "anna.png")
        (folder / "Label.txt").write_text("anna personalFemale\n")
        assert manifests.read_attributes(manifest, "x").labels.sum() == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            'name = "a"\nlayout = "folder"\nrooot = "."\nkolour = 1',
            "unknown key rooot. Did you mean root.*; unknown key kolo",
        ),
        ('name = "a"\nlayout = "folder"\n[protocol]\nsplit = 3', "unknown key protocol.split. Did you mean splits"),
        ('name = "a"\nlayout = "foldr"', "Did you mean folder"),
        ('layout = "folder"', "name is missing"),
        ('name = "a"', "layout is missing"),
        ('name = "../a"\nlayout = "folder"', "must be letters"),
        ('name = 1\nlayout = "folder"', "name is not a text"),
        ('name = "a"\nlayout = "folder"\nprotocol = 1', "protocol is not a table"),
        ('name = "a"\nlayout = "folder"\n[protocol]\nsplits = true', "splits is not a whole number"),
        ('name = "a"\nlayout = "folder"\n[protocol]\nsplits = 0', "splits is 0"),
        ('name = "a"\nlayout = "folder"\n[protocol]\ntrain_fraction = 1', "train_fraction is 1.0"),
        ('name = "a"\nlayout = "folder"\n[protocol]\ntrain_fraction = nan', "train_fraction is nan"),
        ('name = "a"\nlayout = "folder"\n[protocol]\nkind = "cross-camera"', "Did you mean cross-camera-splits"),
        ('name = "a"\nlayout = "folder"\n[protocol]\nkind = "single-split"', "of layout folder is 'cross-camera"),
        ('name = "a"\nlayout = "folder"\n[protocol]\nfile = "s.json"\nseed = 1', "already says what protocol.seed"),
        ('name = "a"\nlayout = "mars"\n[protocol]\nsplits = 3', "one split"),
        ('name = "a"\nlayout = "folder"\nroot = "a\\u0000b"', "is no path"),
        (f'name = "a"\nlayout = "folder"\n[protocol]\ntrain_fraction = 1{"0" * 400}', "train_fraction is inf"),
        ('name = "a"\nlayout = "peta"\n[protocol]\nsplits = 3', "no tracklets"),
        ('name = "a"\nlayout = "folder"\n[counts]\npeople = "many"', "counts.people is not a whole number"),
    ],
)
def test_bad_own_manifests_name_every_fault(tmp_path, text, why):
    with pytest.raises(UsageError, match=why):
        load_manifest(write_own(tmp_path / "own.toml", text))


def test_files_that_are_no_manifests(tmp_path):
    with pytest.raises(InputMissing, match="not found"):
        load_manifest(tmp_path / "none.toml")
    with pytest.raises(BadData, match="not TOML"):
        load_manifest(write_own(tmp_path / "bad.toml", "name = "))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(BadData, match="not TOML"):
        load_manifest(tmp_path / "binary.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(BadData, match="directory"):
        load_manifest(tmp_path / "folder.toml")


def test_missing_data_say_where_to_ask_and_how_to_generate(tmp_path):
    with pytest.raises(InputMissing, match=r"mars: not found\. Ask for the data: .*amem data walkers OUT") as caught:
        manifests.read_videos(load_manifest("mars"), tmp_path)
    assert caught.value.exit_code == 66
    own = load_manifest(write_own(tmp_path / "own.toml", 'name = "own"\nlayout = "folder"\n'))
    with pytest.raises(InputMissing, match="Check root in"):
        manifests.read_videos(own, tmp_path)
    (tmp_path / "mars").write_text("a file")
    with pytest.raises(BadData, match="not a folder"):
        manifests.read_videos(load_manifest("mars"), tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_folder_without_images_is_bad_data(tmp_path, name):
    (tmp_path / name / "something").mkdir(parents=True)
    manifest = load_manifest(name)
    read = {"video": manifests.read_videos, "images": manifests.read_images, "attributes": manifests.read_attributes}
    with pytest.raises(BadData):
        read[manifest.kind](manifest, tmp_path)


def test_another_kind_of_data_set_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="Choose mars, ilids-vid, prid2011"):
        manifests.read_videos(load_manifest("peta"), tmp_path)
    with pytest.raises(UsageError, match="Choose market1501"):
        manifests.read_images(load_manifest("mars"), tmp_path)


def test_other_counts_are_told_with_the_figures():
    dataset = ImageDataset("market1501", (Path("a"), Path("b")), (1, 1))
    assert manifests.count_differences(load_manifest("market1501"), dataset) == [
        "images: 2 instead of 12936",
        "people: 1 instead of 751",
    ]


def test_loading_a_manifest_imports_nothing_heavy():
    code = (
        "import sys; from amem_cli.data.manifest import load_manifest; load_manifest('mars');"
        "print([name for name in ('torch', 'scipy', 'PIL', 'h5py', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
