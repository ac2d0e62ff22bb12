"""Files of unknown origin are opened only if they are regular files."""

import os
from pathlib import Path

import pytest

from amem_cli.artifacts import atomic
from amem_cli.artifacts.regular_file import NotRegular, open_regular
from amem_cli.data.images import open_image
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData
from amem_cli.weights.files import read_weight_file

MAKE = {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero")}
READERS = {
    "x.jpg": open_image,
    "x.txt": lambda path: atomic.read_bytes(path, "thing"),
    "x.pt": read_weight_file,
    "x.toml": lambda path: load_manifest(str(path)),
}


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("name", READERS)
def test_readers_refuse_pipes_and_devices(make: str, name: str, tmp_path: Path) -> None:
    MAKE[make](tmp_path / name)
    with pytest.raises(BadData, match="not a regular file"):
        READERS[name](tmp_path / name)


def test_open_regular(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")
    with open_regular(tmp_path / "b") as file:
        assert file.read() == b"content"
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotRegular):
        open_regular(tmp_path / "pipe")
