"""Where the parts of f_s look: heat over the frames of a clip."""

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from amem_cli.errors import BadData
from amem_cli.pictures.frames import GAP, INK, MARGIN, RULE, SOFT_INK, font

COLOURS = "inferno"
STRONGEST = 0.8  # how much of a pixel the strongest heat covers
BAR_WIDTH = 12


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One row of the picture: its name, what stands under it, and the heat (H', W') or, over time, (T', H', W')."""

    name: str
    note: str
    heat: np.ndarray


def attention_strip(
    frames: np.ndarray, rows: list[HeatRow], title: str = "", enlarge: int | None = None
) -> Image.Image:
    """The frames of a clip, (T, H, W, 3) uint8, and under them the same frames once for each row of heat; RGB.

    Negative heat counts as none, and each row's colours go from 0 to its own largest value, which its colour bar names:
    rows tell where a part looks, their notes how much it counts. Heat over time, (T', H', W'), is spread over the
    frames: frame i shows map floor(i T' / T). `enlarge` is a whole factor; by default 2 for frames up to 128 pixels
    high, else 1.

    Raises `BadData` when there is no frame or no row.
    """
    if not len(frames) or not rows:
        raise BadData("attention", why="there is no frame or no map to draw")
    factor = enlarge or (2 if frames.shape[1] <= 128 else 1)
    height, width = frames.shape[1] * factor, frames.shape[2] * factor
    bold, plain, small = font(13, bold=True), font(13), font(11)
    texts = [bold.getlength(row.name) for row in rows] + [small.getlength(row.note) for row in rows]
    left = MARGIN + round(max(*texts, bold.getlength("frames"))) + 14
    top = MARGIN + (26 if title else 0) + 18
    right = left + len(frames) * (width + GAP) - GAP
    size = (right + 14 + BAR_WIDTH + 44 + MARGIN, top + (len(rows) + 1) * (height + GAP) - GAP + MARGIN)
    picture = Image.new("RGB", (max(size[0], MARGIN * 2 + round(bold.getlength(title))), size[1]), "white")
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((MARGIN, MARGIN), title, font=bold, fill=INK, anchor="lt")
    for place in range(len(frames)):
        x = left + place * (width + GAP) + width / 2
        draw.text((x, top - 5), str(place + 1), font=plain, fill=SOFT_INK, anchor="ms")
    for line, row in enumerate([None, *rows]):
        y = top + line * (height + GAP)
        draw.text((left - 12, y + height / 2 - 8), "frames" if row is None else row.name, font=bold, fill=INK,
                  anchor="rm")  # fmt: skip
        if row is not None:
            draw.text((left - 12, y + height / 2 + 9), row.note, font=small, fill=SOFT_INK, anchor="rm")
        heats = None if row is None else heat_over_frames(row.heat, len(frames))
        for place, frame in enumerate(frames):
            pixels = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
            if heats is not None:
                pixels = overlay(pixels, heats[place], largest=float(np.max(row.heat)))
            x = left + place * (width + GAP)
            picture.paste(pixels, (x, y))
            draw.rectangle((x - 1, y - 1, x + width, y + height), outline=RULE)
        if row is not None:
            _colour_bar(picture, draw, right + 14, y, height, float(np.max(row.heat)))
    return picture


def overlay(frame: Image.Image, heat: np.ndarray, largest: float) -> Image.Image:
    """A frame, made grey, under heat (H', W') from 0 (nothing) to `largest`, spread smoothly over its pixels."""
    share = np.clip(heat / largest, 0, 1) if largest > 0 else np.zeros_like(heat)
    smooth = Image.fromarray(share.astype(np.float32)).resize(frame.size, Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(smooth), 0, 1)[..., None]  # (H, W, 1)
    colours = matplotlib.colormaps[COLOURS](share[..., 0])[..., :3]
    grey = np.asarray(frame.convert("L").convert("RGB")) / 255
    cover = STRONGEST * share
    return Image.fromarray(np.round(255 * ((1 - cover) * grey + cover * colours)).astype(np.uint8))


def heat_rows(
    features: Mapping[str, np.ndarray], shares: Mapping[str, float], backbone_over_time: np.ndarray
) -> list[HeatRow]:
    """The rows of `models.attention.activation_maps` for one clip: BF over T', then f_B, f_A, f_M with their shares."""
    rows = [HeatRow("BF", f"each of T' = {len(backbone_over_time)}", backbone_over_time)]
    return rows + [HeatRow(name, f"{100 * shares[name]:.0f} % of |f_s|²", heat) for name, heat in features.items()]


def heat_over_frames(heat: np.ndarray, frames: int) -> np.ndarray:
    """The heat of each frame, (frames, H', W'): the same for all, or of (T', H', W') map floor(i T' / frames)."""
    if heat.ndim == 2:
        return np.broadcast_to(heat, (frames, *heat.shape))
    return heat[np.arange(frames) * len(heat) // frames]


def _colour_bar(picture: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, height: int, largest: float) -> None:
    ramp = np.linspace(1, 0, height)
    colours = np.round(255 * matplotlib.colormaps[COLOURS](ramp)[:, None, :3]).astype(np.uint8)
    picture.paste(Image.fromarray(np.repeat(colours, BAR_WIDTH, axis=1)), (x, y))
    small = font(11)
    draw.text((x + BAR_WIDTH + 4, y), f"{max(largest, 0):.2g}", font=small, fill=SOFT_INK, anchor="lt")
    draw.text((x + BAR_WIDTH + 4, y + height), "0", font=small, fill=SOFT_INK, anchor="lb")
