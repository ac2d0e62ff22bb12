"""Files from outside are opened only where they are files."""

import os
import socket
from pathlib import Path

import pytest

from amem_cli.artifacts import atomic
from amem_cli.artifacts.regular_file import NotRegular, open_regular
from amem_cli.data.images import open_image
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData
from amem_cli.weights.files import read_weight_file


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # its address must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("make", [pipe, device])
def test_what_never_ends_is_refused_at_once(make, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    make(path)
    with pytest.raises(NotRegular):
        open_regular(path)
    for read in (
        lambda: open_image(path),
        lambda: atomic.read_bytes(path, "thing"),
        lambda: read_weight_file(path),
    ):
        with pytest.raises(BadData, match="not a regular file"):
            read()
    toml = tmp_path / "x.toml"
    make(toml)
    with pytest.raises(BadData, match="not a regular file"):
        load_manifest(str(toml))


def test_a_socket_and_a_folder_are_no_files(tmp_path: Path) -> None:
    unix_socket(tmp_path / "s")
    with pytest.raises(OSError, match="No such device"):
        open_regular(tmp_path / "s")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_a_file_is_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")
    with open_regular(tmp_path / "b") as file:
        assert file.read() == b"content"
