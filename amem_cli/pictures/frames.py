"""Frames of tracklets in pictures: reading and showing them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from amem_cli.data.images import open_rgb
from amem_cli.errors import BadData, listing
from amem_cli.pictures.style import RULE, SOFT


def read_frames(frames: Sequence[Path | np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Frames as (N, H, W, 3) uint8 of one size (H, W), from image files or (h, w, 3) uint8 arrays.

    The aspect ratio is not kept: the networks see frames like this. Files that cannot be read are left out: features
    exist only if `--on-bad-image skip` has reported them. Raises `BadData` with all of them if there are no others.
    """
    height, width = size
    pictures, unreadable = [], []
    for frame in frames:
        try:
            picture = Image.fromarray(frame) if isinstance(frame, np.ndarray) else open_rgb(frame)
            pictures.append(np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS)))
        except BadData as error:
            unreadable.append(f"{frame} ({error.why})")
    if not pictures:
        remedy = "Replace them; amem data check NAME --deep lists all such files"
        raise BadData("frames", why=listing(unreadable), remedy=remedy)
    return np.stack(pictures)


def side_by_side(frames: np.ndarray, columns: int, gap: int = 4, paper: int = 255) -> np.ndarray:
    """Frames (N, H, W, 3) as one picture (rows H', columns W', 3) in reading order, on `paper` (0 to 255)."""
    padded = np.pad(frames, ((0, -len(frames) % columns), (0, gap), (0, gap), (0, 0)), constant_values=paper)
    rows = [np.concatenate(list(row), axis=1) for row in np.split(padded, len(padded) // columns)]
    return np.concatenate(rows)[: -gap or None, : -gap or None]


def show_frame(axes: Axes, pixels: np.ndarray, above: str = "", below: str = "", colour: str = RULE) -> None:
    """Fill axes with a frame, with text above and below it; `colour` makes the border thick and the title coloured."""
    axes.imshow(pixels, aspect="auto", interpolation="bicubic")
    axes.set(xticks=[], yticks=[], xlabel=below)
    axes.set_title(above, color=SOFT if colour == RULE else colour)
    axes.spines[:].set(visible=True, color=colour, linewidth=0.8 if colour == RULE else 3)
