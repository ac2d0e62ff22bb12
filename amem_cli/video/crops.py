"""Cuts tracks out of the pictures of a camera, as JPEG files.

The columns of a track (n, 7) are picture number, seconds, left, top, width, height, score.
"""

import io
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from amem_cli.video.decode import Camera, Picture

MARGIN = 0.05  # of the box's sides, on each side
QUALITY = 92
LEAST_SIDE = 4  # pixels of a box inside the picture
TOUCHING = 0.01  # of the picture's width, from its edge
TURNED = 0.2  # of a box's height, towards an edge and away again within a second each
GAP, WAY = 0.2, 0.6  # seconds without a box; seconds before and after
APART, FASTER = 0.3, 0.6  # of a box's height; of it per second
REDUCED = 120  # height of the picture for colours
COLOUR_WEIGHTS, OTHER_COLOUR = (0.5, 1.5, 1.5), 7.0  # of luma and the colour differences; grey levels


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


def split_at_gaps(rows: np.ndarray) -> list[np.ndarray]:
    """A track (n, 16), with colours after its other columns, in pieces.

    It is cut at gaps after which it goes on in another place, direction or colour: somebody left and another came. The
    straight ways before and after a gap are compared in its middle.
    """
    seconds, centres = rows[:, 1], rows[:, 2:4] + rows[:, 4:6] / 2
    steps = np.diff(seconds)
    cuts = []
    for at in np.flatnonzero(steps > max(GAP, 3 * np.median(steps) if len(steps) else 0)) + 1:
        middle, high = (seconds[at - 1] + seconds[at]) / 2, np.median(rows[max(at - 5, 0) : at + 5, 5])
        before = (seconds < middle) & (seconds >= seconds[at - 1] - WAY)
        after = (seconds > middle) & (seconds <= seconds[at] + WAY)
        one, other = (np.median(rows[part, 7:], axis=0) for part in (before, after))
        cut = bool(np.sqrt(((one - other) ** 2).mean()) > OTHER_COLOUR)
        if min(before.sum(), after.sum()) >= 3:
            ways = [np.polyfit(seconds[part] - middle, centres[part], 1) for part in (before, after)]
            faster, apart = np.linalg.norm(ways[1] - ways[0], axis=1) / high
            cut = cut or apart > APART or faster > FASTER
        cuts += [at] if cut else []
    return np.split(rows, cuts)


def coloured(picture: Picture, boxes: np.ndarray) -> np.ndarray:
    """(n, 15): boxes (n, 6) and, of those without an id, the mean luma (halved) and colour differences of the upper,
    middle and lower part. A difference of the mean square `OTHER_COLOUR` is another person."""
    found = np.zeros((len(boxes), 3, 3))
    alone = np.flatnonzero(boxes[:, 5] < 0)
    pixels = picture.small_yuv(REDUCED) if len(alone) else np.zeros((3, 1, 1))
    for place in alone:
        left, top, width, height = boxes[place, :4] * REDUCED / picture.size[0]
        a, b = np.clip((left + width * np.array([0.25, 0.75])).astype(int), 0, pixels.shape[2] - 1)
        edges = np.clip((top + height * np.linspace(0.08, 0.92, 4)).astype(int), 0, pixels.shape[1] - 1)
        for part, (c, d) in enumerate(itertools.pairwise(edges)):
            found[place, part] = pixels[:, c : d + 1, a : b + 1].mean((1, 2))
    return np.concatenate([boxes, (found * COLOUR_WEIGHTS).reshape(-1, 9)], axis=1)


def cut_crops(camera: Camera, tracks: Mapping[str, np.ndarray], folder: Path, begin: int) -> Iterator[int]:
    """Write `folder`/<track>/<frame>.jpg for pictures from number `begin` on; yields each number when it is done."""
    wanted: dict[int, list[tuple[Path, np.ndarray]]] = defaultdict(list)
    for name, rows in tracks.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for row in rows:
            wanted[int(row[0])].append((folder / name / f"{int(row[0]):06d}.jpg", row[2:6]))
    for picture in camera.pictures():
        if picture.number >= begin:
            if picture.number in wanted:
                pixels = picture.rgb()
                for path, box in wanted[picture.number]:
                    path.write_bytes(_jpeg(pixels, box))
            yield picture.number


def _jpeg(pixels: np.ndarray, box: np.ndarray) -> bytes:
    """The box with a margin, as far as it is in the picture."""
    left, top, width, height = box
    high, wide = pixels.shape[:2]
    a, b = max(0, int(left - MARGIN * width)), min(wide, round(left + (1 + MARGIN) * width))
    c, d = max(0, int(top - MARGIN * height)), min(high, round(top + (1 + MARGIN) * height))
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[c:d, a:b])).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
