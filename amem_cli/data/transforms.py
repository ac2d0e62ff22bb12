"""Pixels: from an image file to uint8 RGB at the network's size."""

from pathlib import Path

import numpy as np
from PIL import Image

from amem_cli.data.images import open_rgb

Box = tuple[float, float, float, float]  # left, upper, right, lower as fractions of the sides
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def read_image(path: str | Path, height: int, width: int, box: Box = WHOLE) -> np.ndarray:
    """The region `box` of an image, resized bilinearly: uint8 RGB (height, width, 3).

    Grey, palette, CMYK and 16-bit images become RGB; EXIF rotation is applied. Raises `BadData` naming the file when
    it is missing or does not decode.
    """
    image = open_rgb(path)
    if image.size != (width, height) or box != WHOLE:
        left, upper, right, lower = box
        corners = (left * image.width, upper * image.height, right * image.width, lower * image.height)
        image = image.resize((width, height), Image.Resampling.BILINEAR, box=corners)
    return np.asarray(image)


def random_box(probability: float, generator: np.random.Generator) -> Box:
    """With `probability` a window of 8/9 of both sides at a random position, else the full image."""
    if generator.random() >= probability:
        return WHOLE
    left, upper = (generator.random(2) / 9).tolist()
    return (left, upper, left + 8 / 9, upper + 8 / 9)
