"""The tracker on made-up boxes."""

import numpy as np
import pytest

from amem_cli.video.tracks import Tracker, iou


def run(boxes_of, pictures: int, step: float = 0.04):
    tracker = Tracker()
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
