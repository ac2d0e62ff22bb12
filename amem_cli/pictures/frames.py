"""True and predicted frames, as strips (paper, Figure 4) and animations, and how far apart they are.

Also what every picture of frames here shares: reading frames, text, saving.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from amem_cli.artifacts.atomic import write_bytes
from amem_cli.data.images import open_rgb
from amem_cli.errors import BadData, UsageError, listing
from amem_cli.pictures.cmc import save_figure

INK = (25, 25, 25)
SOFT_INK = (105, 105, 105)
RULE = (215, 215, 215)
MARGIN = 16
GAP = 6

SSIM_RADIUS = 5  # a Gaussian window of 11 x 11 pixels with a deviation of 1.5 (Wang et al. 2004)
SSIM_SIGMA = 1.5
PICTURE_FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")
ANIMATION_FORMATS = (".gif", ".webp")


@dataclass(frozen=True)
class PredictedClip:
    """A clip with MEM's predictions: `current` is frame t, (H, W, 3) uint8; `true` and `predicted` are the frames
    t+1 ... t+c, (c, H, W, 3) uint8, and so is `by_other_motion`, predicted from the f_M of another clip."""

    title: str
    current: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    by_other_motion: np.ndarray | None = None

    @cached_property
    def errors(self) -> dict[str, Any]:
        """`prediction_errors` of this clip, and `mse_other_motion`: where it is no larger, f_M is not used."""
        other = None if self.by_other_motion is None else _mse(self.true, self.by_other_motion)
        return prediction_errors(self.true, self.predicted, self.current) | {"mse_other_motion": other}


def predicted_frames_strip(
    current: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray | Mapping[str, np.ndarray],
    copied: bool = False,
    labels: tuple[str, str, str] = ("true", "predicted", "copied"),
    title: str = "",
    enlarge: int | None = None,
) -> Image.Image:
    """One sample of the paper's Figure 4: true frames t+1 ... t+c, under them the predicted ones; an RGB picture.

    `current` is frame t, (H, W, 3) uint8; `true` and `predicted` are (c, H, W, 3) uint8. `predicted` may also map row
    names to such arrays, to compare settings (with and without the texture MSE, say). `copied` adds the yardstick:
    frame t repeated. `labels` name the rows. Under each frame that is not true stand PSNR in dB and SSIM against the
    true one. `enlarge` is a whole factor; by default 2 for frames up to 128 pixels high, else 1.

    Raises `BadData` when there is no frame, `ValueError` for arrays of other shapes or types.
    """
    rows = dict(predicted) if isinstance(predicted, Mapping) else {labels[1]: predicted}
    _check_frames(current, true, *rows.values(), pixels_as_bytes=True)
    if not rows:
        raise BadData("predicted frames", why="there is no prediction to draw")
    rounds, height, width, _ = true.shape
    if copied:
        rows[labels[2]] = np.broadcast_to(current, true.shape)
    factor = enlarge or (2 if height <= 128 else 1)
    width, height = width * factor, height * factor

    bold, plain, small = font(13, bold=True), font(13), font(11)
    caption = 18
    label_width = max(*(bold.getlength(name) for name in (labels[0], *rows)), small.getlength("PSNR · SSIM")) + 14
    title_height = 28 if title else 0
    first_column = MARGIN + round(label_width)
    later_columns = first_column + width + 4 * GAP
    first_row = MARGIN + title_height + caption
    # The true row needs no caption below it; the others carry their errors there.
    row_tops = [first_row, *(first_row + height + GAP + i * (height + caption + GAP) for i in range(len(rows)))]
    size = (
        max(later_columns + rounds * (width + GAP) - GAP, MARGIN + round(bold.getlength(title))) + MARGIN,
        row_tops[-1] + height + caption + MARGIN,
    )
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((MARGIN, MARGIN), title, font=bold, fill=INK, anchor="lt")

    def paste(pixels: np.ndarray, left: int, top: int) -> None:
        picture.paste(Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.BICUBIC), (left, top))
        draw.rectangle((left - 1, top - 1, left + width, top + height), outline=RULE)

    draw.text((first_column + width / 2, first_row - 5), "t (given)", font=plain, fill=SOFT_INK, anchor="ms")
    paste(current, first_column, first_row)
    bar = later_columns - 2 * GAP
    draw.line((bar, first_row, bar, row_tops[-1] + height), fill=RULE, width=1)
    for step in range(rounds):
        left = later_columns + step * (width + GAP)
        draw.text((left + width / 2, first_row - 5), f"t+{step + 1}", font=plain, fill=SOFT_INK, anchor="ms")
        paste(true[step], left, first_row)
        for name, top in zip(rows, row_tops[1:], strict=True):
            paste(rows[name][step], left, top)
            # An exact prediction has no finite PSNR.
            error = _mse(true[step], rows[name][step])
            decibels = f"{_psnr(error):.1f} dB" if error else "exact"
            text = f"{decibels} · {structural_similarity(true[step], rows[name][step]):.2f}"
            draw.text((left + width / 2, top + height + 4), text, font=small, fill=SOFT_INK, anchor="mt")
    right = first_column - 10
    draw.text((right, first_row + height / 2), labels[0], font=bold, fill=INK, anchor="rm")
    for name, top in zip(rows, row_tops[1:], strict=True):
        draw.text((right, top + height / 2), name, font=bold, fill=INK, anchor="rm")
        draw.text((right, top + height + 4), "PSNR · SSIM", font=small, fill=SOFT_INK, anchor="rt")
    return picture


def stack_strips(strips: Sequence[Image.Image], columns: int = 1) -> Image.Image:
    """Several samples as one figure: strips row by row, `columns` beside each other, aligned at their left.

    Raises `BadData` when there is none.
    """
    if not strips:
        raise BadData("strips of frames", why="there is none to draw")
    rows = [strips[start : start + columns] for start in range(0, len(strips), columns)]
    widths = [
        max(row[column].width for row in rows if column < len(row)) for column in range(min(columns, len(strips)))
    ]
    heights = [max(strip.height for strip in row) for row in rows]
    picture = Image.new("RGB", (sum(widths), sum(heights)), "white")
    for row, top in zip(rows, np.cumsum([0, *heights]), strict=False):
        for strip, left in zip(row, np.cumsum([0, *widths]), strict=False):
            picture.paste(strip, (int(left), int(top)))
    return picture


def prediction_errors(true: np.ndarray, predicted: np.ndarray, current: np.ndarray) -> dict[str, object]:
    """How far predicted frames are from the true ones, beside copying the last frame, which costs nothing.

    `true` and `predicted` are (c, H, W, 3), `current` (H, W, 3): uint8, or float in [0, 1]. Returns `mse`, `psnr` (dB)
    and `ssim`, the same with `_copied` for frame t repeated, `mse_ratio` = mse / mse_copied (only below 1 has anything
    been learned about motion), and `rounds`: the same seven for each of t+1 ... t+c.

    MSE is the mean over all elements, of pixels in [0, 1]; PSNR = -10 log10(MSE) of that mean, `None` where the MSE is
    0; SSIM is the mean over the frames; the ratio is `None` when the person stands still (mse_copied = 0). So every
    value can go into JSON.

    Raises `BadData` when there is no frame, `ValueError` for arrays of other shapes, types or ranges.
    """
    _check_frames(current, true, predicted)
    copied = np.broadcast_to(current, true.shape)

    def measured(rounds: slice) -> dict[str, float | None]:
        wanted, guess, copy = true[rounds], predicted[rounds], copied[rounds]
        mse, mse_copied = _mse(wanted, guess), _mse(wanted, copy)
        return {
            "mse": mse,
            "psnr": _psnr(mse),
            "ssim": float(np.mean([structural_similarity(a, b) for a, b in zip(wanted, guess, strict=True)])),
            "mse_copied": mse_copied,
            "psnr_copied": _psnr(mse_copied),
            "ssim_copied": float(np.mean([structural_similarity(a, b) for a, b in zip(wanted, copy, strict=True)])),
            "mse_ratio": mse / mse_copied if mse_copied else None,
        }

    return {**measured(slice(None)), "rounds": [measured(slice(i, i + 1)) for i in range(len(true))]}


def structural_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """SSIM of two frames (H, W, 3) or (H, W), uint8 or float in [0, 1]: 1 for equal frames, about 0 for unrelated ones.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    TIP 2004, eq. 13: Gaussian window 11 x 11 with deviation 1.5, K1 = 0.01, K2 = 0.03, L = 1, only windows that lie
    whole in the frame. Colour frames: the mean over their channels (the paper is about grey ones).

    Raises `ValueError` for frames that differ in shape or are smaller than the window.
    """
    x, y = _unit(first), _unit(second)
    window = 2 * SSIM_RADIUS + 1
    if x.shape != y.shape or x.ndim not in (2, 3) or min(x.shape[:2]) < window:
        raise ValueError(f"SSIM needs two equal shapes of at least {window} x {window}, not {x.shape} and {y.shape}")

    def local_mean(values: np.ndarray) -> np.ndarray:
        blurred = gaussian_filter(values, SSIM_SIGMA, radius=SSIM_RADIUS, axes=(0, 1))
        return blurred[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]

    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x, variance_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast_and_structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float((luminance * contrast_and_structure).mean())


def animate(
    current: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    path: Path,
    copied: bool = False,
    frames_per_second: float = 4,
    enlarge: int | None = None,
) -> Path:
    """Write true and predicted frames side by side as an endless animation, .gif or lossless .webp.

    Arrays as in `predicted_frames_strip`. The first image shows frame t in every column; `copied` adds the column that
    stands still. MEM predicts single frames, so the default is slow enough to see each.

    Raises `BadData` when there is no frame, `UsageError` for another suffix, `ValueError` for other shapes or types.
    """
    path = Path(path)
    if path.suffix.lower() not in ANIMATION_FORMATS:
        raise UsageError("animation", path, why=f"its suffix is none of {', '.join(ANIMATION_FORMATS)}")
    _check_frames(current, true, predicted, pixels_as_bytes=True)
    columns = {"true": [current, *true], "predicted": [current, *predicted]}
    if copied:
        columns["copied"] = [current] * (len(true) + 1)
    factor = enlarge or (2 if current.shape[0] <= 128 else 1)
    height, width = current.shape[0] * factor, current.shape[1] * factor
    # A column is at least as wide as its name.
    column = max(width, round(font(13, bold=True).getlength("predicted")))
    images = []
    for step in range(len(true) + 1):
        image = Image.new("RGB", (len(columns) * (column + GAP) + GAP, height + 48), "white")
        draw = ImageDraw.Draw(image)
        for position, (name, frames) in enumerate(columns.items()):
            left = GAP + position * (column + GAP)
            pixels = Image.fromarray(np.ascontiguousarray(frames[step])).resize((width, height), Image.BICUBIC)
            image.paste(pixels, (left + (column - width) // 2, 24))
            draw.text((left + column / 2, 17), name, font=font(13, bold=True), fill=INK, anchor="ms")
        text = "t (given)" if step == 0 else f"t+{step}"
        draw.text((image.width / 2, height + 41), text, font=font(13), fill=SOFT_INK, anchor="ms")
        images.append(image)
    content = io.BytesIO()
    if path.suffix.lower() == ".gif":
        # One palette for all and no dithering: with one each, what stands still would flicker.
        palette = stack_strips(images).quantize(256)
        images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    options = {".webp": {"lossless": True}, ".gif": {"optimize": False}}[path.suffix.lower()]
    images[0].save(
        content,
        format=path.suffix[1:].upper(),
        save_all=True,
        append_images=images[1:],
        duration=round(1000 / frames_per_second),
        loop=0,
        **options,
    )
    return write_bytes(path, content.getvalue())


def read_frames(frames: Sequence[Path | np.ndarray], frame_size: tuple[int, int]) -> list[Image.Image]:
    """Frames as RGB pictures of one size (H, W), from image files or (H, W, 3) uint8 arrays.

    The aspect ratio is not kept: every network here sees frames like this. Raises `BadData` with every file that
    cannot be read.
    """
    height, width = frame_size
    pictures, unreadable = [], []
    for frame in frames:
        if isinstance(frame, np.ndarray):
            pictures.append(Image.fromarray(frame).resize((width, height), Image.LANCZOS))
            continue
        try:
            pictures.append(open_rgb(frame).resize((width, height), Image.LANCZOS))
        except BadData as error:
            unreadable.append(f"{frame} ({error.why})")
    if unreadable:
        raise BadData("frames", why=listing(unreadable), remedy="Check the data set with `amem data check`")
    return pictures


def evenly_spaced(frames: Sequence, how_many: int) -> list:
    """`how_many` of a tracklet's frames, each from the middle of an equal part; all of them when there are fewer.

    >>> evenly_spaced("abcdefghi", 3)
    ['b', 'e', 'h']
    """
    if len(frames) <= how_many:
        return list(frames)
    return [frames[int((part + 0.5) * len(frames) / how_many)] for part in range(how_many)]


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Save a picture by `path`'s suffix, whole or not at all; in .svg and .pdf its pixels are kept without loss.

    Raises `UsageError` for a suffix other than .png, .jpg, .webp, .svg and .pdf, `DiskError` when it cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in PICTURE_FORMATS:
        raise UsageError(
            "picture", path, why=f"its suffix is none of {', '.join(PICTURE_FORMATS)}", remedy="Choose one of them"
        )
    if suffix in (".svg", ".pdf"):
        dots = 150
        figure = Figure(figsize=(picture.width / dots, picture.height / dots), dpi=dots)
        figure.figimage(np.asarray(picture.convert("RGB")), resize=False)
        return save_figure(figure, path)
    content = io.BytesIO()
    options = {".png": {"optimize": True}, ".webp": {"lossless": True}}.get(suffix, {"quality": 95})
    picture.save(content, format={".jpg": "JPEG"}.get(suffix, suffix[1:].upper()), **options)
    return write_bytes(path, content.getvalue())


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: the plots' own face, with the letters of most alphabets."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def _check_frames(current: np.ndarray, *clips: np.ndarray, pixels_as_bytes: bool = False) -> None:
    if any(len(clip) == 0 for clip in clips):
        raise BadData("predicted frames", why="there is no frame in them")
    if current.ndim != 3 or current.shape[-1] != 3:
        raise ValueError(f"the current frame is (H, W, 3), not {current.shape}")
    for clip in clips:
        if clip.ndim != 4 or clip.shape != clips[0].shape or clip.shape[1:] != current.shape:
            raise ValueError(
                f"true and predicted frames are (c, H, W, 3) of one shape with the current frame's H and W, not "
                f"{[clip.shape for clip in clips]} for {current.shape}"
            )
    if pixels_as_bytes and any(array.dtype != np.uint8 for array in (current, *clips)):
        raise ValueError(f"frames to draw are uint8, not {[str(array.dtype) for array in (current, *clips)]}")


def _unit(pixels: np.ndarray) -> np.ndarray:
    """Pixels as float64 in [0, 1]."""
    if pixels.dtype == np.uint8:
        return pixels / 255.0
    if not np.issubdtype(pixels.dtype, np.floating) or not np.all((pixels >= 0) & (pixels <= 1)):
        raise ValueError(f"pixels are uint8, or float in [0, 1], not {pixels.dtype} that leaves it")
    return pixels.astype(np.float64)


def _mse(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.mean((_unit(first) - _unit(second)) ** 2))


def _psnr(mse: float) -> float | None:
    return -10 * math.log10(mse) if mse else None
