"""`amem data check`: counts, hashes, every image; identification of a folder."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from amem_cli.cli.app import run
from amem_cli.data import check
from amem_cli.data.check import FoundFolder, check_dataset, find_datasets, guess_layout
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData, DiskError


def image(path: Path, colour: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 8), (colour, 0, 0)).save(path)
    return path


@pytest.fixture
def shop(tmp_path):
    """An own manifest and its four people in two cameras, 8 tracklets of 2 frames."""
    (tmp_path / "shop.toml").write_text(
        'name = "shop"\nlayout = "folder"\nroot = "shop"\n'
        "[counts]\npeople = 4\ntracklets = 8\nimages = 16\n[notes]\npeople = 'staff'\n"
    )
    for person in range(1, 5):
        for camera in (1, 2):
            for frame in (1, 2):
                image(tmp_path / "shop" / str(person) / str(camera) / f"{frame}.png", colour=10 * person + camera)
    return load_manifest(tmp_path / "shop.toml")


def test_check_dataset_good(shop, tmp_path):
    report = check_dataset(shop, tmp_path)
    assert report.ok
    assert [(row.what, row.expected, row.found, row.note, row.ok) for row in report.rows] == [
        ("people", 4, 4, "staff", True),
        ("tracklets", 8, 8, "", True),
        ("images", 16, 16, "", True),
        ("cameras", None, 2, "", True),
    ]
    assert report.remarks == ("splits: drawn with seed 0",)
    assert (report.problems, report.looks_like) == ((), None)


def test_check_dataset_other_counts(shop, tmp_path, capsys):
    (tmp_path / "shop" / "4" / "2" / "2.png").unlink()
    (tmp_path / "shop" / "@eaDir").mkdir()  # a remark, not a problem
    report = check_dataset(shop, tmp_path)
    assert report.problems == ("images: 15 instead of 16",)
    assert [row.ok for row in report.rows] == [True, True, False, True]
    assert len(report.remarks) == 2
    assert run(["data", "check", str(tmp_path / "shop.toml"), "--quiet", "--json"]) == 65
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_check_dataset_without_counts(shop, tmp_path):
    (tmp_path / "own.toml").write_text('name = "own"\nlayout = "folder"\nroot = "shop"')
    report = check_dataset(load_manifest(tmp_path / "own.toml"), tmp_path)
    assert report.ok
    assert ("tracklets", None, 8) in [(row.what, row.expected, row.found) for row in report.rows]


def test_check_dataset_many_problems(shop, tmp_path):
    for number in range(1, 30):
        for name in (f"{number}", f"0{number}"):
            image(tmp_path / "shop" / name / "1" / "001.png")
    report = check_dataset(shop, tmp_path)
    assert len(report.problems) == 20
    assert report.problem_count == 29 + 4 + 3  # the same person, the same frame, no counts


def test_check_dataset_other_layout(tmp_path):
    image(tmp_path / "mars" / "bounding_box_train" / "0001_c1s1_000001_01.jpg")
    report = check_dataset(load_manifest("mars"), tmp_path)
    assert report.looks_like == "market1501"
    assert "no bbox_train" in report.problems[0]
    assert {row.found for row in report.rows} == {None}
    assert report.problem_count == 1 + len(load_manifest("mars").counts) + 3


def test_check_dataset_metadata_hashes(shop, tmp_path):
    (tmp_path / "shop" / "list.txt").write_text("abc")
    right = hashlib.sha256(b"abc").hexdigest()
    for digest, problems in ((right, 0), ("0" * 64, 1)):
        (tmp_path / "shop.toml").write_text(
            f'name = "shop"\nlayout = "folder"\nroot = "shop"\n[sha256]\n"list.txt" = "{digest}"\n'
        )
        report = check_dataset(load_manifest(tmp_path / "shop.toml"), tmp_path)
        assert report.problem_count == problems
        assert (report.rows[-1].what, report.rows[-1].found) == ("sha256 list.txt", right[:12])


def test_check_dataset_deep_list_for_sha256sum(shop, tmp_path):
    image(tmp_path / "shop" / "1" / "1" / "ä 1\n3\\.png")
    image(tmp_path / "shop" / "@eaDir" / "3.png")
    seen = []
    report = check_dataset(shop, tmp_path, deep=True, progress=lambda done, total: seen.append((done, total)))
    image_list = tmp_path / "shop-images.sha256"
    assert report.remarks[-1] == f"list of images written to {image_list}"
    assert seen == [(done, 17) for done in range(1, 18)]
    done = subprocess.run(["sha256sum", "-c", "shop-images.sha256"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.count(": OK\n") == 17
    first = hashlib.sha256((tmp_path / "shop" / "1" / "1" / "1.png").read_bytes()).hexdigest()
    assert f"{first}  shop/1/1/1.png\n" in image_list.read_text()


def test_check_dataset_deep_keeps_the_list(shop, tmp_path):
    check_dataset(shop, tmp_path, deep=True)
    before = (tmp_path / "shop-images.sha256").read_bytes()
    image(tmp_path / "shop" / "1" / "1" / "1.png", colour=99)
    again = check_dataset(shop, tmp_path, deep=True)
    assert again.ok
    assert (tmp_path / "shop-images.sha256").read_bytes() == before
    command = again.remarks[-1].partition(": ")[2]
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "shop/1/1/1.png: FAILED\n")


def test_check_dataset_deep_names_damaged_images_first(tmp_path):
    """All of them in the file, also where the report has room for some."""
    for number in range(30):
        image(tmp_path / "shop" / str(number) / "1" / "1.png").write_bytes(b"no image")
    (tmp_path / "shop.toml").write_text('name = "shop"\nlayout = "folder"\nroot = "shop"\n[counts]\npeople = 4\n')
    report = check_dataset(load_manifest(tmp_path / "shop.toml"), tmp_path, deep=True)
    assert all("cannot be decoded" in problem for problem in report.problems)
    assert len((tmp_path / "shop-damaged.txt").read_text().splitlines()) == 30


def test_check_dataset_person_in_one_camera_is_no_problem(shop, tmp_path):
    image(tmp_path / "shop" / "5" / "1" / "1.png", colour=99)
    report = check_dataset(msgspec.structs.replace(shop, counts={}), tmp_path)
    assert report.ok
    assert "1 person seen in one camera, in the galleries only: 5" in report.remarks


def test_check_dataset_deep_undecodable_image(shop, tmp_path):
    (tmp_path / "shop" / "9.jpg").write_bytes(b"no image")  # which no stage reads
    report = check_dataset(shop, tmp_path, deep=True)
    assert report.problems[0].startswith("shop/9.jpg: cannot be decoded")
    assert report.remarks[-1] == f"list of damaged images written to {tmp_path / 'shop-damaged.txt'}"
    assert (tmp_path / "shop-damaged.txt").read_text() == report.problems[0] + "\n"
    assert not (tmp_path / "shop-images.sha256").exists()
    row = report.rows[-1]
    assert (row.what, row.expected, row.found, row.ok) == ("images decoded", 17, 16, False)
    (tmp_path / "shop" / "9.jpg").unlink()
    assert check_dataset(shop, tmp_path, deep=True).ok
    assert not (tmp_path / "shop-damaged.txt").exists()


@pytest.mark.parametrize(
    ("paths", "layout"),
    [
        (["bbox_train/0001/0001C1T0001F001.jpg"], "folder"),  # half of MARS is not MARS
        (["bbox_train/0001/a.jpg", "bbox_test/0002/a.jpg"], "mars"),
        (["Market/bounding_box_train/0002_c1s1_000451_03.jpg"], "market1501"),
        (["prid_2011/multi_shot/cam_b/person_0001/0001.png"], "folder"),
        (["multi_shot/cam_a/person_0001/a.png", "multi_shot/cam_b/person_0001/a.png"], "prid2011"),
        (["lot/cam_a/person_0001/a.png", "lot/cam_b/person_0001/a.png"], "folder"),
        (["sequences/cam1/ann/a.png", "sequences/cam2/ann/a.png"], "folder"),  # no numbers
        (["bbox_train/0001/t1/a.jpg", "bbox_test/0002/t1/a.jpg"], "folder"),  # levels that the tables do not have
        (["bounding_box_train/0001/c1/a.jpg"], "folder"),
        (["bounding_box_train/p1/p1_c1.jpg", "bounding_box_train/p1/p1_c2.jpg"], "images"),  # no person's number
        (["sequences/cam1/person001/a.png", "sequences/cam2/person001/a.png"], "ilids-vid"),
        (["TownCentre/archive/1_1.jpg"], "peta"),
        (["anna/door/1.jpg"], "folder"),
        (["1.jpg"], "images"),
        (["images/00001.png", "PETA.mat"], "peta"),
        (["cam1/person001/1.jpg", "cam2/person001/1.jpg", "cam3/person001/1.jpg"], "folder"),  # not the two of iLIDS
        (["1.gif"], None),
    ],
)
def test_guess_layout(tree, paths, layout):
    assert guess_layout(tree(*paths, "readme.txt")) == layout


def test_find_datasets(tmp_path):
    root = tmp_path / "my data"
    (root / "mars" / "bbox_train").mkdir(parents=True)
    (root / "mars" / "bbox_test").mkdir()
    image(tmp_path / "an odd; name" / "shop 1" / "ann" / "door" / "1.jpg")
    mars = FoundFolder(root / "mars", "mars", f"amem data check mars --data-root '{root}'")
    assert find_datasets(root) == [mars]  # the data root
    assert find_datasets(root / "mars") == [mars]
    [own] = find_datasets(tmp_path / "an odd; name" / "shop 1")
    assert (own.layout, own.command) == ("folder", "amem data check shop-1.toml")
    (tmp_path / "shop-1.toml").write_text(own.manifest)
    assert load_manifest(tmp_path / "shop-1.toml").folder("unused") == own.folder
    assert load_manifest(tmp_path / "shop-1.toml").protocol.splits == 1  # what the commands of the quick start make
    (root / "mars").rename(tmp_path / "MARS-v1")
    [renamed] = find_datasets(tmp_path / "MARS-v1")
    assert (renamed.layout, renamed.command) == ("mars", "amem data check MARS-v1.toml")
    with pytest.raises(BadData, match=r"it holds no images .*Give the folder"):
        find_datasets(tmp_path / "MARS-v1" / "bbox_test")


def test_data_check_command_with_a_folder(tmp_path, capsys):
    image(tmp_path / "shop" / "ann" / "door" / "1.jpg")
    assert run(["data", "check", str(tmp_path / "shop"), "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["folders"]
    assert (found["layout"], found["command"]) == ("folder", "amem data check shop.toml")


def test_check_dataset_images_that_are_not_read(shop, tmp_path):
    for name in ("3.webp", "4.TIF", "5.tif", "@eaDir/6.gif"):
        (tmp_path / "shop" / "1" / "1" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "shop" / "1" / "1" / name).touch()
    problem = check_dataset(shop, tmp_path).problems[-1]
    assert problem.startswith("2 .tif, 1 .webp files are not read: convert them to one of .jpg,")


def test_check_dataset_repeated_images(shop, tmp_path):
    shutil.copytree(tmp_path / "shop" / "3" / "1", tmp_path / "shop" / "4" / "2", dirs_exist_ok=True)
    assert check_dataset(shop, tmp_path).problems[0] == "4/2 has the same images as 3/1"
    for name in ("1", "2", "3"):
        content = image(tmp_path / "shop" / "1" / "1" / f"{name}.png", colour=100 + int(name)).read_bytes()
        (tmp_path / "shop" / "1" / "1" / f"{name}7.png").write_bytes(content)
    twice = "1/1: every image is there 2 times, under different names"
    assert twice in check_dataset(shop, tmp_path, deep=True).problems


def test_check_dataset_images_of_two_people(shop, tmp_path):
    place = tmp_path / "shop"
    image(place / "3" / "1" / "2.png", colour=200)
    shutil.copy(place / "1" / "1" / "1.png", place / "2" / "1" / "9.png")  # one image of another person
    for new, old in ("12", "21"):  # another order, so that the first frames differ
        shutil.copy(place / "3" / "1" / f"{old}.png", place / "4" / "2" / f"{new}.png")
    problems = check_dataset(shop, tmp_path, deep=True).problems
    assert problems[-2:] == (
        "4/2 has the same images as 3/1",
        "tracklets of two people have images in common: 2/1 and 1/1; 4/2 and 3/1",
    )


def test_check_dataset_bad_rows_have_their_reason(tmp_path):
    image(tmp_path / "own" / "1" / "1" / "1.png")
    (tmp_path / "s.json").write_text('[{"train": ["1"], "test": ["9"]}]')
    (tmp_path / "own.toml").write_text('name = "own"\nlayout = "folder"\n[protocol]\nfile = "s.json"\n')
    report = check_dataset(load_manifest(tmp_path / "own.toml"), tmp_path)
    assert report.problems[0] == f"split file: people who are not in {tmp_path / 'own'}: 9"


def test_check_dataset_bad_rows_of_the_test_images(tmp_path):
    image(tmp_path / "market1501/bounding_box_train/0002_c1s1_000451_03.jpg")
    image(tmp_path / "market1501/bounding_box_train/-1_c1s1_000451_03.jpg")
    image(tmp_path / "market1501/bounding_box_test/odd.jpg")
    report = check_dataset(load_manifest("market1501"), tmp_path)
    assert report.problems[0] == "1 junk image (person -1) left out"
    assert report.problems[1].endswith("person's number: 'odd.jpg'. Use layout = \"images\", which takes any names")
    assert {row.what: row.found for row in report.rows}["images"] == 1
    assert report.looks_like is None


def test_check_dataset_deep_counts_what_may_not_be_read(shop, tmp_path, monkeypatch):
    def refuse(path):
        if path.name == "2.png":
            raise DiskError("image", path, why="permission denied")
        return open_image(path)

    open_image = check.open_image
    monkeypatch.setattr(check, "open_image", refuse)
    report = check_dataset(shop, tmp_path, deep=True)
    assert report.problem_count == 8
    assert report.problems[0] == "shop/1/1/2.png: permission denied"
    assert (report.rows[-1].expected, report.rows[-1].found) == (16, 8)


@pytest.mark.parametrize(("content", "ok"), [('[{"train": ["1"], "test": ["2"]}]', True), ("1 2", False)])
def test_find_datasets_names_the_split_file(tmp_path, content, ok):
    for number, name in enumerate(["1/a", "1/b", "2/a", "2/b", "3/a", "3/b"]):
        image(tmp_path / "new" / "data" / name / "1.png", colour=number)
    (tmp_path / "new" / "meta" / "v1").mkdir(parents=True)
    (tmp_path / "new" / "meta" / "v1" / "people_split.json").write_text(content)
    [found] = find_datasets(tmp_path / "new")
    (tmp_path / "new.toml").write_text(found.manifest)
    report = check_dataset(load_manifest(tmp_path / "new.toml"), tmp_path) if ok else None
    if report:
        assert report.remarks == ("splits: file people_split.json",)
        return
    with pytest.raises(BadData, match="not a list of"):
        load_manifest(tmp_path / "new.toml")


def test_find_datasets_of_cut_tracks(tmp_path):
    """A folder of `amem tracklets`, as it is in an answer of `amem find`."""
    tracks = tmp_path / "my answer" / "tracks"
    image(tracks / "hall" / "0001" / "000001.jpg")
    (tracks / "provenance.json").touch()
    (tracks / "tracks.toml").touch()
    for folder in (tracks, tracks.parent):
        assert find_datasets(folder) == [FoundFolder(tracks, "tracks", f"amem data check '{tracks}/tracks.toml'")]


def test_find_datasets_leaves_test_images_out(tmp_path):
    for name in ("pytorch/train/0001/0001_c1_1.jpg", "pytorch/train/0001/0001_c2_1.jpg", "pytorch/query/0002/a.jpg"):
        image(tmp_path / "new" / name)
    [found] = find_datasets(tmp_path / "new")
    assert found.manifest == f'name = "new"\nlayout = "images"\nroot = "{tmp_path}/new/pytorch/train"\n'


@pytest.mark.parametrize(
    ("names", "levels"),
    [
        (["x/ann/door/1.png", "x/bob/door/1.png", "x/bob/hall/1.png", "x/ann/hall/1.png"], "person/camera"),
        (["train/1/c1/1.png", "test/2/c1/1.png", "test/2/c2/1.png"], "split/person/camera"),
    ],
)
def test_find_datasets_proposes_what_can_be_read(tmp_path, names, levels):
    for number, name in enumerate(names):
        image(tmp_path / "new" / name, colour=number)
    [found] = find_datasets(tmp_path / "new")
    assert f'folders = "{levels}"' in found.manifest
    (tmp_path / "new.toml").write_text(found.manifest)
    assert check_dataset(load_manifest(tmp_path / "new.toml"), tmp_path).ok
