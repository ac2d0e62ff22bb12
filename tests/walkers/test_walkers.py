"""Generated walkers: true layouts, true labels, the same bytes for the same seed, and legs that move."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from amem_cli.attributes import ATTRIBUTES, COLOURS
from amem_cli.errors import UsageError
from amem_cli.walkers import (
    build_camera,
    draw_passage,
    draw_people,
    draw_person,
    draw_walker,
    write_walkers,
)
from amem_cli.walkers.gait import pose_at

SMALL = {"people": 4, "frames": (3, 5), "images_per_person": 3, "height": 32, "width": 16}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walkers(tmp_path_factory.mktemp("walkers"), tracklets_per_camera=2, cameras=3, **SMALL)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".jpeg", ".png", ".bmp"))


def test_same_seed_same_bytes_also_in_another_process(root: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from amem_cli.walkers import write_walkers;"
        f"write_walkers(Path({str(tmp_path / 'again')!r}), tracklets_per_camera=2, cameras=3, **{SMALL!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"})
    assert digests(tmp_path / "again") == digests(root)


def test_another_seed_shows_other_people() -> None:
    looks = [draw_person(seed, "mars-train", 0) for seed in (0, 1)]
    assert looks[0] != looks[1]
    assert draw_people(0, "mars-train", 8)[0] != draw_people(0, "mars-test", 8)[0]


def test_adding_people_changes_nobody_before_them() -> None:
    few, _ = draw_people(3, "x", 8)
    many, _ = draw_people(3, "x", 64)
    assert few[:6] == many[:6]


def test_progress_counts_every_image(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_walkers(tmp_path / "out", progress=lambda done, total: calls.append((done, total)), **SMALL)
    written = sum(path.suffix in (".jpg", ".jpeg", ".png", ".bmp") for path in (tmp_path / "out").rglob("*"))
    assert calls == [(k, written) for k in range(1, written + 1)]


def test_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        write_walkers(tmp_path)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "mine.txt"]


def test_every_value_out_of_range_is_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        write_walkers(tmp_path / "out", people=1, cameras=7, frames=(9, 8), height=8)
    message = str(caught.value)
    assert all(word in message for word in ("people is 1", "cameras is 7", "longest tracklet is 8", "height is 8"))
    assert not (tmp_path / "out").exists()


# labels


def test_labels_are_consistent_for_many_people() -> None:
    for index in range(300):
        walker = draw_person(5, "labels", index)
        has = set(walker.attributes)
        assert list(walker.attributes) == [name for name in ATTRIBUTES if name in has]
        assert len(has & {"personalMale", "personalFemale"}) == 1
        assert len(has & {f"personal{age}" for age in ("Less15", "Less30", "Less45", "Less60", "Larger60")}) == 1
        assert len(has & {"hairBald", "hairLong", "hairShort"}) == 1
        assert len(has & {f"hair{colour}" for colour in COLOURS}) == (0 if "hairBald" in has else 1)
        assert len(has & {f"upperBody{colour}" for colour in COLOURS}) in (1, 2)
        assert len(has & {f"upperBody{kind}" for kind in ("LongSleeve", "ShortSleeve", "NoSleeve")}) == 1
        for part in ("lowerBody", "footwear"):
            assert len(has & {f"{part}{colour}" for colour in COLOURS}) == 1
        for part in ("accessory", "carrying"):
            assert len([name for name in has if name.startswith(part)]) == 1
        lower = {"Trousers", "Jeans", "Suits", "Shorts", "HotPants", "Capri", "ShortSkirt", "LongSkirt"}
        assert len(has & {f"lowerBody{kind}" for kind in lower}) == 1
        assert f"hair{walker.body.hair}" in has
        assert f"carrying{walker.clothes.carrying}" in has
        assert ("upperBodySuit" in has) == ("lowerBodySuits" in has)


def test_most_attributes_occur_and_none_is_everybodys() -> None:
    people = [draw_person(0, "many", index) for index in range(400)]
    counts = {name: sum(name in walker.attributes for walker in people) for name in ATTRIBUTES}
    assert sum(count > 0 for count in counts.values()) >= 75
    assert max(counts.values()) < 0.9 * len(people)


def test_alike_pairs_differ_in_gait_alone() -> None:
    people, pairs = draw_people(0, "mars-train", 24)
    assert len(pairs) == 3
    for first, second in pairs:
        a, b = people[first], people[second]
        assert replace(a, gait=b.gait) == b
        assert abs(a.gait.stride - b.gait.stride) == pytest.approx(0.28, abs=1e-6)
        assert abs(a.gait.period - b.gait.period) == pytest.approx(4.0, abs=1e-6)


# the figure


def test_a_cycle_closes_and_feet_stand_on_the_ground() -> None:
    walker = draw_person(0, "gait", 1)
    start, end = pose_at(walker, 0.25), pose_at(walker, 1.25)
    assert np.allclose(start.legs[0].knee, end.legs[0].knee)
    for phase in np.linspace(0.0, 1.0, 41):
        pose = pose_at(walker, float(phase))
        lowest = min(point[2] for leg in pose.legs for point in (leg.heel, leg.toe))
        assert lowest == pytest.approx(0.0, abs=1e-9)
        assert 0.95 < pose.head[2] + 0.068 * walker.body.head < 1.06


def test_left_and_right_leg_are_half_a_cycle_apart() -> None:
    walker = draw_person(0, "gait", 2)
    even = replace(walker, gait=replace(walker.gait, asymmetry=0.0))
    now, later = pose_at(even, 0.1), pose_at(even, 0.6)
    assert now.legs[0].knee[0] == pytest.approx(later.legs[1].knee[0])
    uneven = replace(walker, gait=replace(walker.gait, asymmetry=0.2))
    assert pose_at(uneven, 0.0).legs[0].knee[0] > pose_at(uneven, 0.5).legs[1].knee[0] + 0.01


def test_pictures_have_the_asked_size_and_a_person_in_the_middle() -> None:
    walker = draw_person(0, "size", 0)
    for height, width in ((128, 64), (256, 128), (64, 32)):
        camera = build_camera(0, 0, height=height, width=width)
        frame = draw_walker(walker, camera, 3)
        assert frame.shape == (height, width, 3)
        assert frame.dtype == np.uint8
        other = draw_walker(draw_person(0, "size", 1), camera, 3)
        changed = np.abs(frame.astype(int) - other).max(axis=2) > 12
        inner, edge = changed[:, width // 4 : -width // 4], changed[:, : width // 16]
        assert inner.mean() > 0.2
        assert edge.mean() < 0.15


def test_legs_move_visibly_and_smoothly() -> None:
    walker, camera = draw_person(0, "move", 3), build_camera(0, 0)
    wall, ground = (Image.new("RGB", image.size, (128, 128, 128)) for image in (camera.wall, camera.ground))
    still = replace(camera, grain=np.zeros_like(camera.grain), wall=wall, ground=ground)  # only the person moves
    frames = [draw_walker(walker, still, k).astype(float)[70:] for k in range(12)]
    steps = [np.abs(a - b).mean() for a, b in pairwise(frames)]
    far = np.abs(frames[0] - frames[11]).mean()
    assert min(steps) > 1.0  # of 255: every frame differs from the one before
    assert max(steps) < 2.0 * far  # and nothing jumps


def test_alike_pair_is_told_apart_by_motion_only() -> None:
    people, pairs = draw_people(0, "pair", 8)
    camera = build_camera(0, 0)
    first, second = (people[index] for index in pairs[0])
    assert np.array_equal(draw_walker(first, camera, 0), draw_walker(replace(second, gait=first.gait), camera, 0))
    assert not np.array_equal(draw_walker(first, camera, 6), draw_walker(second, camera, 6))


def test_cameras_differ_in_light_and_direction() -> None:
    walker = draw_person(0, "cameras", 0)
    one, two = build_camera(0, 0), build_camera(0, 1)
    assert np.cos(one.heading) > 0 > np.cos(two.heading)
    means = [draw_walker(walker, camera).mean(axis=(0, 1)) for camera in (one, two)]
    assert np.abs(means[0] - means[1]).max() > 8


def test_occlusions_happen_but_are_not_the_rule() -> None:
    camera, passer = build_camera(0, 0, height=32, width=16), draw_person(0, "passer", 0)
    passages = [draw_passage(camera, 30, 0, "occlusion", k, passer=passer) for k in range(200)]
    posts = sum(passage.post is not None for passage in passages)
    passers = sum(passage.passer is not None for passage in passages)
    assert 20 < posts < 60
    assert 20 < passers < 60


# the layouts


def test_mars_tables_agree_with_names_and_folders(root: Path) -> None:
    info = root / "mars" / "info"
    ids = {}
    for part in ("train", "test"):
        names = (info / f"{part}_name.txt").read_text().split()
        rows = loadmat(info / f"tracks_{part}_info.mat")[f"track_{part}_info"]
        assert rows.dtype == np.int32
        assert names == sorted(names)
        assert rows[0, 0] == 1
        assert rows[-1, 1] == len(names)
        assert np.array_equal(rows[1:, 0], rows[:-1, 1] + 1)
        for first, last, pid, camera in rows.tolist():
            folder = "00-1" if pid == -1 else f"{pid:04d}"
            tracklet = {name[: len("0001C1T0001")] for name in names[first - 1 : last]}
            assert len(tracklet) == 1
            assert tracklet.pop().startswith(f"{folder}C{camera}T")
        on_disk = sorted(path.name for path in (root / "mars" / f"bbox_{part}").rglob("*.jpg"))
        assert on_disk == names
        ids[part] = set(rows[:, 2].tolist())
        real = rows[rows[:, 2] > 0]
        assert all(len(set(real[real[:, 2] == pid, 3].tolist())) >= 2 for pid in set(real[:, 2].tolist()))
        assert set((real[:, 1] - real[:, 0] + 1).tolist()) <= {3, 4, 5}
    assert len(ids["train"]) == SMALL["people"]
    assert ids["test"] >= {-1, 0}
    assert not ids["train"] & ids["test"]


def test_mars_has_one_query_for_each_person_and_camera(root: Path) -> None:
    rows = loadmat(root / "mars/info/tracks_test_info.mat")["track_test_info"]
    queries = loadmat(root / "mars/info/query_IDX.mat")["query_IDX"]
    assert queries.shape[0] == 1
    assert queries.dtype == np.uint16
    chosen = [tuple(row) for row in rows[queries[0].astype(int) - 1][:, 2:].tolist()]
    assert sorted(chosen) == sorted({tuple(row) for row in rows[:, 2:].tolist() if row[0] > 0})


def test_market_names(root: Path) -> None:
    market = root / "market1501"
    folders = {name: [path.name for path in images(market / name)] for name in ("bounding_box_train", "query")}
    test = [path.name for path in images(market / "bounding_box_test")]
    assert any(name.startswith("-1_c") for name in test)
    assert any(name.startswith("0000_c") for name in test)
    train = {name[:4] for name in folders["bounding_box_train"]}
    asked = {name[:4] for name in folders["query"]}
    assert len(train) == len(asked) == SMALL["people"]
    assert not train & {name[:4] for name in test}
    assert asked < {name[:4] for name in test}
    assert len(folders["query"]) == SMALL["people"] * 3
    with Image.open(images(market / "query")[0]) as image:
        assert image.size == (16, 32)


def test_ilids_splits_index_the_sorted_folders(root: Path) -> None:
    base = root / "ilids-vid"
    one, two = (sorted(path.name for path in (base / f"i-LIDS-VID/sequences/cam{c}").iterdir()) for c in (1, 2))
    assert one == two
    splits = loadmat(base / "train-test people splits/train_test_splits_ilidsvid.mat")["ls_set"]
    assert splits.shape == (10, SMALL["people"])
    assert all(sorted(row) == list(range(1, SMALL["people"] + 1)) for row in splits.tolist())
    assert len({tuple(row) for row in splits.tolist()}) > 1
    for path in sorted(base.rglob("*.png")):
        camera, person = path.parent.parent.name, path.parent.name
        assert path.name.startswith(f"{camera}_{person}_")


def test_prid_splits_hold_people_with_enough_frames_in_both_cameras(root: Path) -> None:
    base = root / "prid2011" / "prid_2011" / "multi_shot"
    lengths = [{p.name: len(list(p.iterdir())) for p in (base / f"cam_{letter}").iterdir()} for letter in "ab"]
    both = {name for name in lengths[0].keys() & lengths[1].keys() if int(name[-4:]) <= 200}
    enough = {name for name in both if lengths[0][name] >= 27 and lengths[1][name] >= 27}
    assert enough < both
    assert any(int(name[-4:]) > 200 for name in lengths[0])
    splits = json.loads((root / "prid2011" / "splits_prid2011.json").read_text())
    assert len(splits) == 10
    for split in splits:
        assert len(split["test"]) == len(split["train"])
        assert sorted(split["test"] + split["train"]) == sorted(enough)


def test_peta_keys_find_their_images(root: Path) -> None:
    base = root / "peta" / "PETA dataset"
    subsets = {"3DPeS", "CAVIAR4REID", "CUHK", "GRID", "MIT", "PRID", "SARC3D", "TownCentre", "VIPeR", "i-LID"}
    assert {path.name for path in base.iterdir()} == subsets
    spellings = set()
    for subset in sorted(subsets):
        archive = base / subset / "archive"
        lines = [line.split() for line in (archive / "Label.txt").read_text().splitlines()]
        keys = [line[0] for line in lines]
        assert len(keys) == len(set(keys))
        found = {path.name if subset == "CUHK" else path.name.split("_")[0] for path in images(archive)}
        assert found <= set(keys)
        assert len(set(keys) - found) == (1 if subset == "TownCentre" else 0)
        for _, *words in lines:
            spellings |= {word for word in words if word.startswith("footwearSneaker")}
            assert {word.replace("footwearSneakers", "footwearSneaker") for word in words} <= set(ATTRIBUTES)
    assert spellings == {"footwearSneakers"}


def test_importing_walkers_does_not_import_torch() -> None:
    code = "import sys, amem_cli.walkers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
