"""Attention maps: heat over the frames of a clip for each map of f_s."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from amem_cli.errors import printable
from amem_cli.pictures.frames import show_frame
from amem_cli.pictures.style import styled

COLOUR_MAP = "inferno"
STRONGEST = 0.8  # how much of a pixel the strongest heat covers


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One row of the picture: its name, a note below it, and the heat (H', W') or, over time, (T', H', W')."""

    name: str
    note: str
    heat: np.ndarray


@dataclass(frozen=True, slots=True)
class Attention:
    """The frames of a clip, (T, H, W, 3) uint8, and the heat of BF, f_B, f_A and f_M in them."""

    title: str
    frames: np.ndarray
    rows: Sequence[HeatRow]


@styled
def attention_figure(clips: Sequence[Attention]) -> Figure:
    """The frames of each clip, and below them again for each row of heat, whose colours go from 0 to its largest value.

    Negative heat is drawn as 0.
    """
    rows = [len(clip.rows) + 1 for clip in clips]
    figure = Figure(figsize=(0.62 * max(len(clip.frames) for clip in clips) + 0.6, 1.4 * sum(rows)))
    parts = np.ravel(figure.subfigures(len(clips), 1, squeeze=False, height_ratios=rows))
    for part, clip in zip(parts, clips, strict=True):
        _draw_clip(part, clip, top=1 - 0.6 / (1.4 * (len(clip.rows) + 1)))
    return figure


def _draw_clip(figure: SubFigure, clip: Attention, top: float) -> None:
    grid = figure.subplots(
        len(clip.rows) + 1, len(clip.frames) + 1, squeeze=False, width_ratios=[1] * len(clip.frames) + [0.15],
        gridspec_kw={"wspace": 0.08, "hspace": 0.15, "left": 0, "right": 0.94, "top": top, "bottom": 0.02},
    )  # fmt: skip
    for row, axes in zip([None, *clip.rows], grid, strict=True):
        pixels = clip.frames if row is None else heat_over_frames(clip.frames, row.heat)
        for place, frame in enumerate(pixels):
            show_frame(axes[place], frame, above=str(place + 1) if row is None else "")
        axes[0].set_ylabel("frames" if row is None else f"{row.name}\n{row.note}", rotation=0, ha="right", va="center")
        if row is None:
            axes[-1].set_axis_off()
        else:
            scale = ScalarMappable(Normalize(0, max(float(row.heat.max()), 0)), COLOUR_MAP)
            figure.colorbar(scale, cax=axes[-1], ticks=[0, scale.norm.vmax], format="%.2g")
    grid[0, 0].annotate(printable(clip.title), (0, 1), (0, 20), "axes fraction", "offset points", fontweight="bold")


def heat_over_frames(frames: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) uint8, in grey, under heat (H', W'), or (T', H', W'): frame i is under map floor(i T' / T).

    The colours go from 0 to the largest value of `heat`; heat is spread smoothly over the pixels.
    """
    times = heat.reshape(-1, *heat.shape[-2:])  # (T', H', W'), also of one map
    maps = times[np.arange(len(frames)) * len(times) // len(frames)]
    largest = float(heat.max())
    return np.stack([_overlay(frame, each, largest) for frame, each in zip(frames, maps, strict=True)])


def _overlay(frame: np.ndarray, heat: np.ndarray, largest: float) -> np.ndarray:
    share = np.clip(heat / largest, 0, 1) if largest > 0 else np.zeros_like(heat)
    size = (frame.shape[1], frame.shape[0])
    smooth = Image.fromarray(share.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(smooth), 0, 1)[..., None]  # (H, W, 1)
    colours = matplotlib.colormaps[COLOUR_MAP](share[..., 0])[..., :3]
    grey = np.asarray(Image.fromarray(frame).convert("L").convert("RGB")) / 255
    cover = STRONGEST * share
    return np.round(255 * ((1 - cover) * grey + cover * colours)).astype(np.uint8)
