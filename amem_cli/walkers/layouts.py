"""The walkers on disk, in the original layouts of PETA, Market-1501, MARS, iLIDS-VID and PRID-2011.

Each data set is first planned as a list of `Shot`s, one per image, together with its tables and splits; then the images
are painted one after another. The data sets show different people in one world: MARS and Market-1501 share their
cameras, and so do PETA's subsets i-LID and PRID with iLIDS-VID and PRID-2011.
"""

import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from amem_cli.errors import UsageError
from amem_cli.person_ids import DISTRACTOR, JUNK
from amem_cli.randomness import keyed_generator
from amem_cli.walkers.cameras import Camera, Passage, build_camera, draw_passage, draw_scene, render_walker
from amem_cli.walkers.people import Walker, draw_people

ILIDS_CAMERAS = (6, 7)
PRID_CAMERAS = (8, 9)
PRID_FRAMES = 27  # the standard protocol keeps people with at least this many frames in both cameras
PRID_SHARED = 200  # only ids up to here are the same person in both cameras
SPLITS = 10
# PETA's subsets in its own order: the cameras of the world they are taken with and the size (w, h) images are kept at.
PETA_SUBSETS: dict[str, tuple[tuple[int, int], tuple[int, int] | None]] = {
    "3DPeS": ((10, 11), (93, 186)),
    "CAVIAR4REID": ((12, 13), (36, 72)),
    "CUHK": ((14, 15), (80, 160)),
    "GRID": ((16, 17), (84, 168)),
    "MIT": ((18, 19), None),
    "PRID": (PRID_CAMERAS, None),
    "SARC3D": ((20, 20), (66, 140)),
    "TownCentre": ((21, 21), (100, 200)),
    "VIPeR": ((22, 23), (48, 128)),
    "i-LID": (ILIDS_CAMERAS, (74, 148)),
}


@dataclass(frozen=True, slots=True)
class Shot:
    """One image to paint: `walker` in `camera` at `frame` of `passage`; no walker is an empty box.

    `path` is relative to the root of all data sets; `size` (w, h) is what the image is resized to, None: not at all.
    """

    path: str
    walker: Walker | None
    camera: int
    frame: int
    passage: Passage
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class World:
    """The choices that all data sets share, and the cameras built so far."""

    seed: int
    height: int
    width: int
    cameras: dict[int, Camera]

    def camera(self, index: int) -> Camera:
        if index not in self.cameras:
            self.cameras[index] = build_camera(self.seed, index, height=self.height, width=self.width)
        return self.cameras[index]

    def passage(self, frames: int, camera: int, *key: int | str, passer: Walker | None = None) -> Passage:
        return draw_passage(self.camera(camera), frames, self.seed, "walker", *key, passer=passer)

    def rng(self, *key: int | str) -> np.random.Generator:
        return keyed_generator(self.seed, "walker", *key)


def write_walkers(
    out: Path,
    *,
    seed: int = 0,
    people: int = 24,
    cameras: int = 2,
    tracklets_per_camera: int = 2,
    frames: tuple[int, int] = (24, 40),
    images_per_person: int = 12,
    height: int = 128,
    width: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write OUT/{peta,market1501,mars,ilids-vid,prid2011} with generated walking people and return OUT.

    `people` is the number of training people and, again, of test people in MARS and Market-1501; the number of people
    in iLIDS-VID (rounded down to even) and in both cameras of PRID-2011 (at most 200); and of each of PETA's ten
    subsets (CUHK and MIT, with one image each: twice that). `cameras` (2 to 6) and `tracklets_per_camera` shape
    MARS, where everybody passes at least two cameras; `frames` are the least and the greatest length of its tracklets
    (iLIDS-VID: three quarters of that; PRID-2011: 27 to 32, and some people less). `images_per_person` is
    Market-1501's, over all cameras, and that of PETA's TownCentre. `height` and `width` are the box in pixels; PETA's
    subsets resize it. TownCentre's `Label.txt` has one key without an image, as the original has.

    The same arguments give the same bytes. `progress(done, total)` is called after every image. Raises `UsageError` for
    arguments out of range and when OUT holds anything.
    """
    out = Path(out)
    _check(out, people, cameras, tracklets_per_camera, frames, images_per_person, height, width)
    world = World(seed, height, width, {})
    shots: list[Shot] = []
    files: dict[str, bytes] = {}
    _plan_peta(world, people, images_per_person, shots, files)
    _plan_market(world, people, cameras, images_per_person, shots)
    for part in ("train", "test"):
        _plan_mars(world, part, people, cameras, tracklets_per_camera, frames, shots, files)
    _plan_ilids(world, people, frames, shots, files)
    _plan_prid(world, people, shots, files)

    for folder in sorted({str(Path(path).parent) for path in (*files, *(shot.path for shot in shots))}):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        (out / path).write_bytes(content)
    for done, shot in enumerate(shots, 1):
        _save(_paint(world, shot), out / shot.path)
        if progress is not None:
            progress(done, len(shots))
    return out


def _check(
    out: Path,
    people: int,
    cameras: int,
    tracklets_per_camera: int,
    frames: tuple[int, int],
    images_per_person: int,
    height: int,
    width: int,
) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("walkers", out, why="the folder is not empty", remedy="Name a new or an empty folder")
    ranges = [
        ("people", people, 2, 2000),
        ("cameras", cameras, 2, 6),
        ("tracklets per camera", tracklets_per_camera, 1, 100),
        ("shortest tracklet", frames[0], 1, 900),
        ("longest tracklet", frames[1], frames[0], 900),
        ("images per person", images_per_person, 1, 900),
        ("height", height, 32, 1024),
        ("width", width, 16, 512),
    ]
    wrong = [f"{name} is {value}, not {low} to {high}" for name, value, low, high in ranges if not low <= value <= high]
    if wrong:
        raise UsageError("walkers", out, why="; ".join(wrong), remedy="Choose values in these ranges")


def _paint(world: World, shot: Shot) -> Image.Image:
    camera = world.camera(shot.camera)
    if shot.walker is None:
        image = draw_scene(camera, shot.passage.place + 0.01 * shot.frame)
    else:
        image = render_walker(shot.walker, camera, shot.frame, shot.passage)
    return image if shot.size is None else image.resize(shot.size, Image.Resampling.BILINEAR)


def _save(image: Image.Image, path: Path) -> None:
    if path.suffix in (".jpg", ".jpeg"):
        image.save(path, format="JPEG", quality=92)
    elif path.suffix == ".png":
        image.save(path, format="PNG", compress_level=1)
    else:
        image.save(path, format="BMP")


def _mat(name: str, value: np.ndarray) -> bytes:
    """A MATLAB 5 file with one variable; its header names no date, so that equal values are equal bytes."""
    stream = io.BytesIO()
    savemat(stream, {name: value})
    header = b"MATLAB 5.0 MAT-file, generated walkers"
    return header.ljust(116) + stream.getvalue()[116:]


def _plan_peta(world: World, people: int, images: int, shots: list[Shot], files: dict[str, bytes]) -> None:
    for subset, (cameras, size) in PETA_SUBSETS.items():
        count = 2 * people if subset in ("CUHK", "MIT") else people
        walkers, _ = draw_people(world.seed, f"peta-{subset}", count)
        lines = []
        for index, walker in enumerate(walkers):
            key = (f"peta-{subset}", index)
            rng = world.rng(*key, "names")
            number = 2 * index + 1 + int(rng.integers(2))
            names = _peta_names(subset, number, walker, images, rng)
            label = names[0][0] if subset == "CUHK" else names[0][0].split("_")[0]
            # Label.txt spells one attribute otherwise than the ReadMe.
            words = [name.replace("footwearSneaker", "footwearSneakers") for name in walker.attributes]
            lines.append(" ".join((label, *words)))
            for k, (name, which, frame, heading) in enumerate(names):
                camera = cameras[which]
                walk = subset == "TownCentre"  # one walk past one camera; elsewhere every image is a walk of its own
                passage = world.passage(9 * images if walk else 1, camera, *key, 0 if walk else k)
                if heading is not None:
                    passage = replace(passage, heading=math.radians(heading))
                path = f"peta/PETA dataset/{subset}/archive/{name}"
                shots.append(Shot(path, walker, camera, frame, passage, size))
        if subset == "TownCentre":
            lines.append(" ".join((str(2 * count + 100), *walkers[0].attributes)))
        files[f"peta/PETA dataset/{subset}/archive/Label.txt"] = ("\n".join(lines) + "\n").encode()


def _peta_names(
    subset: str, number: int, walker: Walker, images: int, rng: np.random.Generator
) -> list[tuple[str, int, int, float | None]]:
    """The images of one person in a subset: (name, first or second camera, frame, degrees of heading or None)."""
    start = int(rng.integers(16, 2000))
    match subset:
        case "3DPeS":
            frames = [start + 31 * k for k in range(3)]
            return [(f"{number}_{number + 34}_FRAME_{frame}_RGB.bmp", k % 2, 0, None) for k, frame in enumerate(frames)]
        case "CAVIAR4REID":
            return [(f"{number:04d}_{10 * c + k + 1:03d}.jpg", c, 0, None) for c in (0, 1) for k in range(4)]
        case "CUHK":
            return [(f"{number:04d}.png", number % 2, 0, None)]
        case "GRID":
            return [(f"{number:04d}_{c + 1}_{start + 40 * c}_126_19_71_215.jpeg", c, 0, None) for c in (0, 1)]
        case "MIT":
            side = ("fore", "back")[number % 2]
            heading = float(rng.uniform(35, 145)) * (1 if side == "fore" else -1)
            return [(f"{number:05d}_{walker.body.sex.lower()}_{side}.jpg", number // 2 % 2, 0, heading)]
        case "PRID":
            return [(f"{number:04d}_{letter}.png", c, 0, None) for c, letter in enumerate("ab")]
        case "SARC3D":
            turns = {"back": -90.0, "front": 90.0, "left": 180.0, "right": 0.0}
            return [(f"{number:03d}_{name}.bmp", 0, 0, turn) for name, turn in turns.items()]
        case "TownCentre":
            return [(f"{number}_{start + 9 * k}.jpg", 0, 9 * k, None) for k in range(images)]
        case "VIPeR":
            return [(f"{number:03d}_{angle}_{c + 1}.bmp", c, 0, None) for c, angle in enumerate((45, 90))]
        case "i-LID":
            return [(f"{number:04d}_{k + 1:03d}.jpg", k % 2, 0, None) for k in range(4)]
    raise ValueError(subset)


def _plan_market(world: World, people: int, cameras: int, images: int, shots: list[Shot]) -> None:
    passers, _ = draw_people(world.seed, "market-passers", 4)

    def shoot(folder: str, pid: int, walker: Walker | None, camera: int, k: int, spoilt: bool = False) -> None:
        key = ("market", folder, pid, camera, k)
        rng = world.rng(*key)
        passage = world.passage(1, camera, *key, passer=passers[int(rng.integers(4))])
        if spoilt:
            passage = _spoil(passage, rng)
        frame = int(rng.integers(100, 9000)) + 10000 * k
        name = f"{pid:04d}_c{camera + 1}s{1 + k % 3}_{frame:06d}_{int(rng.integers(9)):02d}.jpg"
        if pid == JUNK:
            name = f"-1_{name.split('_', 1)[1]}"
        shots.append(Shot(f"market1501/{folder}/{name}", walker, camera, 0, passage))

    per_camera = [images // cameras + (c < images % cameras) for c in range(cameras)]
    for folder, first in (("bounding_box_train", 2), ("bounding_box_test", 1)):
        walkers, _ = draw_people(world.seed, f"market-{folder}", people)
        for index, walker in enumerate(walkers):
            for camera, count in enumerate(per_camera):
                for k in range(count):
                    shoot(folder, 2 * index + first, walker, camera, k)
                if folder == "bounding_box_test":
                    shoot("query", 2 * index + first, walker, camera, 90)
    for pid in (DISTRACTOR, JUNK):
        for k in range(max(4, people // 2)):
            walker = passers[k % 4] if k % 3 else None
            shoot("bounding_box_test", pid, walker, k % cameras, k, spoilt=True)


def _spoil(passage: Passage, rng: np.random.Generator) -> Passage:
    """A wrong detection: the box misses most of the person, or holds a part too large."""
    away = np.array([rng.choice([-0.24, 0.24]), rng.uniform(-0.35, 0.35), rng.uniform(-0.3, 0.5)])
    return replace(passage, shift=passage.shift + away)


def _plan_mars(
    world: World,
    part: str,
    people: int,
    cameras: int,
    tracklets_per_camera: int,
    frames: tuple[int, int],
    shots: list[Shot],
    files: dict[str, bytes],
) -> None:
    walkers, _ = draw_people(world.seed, f"mars-{part}", people)
    passers, _ = draw_people(world.seed, "mars-passers", 6)
    names: list[str] = []
    rows: list[tuple[int, int, int, int]] = []
    queries: list[int] = []

    def track(pid: int, walker: Walker | None, camera: int, number: int, length: int, spoilt: bool = False) -> None:
        key = (f"mars-{part}", pid, camera, number)
        rng = world.rng(*key)
        passage = world.passage(length, camera, *key, passer=passers[int(rng.integers(len(passers)))])
        if spoilt:
            passage = _spoil(passage, rng)
        folder = "00-1" if pid == JUNK else f"{pid:04d}"
        first = len(names) + 1
        for frame in range(length):
            name = f"{folder}C{camera + 1}T{number:04d}F{frame + 1:03d}.jpg"
            names.append(name)
            shots.append(Shot(f"mars/bbox_{part}/{folder}/{name}", walker, camera, frame, passage))
        rows.append((first, len(names), pid, camera + 1))

    if part == "test":
        each = max(1, people // 12)
        for pid in (JUNK, DISTRACTOR):
            for k in range(cameras * each):
                length = int(world.rng("mars-wrong", pid, k).integers(4, 13))
                walker = passers[k % len(passers)] if k % 3 else None
                track(pid, walker, k // each, k % each + 1, length, spoilt=True)
    for index, walker in enumerate(walkers):
        pid = 2 * index + (1 if part == "train" else 2)
        rng = world.rng(f"mars-{part}", index, "where")
        seen = np.sort(rng.permutation(cameras)[: int(rng.integers(2, cameras + 1))])
        for camera in seen.tolist():
            chosen = int(rng.integers(tracklets_per_camera))
            for k in range(tracklets_per_camera):
                if k == chosen:
                    queries.append(len(rows) + 1)
                track(pid, walker, camera, k + 1, int(rng.integers(frames[0], frames[1] + 1)))
    files[f"mars/info/{part}_name.txt"] = ("\n".join(names) + "\n").encode()
    files[f"mars/info/tracks_{part}_info.mat"] = _mat(f"track_{part}_info", np.array(rows, dtype=np.int32))
    if part == "test":
        narrow = np.uint16 if len(rows) < 2**16 else np.uint32
        files["mars/info/query_IDX.mat"] = _mat("query_IDX", np.array([queries], dtype=narrow))


def _plan_ilids(world: World, people: int, frames: tuple[int, int], shots: list[Shot], files: dict[str, bytes]) -> None:
    walkers, _ = draw_people(world.seed, "ilids", people - people % 2)
    passers, _ = draw_people(world.seed, "ilids-passers", 4)
    shortest, longest = max(1, frames[0] * 3 // 4), max(1, frames[1] * 3 // 4)
    number = 0
    for index, walker in enumerate(walkers):
        number += 1 + int(world.rng("ilids", index, "gap").random() < 0.1)
        for place, camera in enumerate(ILIDS_CAMERAS):
            key = ("ilids", index, place)
            rng = world.rng(*key)
            length = int(rng.integers(shortest, longest + 1))
            # The frame number is time: where frames are missing, the walk went on.
            steps = 1 + (rng.random(length) < 0.05) * rng.integers(1, 3, length)
            times = np.cumsum(steps) - steps[0]
            passage = world.passage(int(times[-1]) + 1, camera, *key, passer=passers[int(rng.integers(4))])
            start = int(rng.integers(1, 400))
            folder = f"ilids-vid/i-LIDS-VID/sequences/cam{place + 1}/person{number:03d}"
            for time in times.tolist():
                name = f"cam{place + 1}_person{number:03d}_{start + time:05d}.png"
                shots.append(Shot(f"{folder}/{name}", walker, camera, time, passage))
    order = [world.rng("ilids", "split", k).permutation(len(walkers)) + 1 for k in range(SPLITS)]
    path = "ilids-vid/train-test people splits/train_test_splits_ilidsvid.mat"
    files[path] = _mat("ls_set", np.array(order, dtype=np.float64))


def _plan_prid(world: World, people: int, shots: list[Shot], files: dict[str, bytes]) -> None:
    shared = min(people, PRID_SHARED)
    short = max(1, shared // 12) if shared >= 4 else 0
    short += (shared - short) % 2  # the rest is halved
    walkers, _ = draw_people(world.seed, "prid", shared)
    passers, _ = draw_people(world.seed, "prid-passers", 4)
    too_short = set(world.rng("prid", "short").permutation(shared)[:short].tolist())

    def walk(place: int, number: int, walker: Walker, length: int) -> None:
        key = ("prid", number, place)
        rng = world.rng(*key)
        passage = world.passage(length, PRID_CAMERAS[place], *key, passer=passers[int(rng.integers(4))])
        folder = f"prid2011/prid_2011/multi_shot/cam_{'ab'[place]}/person_{number:04d}"
        for frame in range(length):
            shots.append(Shot(f"{folder}/{frame + 1:04d}.png", walker, PRID_CAMERAS[place], frame, passage))

    for index, walker in enumerate(walkers):
        rng = world.rng("prid", index, "length")
        for place in (0, 1):
            length = int(rng.integers(PRID_FRAMES, PRID_FRAMES + 6))
            if index in too_short and place == index % 2:
                length = int(rng.integers(5, PRID_FRAMES))
            walk(place, index + 1, walker, length)
    # From 201 on the same number is another person in the other camera, and b has more of them.
    for place, count in enumerate((max(1, people // 12), max(2, people // 8))):
        strangers, _ = draw_people(world.seed, f"prid-only-{place}", count)
        for index, walker in enumerate(strangers):
            walk(place, PRID_SHARED + 1 + index, walker, PRID_FRAMES)

    standard = [f"person_{index + 1:04d}" for index in range(shared) if index not in too_short]
    splits = []
    for k in range(SPLITS):
        order = world.rng("prid", "split", k).permutation(len(standard)).tolist()
        test, train = order[: len(order) // 2], order[len(order) // 2 :]
        splits.append({"test": [standard[i] for i in sorted(test)], "train": [standard[i] for i in sorted(train)]})
    files["prid2011/splits_prid2011.json"] = (json.dumps(splits, indent=4) + "\n").encode()
