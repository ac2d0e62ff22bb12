"""The background of a camera: a wall above the horizon, the ground below."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

PANORAMA = 5  # width of the scenery in box heights; it repeats after that


def draw_scenery(
    rng: np.random.Generator, index: int, high: int, horizon: int, wide: int
) -> tuple[Image.Image, Image.Image]:
    """Wall and ground of camera `index`, `PANORAMA` box heights wide plus one box, so that every crop is inside.

    `high` and `wide` are the painted box in pixels, `horizon` the height of the wall.
    """
    span = PANORAMA * high
    wall = _wall(rng, index, span, horizon, high)
    ground = _ground(rng, index, span, high - horizon, high)
    return _repeat(wall, wide), _repeat(ground, wide)


def _repeat(image: Image.Image, more: int) -> Image.Image:
    pixels = np.asarray(image)
    return Image.fromarray(np.concatenate([pixels, pixels[:, :more]], axis=1))


def _mottle(
    rng: np.random.Generator, wide: int, high: int, colour: np.ndarray, patches: float, speckle: float
) -> Image.Image:
    """A surface of one colour with large soft patches and fine speckle, which repeats without a seam."""
    coarse = rng.normal(0.0, patches, (max(2, high // 90), max(4, wide // 90), 1))
    fine = rng.normal(0.0, speckle, (max(2, high // 6), max(4, wide // 6), 3))
    layers = []
    for layer in (coarse.repeat(3, axis=2), fine):
        around = np.concatenate([layer[:, -1:], layer, layer[:, :1]], axis=1)
        tile = Image.fromarray(np.clip(128 + around, 0, 255).astype(np.uint8))
        box = (1, 0, 1 + layer.shape[1], layer.shape[0])
        tile = tile.resize((wide, high), Image.Resampling.BILINEAR, box=box)
        layers.append(np.asarray(tile, dtype=np.int16) - 128)
    return Image.fromarray(np.clip(colour.astype(np.int16) + layers[0] + layers[1], 0, 255).astype(np.uint8))


def _wall(rng: np.random.Generator, index: int, span: int, horizon: int, high: int) -> Image.Image:
    colour = np.array([(158, 140, 122), (168, 168, 164), (142, 106, 90), (122, 138, 146), (188, 178, 156)])[index % 5]
    wall = _mottle(rng, span, horizon, colour, 9.0, 7.0)
    draw = ImageDraw.Draw(wall)
    dark = tuple(int(value * 0.8) for value in colour)
    kind = index % 4
    if kind == 0:
        _bricks(draw, span, horizon, high, dark)
    elif kind == 1:
        _windows(rng, draw, span, horizon, high, dark)
    elif kind == 2:
        _hedge(rng, draw, span, horizon, high)
    else:
        _panels(rng, draw, span, horizon, high, colour)
    draw.rectangle((0, horizon - max(3, high // 50), span, horizon), fill=tuple(int(value * 0.62) for value in colour))
    return wall.filter(ImageFilter.GaussianBlur(high / 200))


def _bricks(draw: ImageDraw.ImageDraw, span: int, horizon: int, high: int, dark: tuple[int, ...]) -> None:
    row = max(4, high // 26)
    for k, v in enumerate(range(0, horizon, row)):
        draw.line((0, v, span, v), fill=dark, width=2)
        for u in range((k % 2) * row, span, 2 * row):
            draw.line((u, v, u, v + row), fill=dark, width=2)


def _hedge(rng: np.random.Generator, draw: ImageDraw.ImageDraw, span: int, horizon: int, high: int) -> None:
    draw.rectangle((0, horizon * 0.42, span, horizon), fill=(44, 66, 42))
    for _ in range(span // 2):
        u, v = rng.uniform(0, span), horizon * rng.uniform(0.36, 1.0)
        r = high * rng.uniform(0.008, 0.026)
        green = int(rng.uniform(60, 112))
        draw.ellipse((u - r, v - r, u + r, v + r), fill=(green // 2 + 12, green, green // 2))


def _panels(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, span: int, horizon: int, high: int, colour: np.ndarray
) -> None:
    """Panels and doors."""
    dark = tuple(int(value * 0.8) for value in colour)
    u = 0.0
    while u < span:
        step = high * rng.uniform(0.3, 0.7)
        tint = tuple(int(value) for value in np.clip(colour * rng.uniform(0.72, 1.12), 0, 255))
        if rng.random() < 0.6:
            draw.rectangle((u, horizon * rng.uniform(0.0, 0.25), u + step * 0.8, horizon), fill=tint)
        draw.line((u, 0, u, horizon), fill=dark, width=3)
        u += step


def _windows(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, span: int, horizon: int, high: int, frame: tuple[int, ...]
) -> None:
    u = 0.0
    while u < span:
        wide = high * rng.uniform(0.22, 0.42)
        glass = int(rng.uniform(70, 130))
        draw.rectangle((u, horizon * 0.06, u + wide, horizon * 0.74), fill=frame)
        pane = (u + 5, horizon * 0.06 + 5, u + wide - 5, horizon * 0.74 - 5)
        draw.rectangle(pane, fill=(glass - 12, glass, glass + 12))
        top, left = horizon * 0.08, u + 5
        reflection = ((left, horizon * 0.5), (u + wide * 0.5, top), (u + wide * 0.75, top), (left, horizon * 0.66))
        draw.polygon(reflection, fill=(glass + 14, glass + 26, glass + 36))
        u += wide + high * rng.uniform(0.08, 0.25)


def _ground(rng: np.random.Generator, index: int, span: int, deep: int, high: int) -> Image.Image:
    colour = np.array([(136, 134, 130), (112, 112, 116), (164, 154, 138), (128, 120, 108)])[index // 2 % 4]
    ground = _mottle(rng, span, deep, colour, 7.0, 6.0)
    draw = ImageDraw.Draw(ground)
    dark = tuple(int(value * 0.86) for value in colour)
    if rng.random() < 0.65:  # paving
        v, row = 2.0, deep * 0.1
        while v < deep:
            draw.line((0, v, span, v), fill=dark, width=2)
            for u in np.arange(rng.uniform(0, high * 0.3), span, high * 0.28):
                draw.line((u, v, u - 0.4 * row, v + row), fill=dark, width=2)
            v += row
            row *= 1.35
    else:  # a painted line
        v = deep * rng.uniform(0.12, 0.4)
        draw.rectangle((0, v, span, v + high * 0.018), fill=(206, 204, 190))
    return ground.filter(ImageFilter.GaussianBlur(high / 260))
