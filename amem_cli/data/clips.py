"""The frames of each clip of a tracklet: pure functions from lengths to frame indices."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from amem_cli.data.tracklets import Tracklet


def reflect(positions: np.ndarray, length: int) -> np.ndarray:
    """Positions beyond the end of a tracklet of `length` frames are reflected at its last and first frame.

    The rule for short tracklets (D): motion stays continuous. Repeating the last frame would train MEM to copy, and
    a jump to the first frame would break the motion.

    >>> reflect(np.arange(7), 3).tolist()
    [0, 1, 2, 1, 0, 1, 2]
    """
    period = max(2 * (length - 1), 1)
    folded = positions % period
    return np.minimum(folded, period - folded)


def training_clip(length: int, frames: int, generator: np.random.Generator) -> np.ndarray:
    """`frames` consecutive frame indices (frames,) int64 from a random start; short tracklets are reflected."""
    start = generator.integers(max(1, length - frames + 1))
    return reflect(np.arange(start, start + frames), length)


def segment_clip(length: int, frames: int, generator: np.random.Generator) -> np.ndarray:
    """One random frame from each of `frames` equal segments of the tracklet, (frames,) int64, in order. A tracklet
    shorter than `frames` repeats frames. (D; Wang et al., "Temporal Segment Networks", ECCV 2016.)"""
    positions = (np.arange(frames) + generator.random(frames)) * length / frames
    return np.minimum(positions.astype(np.int64), length - 1)


def inference_clips(length: int, frames: int) -> np.ndarray:
    """Frames (clips, frames) int64 of consecutive clips that cover the tracklet once; `reflect` fills the last one."""
    clips = -(-length // frames)
    return reflect(np.arange(clips * frames), length).reshape(clips, frames)


def evenly_spaced(items: Sequence | np.ndarray, most: int) -> list:
    """`most` of the items, such as frames, each from the middle of an equal part; all of them when there are fewer.

    >>> evenly_spaced("abcdefghi", 3)
    ['b', 'e', 'h']
    """
    if len(items) <= most:
        return list(items)
    return [items[int((part + 0.5) * len(items) / most)] for part in range(most)]


def shortened(tracklet: Tracklet, frames: int, most: int) -> Tracklet:
    """The tracklet with up to `most` of its consecutive pieces of `frames` frames, evenly spaced; all of them with 0.
    A shorter piece at the end is left out if others are.

    >>> shortened(Tracklet("a", 1, 1, "", tuple("abcdefghij")), 2, 2).files
    ('c', 'd', 'g', 'h')
    """
    if not most or len(range(0, len(tracklet), frames)) <= most:
        return tracklet
    starts = evenly_spaced(range(0, len(tracklet) - frames + 1, frames), most)  # without a shorter piece at the end
    return replace(tracklet, files=tuple(file for start in starts for file in tracklet.files[start : start + frames]))
