"""Common functions of the readers: the order of frames, ignored folders, metadata files, whole numbers."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest

from amem_cli.data.readers import files
from amem_cli.errors import BadData, DiskError, InputMissing

SYSTEM = ("@eaDir", "__MACOSX", "lost+found", "#recycle", "$RECYCLE.BIN", "System Volume Information")


@pytest.mark.parametrize(
    "names",
    [
        ["1.jpg", "2.png", "10.bmp"],
        [f"0001C1T1F{n}.jpg" for n in range(1, 13)],
        ["12.48.png", "12.56.png", "12.8.png", "12.88.png", "13.04.png"],  # seconds, 25 frames per second
        ["12.04.jpg", "12.4.jpg"],
        ["c1.2.jpg", "c1.10.jpg"],  # not only digits: frame numbers, not decimals
        ["1.2.3.jpg", "1.2.10.jpg"],
        ["007.jpg", "8.jpg", "0010.jpg"],
        ["t0.96.jpg", "t1.jpg", "t1.04.jpg", "t1.2.jpg"],  # seconds after a prefix
        ["1.2.jpg", "1.9.jpg", "1.10.jpg", "1.11.jpg"],  # two counters
        ["12,04.jpg", "12,56.jpg", "12,8.jpg"],  # a decimal comma
        ["t12.04s.jpg", "t12.56s.jpg", "t12.8s.jpg", "t13.1s.jpg"],
        ["IMG_1.JPG", "img_2.jpg", "IMG_3.JPG"],
        ["٢.jpg", "١٠.jpg"],  # 2 and 10 in Arabic digits
        ["0.0e+00.jpg", "9.5e-01.jpg", "5.0e+00.jpg", "1.0e+01.jpg"],
        ["t-1.jpg", "t-2.jpg", "t-10.jpg"],  # a hyphen
        ["t+1.jpg", "t+2.jpg", "t+10.jpg"],
        ["31-01-2024 9.jpg", "31-01-2024 10.jpg"],  # frames of one day
        ["1-59PM.jpg", "2-00PM.jpg", "10-00PM.jpg"],
        ["1_2_1999.jpg", "1_2_2000.jpg", "1_2_2001.jpg"],
    ],
)
def test_frames_in_order_by_number(names):
    assert files.frames_in_order(reversed(names)) == tuple(names)


@pytest.mark.parametrize("names", [["1.jpg", "01.png"], ["12.4.jpg", "12.40.jpg"], ["1.jpg", "1.png"]])
def test_frames_in_order_same_number(names):
    with pytest.raises(ValueError, match="have the same number"):
        files.frames_in_order(names)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["-1.jpg", "-2.jpg"], "negative"),
        (["-1.jpg", "0.jpg"], "negative"),
        (["t-1.jpg", "t+0.jpg", "t+1.jpg"], "negative"),
        (["t-1.jpg", "t0.jpg"], "negative"),
        (["left_-10.jpg", "left_-9.jpg"], "negative"),
        (["31-01-2024.jpg", "01-02-2024.jpg"], "dates"),
        (["7.9.2024_1.jpg", "10.8.2024_1.jpg"], "dates"),
        (["31012024.jpg", "01022024.jpg"], "dates"),
        (["12-59AM.jpg", "1-00AM.jpg"], "times of 12 hours"),
        (["11.59.59 am.jpg", "01.00.00 pm.jpg"], "times of 12 hours"),
        (["c1.9.jpg", "c1.11.jpg"], "decimals"),
        (["5-59.9.jpg", "5-59.11.jpg", "6-00.5.jpg"], "decimals"),  # minutes and seconds
    ],
)
def test_frames_in_order_in_doubt(names, why):
    with pytest.raises(ValueError, match=f"{re.escape(Path(min(names)).stem)}.* may be {why}"):
        files.frames_in_order(names)


def test_frames_in_order_decimals_before_another_number():
    with pytest.raises(ValueError, match=r"12\.56_f2 and 12\.8_f3 have decimals"):
        files.frames_in_order(["12.8_f3.jpg", "12.56_f2.jpg"])
    assert files.frames_in_order(["0.mp4_10.jpg", "0.mp4_9.jpg"]) == ("0.mp4_9.jpg", "0.mp4_10.jpg")
    assert files.order_note({"7/1": ["0.25.jpg", "0.5.jpg", "1.jpg"]}) == ()


def test_image_folders_ignores_system_and_empty_folders(tmp_path: Path):
    for name in (*SYSTEM, "empty", "ann", ".hidden"):
        (tmp_path / name / "2.jpg").mkdir(parents=True)  # Synology makes a folder of thumbnails for each image
        (tmp_path / name / "1.jpg").touch()
    (tmp_path / "empty" / "1.jpg").unlink()
    found, ignored = files.image_folders(tmp_path)
    assert found == {"ann": ["1.jpg"]}
    assert sorted(ignored) == sorted([*SYSTEM, "empty", "ann/2.jpg"])
    assert files.note("folders", ignored, files.IGNORED)[0].startswith("8 folders ignored")
    assert files.note("folders", [], files.IGNORED) == ()


def test_image_folders_two_levels(tmp_path: Path):
    for name in ("ann/door/2.jpg", "ann/door/1.png", "ann/hall/1.jpg", "ann/@eaDir/1.jpg", "bob/no.txt", "1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, ignored = files.image_folders(tmp_path, depth=2)
    assert found == {"ann/door": ["1.png", "2.jpg"], "ann/hall": ["1.jpg"]}
    assert ignored == ["ann/@eaDir", "bob"]


def test_find_folder_level_by_level(tmp_path: Path):
    (tmp_path / "a" / "b" / "x").mkdir(parents=True)
    (tmp_path / "c" / "x").mkdir(parents=True)
    assert files.find_folder(tmp_path, lambda folder: (folder / "x").is_dir()) == tmp_path / "c"
    assert files.find_folder(tmp_path, lambda folder: folder.name == "x", depth=1) is None
    assert files.find_folder(tmp_path, lambda folder: folder.name == "x", depth=2) == tmp_path / "c" / "x"
    assert files.find_folder(tmp_path / "none", lambda folder: False) is None


def test_list_folder(tree):
    root = tree("b.jpeg", "a.PNG", ".c.jpg", "d.txt", "e/f.jpg", "@eaDir/x.jpg")
    assert files.list_folder(root) == (["a.PNG", "b.jpeg"], ["e"])
    assert files.list_folder(root, system=True)[1] == ["@eaDir", "e"]
    with pytest.raises(InputMissing, match="none: not found"):
        files.list_folder(root / "none")
    with pytest.raises(BadData, match="not a directory"):
        files.list_folder(root / "d.txt")
    (root / "g.jpg").symlink_to("g.jpg")
    with pytest.raises(BadData, match=r"g\.jpg: too many levels"):
        files.list_folder(root)


def test_whole_numbers():
    assert files.whole_numbers(3.0, Path("x"), "v", "t").tolist() == [3]
    assert files.whole_numbers(np.array([[1, -2]], np.int8), Path("x"), "v", "t").dtype == np.int64
    refused = (["a"], "not numbers"), ([0.5], "not whole"), ([np.nan], "not whole"), ([2.0**53], "not whole")
    for values, why in (*refused, ([[1], [1, 2]], "not a table")):
        with pytest.raises(BadData, match=why):
            files.whole_numbers(values, Path("x"), "v", "t")


def test_order_note():
    folders = {"7/1": ["f1.png", "F12.png"], "7/2": ["a1.png", "b1.png", "a2.png"], "7/3": ["1.png", "1 (1).png"]}
    (note,) = files.order_note(folders)
    assert note.startswith("1 folder with frame names of several kinds")
    assert note.endswith(": 7/2 (a1.png, b1.png)")


def test_image_files_unreadable_folder(tree, monkeypatch):
    root, scandir = tree("a/1.jpg", "b/1.jpg"), os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DiskError, match="b: permission denied"):
        list(files.image_files(root))


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["a/b/1.JPG"], "for example a/b/1.JPG"),
        (["1.webp", "2.WEBP", "readme.txt"], "but 2 .webp files, which must be converted$"),
        (["1.jfif"], "but 1 .jfif files, which must be converted$"),
        (["a/0001", "a/0002"], "but 2 files without a suffix$"),
        (["a.txt", "b.txt"], "but 2 .txt files$"),
        (["set.zip"], "archive that is not unpacked"),
        (["set.tar.xz"], "archive that is not unpacked"),
        (["set.zip.001", "set.zip.002"], "archive that is not unpacked"),
        (["@eaDir/1.jpg"], r"holds no images \(.jpg, .jpeg, .png, .bmp\)$"),
    ],
)
def test_why_empty(tree, names, why):
    assert re.search(why, files.why_empty(tree(*names)))


def test_why_missing(tree):
    root = tree("a/b/deep.zip", "a/train.tar", "test.7z", "readme.txt")
    assert files.why_missing(root, "x") == "no x in it, but archives that are not unpacked: test.7z; a/train.tar"
    assert files.why_missing(root / "a" / "b" / "none", "x") == "no x in it"


def test_image_files_behind_links(tree):
    root = tree("a/1.jpg", "a/b/2.jpg", below="real")
    (root / "own").mkdir()
    (root / "own" / "link").symlink_to(root / "real" / "a")
    (root / "real" / "a" / "b" / "up").symlink_to(root / "real")
    assert list(files.image_files(root / "own")) == ["link/1.jpg", "link/b/2.jpg"]
    assert list(files.image_files(root / "real")) == ["a/1.jpg", "a/b/2.jpg"]
    (root / "real" / "c").mkdir()
    (root / "real" / "c" / "other").symlink_to(root / "own")
    (root / "own" / "back").symlink_to(root / "real" / "c")
    assert len(list(files.image_files(root / "own"))) == 2
    assert files.why_empty(root / "own").endswith("for example link/1.jpg")


def test_find_named(tree):
    root = tree("x/BBox_Train/bbox_train/0001/1.jpg", "y/z/other/1.jpg")
    assert files.find_named(root, "bbox_train") == root / "x" / "BBox_Train" / "bbox_train"
    assert files.find_named(root, "other") == root / "y" / "z" / "other"
    assert files.find_named(root, "none") is None


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_read_text_codings(tmp_path: Path, coding):
    (tmp_path / "a.txt").write_bytes("1 é\r\n2".encode(coding))
    assert files.read_text(tmp_path / "a.txt", "list") == "1 é\n2"
