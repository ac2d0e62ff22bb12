"""Generated tracklets in the original layouts of MARS, iLIDS-VID and PRID-2011."""

import json

import numpy as np

from amem_cli.person_ids import DISTRACTOR, JUNK
from amem_cli.walkers.cameras import wrong_detection
from amem_cli.walkers.people import Walker
from amem_cli.walkers.world import ILIDS_CAMERAS, PRID_CAMERAS, SPLITS, Shot, World

PRID_FRAMES = 27  # the standard protocol keeps people with this many frames or more in both cameras
PRID_SHARED = 200  # ids up to this one are the same person in both cameras


def plan_mars(world: World) -> None:
    """MARS: both subsets with their tables, and one query for each test person and camera."""
    for subset in ("train", "test"):
        names, rows, queries = _mars_tracklets(world, subset)
        world.add_lines(f"mars/info/{subset}_name.txt", names)
        table = np.array(rows, dtype=np.int32)
        world.add_matlab(f"mars/info/tracks_{subset}_info.mat", f"track_{subset}_info", table)
        if subset == "test":
            narrow = np.uint16 if len(rows) < 2**16 else np.uint32
            world.add_matlab("mars/info/query_IDX.mat", "query_IDX", np.array([queries], dtype=narrow))


def _mars_tracklets(world: World, subset: str) -> tuple[list[str], list[tuple[int, int, int, int]], list[int]]:
    """Names of the frames, rows (first frame, last frame, person, camera) and numbers of the queries, all from 1."""
    options, passers = world.options, world.people("mars-passers", 6)
    names: list[str] = []
    rows: list[tuple[int, int, int, int]] = []
    queries: list[int] = []

    def track(pid: int, walker: Walker | None, camera: int, number: int, length: int, wrong: bool = False) -> None:
        key = (f"mars-{subset}", pid, camera, number)
        rng = world.rng(*key)
        passage = world.passage(length, camera, *key, passer=passers[int(rng.integers(len(passers)))])
        if wrong:
            passage = wrong_detection(passage, rng)
        folder = "00-1" if pid == JUNK else f"{pid:04d}"
        first = len(names) + 1
        for frame in range(length):
            name = f"{folder}C{camera + 1}T{number:04d}F{frame + 1:03d}.jpg"
            names.append(name)
            world.shots.append(Shot(f"mars/bbox_{subset}/{folder}/{name}", walker, camera, frame, passage))
        rows.append((first, len(names), pid, camera + 1))

    if subset == "test":
        each = max(1, options.people // 12)
        for pid in (JUNK, DISTRACTOR):
            for k in range(options.cameras * each):
                length = int(world.rng("mars-wrong", pid, k).integers(4, 13))
                track(pid, passers[k % len(passers)] if k % 3 else None, k // each, k % each + 1, length, wrong=True)
    for index, walker in enumerate(world.people(f"mars-{subset}", options.people)):
        rng = world.rng(f"mars-{subset}", index, "where")
        seen = np.sort(rng.permutation(options.cameras)[: int(rng.integers(2, options.cameras + 1))])
        for camera in seen.tolist():
            chosen = int(rng.integers(options.tracklets_per_camera))
            for k in range(options.tracklets_per_camera):
                if k == chosen:
                    queries.append(len(rows) + 1)
                length = int(rng.integers(options.frames[0], options.frames[1] + 1))
                track(2 * index + (1 if subset == "train" else 2), walker, camera, k + 1, length)
    return names, rows, queries


def plan_ilids(world: World) -> None:
    """iLIDS-VID: two cameras and ten splits."""
    walkers = world.people("ilids", world.options.people // 2 * 2)
    passers = world.people("ilids-passers", 4)
    shortest, longest = (max(1, length * 3 // 4) for length in world.options.frames)
    number = 0
    for index, walker in enumerate(walkers):
        number += 1 + int(world.rng("ilids", index, "gap").random() < 0.1)
        for place, camera in enumerate(ILIDS_CAMERAS):
            key = ("ilids", index, place)
            rng = world.rng(*key)
            length = int(rng.integers(shortest, longest + 1))
            # frame numbers are times: the walk continues during missing frames
            steps = 1 + (rng.random(length) < 0.05) * rng.integers(1, 3, length)
            times = np.cumsum(steps) - steps[0]
            passage = world.passage(int(times[-1]) + 1, camera, *key, passer=passers[int(rng.integers(4))])
            start = int(rng.integers(1, 400))
            folder = f"ilids-vid/i-LIDS-VID/sequences/cam{place + 1}/person{number:03d}"
            for time in times.tolist():
                name = f"cam{place + 1}_person{number:03d}_{start + time:05d}.png"
                world.shots.append(Shot(f"{folder}/{name}", walker, camera, time, passage))
    order = [world.rng("ilids", "split", k).permutation(len(walkers)) + 1 for k in range(SPLITS)]
    path = "ilids-vid/train-test people splits/train_test_splits_ilidsvid.mat"
    world.add_matlab(path, "ls_set", np.array(order, dtype=np.float64))


def plan_prid(world: World) -> None:
    """PRID-2011: people in both cameras, some with too few frames, people in one camera alone, and ten splits."""
    people = world.options.people
    shared = min(people, PRID_SHARED)
    short = max(1, shared // 12) if shared >= 4 else 0
    short += (shared - short) % 2  # the others are split into halves
    passers = world.people("prid-passers", 4)
    too_short = set(world.rng("prid", "short").permutation(shared)[:short].tolist())

    def walk(place: int, number: int, walker: Walker, length: int) -> None:
        key = ("prid", number, place)
        rng = world.rng(*key)
        passage = world.passage(length, PRID_CAMERAS[place], *key, passer=passers[int(rng.integers(4))])
        folder = f"prid2011/prid_2011/multi_shot/cam_{'ab'[place]}/person_{number:04d}"
        for frame in range(length):
            world.shots.append(Shot(f"{folder}/{frame + 1:04d}.png", walker, PRID_CAMERAS[place], frame, passage))

    for index, walker in enumerate(world.people("prid", shared)):
        rng = world.rng("prid", index, "length")
        for place in (0, 1):
            length = int(rng.integers(PRID_FRAMES, PRID_FRAMES + 6))
            if index in too_short and place == index % 2:
                length = int(rng.integers(5, PRID_FRAMES))
            walk(place, index + 1, walker, length)
    # from 201 on the same number is another person in the other camera
    for place, count in enumerate((max(1, people // 12), max(2, people // 8))):
        for index, walker in enumerate(world.people(f"prid-only-{place}", count)):
            walk(place, PRID_SHARED + 1 + index, walker, PRID_FRAMES)

    standard = [f"person_{index + 1:04d}" for index in range(shared) if index not in too_short]
    splits = []
    for k in range(SPLITS):
        order = world.rng("prid", "split", k).permutation(len(standard)).tolist()
        test, train = order[: len(order) // 2], order[len(order) // 2 :]
        splits.append({"test": [standard[i] for i in sorted(test)], "train": [standard[i] for i in sorted(train)]})
    world.add_lines("prid2011/splits_prid2011.json", [json.dumps(splits, indent=4)])
