"""The tracker on made-up boxes; motion."""

from pathlib import Path

import numpy as np
import pytest

from amem_cli.video import motion
from amem_cli.video.decode import Camera
from amem_cli.video.motion import MotionBoxes, background_of, foreground, kth_smallest, regions, stands_out
from amem_cli.video.tracks import Tracker, iou, shared_area
from tests import videos
from tests.videos import crossing, write_video


def run(boxes_of, pictures: int, step: float = 0.04, split_crossings: bool = False):
    tracker = Tracker(split_crossings)
    for number in range(1, pictures + 1):
        tracker.step(number, number * step, np.array(boxes_of(number), float).reshape(-1, 5))
    return tracker.finish()


def test_iou_hand_computed() -> None:
    one = np.array([[0.0, 0, 10, 10]])
    assert iou(one, np.array([[5.0, 0, 10, 10]])) == pytest.approx(np.array([[50 / 150]]))
    assert iou(one, np.array([[11.0, 0, 10, 10]]), enlarged=0.2) == pytest.approx(np.array([[12 / 276]]))


def test_tracker_two_people_cross_keep_their_tracks() -> None:
    def boxes(n):
        return [[5 * n, 50, 30, 90, 0.9], [400 - 5 * n, 70, 34, 100, 0.9]][:: 1 if n % 2 else -1]

    tracks = run(boxes, 80)
    assert [len(track.rows) for track in tracks] == [80, 80]
    for track, speed in zip(tracks, (5, -5), strict=True):
        assert np.allclose(np.diff([row[2] for row in track.rows]), speed)


def test_tracker_gap_is_bridged_by_the_velocity() -> None:
    tracks = run(lambda n: [] if 20 <= n < 40 else [[6 * n, 50, 30, 90, 0.9]], 60)
    assert [len(track.rows) for track in tracks] == [40]
    tracks = run(lambda n: [] if 20 <= n < 60 else [[6 * n, 50, 30, 90, 0.9]], 80)
    assert len(tracks) == 2


def test_tracker_low_boxes_continue_but_do_not_begin() -> None:
    tracks = run(lambda n: [[3 * n, 50, 30, 90, 0.9 if n < 10 else 0.3], [300, 50, 30, 90, 0.3]], 40)
    assert [len(track.rows) for track in tracks] == [40]


def test_tracker_uses_time_between_pictures() -> None:
    tracker, seconds = Tracker(), 0.0
    for number in range(1, 40):
        seconds += 0.04 if number % 3 else 0.2
        tracker.step(number, seconds, np.array([[100 * seconds, 50, 30, 90, 0.9]]))
    assert len(tracker.finish()) == 1


@pytest.mark.parametrize("step", [1.0, 2.0, 5.0])
def test_tracker_few_pictures_per_second(step: float) -> None:
    assert [len(track.rows) for track in run(lambda n: [[n, 50, 30, 90, 0.9]], 20, step)] == [20]
    assert len(run(lambda n: [] if 8 <= n < 12 else [[n, 50, 30, 90, 0.9]], 20, step)) == 2


def test_tracker_ends_at_a_long_gap_between_pictures() -> None:
    tracker = Tracker()
    for number, seconds in enumerate([0.0, 0.04, 0.08, 60.0, 60.04, 60.08], start=1):
        tracker.step(number, seconds, np.array([[100, 50, 30, 90, 0.9]]))
    assert [len(track.rows) for track in tracker.finish()] == [3, 3]


def test_motion_boxes_continued_late_keep_few_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And find what a run from the start finds."""
    monkeypatch.setattr(motion, "WINDOW_SECONDS", 0.5)
    monkeypatch.setattr(motion, "BLOCK_SECONDS", 0.2)
    monkeypatch.setattr(motion, "SAMPLE_SECONDS", 0.04)
    camera = Camera("a", [write_video(tmp_path / "a.mp4", [crossing()], frames=80)])
    whole, late, most = MotionBoxes(camera), MotionBoxes(camera), []
    forget = late._forget
    monkeypatch.setattr(late, "_forget", lambda begin: (most.append(len(late._samples)), forget(begin)))
    for picture in camera.pictures():
        boxes = whole(picture)
        if picture.seconds >= 2.4:
            assert np.array_equal(late(picture), boxes)
    assert max(most) <= 1.2 / 0.04 + 2
    assert whole._samples[0][0] >= whole._block * 0.2 - 0.5  # also after the last sample was read


def test_tracker_split_crossings_ends_both_and_begins_after() -> None:
    """Two people walk towards each other; while they overlap there is one region, and afterwards two again."""

    def boxes(n):
        one, other = 5 * n, 400 - 5 * n
        if abs(one - other) < 30:
            return [[min(one, other), 50, 30 + abs(one - other), 90, 0.9]]
        return [[one, 50, 30, 90, 0.9], [other, 50, 30, 90, 0.9]]

    tracks = run(boxes, 80, split_crossings=True)
    assert len(tracks) == 4
    for track in tracks:
        steps = np.diff([row[2] for row in track.rows])
        assert len(set(np.sign(steps))) == 1
        assert np.allclose(np.abs(steps), 5)


def test_stands_out_person_flat_region_and_hole() -> None:
    wall = np.random.default_rng(0).normal(130, 4, (60, 40))
    person, mask = wall.copy(), np.zeros((60, 40), bool)
    mask[5:55, 10:30] = True
    person[5:25, 10:30], person[25:55, 10:30] = 30, 90
    assert stands_out(person, wall, mask)
    assert not stands_out(wall, person, mask)  # the person was background, and has left
    lit = wall.copy()
    lit[mask] += 25
    assert not stands_out(lit, wall, mask)


def test_motion_boxes_files_of_other_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = write_video(tmp_path / "wide.mp4", [crossing()])
    monkeypatch.setattr(videos, "WIDTH", 150)
    camera = Camera("a", [wide, write_video(tmp_path / "narrow.mp4", [crossing()])])
    find = MotionBoxes(camera)
    found = [len(find(picture)) for picture in camera.pictures()]
    assert min(found[5:55] + found[65:115]) == max(found) == 1


def test_foreground_is_the_same_in_a_dark_picture() -> None:
    wall = np.full((3, 60, 80), 128, np.uint8)
    wall[0] = np.random.default_rng(0).integers(116, 126, (60, 80))
    person = wall.copy()
    person[0, 10:50, 30:45], person[1, 10:50, 30:45] = 56, 148
    found, black = [], np.array([16, 128, 128])[:, None, None]
    for light in (1.0, 0.25):
        pictures = [((picture - black) * light + black).round().astype(np.uint8) for picture in (wall, person)]
        background, limit, gain = background_of(pictures[:1] * 3)
        assert gain == pytest.approx(1 if light == 1 else 4, rel=0.1)
        found.append(foreground(pictures[1], background, limit, gain))
    assert (found[0] == found[1]).all()
    assert found[0][12:48, 32:43].all()
    assert found[0].sum() < 1.3 * 40 * 15


@pytest.mark.parametrize("count", [1, 2, 163, 300])
def test_kth_smallest_as_numpy(count: int) -> None:
    samples = list(np.random.default_rng(count).integers(0, 256, (count, 3, 20), dtype=np.uint8))
    for k in {0, count // 3, count // 2, count - 1}:
        assert np.array_equal(kth_smallest(samples, k), np.partition(samples, k, axis=0)[k])


def test_foreground_by_hand() -> None:
    """Ten grey levels more light everywhere are no change; a shadow is none, unless it has a colour; dots are none."""
    background = np.full((3, 60, 100), 128, np.uint8)
    picture = background.copy()
    picture[0] += 10
    picture[0, 10:40, 10:30] -= 50  # a shadow
    picture[0, 10:40, 60:80] -= 50
    picture[1, 10:40, 60:80] += 12
    picture[0, 50, ::9] = 255
    mask = foreground(picture, background, np.full((60, 100), 17, np.float32), 1.0)
    assert mask[10:40, 61:79].all()
    assert mask[:, 58:82].sum() == mask.sum()
    assert not foreground(background // 4, background, np.full((60, 100), 17, np.float32), 1.0).any()  # lights are off


def test_regions_parts_above_each_other_are_one() -> None:
    mask = np.zeros((240, 400), bool)
    mask[50:80, 100:130] = mask[84:150, 95:135] = mask[155:170, 100:130] = True
    mask[60:160, 300:330] = True
    assert regions(mask)[:, :4].tolist() == [[95, 50, 40, 120], [300, 60, 30, 100]]


def test_shared_area_hand_computed() -> None:
    found = shared_area(np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 5, 100, 100], [20, 0, 1, 1]]))
    assert found.tolist() == [[0.25, 0.0]]
