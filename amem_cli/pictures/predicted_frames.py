"""True, predicted and copied frames: the paper's Figure 4."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from amem_cli.errors import printable
from amem_cli.metrics.prediction import frame_errors, prediction_errors
from amem_cli.pictures.frames import show_frame
from amem_cli.pictures.style import styled


@dataclass(frozen=True)
class PredictedClip:
    """A clip with MEM's predictions: `current` is frame t, (H, W, 3) uint8; `true` and `predicted` are the frames
    t+1 ... t+c, (c, H, W, 3) uint8, and so are `by_other_motion`, predicted from the f_M of another clip, and
    `reconstructed`: the true frames through MEM's encoder and decoder, the best that MEM can draw."""

    title: str
    current: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    by_other_motion: np.ndarray | None = None
    reconstructed: np.ndarray | None = None
    stride: int = 1  # of the predicted frames: t + stride, t + 2 stride, ...

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """The frames t+1 ... t+c by the name of their row."""
        copied = np.broadcast_to(self.current, self.true.shape)
        limit = {} if self.reconstructed is None else {"reconstructed": self.reconstructed}
        return {"true": self.true} | limit | {"predicted": self.predicted, "copied": copied}

    def walk(self, row: str) -> np.ndarray:
        """The frames t, t+1 ... t+c of a row, (c + 1, H, W, 3)."""
        return np.concatenate([self.current[None], self.rows[row]])

    @property
    def steps(self) -> list[str]:
        """The names of the predicted frames."""
        return [f"t+{self.stride * (step + 1)}" for step in range(len(self.true))]

    @cached_property
    def errors(self) -> dict[str, Any]:
        """`prediction_errors` of this clip."""
        return prediction_errors(self.true, self.predicted, self.current, self.by_other_motion)

    def caption(self, row: str, step: int) -> str:
        """PSNR and SSIM of a frame against the true one, for the rows that are not true."""
        if row == "true":
            return ""
        errors = frame_errors(self.true[step], self.rows[row][step])
        psnr = errors["psnr"]
        return f"{'exact' if psnr is None else f'{psnr:.1f} dB'}, {errors['ssim']:.2f}"


@styled
def predicted_frames_figure(clips: Sequence[PredictedClip]) -> Figure:
    """Figure 4 for several clips: frame t, the true frames t+1 ... t+c, below them the other rows of each clip.

    PSNR and SSIM against the true frame are below each frame that is not true.
    """
    columns = min(4 if len(clips[0].true) == 1 else 2, len(clips))
    lines = -(-len(clips) // columns)
    width, height = 1.2 + 0.87 * (len(clips[0].true) + 1), 0.6 + 1.75 * len(clips[0].rows)  # of one clip, in inches
    figure = Figure(figsize=(columns * width, lines * height))
    grid = {"left": 1.1 / width, "right": 1, "bottom": 0.3 / height, "top": 1 - 0.6 / height, "wspace": 0.12}
    for part, clip in zip(np.ravel(figure.subfigures(lines, columns, squeeze=False)), clips, strict=False):
        _draw_clip(part, clip, grid)
    return figure


def _draw_clip(figure: SubFigure, clip: PredictedClip, grid: dict[str, float]) -> None:
    axes = figure.subplots(len(clip.rows), len(clip.true) + 1, gridspec_kw=grid)
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
