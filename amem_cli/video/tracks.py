"""Joins boxes to tracks: ByteTrack's two stages (Zhang et al., ECCV 2022) with a Kalman filter at constant velocity.

The package `trackers` would bring opencv-python, supervision and requests, over 150 MB, for this one algorithm.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

HIGH_SCORE = 0.5  # boxes above it begin tracks and are joined first
LEAST_IOU = (0.2, 0.35, 0.1)  # high boxes, low boxes, high boxes and tracks that were lost (enlarged boxes)
ENLARGED = 0.4  # of a lost track's box and the boxes it is compared with
LOST_SECONDS, LOST_PICTURES = 1.2, 2.5  # a track ends when it found no box for so long, whichever is longer
CROSSING = 0.25  # shared part of the smaller of two boxes; more: the two people cannot be told apart
POSITION_NOISE, VELOCITY_NOISE, MEASURED_NOISE = 0.02, 0.5, 0.05  # relative to the box's height; per second


@dataclass(slots=True)
class Track:
    """One person in one camera: rows of picture number, seconds, left, top, width, height, score, and more columns."""

    number: int
    rows: list[np.ndarray]
    state: np.ndarray = field(repr=False)  # (4, 2): centre x, centre y, width, height, each with its velocity
    covariance: np.ndarray = field(repr=False)  # (4, 2, 2)

    @property
    def last_seconds(self) -> float:
        return float(self.rows[-1][1])

    def predict(self, seconds: float) -> None:
        """Move the state on by `seconds`."""
        step = np.array([[1.0, seconds], [0.0, 1.0]])
        height = max(self.state[3, 0], 1.0)
        noise = np.diag([(POSITION_NOISE * height) ** 2, (VELOCITY_NOISE * height) ** 2 * seconds])
        self.state = self.state @ step.T
        self.covariance = step @ self.covariance @ step.T + noise

    def update(self, row: np.ndarray) -> None:
        """Correct the state by a box."""
        gain_of = self.covariance[:, 0, 0] + (MEASURED_NOISE * max(row[5], 1.0)) ** 2
        gain = self.covariance[:, :, 0] / gain_of[:, None]
        self.state = self.state + gain * (_measured(row) - self.state[:, 0])[:, None]
        self.covariance = self.covariance - gain[:, :, None] * self.covariance[:, None, 0, :]
        self.rows.append(row)

    @property
    def box(self) -> np.ndarray:
        """The predicted box: left, top, width, height."""
        x, y, width, height = self.state[:, 0]
        return np.array([x - width / 2, y - height / 2, max(width, 1.0), max(height, 1.0)])


class Tracker:
    """Call `step` for each picture in order; `finish` gives all tracks, in order of their first picture.

    With `split_crossings` (for motion, where two people become one region) tracks end where they meet.
    """

    def __init__(self, split_crossings: bool = False) -> None:
        self._split_crossings = split_crossings
        self._met: list[Track] = []  # ended at a crossing; they go on as predicted
        self._active: list[Track] = []
        self._ended: list[Track] = []
        self.begun = 0  # tracks so far
        self._seconds: float | None = None
        self._interval = np.inf  # the shortest time between two pictures so far

    def step(self, number: int, seconds: float, boxes: np.ndarray) -> None:
        """Add the boxes of one picture: left, top, width, height, score, and any columns that its rows should keep."""
        passed = seconds - self._seconds if self._seconds is not None else 0.0
        self._seconds = seconds
        self._interval = min(self._interval, passed or np.inf)
        lost_after = max(LOST_SECONDS, LOST_PICTURES * self._interval)
        for track in self._active + self._met:
            track.predict(passed)
        self._met = [track for track in self._met if seconds - track.last_seconds <= lost_after]
        if self._split_crossings:
            self._end_crossing()
        self._ended += [track for track in self._active if seconds - track.last_seconds > lost_after]
        self._active = [track for track in self._active if seconds - track.last_seconds <= lost_after]
        head = np.full((len(boxes), 2), (number, seconds))
        rows = np.concatenate([head, np.asarray(boxes, float)], axis=1)
        if self._met and len(rows):
            inside = shared_area(np.stack([track.box for track in self._met]), rows[:, 2:6])
            rows = rows[(inside > CROSSING).sum(0) < 2]
        high, low = rows[rows[:, 6] >= HIGH_SCORE], rows[rows[:, 6] < HIGH_SCORE]
        recent = [track for track in self._active if seconds - track.last_seconds <= 2 * passed + 0.1]
        lost = [track for track in self._active if track not in recent]
        recent, high = self._join(recent, high, LEAST_IOU[0])
        recent, low = self._join(recent, low, LEAST_IOU[1])
        lost, high = self._join(lost + recent, high, LEAST_IOU[2], ENLARGED)
        for row in high:
            self.begun += 1
            measured = _measured(row)
            state = np.stack([measured, np.zeros(4)], axis=1)
            spread = np.diag([(2 * MEASURED_NOISE * row[5]) ** 2, row[5] ** 2])
            self._active.append(Track(self.begun, [row], state, np.tile(spread, (4, 1, 1))))

    def _end_crossing(self) -> None:
        """End the tracks whose predicted boxes cover each other."""
        boxes = np.stack([track.box for track in self._active]) if self._active else np.zeros((0, 4))
        shared = shared_area(boxes, boxes)
        np.fill_diagonal(shared, 0)
        met = (np.maximum(shared, shared.T) > CROSSING).any(1)
        self._met += [track for track, meets in zip(self._active, met, strict=True) if meets]
        self._ended += [track for track, meets in zip(self._active, met, strict=True) if meets]
        self._active = [track for track, meets in zip(self._active, met, strict=True) if not meets]

    def finish(self) -> list[Track]:
        """All tracks."""
        return sorted(self._ended + self._active, key=lambda track: track.number)

    def _join(
        self, tracks: list[Track], rows: np.ndarray, least: float, enlarged: float = 0.0
    ) -> tuple[list[Track], np.ndarray]:
        """Give each track its best box, at most one each; returns the tracks and rows that are left."""
        if not tracks or not len(rows):
            return tracks, rows
        overlap = iou(np.stack([track.box for track in tracks]), rows[:, 2:6], enlarged)
        chosen = linear_sum_assignment(-overlap)
        pairs = [(t, r) for t, r in zip(*chosen, strict=True) if overlap[t, r] >= least]
        for t, r in pairs:
            tracks[t].update(rows[r])
        joined, used = {t for t, _ in pairs}, [r for _, r in pairs]
        return [track for t, track in enumerate(tracks) if t not in joined], np.delete(rows, used, axis=0)


def iou(one: np.ndarray, other: np.ndarray, enlarged: float = 0.0) -> np.ndarray:
    """Intersection over union (n, m) of boxes (n, 4), (m, 4), each first enlarged by a fraction of its sides.

    >>> iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 2, 2], [5, 5, 1, 1]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    a, b = (np.concatenate([x[:, :2] - enlarged / 2 * x[:, 2:], x[:, :2] + (1 + enlarged / 2) * x[:, 2:]], 1)
            for x in (one, other))  # fmt: skip
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = sides.clip(min=0).prod(2)
    areas = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)[None]
    return shared / np.maximum(areas - shared, 1e-9)


def shared_area(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, m): the part of each box (n, 4) that is inside each of (m, 4)."""
    corners = np.minimum(one[:, None, :2] + one[:, None, 2:], other[None, :, :2] + other[None, :, 2:])
    sides = (corners - np.maximum(one[:, None, :2], other[None, :, :2])).clip(min=0)
    return sides.prod(2) / one[:, 2:].prod(1)[:, None]


def _measured(row: np.ndarray) -> np.ndarray:
    left, top, width, height = row[2:6]
    return np.array([left + width / 2, top + height / 2, width, height])
