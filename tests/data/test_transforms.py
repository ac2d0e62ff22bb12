"""Reading images of every kind, refusing what is none, cropping, and the way to the device."""

import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amem_cli.data.transforms import WHOLE, random_box, read_image
from amem_cli.errors import BadData
from amem_cli.randomness import keyed_generator
from amem_cli.runtime.device import as_pixels

FORMATS = ("png", "jpg", "bmp")


def picture(height: int = 24, width: int = 16) -> np.ndarray:
    """A smooth colour picture, so that JPEG keeps it."""
    y, x = np.mgrid[0:height, 0:width]
    rows = [255 * y / (height - 1), 255 * x / (width - 1), 128 + 0 * x]
    return np.stack(rows, axis=2).round().astype(np.uint8)


def saved(path: Path, image: Image.Image, **how: object) -> Path:
    image.save(path, **how)
    return path


# -- kinds of images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_image_of_the_right_size_is_taken_as_it_is(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(picture()))
    found = read_image(path, 24, 16)
    assert found.shape == (24, 16, 3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.asarray(Image.open(path)))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    found = read_image(saved(tmp_path / "a.png", image), 24, 16)
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


def test_cmyk(tmp_path: Path) -> None:
    image = Image.fromarray(picture()).convert("CMYK")
    found = read_image(saved(tmp_path / "a.jpg", image, quality=100), 24, 16)
    assert np.abs(found.astype(int) - picture()).max() < 12


def test_16_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    deep = (np.arange(24 * 16).reshape(24, 16) * 170).astype(np.uint16)
    found = read_image(saved(tmp_path / "a.png", Image.fromarray(deep)), 24, 16)
    for channel in range(3):
        np.testing.assert_array_equal(found[:, :, channel], deep >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    turned = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(picture()), exif=exif)
    expected = turned[orientation](picture())
    np.testing.assert_array_equal(read_image(path, *expected.shape[:2]), expected)


@pytest.mark.parametrize(
    "name", ["a b.png", "ümläut-人.png", "it's.png", "[1]*.png", "-rf.png", "a.b.c.png", "line\nbreak.png"]
)
def test_odd_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(picture()).save(path, "PNG")
    np.testing.assert_array_equal(read_image(path, 24, 16), picture())


# -- resizing and cropping ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(48, 32), (12, 8), (256, 128), (24, 32)])
def test_resizing_is_pil_s_bilinear(tmp_path: Path, height: int, width: int) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(picture()))
    expected = np.asarray(Image.fromarray(picture()).resize((width, height), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(read_image(path, height, width), expected)


def test_a_box_is_a_part_in_fractions_of_the_sides(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(picture()))
    found = read_image(path, 12, 8, box=(0.5, 0.25, 1.0, 0.75))  # left, upper, right, lower
    np.testing.assert_array_equal(found, picture()[6:18, 8:16])
    whole = read_image(path, 24, 16, box=(0.5, 0.25, 1.0, 0.75))
    expected = Image.fromarray(picture()).resize((16, 24), Image.Resampling.BILINEAR, box=(8, 6, 16, 18))
    np.testing.assert_array_equal(whole, np.asarray(expected))


def test_boxes_lie_inside_and_are_as_frequent_as_asked() -> None:
    boxes = [random_box(0.3, keyed_generator(0, draw)) for draw in range(2000)]
    cropped = [box for box in boxes if box != WHOLE]
    assert len(cropped) / len(boxes) == pytest.approx(0.3, abs=0.04)
    for left, upper, right, lower in cropped:
        assert 0 <= left < right <= 1
        assert 0 <= upper < lower <= 1
        assert right - left == pytest.approx(8 / 9)
        assert lower - upper == pytest.approx(8 / 9)
    assert max(box[0] for box in cropped) > 0.1
    assert all(random_box(0, keyed_generator(draw)) == WHOLE for draw in range(50))
    assert all(random_box(1, keyed_generator(draw)) != WHOLE for draw in range(50))


def test_the_extreme_boxes_can_be_cut(tmp_path: Path) -> None:
    class Extreme:
        def __init__(self, corner: float):
            self.corner = corner

        def random(self, count: int | None = None) -> object:
            return 0.0 if count is None else np.full(count, self.corner)

    path = saved(tmp_path / "a.png", Image.fromarray(picture(37, 19)))
    for corner in (0.0, np.nextafter(1, 0)):
        box = random_box(0.5, Extreme(corner))  # type: ignore[arg-type]
        assert read_image(path, 24, 16, box=box).shape == (24, 16, 3)


# -- what is no image --------------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    """The one line with which `read_image` refuses a file."""
    with pytest.raises(BadData) as caught:
        read_image(path, 24, 16)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert text.endswith(".")
    return text


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_at_any_length_it_is_refused_or_whole(tmp_path: Path, suffix: str) -> None:
    generator = np.random.default_rng(0)
    buffer = io.BytesIO()
    noise = Image.fromarray(generator.integers(0, 256, (24, 16, 3), dtype=np.uint8))
    noise.save(buffer, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
    content = buffer.getvalue()
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    whole = read_image(path, 24, 16)
    for length in sorted({*range(0, len(content), 7), *range(40), *range(len(content) - 20, len(content))}):
        path.write_bytes(content[:length])
        try:
            found = read_image(path, 24, 16)
        except BadData:
            refused(path)
        else:
            np.testing.assert_array_equal(found, whole)  # only a trailer was missing


@pytest.mark.parametrize("suffix", FORMATS)
def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path, suffix: str) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    how = {} if suffix == "bmp" else {"exif": exif}
    Image.fromarray(picture()).save(buffer, {"jpg": "JPEG"}.get(suffix, suffix.upper()), **how)
    content = buffer.getvalue()
    path = tmp_path / f"a.{suffix}"
    generator = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(300):
            damaged = bytearray(content)
            for at in generator.integers(0, len(content), generator.integers(1, 4)):
                damaged[at] = generator.integers(256)
            path.write_bytes(damaged)
            with contextlib.suppress(BadData):
                assert read_image(path, 24, 16).shape == (24, 16, 3)


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"hello, this is text\n" * 20, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert "cannot be decoded" in refused(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    assert "cannot be decoded" in refused(tmp_path / "folder.jpg")
    assert "is not there" in refused(tmp_path / "none.jpg")


def test_the_name_of_a_bad_file_may_be_odd(tmp_path: Path) -> None:
    for name in ('it\'s "x".jpg', "ümläut 人.jpg"):
        path = tmp_path / name
        path.write_bytes(b"no image")
        refused(path)


def huge_png(path: Path, width: int, height: int) -> Path:
    """A PNG whose header claims more pixels than it has."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


@pytest.mark.parametrize("side", [8_000, 12_000, 30_000, 2**30])
def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path, side: int) -> None:
    path = huge_png(tmp_path / "bomb.png", side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        refused(path)


def test_fifty_megapixels_are_named(tmp_path: Path) -> None:
    assert "more than 50 megapixels" in refused(huge_png(tmp_path / "bomb.png", 8000, 8000))


# -- to the device -----------------------------------------------------------------------------------------------------


def test_images_become_pixels_between_0_and_1() -> None:
    images = torch.arange(2 * 5 * 4 * 3, dtype=torch.uint8).view(2, 5, 4, 3)
    before = images.clone()
    pixels = as_pixels(images, torch.device("cpu"))
    assert pixels.shape == (2, 3, 5, 4)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert pixels[1, 2, 3, 0].item() == pytest.approx(images[1, 3, 0, 2].item() / 255)
    assert torch.equal(images, before)


def test_clips_become_pixels_between_0_and_1() -> None:
    clips = torch.randint(256, (2, 4, 5, 6, 3), dtype=torch.uint8)
    clips[0, 0, 0, 0] = torch.tensor([0, 255, 51])
    pixels = as_pixels(clips, torch.device("cpu"))
    assert pixels.shape == (2, 3, 4, 5, 6)
    assert pixels.is_contiguous(memory_format=torch.channels_last_3d)
    assert pixels[0, :, 0, 0, 0].tolist() == pytest.approx([0, 1, 0.2])
    torch.testing.assert_close(pixels[1, 2, 3], clips[1, 3, :, :, 2] / 255)
