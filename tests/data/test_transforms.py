"""Images: one decoder that refuses damaged files, conversion to RGB, resizing, cropping."""

import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from amem_cli.data import images
from amem_cli.data.images import open_image, open_rgb
from amem_cli.data.transforms import FULL_IMAGE, jitter_pixels, random_box, random_rectangle, read_image
from amem_cli.errors import BadData
from amem_cli.randomness import keyed_generator
from amem_cli.runtime.engine import as_pixels

NOISE = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)


def smooth(height: int = 24, width: int = 16) -> np.ndarray:
    """A smooth colour picture, which JPEG keeps."""
    y, x = np.mgrid[0:height, 0:width]
    rows = [255 * y / (height - 1), 255 * x / (width - 1), 128 + 0 * x]
    return np.stack(rows, axis=2).round().astype(np.uint8)


class Drawn:
    """A generator that draws these values, one after another; the `ranges` that were asked for."""

    def __init__(self, *values: object):
        self.values = list(values)
        self.ranges: list[tuple[float, float]] = []

    def random(self) -> object:
        return self.values.pop(0)

    def uniform(self, low: float, high: float, size: int | None = None) -> object:
        self.ranges.append((low, high))
        return np.array(self.values.pop(0)) if size else self.values.pop(0)

    def integers(self, high: int) -> object:
        self.ranges.append((0, high))
        return self.values.pop(0)


def encoded(pixels: np.ndarray, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "PNG"), (".bmp", "BMP"), (".jpg", "JPEG"), (".jpeg", "PNG")])
def test_read_image_of_the_right_size(tmp_path, suffix, kind):
    path = tmp_path / f"ümläut 人\n{suffix}"
    path.write_bytes(encoded(smooth(), kind))
    found = read_image(path, 24, 16)
    assert (found.shape, found.dtype) == ((24, 16, 3), np.uint8)
    assert np.abs(found.astype(int) - smooth()).max() <= (12 if kind == "JPEG" else 0)
    assert suffix in images.IMAGE_SUFFIXES


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_read_image_every_mode(tmp_path, mode):
    image = Image.fromarray(smooth()).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path, quality=100)
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(read_image(path, 24, 16) - expected).max() <= (12 if mode == "CMYK" else 0)


def test_read_image_16_bit_grey(tmp_path):
    Image.fromarray(smooth()[..., 0].astype(np.uint16) * 257).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 24, 16)[..., 2], smooth()[..., 0])


def test_open_rgb_applies_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.png").write_bytes(encoded(NOISE, "PNG", exif=exif))
    assert open_image(tmp_path / "a.png")[1].size == (16, 24)
    np.testing.assert_array_equal(open_rgb(tmp_path / "a.png"), np.rot90(NOISE, -1))


@pytest.mark.parametrize(("height", "width"), [(48, 32), (12, 8), (24, 32)])
def test_read_image_resizes_bilinearly(tmp_path, height, width):
    (tmp_path / "a.png").write_bytes(encoded(NOISE, "PNG"))
    expected = Image.fromarray(NOISE).resize((width, height), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", height, width), expected)


def test_read_image_box(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(NOISE, "PNG"))
    box = (0.5, 0.25, 1.0, 0.75)  # left, upper, right, lower
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 12, 8, box=box), NOISE[6:18, 8:16])
    assert not np.array_equal(read_image(tmp_path / "a.png", 24, 16, box=box), NOISE)


def test_random_box():
    boxes = [random_box(0.3, keyed_generator(0, draw)) for draw in range(2000)]
    cropped = np.array([box for box in boxes if box != FULL_IMAGE])
    assert len(cropped) / len(boxes) == pytest.approx(0.3, abs=0.04)
    assert cropped[:, 2:] - cropped[:, :2] == pytest.approx(8 / 9)
    assert cropped.min() >= 0
    assert cropped.max() <= 1
    assert cropped[:, :2].max(axis=0) == pytest.approx(1 / 9, abs=0.002)
    assert cropped[:, :2].min(axis=0) == pytest.approx(0, abs=0.002)
    assert abs(np.corrcoef(cropped[:, 0], cropped[:, 1])[0, 1]) < 0.2
    assert random_box(0, Drawn(0.0)) == FULL_IMAGE
    box = (0.000222, 0.019579, 0.889111, 0.908468)
    assert random_box(1, keyed_generator(0, "clip")) == pytest.approx(box, abs=1e-6)


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header claims more pixels than it has."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return images.PNG + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot be decoded (it is empty)"),
        (encoded(NOISE, "PNG")[:600], "cannot be decoded (the PNG is cut off)"),
        (b"<html>", "cannot be decoded (it is not a JPEG, PNG or BMP image)"),
        (b"\xff\xd8\xff", "cannot be decoded"),
        (encoded(NOISE, "GIF"), "cannot be decoded (it is not a JPEG, PNG or BMP image)"),
        (huge_png(10_000, 6_000), "cannot be decoded (10000 x 6000 pixels are more than 50 megapixels)"),
        (huge_png(2**30, 2**30), "cannot be decoded"),
    ],
)
def test_open_image_refuses(tmp_path, content, why):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (open_image, open_rgb, lambda path: read_image(path, 48, 32)):
        with pytest.raises(BadData) as caught:
            read(path)
        assert caught.value.why.startswith(why)
        assert caught.value.path == path
        assert "\n" not in str(caught.value)


def test_open_image_missing_folder_and_too_large(tmp_path, monkeypatch):
    with pytest.raises(BadData, match="not found"):
        open_image(tmp_path / "none.png")
    with pytest.raises(BadData, match="Is a directory"):
        open_image(tmp_path)
    (tmp_path / "a.png").write_bytes(encoded(NOISE, "PNG"))
    monkeypatch.setattr(images, "MOST_BYTES", 100)
    with pytest.raises(BadData, match="larger than 0 MiB"):
        open_image(tmp_path / "a.png")


def test_open_image_png_with_a_tail_of_zeros(tmp_path):
    """A power failure can leave such files, and Pillow decodes wrong pixels from them."""
    path, content = tmp_path / "a.png", encoded(NOISE, "PNG")
    for kept in range(8, len(content), 53):
        path.write_bytes(content[:kept] + bytes(len(content) - kept))
        with pytest.raises(BadData, match="the PNG"):
            open_image(path)
    path.write_bytes(content + b"more")  # behind its end
    open_image(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_read_image_damaged_anywhere(tmp_path, kind):
    """A truncated file is rejected or decodes completely; flipped bytes raise nothing but `BadData`."""
    path, content = tmp_path / "a", encoded(smooth(), kind)
    path.write_bytes(content)
    expected = read_image(path, 24, 16)
    for length in (*range(0, len(content), 7), *range(len(content) - 20, len(content))):
        path.write_bytes(content[:length])
        with contextlib.suppress(BadData):
            np.testing.assert_array_equal(read_image(path, 24, 16), expected)
    generator = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(200):
            damaged = bytearray(content)
            for at in generator.integers(0, len(content), generator.integers(1, 4)):
                damaged[at] = generator.integers(256)
            path.write_bytes(damaged)
            with contextlib.suppress(BadData):
                assert read_image(path, 24, 16).shape == (24, 16, 3)


def test_as_pixels_between_0_and_1():
    clips = torch.randint(256, (2, 4, 5, 6, 3), dtype=torch.uint8)
    pixels = as_pixels(clips, torch.device("cpu"))
    assert (pixels.shape, pixels.dtype) == ((2, 3, 4, 5, 6), torch.float32)
    torch.testing.assert_close(pixels[1, 2, 3], clips[1, 3, :, :, 2] / 255)
    torch.testing.assert_close(as_pixels(clips[0], torch.device("cpu"))[3, 1], clips[0, 3, :, :, 1] / 255)


# -- augmentation ------------------------------------------------------------------------------------------------------


def test_jitter_pixels_alike_for_all_frames():
    frame = smooth(48, 24)
    clip = np.stack([frame, frame, frame])
    changed = [jitter_pixels(clip, 1.0, keyed_generator(0, draw)) for draw in range(100)]
    for one in changed:
        assert one.dtype == np.uint8
        assert one.shape == clip.shape
        assert (one == one[0]).all()
    brightness = np.array([one.mean() / clip.mean() for one in changed])
    assert 0.5 < brightness.min() < 0.75
    assert 1.2 < brightness.max() < 1.5
    colours = np.stack([one[0].reshape(-1, 3).mean(axis=0) / one.mean() for one in changed])
    assert colours.std(axis=0).min() > 0.03  # each colour changes on its own
    assert len({one.tobytes() for one in changed}) == 100


def test_jitter_pixels_reduces_and_enlarges():
    checks = np.zeros((1, 32, 16, 3), dtype=np.uint8)
    checks[:, ::2, ::2] = checks[:, 1::2, 1::2] = 255
    contrast = [float(jitter_pixels(checks, 1.0, keyed_generator(0, draw)).std()) for draw in range(200)]
    assert 0.35 < np.mean(np.array(contrast) < 30) < 0.65  # half of them lose the pattern


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_jitter_pixels_factors(strength):
    clip = np.stack([smooth(), smooth()[::-1]]) // 2 + 40
    mean, grey = clip.mean(), clip.mean(axis=3, keepdims=True)
    for draw, balance, expected in (
        ((1, 0, 0), (0, 0, 0), clip * (1 + 0.4 * strength)),
        ((0, -1, 0), (0, 0, 0), mean + (1 - 0.4 * strength) * (clip - mean)),
        ((0, 0, 1), (0, 0, 0), grey + (1 + 0.4 * strength) * (clip - grey)),
        ((0, 0, 0), (1, 0, -1), clip * (1 + 0.15 * strength * np.array([1, 0, -1]))),
    ):
        generator = Drawn(draw, balance, strength / 2)  # not reduced
        found = jitter_pixels(clip.astype(np.uint8), strength, generator)
        assert np.abs(found - expected.clip(0, 255)).max() < 1.01  # rounded down
        assert generator.ranges == [(-1, 1)] * 2
    for level in (0, 255):
        plain = np.full((1, 8, 8, 3), level, np.uint8)
        assert (jitter_pixels(plain, strength, Drawn((1, 0, 0), (0, 0, 0), 0.9)) == level).all()


@pytest.mark.parametrize(("scale", "size"), [(0.75, (12, 18)), (0.01, (1, 1))])
def test_jitter_pixels_reduces_to_the_scale(scale, size):
    generator = Drawn((0, 0, 0), (0, 0, 0), 0.0, scale)
    found = jitter_pixels(NOISE[None], 1.0, generator)[0]
    reduced = Image.fromarray(NOISE).resize(size, Image.Resampling.BILINEAR)
    expected = np.asarray(reduced.resize((16, 24), Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert generator.ranges[2] == (0.25, 1)


def test_jitter_pixels_strength_0_changes_nothing():
    clip = np.stack([NOISE, NOISE])
    assert np.abs(jitter_pixels(clip, 0.0, keyed_generator(0)).astype(int) - clip).max() <= 1  # rounding


def test_random_rectangle():
    assert random_rectangle(64, 32, 0.4, Drawn(0.4)) == (0, 0, 0, 0)
    # 204.8 pixels, twice as high as wide: 20.2 x 10.1
    generator = Drawn(0.39, 0.1, np.log(2), 44, 3)
    assert random_rectangle(64, 32, 0.4, generator) == (44, 3, 64, 13)
    assert generator.ranges == [(0.02, 0.25), (np.log(0.3), np.log(3.3)), (0, 45), (0, 23)]
    # within the frame: 116 x 35 and 35 x 117
    assert random_rectangle(64, 256, 1, Drawn(0.9, 0.25, np.log(3.3), 0, 221)) == (0, 221, 64, 256)
    assert random_rectangle(256, 64, 1, Drawn(0.9, 0.25, np.log(0.3), 221, 0)) == (221, 0, 256, 64)
