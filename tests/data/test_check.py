import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from amem_cli.cli.app import run
from amem_cli.data import check
from amem_cli.data.check import FoundFolder, ImageRecord, check_dataset, find_datasets, guess_layout
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData, InputMissing


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


def test_a_good_data_set(shop, tmp_path):
    report = check_dataset(shop, tmp_path)
    assert report.ok
    assert [(row.what, row.expected, row.found, row.note, row.ok) for row in report.rows] == [
        ("people", 4, 4, "staff", True),
        ("tracklets", 8, 8, "", True),
        ("images", 16, 16, "", True),
    ]
    assert report.remarks == ("splits: drawn with seed 0",)
    assert (report.problems, report.looks_like, report.image_list) == ((), None, None)


def test_other_counts_are_problems(shop, tmp_path):
    (tmp_path / "shop" / "4" / "2" / "2.png").unlink()
    report = check_dataset(shop, tmp_path)
    assert not report.ok
    assert report.problems == ("images: 15 instead of 16",)
    assert [row.ok for row in report.rows] == [True, True, False]


def test_a_manifest_without_counts_shows_what_is_there(tmp_path):
    for person in ("1", "2"):
        for camera in ("1", "2"):
            image(tmp_path / "own" / person / camera / "1.png")
    (tmp_path / "own.toml").write_text('name = "own"\nlayout = "folder"\nroot = "own"')
    report = check_dataset(load_manifest(tmp_path / "own.toml"), tmp_path)
    assert report.ok
    assert ("tracklets", None, 4) in [(row.what, row.expected, row.found) for row in report.rows]


def test_twenty_problems_are_shown_and_all_are_counted(shop, tmp_path):
    for person in range(1, 5):
        for camera in (1, 2):
            for name in ("01.png", "3.png", "03.png", "4.png"):
                image(tmp_path / "shop" / str(person) / str(camera) / name)
    for extra in range(30):
        image(tmp_path / "shop" / f"0{extra + 1}" / "1" / "1.png")
        image(tmp_path / "shop" / f"{extra + 1}" / "1" / "001.png")
    report = check_dataset(shop, tmp_path)
    assert len(report.problems) == 20
    assert report.problem_count > 35
    assert any("same number" in problem for problem in report.problems)


def test_missing_folder(tmp_path):
    with pytest.raises(InputMissing):
        check_dataset(load_manifest("mars"), tmp_path)


def test_the_wrong_layout_is_guessed(tmp_path):
    image(tmp_path / "mars" / "bounding_box_train" / "0001_c1s1_000001_01.jpg")
    report = check_dataset(load_manifest("mars"), tmp_path)
    assert not report.ok
    assert report.looks_like == "market1501"
    assert "no bbox_train" in report.problems[0]
    assert {row.found for row in report.rows} == {None}
    assert sum("not there" in problem for problem in report.problems) == 20 - 1
    assert report.problem_count == 1 + len(load_manifest("mars").counts) + 3


@pytest.mark.parametrize(
    ("path", "layout"),
    [
        ("bbox_train/0001/0001C1T0001F001.jpg", "folder"),  # half of MARS is not MARS
        ("Market/bounding_box_train/0002_c1s1_000451_03.jpg", "market1501"),
        ("prid_2011/multi_shot/cam_b/person_0001/0001.png", None),
        ("TownCentre/archive/1_1.jpg", "peta"),
        ("anna/door/1.jpg", "folder"),
        ("1.jpg", None),
    ],
)
def test_guess_layout(tmp_path, path, layout):
    image(tmp_path / path)
    (tmp_path / "readme.txt").write_text("")
    assert guess_layout(tmp_path) == layout


def test_guess_layout_of_pairs_of_cameras(tmp_path):
    for name, parts in (
        ("ilids-vid", ("sequences/cam1/person001", "sequences/cam2/person001")),
        ("prid2011", ("multi_shot/cam_a/person_0001", "multi_shot/cam_b/person_0001")),
        ("mars", ("bbox_train/0001", "bbox_test/0002")),
    ):
        for part in parts:
            image(tmp_path / name / part / "1.png")
        assert guess_layout(tmp_path / name) == name


def write_mars(root: Path, test_rows: list[list[int]]) -> Path:
    """One training tracklet of person 1, and person 2 in two cameras for the test; one frame each."""
    for name in ("bbox_train/0001/0001C1T0001", "bbox_test/0002/0002C1T0001", "bbox_test/0002/0002C2T0001"):
        image(root / f"{name}F001.jpg")
    (root / "info").mkdir()
    savemat(root / "info" / "tracks_train_info.mat", {"track_train_info": [[1, 1, 1, 1]]})
    savemat(root / "info" / "tracks_test_info.mat", {"track_test_info": test_rows})
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": [[1]]})
    return root


def test_metadata_are_compared_by_hash(tmp_path):
    root = write_mars(tmp_path / "copy", [[1, 1, 2, 1], [2, 2, 2, 2]])
    digest = hashlib.sha256((root / "info" / "query_IDX.mat").read_bytes()).hexdigest()
    (tmp_path / "copy.toml").write_text(
        'name = "copy"\nlayout = "mars"\nroot = "copy"\n[sha256]\n'
        f'"query_IDX.mat" = "{digest}"\n"tracks_train_info.mat" = "{"0" * 64}"\n"readme.txt" = "{"0" * 64}"\n'
    )
    report = check_dataset(load_manifest(tmp_path / "copy.toml"), tmp_path)
    assert [row.ok for row in report.rows if row.what.startswith("sha256")] == [True, False, False]
    assert report.problems[0].startswith("tracks_train_info.mat: another file than the official one")
    assert report.problems[1] == "readme.txt: not there"


def test_every_bad_row_of_a_damaged_mars_table_is_a_problem(tmp_path):
    write_mars(tmp_path / "mars", [[1, 1, 2, 6], [2, 2, 2, 6]])
    report = check_dataset(load_manifest("mars"), tmp_path)
    assert report.problems[:2] == (
        "MARS tables: test row 1 [1, 1, 2, 6]: its first image is 0002C1T0001F001.jpg",
        "MARS tables: test row 2 [2, 2, 2, 6]: its first image is 0002C2T0001F001.jpg",
    )


# ---- deep -----------------------------------------------------------------------------------------------------------


def test_deep_writes_a_list_and_later_runs_compare_with_it(shop, tmp_path):
    seen = []
    report = check_dataset(
        shop, tmp_path, deep=True, workers=2, progress=lambda done, total: seen.append((done, total))
    )
    assert report.ok
    assert report.list_written
    assert report.image_list == tmp_path / "shop-images.tsv"
    assert seen == [(done, 16) for done in range(1, 17)]
    records = check.read_image_list(report.image_list)
    first = (tmp_path / "shop" / "1" / "1" / "1.png").read_bytes()
    assert records["1/1/1.png"] == ImageRecord(len(first), hashlib.sha256(first).hexdigest(), 4, 8)
    assert len(records) == 16

    again = check_dataset(shop, tmp_path, deep=True)
    assert again.ok
    assert not again.list_written

    changed_bytes = first + b"\0"  # behind the end, where no decoder looks
    (tmp_path / "shop" / "1" / "1" / "1.png").write_bytes(changed_bytes)
    (tmp_path / "shop" / "2" / "2" / "2.png").rename(tmp_path / "shop" / "2" / "2" / "3.png")
    changed = check_dataset(shop, tmp_path, deep=True)
    assert changed.problem_count == 3
    assert changed.problems[0] == "1/1/1.png: not what the image list says (size, sha256)"
    assert changed.problems[1:] == (
        "2/2/2.png: in the image list, but not there",
        "2/2/3.png: not in the image list",
    )


def test_deep_names_what_does_not_decode(shop, tmp_path):
    root = tmp_path / "shop"
    noise = np.random.default_rng(0).integers(0, 255, (64, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "1" / "1" / "1.png")
    whole = (root / "1" / "1" / "1.png").read_bytes()
    (root / "1" / "1" / "1.png").write_bytes(whole[: len(whole) // 2])
    (root / "1" / "1" / "2.png").write_bytes(b"")
    (root / "1" / "2" / "1.png").write_bytes(b"<html>not found</html>")
    Image.new("1", (10_000, 6_000)).save(root / "1" / "2" / "2.png")
    (root / "2" / "1" / "1.png").unlink()
    (root / "2" / "1" / "1.png").symlink_to(tmp_path / "nowhere.png")
    report = check_dataset(shop, tmp_path, deep=True)
    assert report.problems == (
        "1/1/1.png: cannot be decoded (the PNG is cut off)",
        "1/1/2.png: cannot be decoded (it is empty)",
        "1/2/1.png: cannot be decoded (it is not a JPEG, PNG or BMP image)",
        "1/2/2.png: cannot be decoded (10000 x 6000 pixels are more than 50 megapixels)",
        "2/1/1.png: is not there any more",
    )
    assert not report.list_written
    assert not report.image_list.exists()
    row = report.rows[-1]
    assert (row.what, row.expected, row.found, row.ok) == ("images decoded", 16, 11, False)


def test_images_that_no_stage_reads_are_decoded_too(tmp_path):
    image(tmp_path / "market1501" / "bounding_box_train" / "0001_c1s1_000001_01.jpg")
    (tmp_path / "market1501" / "query").mkdir()
    (tmp_path / "market1501" / "query" / "0001_c1s1_000001_02.jpg").write_bytes(b"no image")
    report = check_dataset(load_manifest("market1501"), tmp_path, deep=True)
    assert "query/0001_c1s1_000001_02.jpg: cannot be decoded (it is not a JPEG, PNG or BMP image)" in report.problems


def test_a_file_that_is_no_image_list_is_refused(shop, tmp_path):
    for content in ("", "a\tb\n", check.LIST_HEADER + "a\t1\n", check.LIST_HEADER + "a\tx\ty\tz\t1\n"):
        (tmp_path / "shop-images.tsv").write_text(content)
        with pytest.raises(BadData, match="image list"):
            check_dataset(shop, tmp_path, deep=True)


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.text(min_size=1), st.integers(0, 2**40), max_size=20))
def test_image_lists_keep_odd_names(tmp_path_factory, sizes):
    records = {name: ImageRecord(size, "0" * 64, 4, 8) for name, size in sizes.items()}
    path = tmp_path_factory.mktemp("list") / "list.tsv"
    assert check.read_image_list(check.write_image_list(path, records)) == records


def test_image_lists_keep_names_that_are_not_utf8(tmp_path):
    records = {"caf\udce9\t\\n.jpg": ImageRecord(1, "0" * 64, 4, 8)}
    assert check.read_image_list(check.write_image_list(tmp_path / "list.tsv", records)) == records


def test_a_folder_says_what_it_is_and_how_to_go_on(tmp_path):
    (tmp_path / "mars" / "bbox_train").mkdir(parents=True)
    (tmp_path / "mars" / "bbox_test").mkdir()
    image(tmp_path / "an odd; name" / "shop 1" / "ann" / "door" / "1.jpg")
    command = f"amem data check mars --data-root {tmp_path}"
    mars = FoundFolder(tmp_path / "mars", "mars", command)
    assert find_datasets(tmp_path) == [mars]  # the data root
    assert find_datasets(tmp_path / "mars") == [mars]
    [own] = find_datasets(tmp_path / "an odd; name" / "shop 1")
    assert (own.layout, own.command) == ("folder", "amem data check shop-1.toml")
    (tmp_path / "shop-1.toml").write_text(own.manifest)
    assert check_dataset(load_manifest(tmp_path / "shop-1.toml"), "unused").folder == own.folder  # it can be read
    (tmp_path / "mars").rename(tmp_path / "MARS-v1")
    [renamed] = find_datasets(tmp_path / "MARS-v1")
    assert (renamed.layout, renamed.command) == ("mars", "amem data check MARS-v1.toml")
    assert f'root = "{tmp_path / "MARS-v1"}"' in renamed.manifest


def test_a_folder_of_nothing_known_is_bad_data(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(BadData, match="looks like none of the layouts mars, ilids-vid"):
        find_datasets(tmp_path)


def test_the_command_takes_a_folder(tmp_path, capsys):
    image(tmp_path / "shop" / "ann" / "door" / "1.jpg")
    assert run(["data", "check", str(tmp_path / "shop")]) == 0
    text = capsys.readouterr().out
    assert "looks like the layout 'folder'" in text
    assert "-> amem data check shop.toml" in text
    assert run(["data", "check", str(tmp_path / "shop"), "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["folders"]
    assert (found["layout"], found["command"]) == ("folder", "amem data check shop.toml")
