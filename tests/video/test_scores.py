"""Tracks and links of made-up people in two cameras, scored by independent definitions."""

from collections import Counter
from pathlib import Path

import numpy as np

from amem_cli.video.gallery import Gallery
from amem_cli.video.link import link_tracks
from amem_cli.video.tracks import Tracker
from tests.video.galleries import unit_rows, write_gallery
from tests.video.scores import Boxes, idf1, mota, pairwise

PEOPLE, FRAMES, SIZE = 6, 260, (30.0, 90.0)


def test_scores_hand_computed() -> None:
    box = (0.0, 0, 10, 10)
    truth: Boxes = {("a", n): [(1, box)] for n in range(4)}
    found: Boxes = {("a", n): [(7 if n < 2 else 8, box)] for n in range(4)}
    assert idf1(truth, truth) == mota(truth, truth) == 1
    assert (idf1(truth, found), mota(truth, found)) == (0.5, 0.75)  # one switch
    found["a", 0] = [(7, (6.0, 0, 10, 10)), (9, box)]  # 4 of 16: not the same box
    assert mota(truth, {("a", 0): found["a", 0], **{k: v for k, v in found.items() if k[1]}}) == 1 - 3 / 4
    assert pairwise([1, 1, 1, 2], [1, 1, 2, 2]) == (1 / 2, 1 / 3)


def scene(camera: str) -> Boxes:
    """Everybody crosses, half of them to the left, each 25 frames after the one before."""
    rng = np.random.default_rng(sum(map(ord, camera)))
    truth: Boxes = {}
    for place, person in enumerate(rng.permutation(PEOPLE).tolist()):
        speed, top = rng.uniform(4, 6), rng.uniform(20, 200)
        for step in range(int(660 / speed)):
            left = 660 - speed * step if person % 2 else speed * step
            truth.setdefault((camera, 25 * place + step), []).append((person, (left, top, *SIZE)))
    return truth


def tracked(truth: Boxes, camera: str) -> Boxes:
    """The tracks of noisy boxes: a tenth is missed, some are false."""
    rng, tracker = np.random.default_rng(1), Tracker()
    for frame in range(FRAMES + 40):
        boxes = [[*(np.array(box) + rng.normal(0, 1.5, 4)), 0.9] for _, box in truth.get((camera, frame), [])
                 if rng.random() > 0.1]  # fmt: skip
        boxes += [[*rng.uniform(0, 600, 2), *SIZE, 0.9]] if rng.random() < 0.05 else []
        tracker.step(frame, frame / 25, np.array(boxes).reshape(-1, 5))
    found: Boxes = {}
    for track in tracker.finish():
        for row in track.rows if len(track.rows) >= 8 else []:
            found.setdefault((camera, int(row[0])), []).append((track.number, row[2:6].tolist()))
    return found


def numbered(found: Boxes, person: dict[tuple[str, int], int]) -> Boxes:
    return {frame: [(person[frame[0], n], box) for n, box in boxes] for frame, boxes in found.items()}


def test_tracker_and_link_scores(tmp_path: Path) -> None:
    looks, rng = unit_rows(PEOPLE, 64), np.random.default_rng(2)
    everybody: Boxes = {}
    everything: Boxes = {}
    tracks, people, paths = [], [], []
    for camera in ("hall", "door"):
        truth = scene(camera)
        found = tracked(truth, camera)
        assert mota(truth, found) > 0.85  # a tenth of the boxes is missed
        assert idf1(truth, found) > 0.9
        votes: dict[int, Counter] = {}
        spans: dict[int, list[int]] = {}
        for frame, boxes in found.items():
            for number, box in boxes:
                nearest = min(truth.get(frame, [(-1, box)]), key=lambda one: abs(np.subtract(one[1], box)).sum())
                votes.setdefault(number, Counter())[nearest[0]] += 1
                spans.setdefault(number, []).append(frame[1])
        numbers = sorted(votes)
        who = [votes[n].most_common(1)[0][0] for n in numbers]
        rows = looks[who] + 0.06 * rng.normal(size=(len(who), 64)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        seen = {name: np.array([end(spans[n]) / 25 for n in numbers])
                for name, end in (("first_seconds", min), ("last_seconds", max))}  # fmt: skip
        paths.append(write_gallery(tmp_path / f"{camera}.h5", rows, camera=camera, **seen))
        tracks += [(camera, n) for n in numbers]
        people += who
        everybody |= truth
        everything |= found
    linked = link_tracks(Gallery(paths), 0.9, None)
    assert pairwise(people, linked.person.tolist()) == (1, 1)
    person = dict(zip(tracks, linked.person.tolist(), strict=True))
    both = idf1(everybody, numbered(everything, person))
    assert both > 0.9
    alone = dict(zip(tracks, range(len(tracks)), strict=True))
    assert both > idf1(everybody, numbered(everything, alone)) + 0.2  # what linking adds
