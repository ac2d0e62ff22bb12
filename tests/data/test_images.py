"""Image files that would take minutes to decode are refused in moments; odd but ordinary ones are read."""

import errno
import io
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from amem_cli.data import images
from amem_cli.data.images import PNG, open_image
from amem_cli.errors import BadData, DiskError


def jpeg(size=(64, 128), **how) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)).save(file, "JPEG", **how)
    return file.getvalue()


def many_scans(times: int) -> bytes:
    content = jpeg((512, 512), progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * times + content[-2:]


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


PLAIN = jpeg()
HOSTILE = {
    "padding": PLAIN[:2] + b"\xff" * 20_000_000 + PLAIN[2:],
    "comments": PLAIN[:2] + b"\xff\xfe\x00\x02" * 5_000_000 + PLAIN[2:],
    "markers": PLAIN[:2] + b"\xff\xd0" * 10_000_000 + PLAIN[2:],
    "scans": many_scans(5000),
    "chunks": PNG + chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0") + chunk(b"tEXt") * 1_000_000 + chunk(b"IEND"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_open_image_refuses_at_once(tmp_path, name):
    (tmp_path / "a.jpg").write_bytes(HOSTILE[name])
    began = time.process_time()
    with pytest.raises(BadData, match="than any picture needs"):
        open_image(tmp_path / "a.jpg")
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        jpeg(progressive=True),
        many_scans(50),
        PLAIN[:2] + b"\xff" * 100 + PLAIN[2:],
        jpeg(comment=b"\xff" * 60000),
    ],
)
def test_open_image_reads(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert open_image(tmp_path / "a.jpg")[1].size[0] in (128, 512)


def test_open_image_reads_again_when_the_file_was_closed(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    opened, failures = images.open_regular, iter([OSError(errno.EBADF, "Bad file descriptor")])

    def closed_once(path):
        for failure in failures:
            raise failure
        return opened(path)

    monkeypatch.setattr(images, "open_regular", closed_once)
    assert images.open_image(tmp_path / "x.png")[1].size == (4, 4)
    failures = iter([OSError(errno.EBADF, "Bad file descriptor")] * 2)
    with pytest.raises(DiskError, match="bad file descriptor"):
        images.open_image(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (OSError(errno.EMFILE, "Too many open files"), DiskError),
        (OSError(errno.EIO, "Input/output error"), DiskError),
        (MemoryError(), MemoryError),
        (OSError(errno.EISDIR, "Is a directory"), BadData),
        (OSError("image file is truncated"), BadData),
    ],
)
def test_open_image_faults_of_the_machine_are_not_those_of_the_image(tmp_path, monkeypatch, failure, error):
    """With `--on-bad-image skip` a bad image is left out."""

    def open_regular(path):
        raise failure

    monkeypatch.setattr(images, "open_regular", open_regular)
    with pytest.raises(error):
        images.open_rgb(tmp_path / "x.png")
