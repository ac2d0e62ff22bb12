"""True, predicted and copied frames: the paper's Figure 4, and the same as an animation."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from amem_cli.artifacts.atomic import write_bytes
from amem_cli.errors import printable
from amem_cli.metrics.prediction import prediction_errors
from amem_cli.pictures.frames import show_frame
from amem_cli.pictures.style import styled

FRAMES_PER_SECOND = 4  # slow enough to see each


@dataclass(frozen=True)
class PredictedClip:
    """A clip with MEM's predictions: `current` is frame t, (H, W, 3) uint8; `true` and `predicted` are the frames
    t+1 ... t+c, (c, H, W, 3) uint8, and so is `by_other_motion`, predicted from the f_M of another clip."""

    title: str
    current: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    by_other_motion: np.ndarray | None = None

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """The frames t+1 ... t+c by the name of their row."""
        copied = np.broadcast_to(self.current, self.true.shape)
        return {"true": self.true, "predicted": self.predicted, "copied": copied}

    def walk(self, row: str) -> np.ndarray:
        """The frames t, t+1 ... t+c of a row, (c + 1, H, W, 3)."""
        return np.concatenate([self.current[None], self.rows[row]])

    @property
    def steps(self) -> list[str]:
        """The names of the predicted frames."""
        return [f"t+{step + 1}" for step in range(len(self.true))]

    @cached_property
    def errors(self) -> dict[str, Any]:
        """`prediction_errors` of this clip."""
        return prediction_errors(self.true, self.predicted, self.current, self.by_other_motion)

    def caption(self, row: str, step: int) -> str:
        """PSNR and SSIM of a frame against the true one, for the rows that are not true."""
        if row == "true":
            return ""
        errors, suffix = self.errors["rounds"][step], "_copied" if row == "copied" else ""
        psnr = errors[f"psnr{suffix}"]
        return f"{'exact' if psnr is None else f'{psnr:.1f} dB'}, {errors[f'ssim{suffix}']:.2f}"


@styled
def predicted_frames_figure(clips: Sequence[PredictedClip], columns: int = 2) -> Figure:
    """Figure 4 for several clips: frame t, the true frames t+1 ... t+c, below them the predicted and copied ones.

    PSNR and SSIM against the true frame are below each frame that is not true.
    """
    columns = min(columns, len(clips))
    lines = -(-len(clips) // columns)
    width, height = 1.2 + 0.87 * (len(clips[0].true) + 1), 5.8  # of one clip, in inches
    figure = Figure(figsize=(columns * width, lines * height))
    grid = {"left": 1.1 / width, "right": 1, "bottom": 0.3 / height, "top": 1 - 0.6 / height, "wspace": 0.12}
    for part, clip in zip(np.ravel(figure.subfigures(lines, columns, squeeze=False)), clips, strict=False):
        _draw_clip(part, clip, grid)
    return figure


def _draw_clip(figure: SubFigure, clip: PredictedClip, grid: dict[str, float]) -> None:
    axes = figure.subplots(3, len(clip.true) + 1, gridspec_kw=grid)
    show_frame(axes[0, 0], clip.current, "t (given)")
    for (name, frames), row in zip(clip.rows.items(), axes, strict=True):
        for step, frame in enumerate(frames):
            above = clip.steps[step] if name == "true" else ""
            show_frame(row[step + 1], frame, above, clip.caption(name, step))
        label = name if name == "true" else f"{name}\n(PSNR, SSIM)"
        row[0].text(-0.15, 0.5, label, ha="right", va="center", transform=row[0].transAxes)
    for each in axes[1:, 0]:
        each.set_axis_off()
    axes[0, 0].annotate(printable(clip.title), (0, 1), (0, 22), "axes fraction", "offset points", fontweight="bold")


@styled
def animate(clips: Sequence[PredictedClip], path: Path) -> Path:
    """Write an endless .gif: true, predicted and copied frames side by side, the clips below each other.

    The first image shows frame t in every column. Raises `DiskError` when the file cannot be written.
    """
    figure = Figure(figsize=(3.3, 2.1 * len(clips) + 0.5), dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.subplots_adjust(0.02, 0.02, 0.98, 1 - 0.45 / figure.get_figheight(), wspace=0.1, hspace=0.06)
    grid = figure.subplots(len(clips), 3, squeeze=False)
    images = []
    for step in range(len(clips[0].true) + 1):
        for clip, axes in zip(clips, grid, strict=True):
            for name, each in zip(clip.rows, axes, strict=True):
                each.clear()
                show_frame(each, clip.walk(name)[step], above=name if clip is clips[0] else "")
        figure.suptitle(f"t+{step}" if step else "t (given)", fontsize=9, y=1, va="top")
        canvas.draw()
        images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    # one palette without dithering: with one for each image, still areas would flicker
    palette = Image.fromarray(np.concatenate([np.asarray(image) for image in images])).quantize(256)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    content = io.BytesIO()
    images[0].save(content, "GIF", save_all=True, append_images=images[1:], duration=1000 // FRAMES_PER_SECOND, loop=0)
    return write_bytes(path, content.getvalue())
