"""The frames of each clip of a tracklet: pure functions from lengths to frame indices."""

import numpy as np


def reflect(positions: np.ndarray, length: int) -> np.ndarray:
    """Positions beyond the end of a tracklet of `length` frames are reflected at its last and first frame.

    The rule for short tracklets (D): motion stays continuous. Repeating the last frame would train MEM to copy, and
    a jump to the first frame would break the motion.

    >>> reflect(np.arange(7), 3).tolist()
    [0, 1, 2, 1, 0, 1, 2]
    """
    if length == 1:
        return np.zeros_like(positions)
    period = 2 * (length - 1)
    folded = positions % period
    return np.where(folded < length, folded, period - folded)


def training_clip(length: int, frames: int, generator: np.random.Generator) -> np.ndarray:
    """`frames` consecutive frame indices (frames,) int64 from a random start; short tracklets are reflected."""
    start = generator.integers(max(1, length - frames + 1))
    return reflect(np.arange(start, start + frames), length)


def inference_clips(length: int, frames: int) -> np.ndarray:
    """Frame indices (clips, frames) int64 of consecutive clips that cover every frame of the tracklet once.

    The last clip is filled by `reflect`.
    """
    clips = -(-length // frames)
    return reflect(np.arange(clips * frames), length).reshape(clips, frames)
