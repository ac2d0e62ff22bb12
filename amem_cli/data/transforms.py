"""Pixels: from an image file to uint8 RGB at the network's size."""

from pathlib import Path

import numpy as np
from PIL import Image

from amem_cli.data.images import open_rgb

Box = tuple[float, float, float, float]  # left, upper, right, lower as fractions of the sides
FULL_IMAGE: Box = (0.0, 0.0, 1.0, 1.0)
Rectangle = tuple[int, int, int, int]  # top, left, bottom, right in pixels


def read_image(path: str | Path, height: int, width: int, box: Box = FULL_IMAGE) -> np.ndarray:
    """The region `box` of an image, resized bilinearly: uint8 RGB (height, width, 3).

    Any mode becomes RGB; EXIF rotation is applied. Raises `BadData` when the file is missing or does not decode.
    """
    image = open_rgb(path)
    if image.size != (width, height) or box != FULL_IMAGE:
        left, upper, right, lower = box
        across = (left * image.width, 0, right * image.width, image.height)
        down = (0, upper * image.height, width, lower * image.height)
        # Width, then height, as Pillow up to 12 does: 13 takes another order for tall images, and rounds differently.
        image = image.resize((width, image.height), Image.Resampling.BILINEAR, box=across)
        image = image.resize((width, height), Image.Resampling.BILINEAR, box=down)
    return np.asarray(image)


def random_box(probability: float, generator: np.random.Generator) -> Box:
    """With `probability` a window of 8/9 of both sides at a random position, else the full image."""
    if generator.random() >= probability:
        return FULL_IMAGE
    left, upper = (generator.random(2) / 9).tolist()
    return (left, upper, left + 8 / 9, upper + 8 / 9)


def jitter_pixels(clip: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation, colour balance and sharpness of a clip, alike for all of its frames (D).

    uint8 (T, H, W, 3) -> the same. Brightness, contrast and saturation are multiplied by 1 +- 0.4 x `strength`, each
    colour by 1 +- 0.15 x `strength`. With probability `strength` / 2 the clip is reduced to a quarter of its size or
    more and enlarged again, like a person far from the camera.
    """
    brightness, contrast, saturation = 1 + 0.4 * strength * generator.uniform(-1, 1, 3)
    balance = 1 + 0.15 * strength * generator.uniform(-1, 1, 3)
    if generator.random() < strength / 2:
        height, width = clip.shape[1:3]
        scale = generator.uniform(0.25, 1)
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in clip]
        images = [image.resize(small, Image.Resampling.BILINEAR) for image in images]
        clip = np.stack([np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) for image in images])
    pixels = clip.astype(np.float32) * np.float32(brightness)
    mean = pixels.mean()
    pixels = (pixels - mean) * np.float32(contrast) + mean
    grey = pixels.mean(axis=3, keepdims=True)
    pixels = ((pixels - grey) * np.float32(saturation) + grey) * balance.astype(np.float32)
    return pixels.clip(0, 255).astype(np.uint8)


def random_rectangle(height: int, width: int, probability: float, generator: np.random.Generator) -> Rectangle:
    """With `probability` a random rectangle to erase, else an empty one. Its area is 2 to 25 % of the frame, its height
    0.3 to 3.3 times its width (Zhong et al., "Random Erasing", AAAI 2020, with less area) (D)."""
    if generator.random() >= probability:
        return (0, 0, 0, 0)
    area, ratio = generator.uniform(0.02, 0.25) * height * width, np.exp(generator.uniform(np.log(0.3), np.log(3.3)))
    tall, wide = min(height, round((area * ratio) ** 0.5)), min(width, round((area / ratio) ** 0.5))
    top, left = int(generator.integers(height - tall + 1)), int(generator.integers(width - wide + 1))
    return (top, left, top + tall, left + wide)
