"""Features without what the tracklets of a camera have in common, such as its light and its colours."""

from collections.abc import Sequence

import numpy as np


def centre_cameras(features: np.ndarray, cameras: Sequence[int] | Sequence[str] | np.ndarray) -> np.ndarray:
    """`features` (N, D) minus the mean of their camera, L2-normalised, float32; `cameras` (N,) names each row's camera.

    It uses all rows together, and no identities. A camera's mean counts the mean of all rows as one row more, so that
    a camera with a single tracklet keeps what sets it apart from the others (D). Camera-based batch norm (Zhuang et
    al., ECCV 2020) standardises the maps of every layer by camera; here only the mean of the features is removed.
    """
    rows = np.array(features, np.float32)
    everywhere = rows.mean(axis=0, dtype=np.float64)
    names, camera_of = np.unique(np.asarray(cameras), return_inverse=True)
    for camera in range(len(names)):
        own = np.flatnonzero(camera_of == camera)
        mean = (rows[own].sum(axis=0, dtype=np.float64) + everywhere) / (len(own) + 1)
        rows[own] -= mean.astype(np.float32)
    rows /= lengths(rows)
    return rows


def centring_bytes(rows: int, width: int) -> int:
    """The memory that `centre_cameras` needs at most besides its input: two copies of the rows in float32."""
    return 2 * 4 * rows * width


def lengths(rows: np.ndarray) -> np.ndarray:
    """The lengths (N, 1) of `rows` (N, D), not 0, so that rows of zeros can be divided by them."""
    return np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
