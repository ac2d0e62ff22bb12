"""Decodes image files. Pillow is imported with the first image: folder readers need only the suffixes."""

import errno
import io
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from amem_cli.artifacts.atomic import input_error, open_regular
from amem_cli.errors import BadData, out_of_memory

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
FORMATS = ("JPEG", "PNG", "BMP")
Result = TypeVar("Result")
AT_ONCE = 4096  # images given to the threads, so that a million images are not a million futures
NO_FILE = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)  # at this path
MOST_PIXELS = 50_000_000  # a small file can unpack to gigabytes
LONGEST_SIDE = 65535  # of a JPEG; resizing needs memory for the longer side
MOST_BYTES = 256 * 2**20
MOST_SEGMENTS = 10_000  # of a JPEG before its pixels, and a hundred thousand of a PNG; Pillow reads each in Python
MOST_DECODED = 1_000_000_000  # pixels times scans: a progressive JPEG usually has ten scans
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
START_OF_SCAN = 0xDA
START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Pillow warns about files that are rejected below, or read as far as possible
warnings.filterwarnings("ignore", module=r"PIL\.")


def open_image(path: str | Path) -> tuple[bytes, "Image.Image"]:
    """The bytes of an image file, and its pixels as they are stored, neither rotated nor converted.

    The format is that of the content, not of the suffix. Raises `BadData` naming the file when it is missing, empty, no
    JPEG, PNG or BMP, damaged, larger than 50 megapixels or 256 MiB, or made to take minutes to decode; `DiskError`
    when the system cannot read it, which is not the image's fault.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        try:
            content = _read(path)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # when a process of torchrun ends, gloo closes its connections, and once closed a file that was being read
            content = _read(path)
        if len(content) > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES // 2**20} MiB")
        if not content:
            raise ValueError("it is empty")
        if content.startswith(PNG):
            _check_chunks(content)
        if content.startswith(JPEG):
            _check_segments(content)
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if max(image.size) > LONGEST_SIDE:
            raise ValueError(f"{image.width} x {image.height}: a side is longer than {LONGEST_SIDE} pixels")
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS // 10**6} megapixels")
        image.load()
    except FileNotFoundError as error:
        raise BadData("image", path, why="not found") from error
    except UnidentifiedImageError as error:
        raise _undecodable(path, ValueError("it is not a JPEG, PNG or BMP image")) from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        if out_of_memory(error):
            raise
        if isinstance(error, OSError) and error.errno and error.errno not in NO_FILE:  # those of Pillow have no number
            raise input_error(path, error, "image") from error
        raise _undecodable(path, error) from error
    return content, image


def _read(path: str | Path) -> bytes:
    """Up to `MOST_BYTES` + 1 bytes of a file."""
    with open_regular(path) as file:
        return file.read(MOST_BYTES + 1)


def open_rgb(path: str | Path) -> "Image.Image":
    """An image in RGB, rotated as its EXIF says, converted from any mode. Raises `BadData` as `open_image` does."""
    import numpy as np
    from PIL import Image, ImageOps

    _, image = open_image(path)
    try:
        ImageOps.exif_transpose(image, in_place=True)  # returns a copy otherwise
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # a damaged EXIF block, for example
        if out_of_memory(error):
            raise
        raise _undecodable(path, error) from error


def in_threads(function: Callable[[Path], Result], paths: Sequence[Path]) -> Iterator[Result]:
    """The results of a function of image files, such as one that decodes them, in their order."""
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(paths), AT_ONCE):
            yield from threads.map(function, paths[start : start + AT_ONCE])


def _check_chunks(content: bytes) -> None:
    """Raise `ValueError` for a PNG that is cut off or does not match its checksums. Pillow stops reading when it has
    all rows, and fills them from damaged data."""
    at, kind, chunks = len(PNG), b"", 0
    while kind != b"IEND":
        chunks += 1
        if chunks > 10 * MOST_SEGMENTS:
            raise ValueError("the PNG has more chunks than any picture needs")
        kind, end = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4], "big")
        if end > len(content):
            raise ValueError("the PNG is cut off")
        if zlib.crc32(memoryview(content)[at + 4 : end - 4]) != int.from_bytes(content[end - 4 : end], "big"):
            raise ValueError("the PNG does not match its checksums")
        at = end


def _check_segments(content: bytes) -> None:
    """Raise `ValueError` for a JPEG with more segments, padding or scans than any picture needs."""
    at, pixels = len(JPEG), 0
    for _ in range(MOST_SEGMENTS):
        if content[at : at + 1] != b"\xff":
            return  # damaged: Pillow says how
        kind = content[at + 1] if at + 1 < len(content) else START_OF_SCAN
        if kind in START_OF_FRAME:
            pixels = int.from_bytes(content[at + 5 : at + 7], "big") * int.from_bytes(content[at + 7 : at + 9], "big")
        if kind == START_OF_SCAN:
            scans = content.count(bytes((0xFF, START_OF_SCAN)), at)
            if scans * pixels > MOST_DECODED:
                raise ValueError(f"{scans} scans of {pixels / 1e6:.1f} megapixels are more than any picture needs")
            return
        single = kind in (0x01, 0xFF) or 0xD0 <= kind <= 0xD9  # without a length; 0xFF is padding
        at += (1 if kind == 0xFF else 2) if single else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    raise ValueError("the JPEG has more segments than any picture needs")


def _undecodable(path: str | Path, error: Exception) -> BadData:
    text = (getattr(error, "strerror", None) or str(error)).replace(str(path), "it")
    reason = text.splitlines()[0].rstrip(".") if text else type(error).__name__
    remedy = "Replace it, or use --on-bad-image skip; amem data check NAME --deep lists all such files"
    return BadData("image", path, why=f"cannot be decoded ({reason})", remedy=remedy)
