"""Cuts tracks out of the pictures of a camera, as JPEG files."""

import io
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from amem_cli.video.decode import Camera

MARGIN = 0.05  # of the box's sides, on each side
QUALITY = 92
LEAST_SIDE = 4  # pixels of a box inside the picture
TOUCHING = 0.01  # of the picture's width, from its edge
TURNED = 0.2  # of a box's height, towards an edge and away again within a second each


@dataclass(frozen=True)
class CameraTrack:
    """A track of a camera; `rows` (n, 7) are picture number, seconds, left, top, width, height, score."""

    name: str
    rows: np.ndarray


def frame_name(number: int) -> str:
    return f"{number:06d}.jpg"


def inside(rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(n,) bool: the boxes of which something is in their picture; `sizes` (n, 2) are its height and width."""
    right = np.minimum(rows[:, 2] + rows[:, 4], sizes[:, 1]) - np.maximum(rows[:, 2], 0)
    bottom = np.minimum(rows[:, 3] + rows[:, 5], sizes[:, 0]) - np.maximum(rows[:, 3], 0)
    return (right >= LEAST_SIDE) & (bottom >= LEAST_SIDE)


def split_at_edges(rows: np.ndarray, widths: np.ndarray) -> list[np.ndarray]:
    """A track (n, 7) in pieces, cut where one person leaves the picture and another enters at the same edge.

    There the inner side of the box comes closer to an edge that the box touches, and moves away again. `widths` (n,)
    are those of the pictures. A person who turns round at the edge becomes two tracks, which `amem link` joins.
    """
    left, right, seconds = rows[:, 2], widths - rows[:, 2] - rows[:, 4], rows[:, 1]
    cuts = set()
    for outer, inner in ((left, widths - right), (right, widths - left)):
        touching = np.flatnonzero(outer <= TOUCHING * widths)
        for run in np.split(touching, np.flatnonzero(np.diff(touching) > 1) + 1):
            if len(run):
                turn = run[inner[run].argmin()]
                least = inner[turn] + TURNED * rows[turn, 5]
                before = inner[(seconds >= seconds[turn] - 1) & (seconds < seconds[turn])]
                after = inner[(seconds <= seconds[turn] + 1) & (seconds > seconds[turn])]
                if before.max(initial=0) > least and after.max(initial=0) > least:
                    cuts.add(int(turn))
    return np.split(rows, sorted(cuts))


def cut_crops(
    camera: Camera, tracks: Iterable[CameraTrack], folder: Path, begin: int, report: Callable[[int], None]
) -> None:
    """Write `folder`/<track>/<frame>.jpg for pictures from number `begin` on.

    `report(number)` is called after each picture, when its crops are written.
    """
    wanted: dict[int, list[tuple[Path, np.ndarray]]] = defaultdict(list)
    for track in tracks:
        (folder / track.name).mkdir(parents=True, exist_ok=True)
        for row in track.rows:
            wanted[int(row[0])].append((folder / track.name / frame_name(int(row[0])), row[2:6]))
    for picture in camera.pictures():
        if picture.number >= begin and picture.number in wanted:
            pixels = picture.rgb()
            for path, box in wanted[picture.number]:
                path.write_bytes(_jpeg(pixels, box))
        report(picture.number)


def _jpeg(pixels: np.ndarray, box: np.ndarray) -> bytes:
    """The box with a margin, as far as it is in the picture."""
    left, top, width, height = box
    high, wide = pixels.shape[:2]
    a, b = max(0, int(left - MARGIN * width)), min(wide, round(left + (1 + MARGIN) * width))
    c, d = max(0, int(top - MARGIN * height)), min(high, round(top + (1 + MARGIN) * height))
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[c:d, a:b])).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
