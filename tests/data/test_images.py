"""One decoder for everything: what it refuses, `amem data check --deep`, the networks and the pictures refuse alike."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from amem_cli.data import images
from amem_cli.data.check import ImageRecord, decode_image
from amem_cli.data.images import open_image, open_rgb
from amem_cli.data.readers.files import is_image_name
from amem_cli.data.transforms import read_image
from amem_cli.errors import BadData
from amem_cli.pictures.frames import read_frames

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 32, 3), dtype=np.uint8))


def broken(kind, path):
    """A file that is no image for the reason `kind`."""
    NOISE.save(path, "PNG")
    whole = path.read_bytes()
    if kind == "another format":
        NOISE.save(path, "GIF")
    elif kind == "too many pixels":
        Image.new("1", (10_000, 6_000)).save(path, "PNG")
    elif kind == "gone":
        path.unlink()
    elif kind == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"<html>"}[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("empty", "cannot be decoded (it is empty)"),
        ("truncated", "cannot be decoded (the PNG is cut off)"),
        ("text", "cannot be decoded (it is not a JPEG, PNG or BMP image)"),
        ("another format", "cannot be decoded (it is not a JPEG, PNG or BMP image)"),
        ("too many pixels", "cannot be decoded (10000 x 6000 pixels are more than 50 megapixels)"),
        ("gone", "is not there any more"),
        ("a folder", "cannot be decoded (Is a directory)"),
    ],
)
def test_the_same_refusal_everywhere(tmp_path, kind, why):
    path = broken(kind, tmp_path / "a.png")
    for read in (open_image, open_rgb, lambda path: read_image(path, 48, 32)):
        with pytest.raises(BadData) as caught:
            read(path)
        assert (caught.value.why, caught.value.path) == (why, path)
    assert decode_image(path) == why
    with pytest.raises(BadData) as caught:
        read_frames([path], (48, 32))
    assert caught.value.why == f"{path} ({why})"


@pytest.mark.parametrize("noise", [2, 10])
def test_a_png_with_a_tail_of_zeros_is_refused(tmp_path, noise):
    """What a power cut leaves: Pillow makes wrong pixels of it without a word."""
    generator = np.random.default_rng(0)
    pixels = np.clip(128 + generator.normal(0, noise, (128, 64, 3)), 0, 255).astype(np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    for kept in range(8, len(content), 211):
        path.write_bytes(content[:kept] + bytes(len(content) - kept))
        with pytest.raises(BadData, match="the PNG"):
            open_image(path)
    path.write_bytes(content + b"more")  # behind its end
    open_image(path)


def test_a_file_too_large_is_not_even_read(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    NOISE.save(path)
    monkeypatch.setattr(images, "MOST_BYTES", 100)
    with pytest.raises(BadData, match="more than 0 MiB are too much for an image"):
        open_image(path)


@pytest.mark.parametrize("suffix", images.IMAGE_SUFFIXES)
def test_every_suffix_is_listed_and_decodes(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    NOISE.save(path)
    assert is_image_name(path.name)
    content = path.read_bytes()
    assert decode_image(path) == ImageRecord(len(content), hashlib.sha256(content).hexdigest(), 32, 48)


def test_the_content_decides_not_the_suffix(tmp_path):
    NOISE.save(tmp_path / "a.jpg", "PNG")
    np.testing.assert_array_equal(open_rgb(tmp_path / "a.jpg"), NOISE)


def test_stored_and_seen_differ_by_the_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    NOISE.save(tmp_path / "a.png", exif=exif)
    assert open_image(tmp_path / "a.png")[1].size == (32, 48)
    assert open_rgb(tmp_path / "a.png").size == (48, 32)
    np.testing.assert_array_equal(read_frames([tmp_path / "a.png"], (32, 48))[0], NOISE.rotate(-90, expand=True))
