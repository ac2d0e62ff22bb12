"""People as moving regions in front of a fixed camera's background; needs no weights.

The background of a moment is the median of samples in the 30 seconds before and after it, read ahead by a second
decoder. So it depends on the video alone, not on where a run began; a person who stands still for longer than that
becomes background.
"""

import itertools
from collections import deque

import numpy as np
from scipy import ndimage

from amem_cli.video.decode import Camera, Picture

HEIGHT = 240  # of the reduced picture
SAMPLE_SECONDS, WINDOW_SECONDS, BLOCK_SECONDS = 0.4, 30.0, 5.0
LUMA, COLOUR = 17.0, 11.0  # least differences from the background, in grey levels
SHADOW = 0.55  # a shadow keeps at least this fraction of the light and the colour
LEAST_HEIGHT, LEAST_FILL = 1 / 14, 0.25  # of a region: relative to the picture, filled part of its box
ASPECT = (1.15, 6.0)  # height / width of a person
LEAST_CONTRAST = 6.0  # standard deviation of a person's grey levels
HOLE = 0.6  # the outline of a person is at least so strong, relative to the background at its place
DOUBTFUL = 0.3  # score of a region that can continue a track, but begins none
WINDOW = 13, 7  # rows and columns over which holes are closed
MOST_CHANGED = 0.6  # of the picture: the camera moved or the light was switched
BLACK, LIGHT, MOST_GAIN = 16, 100.0, 5.0  # luma of black; a picture with less light above it is brightened


class MotionBoxes:
    """Calling it with the pictures of `camera`, in order, gives their boxes (n, 5): left, top, width, height, score.

    `score` is 1 where half of the box is foreground, less for thinner regions and for what is hardly a person.
    """

    def __init__(self, camera: Camera):
        self._ahead = Camera(camera.name, camera.files).pictures()
        self._samples: deque[tuple[float, np.ndarray]] = deque()
        self._block = -1
        self._finished = False

    def __call__(self, picture: Picture) -> np.ndarray:
        block = int(picture.seconds / BLOCK_SECONDS)
        if block != self._block:
            self._block = block
            self._update(block * BLOCK_SECONDS)
        small = picture.small_yuv(HEIGHT)
        if small.shape not in self._backgrounds:  # shorter than the time between two samples
            return np.zeros((0, 5), np.float32)
        background, luma_limit, gain = self._backgrounds[small.shape]
        mask = foreground(small, background, luma_limit, gain)
        boxes = regions(mask)
        for box in boxes:
            left, top, wide, high = box[:4].astype(int)
            place = slice(top, top + high), slice(left, left + wide)
            here, there = (brightened(luma[place], gain) for luma in (small[0], background[0]))
            if not stands_out(here, there, mask[place]):
                box[4] = min(box[4], DOUBTFUL)
        height, width = picture.size
        scale = np.array([width / small.shape[2], height / small.shape[1]] * 2 + [1.0])
        return (boxes * scale).astype(np.float32)

    def _update(self, seconds: float) -> None:
        """The backgrounds of the block that begins at `seconds`, one for each shape of pictures."""
        begin, end = seconds - WINDOW_SECONDS, seconds + BLOCK_SECONDS + WINDOW_SECONDS
        while not self._finished and (not self._samples or self._samples[-1][0] < end):
            due = self._samples[-1][0] + SAMPLE_SECONDS if self._samples else 0.0
            sample = next((picture for picture in self._ahead if picture.seconds >= due), None)
            if sample is None:
                self._finished = True
            else:
                self._samples.append((sample.seconds, sample.small_yuv(HEIGHT)))
                self._forget(begin)  # a continued run reads all samples from the start of the video
        self._forget(begin)
        samples = [pixels for at, pixels in self._samples if at <= end]
        shapes = {pixels.shape for pixels in samples}  # the files of a camera can differ, and a stream can change
        self._backgrounds = {shape: background_of([s for s in samples if s.shape == shape]) for shape in shapes}

    def _forget(self, begin: float) -> None:
        """Drop the samples before `begin`, but not the last one."""
        while len(self._samples) > 1 and self._samples[0][0] < begin:
            self._samples.popleft()


def background_of(samples: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
    """The median (3, h, w) uint8 of YUV pictures, the least difference (h, w) of brightened luma, and its gain."""
    middle = kth_smallest(samples, len(samples) // 2)
    deviation = [np.abs(luma.astype(np.int16) - middle[0]).astype(np.uint8) for luma, *_ in samples]
    spread = kth_smallest(deviation, len(samples) // 3)  # small where people pass, too
    gain = float(np.clip(LIGHT / max(np.percentile(middle[0], 95) - BLACK, 1), 1, MOST_GAIN))
    limit = np.clip(LUMA + 3.0 * gain * spread, LUMA, 4 * LUMA)
    return middle, limit.astype(np.float32), gain


def kth_smallest(samples: list[np.ndarray], k: int) -> np.ndarray:
    """The k-th smallest value, from 0, of each pixel of uint8 pictures; six times faster than `np.partition`."""
    found = np.zeros_like(samples[0])
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        candidate = found | np.uint8(bit)
        count = np.zeros(found.shape, np.uint8 if len(samples) < 256 else np.uint32)
        for sample in samples:
            count += sample >= candidate
        found = np.where(count >= len(samples) - k, candidate, found)
    return found


def brightened(luma: np.ndarray, gain: float) -> np.ndarray:
    """Luma as float differences from black, times `gain`."""
    return (luma.astype(np.float32) - BLACK) * np.float32(gain)


def foreground(picture: np.ndarray, background: np.ndarray, luma_limit: np.ndarray, gain: float) -> np.ndarray:
    """(h, w) bool from YUV pictures (3, h, w): other than the background and no shadow; holes are closed."""
    behind, difference = brightened(background[0], gain), picture[0].astype(np.int16) - background[0]
    counts = np.bincount(difference.ravel() + 255).cumsum()
    median = float(counts.searchsorted((counts[-1] + 1) // 2) - 255) * gain
    luma = difference * np.float32(gain) - np.float32(np.clip(median, -40, 40))  # automatic exposure changes all of it
    colour = np.abs(picture[1:].astype(np.int16) - background[1:]).sum(0, dtype=np.int16)
    shadow = (luma < 0) & (luma > (SHADOW - 1) * behind) & (colour < COLOUR / gain)
    changed = ((np.abs(luma) > luma_limit) & ~shadow) | (colour > COLOUR / gain)
    if changed.mean() > MOST_CHANGED:
        return np.zeros(changed.shape, bool)
    count = np.pad(changed, 1).view(np.uint8)  # of the nine pixels around a place
    count = count[:-2] + count[1:-1] + count[2:]
    return ~_widened(~_widened(count[:, :-2] + count[:, 1:-1] + count[:, 2:] >= 5))


def _widened(mask: np.ndarray) -> np.ndarray:
    """(h, w) bool: something within 6 rows and 3 columns of a pixel. Windows grow to twice their size at a time."""
    for size in WINDOW:
        mask = np.pad(mask, ((size // 2, size // 2), (0, 0)))
        reach = 1
        while reach < size:
            step = min(reach, size - reach)
            mask = mask[:-step] | mask[step:]
            reach += step
        mask = mask.T
    return mask


def stands_out(luma: np.ndarray, background: np.ndarray, mask: np.ndarray) -> bool:
    """Whether a region (h, w) can be a person: not for flat ones, such as light on a wall, and not for the hole that
    is left by somebody who stood still and became background: its outline is in the background alone."""
    outline = mask & ~ndimage.binary_erosion(mask, iterations=2)
    here, there = (np.hypot(*np.gradient(part))[outline].mean() for part in (luma, background))
    return bool(luma[mask].std() >= LEAST_CONTRAST and here >= HOLE * there)


def regions(mask: np.ndarray) -> np.ndarray:
    """Boxes (n, 5) of person-shaped regions of a mask (h, w): left, top, width, height, score.

    Parts above each other are one region; a region of several people side by side is cut between their heads.
    """
    labels, _ = ndimage.label(mask)
    spans = [
        [s[1].start, s[0].start, s[1].stop, s[0].stop]
        for s in ndimage.find_objects(labels)
        if (s[0].stop - s[0].start) * (s[1].stop - s[1].start) >= 30
    ]
    boxes = []
    for left, top, right, bottom in _stacked(spans):
        for a, b in _cut(mask[top:bottom, left:right]):
            part = mask[top:bottom, left + a : left + b]
            rows = np.flatnonzero(part.any(1))
            high, wide = rows[-1] - rows[0] + 1, b - a
            fill = float(part[rows[0] : rows[-1] + 1].mean())
            if high >= LEAST_HEIGHT * len(mask) and ASPECT[0] <= high / wide <= ASPECT[1] and fill >= LEAST_FILL:
                boxes.append((left + a, top + rows[0], wide, high, min(1.0, 2 * fill)))
    return np.array(boxes, np.float64).reshape(-1, 5)


def _stacked(spans: list[list[int]]) -> list[list[int]]:
    """Boxes of which one is above the other, with a small gap, become one."""
    spans = sorted(spans, key=lambda span: (span[1], span[0]))
    for one, other in itertools.combinations(spans, 2):
        overlap = min(one[2], other[2]) - max(one[0], other[0])
        least = min(one[2] - one[0], other[2] - other[0])
        gap = max(one[1], other[1]) - min(one[3], other[3])
        together = [min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])]
        high, wide = together[3] - together[1], together[2] - together[0]
        if overlap > 0.5 * least and gap < 0.3 * high and high > 1.3 * wide:
            return _stacked([span for span in spans if span not in (one, other)] + [together])
    return spans


def _cut(region: np.ndarray) -> list[tuple[int, int]]:
    """The columns of each person in a region: one part per head, where heads stand apart by a third of its height."""
    high, wide = region.shape
    if wide < 0.6 * high:
        return [(0, wide)]
    tops = np.where(region.any(0), high - region.argmax(0), 0).astype(float)  # height of the outline per column
    smooth = ndimage.gaussian_filter1d(tops, max(1.0, high / 20))
    apart = max(3, round(high / 3.2))
    peaks = [
        at for at in range(wide)
        if smooth[at] > 0.55 * high and smooth[at] == smooth[max(0, at - apart) : at + apart + 1].max()
    ]  # fmt: skip
    peaks = [at for i, at in enumerate(peaks) if not i or at - peaks[i - 1] > apart]
    cuts = [a + int(smooth[a:b].argmin()) for a, b in itertools.pairwise(peaks)]
    return [(a, b) for a, b in zip([0, *cuts], [*cuts, wide], strict=True) if b > a]
