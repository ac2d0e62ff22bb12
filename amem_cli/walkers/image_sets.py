"""Generated images in the original layouts of PETA and Market-1501."""

import math
from dataclasses import replace

import numpy as np

from amem_cli.person_ids import DISTRACTOR, JUNK
from amem_cli.walkers.cameras import wrong_detection
from amem_cli.walkers.people import Walker
from amem_cli.walkers.world import ILIDS_CAMERAS, PRID_CAMERAS, Shot, World

# PETA's subsets in their original order: the cameras, and the size (w, h) that images are resized to.
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


def plan_peta(world: World) -> None:
    """PETA; the `Label.txt` of TownCentre has one key without an image, as the original has."""
    people, images = world.options.people, world.options.images_per_person
    for subset, (cameras, size) in PETA_SUBSETS.items():
        walkers = world.people(f"peta-{subset}", 2 * people if subset in ("CUHK", "MIT") else people)
        lines = []
        for index, walker in enumerate(walkers):
            key = (f"peta-{subset}", index)
            rng = world.rng(*key, "names")
            number = 2 * index + 1 + int(rng.integers(2))
            names = _peta_names(subset, number, walker, images, rng)
            label = names[0][0] if subset == "CUHK" else names[0][0].split("_")[0]
            # Label.txt spells one attribute differently from the ReadMe
            words = [name.replace("footwearSneaker", "footwearSneakers") for name in walker.attributes]
            lines.append(" ".join((label, *words)))
            for k, (name, which, frame, heading) in enumerate(names):
                if subset == "TownCentre":  # one walk past one camera; in other subsets one walk for each image
                    passage = world.passage(9 * images, cameras[which], *key, 0)
                else:
                    passage = world.passage(1, cameras[which], *key, k)
                if heading is not None:
                    passage = replace(passage, heading=math.radians(heading))
                path = f"peta/PETA dataset/{subset}/archive/{name}"
                world.shots.append(Shot(path, walker, cameras[which], frame, passage, size))
        if subset == "TownCentre":
            lines.append(" ".join((str(2 * len(walkers) + 100), *walkers[0].attributes)))
        world.add_lines(f"peta/PETA dataset/{subset}/archive/Label.txt", lines)


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
        case _:  # i-LID
            return [(f"{number:04d}_{k + 1:03d}.jpg", k % 2, 0, None) for k in range(4)]


def plan_market(world: World) -> None:
    """Market-1501, with distractors and junk images in the gallery."""
    people, cameras, images = world.options.people, world.options.cameras, world.options.images_per_person
    passers = world.people("market-passers", 4)

    def shoot(folder: str, pid: int, walker: Walker | None, camera: int, k: int, wrong: bool = False) -> None:
        key = ("market", folder, pid, camera, k)
        rng = world.rng(*key)
        passage = world.passage(1, camera, *key, passer=passers[int(rng.integers(4))])
        if wrong:
            passage = wrong_detection(passage, rng)
        frame = int(rng.integers(100, 9000)) + 10000 * k
        person = "-1" if pid == JUNK else f"{pid:04d}"
        name = f"{person}_c{camera + 1}s{1 + k % 3}_{frame:06d}_{int(rng.integers(9)):02d}.jpg"
        world.shots.append(Shot(f"market1501/{folder}/{name}", walker, camera, 0, passage))

    for folder, first in (("bounding_box_train", 2), ("bounding_box_test", 1)):
        for index, walker in enumerate(world.people(f"market-{folder}", people)):
            for camera in range(cameras):
                for k in range(images // cameras + (camera < images % cameras)):
                    shoot(folder, 2 * index + first, walker, camera, k)
                if folder == "bounding_box_test":
                    shoot("query", 2 * index + first, walker, camera, 90)
    for pid in (DISTRACTOR, JUNK):
        for k in range(max(4, people // 2)):
            shoot("bounding_box_test", pid, passers[k % 4] if k % 3 else None, k % cameras, k, wrong=True)
