"""How the readers look at folders and at other people's files: one listing per folder, no stat per image.

Everything read here comes from outside, so sizes and types are checked before a value is used.
"""

import itertools
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.data.images import IMAGE_SUFFIXES
from amem_cli.errors import AmemError, BadData, InputMissing, listing

MOST_BYTES_OF_METADATA = 256 * 2**20  # the largest metadata file of the five data sets has 16 MB
MOST_FOLDERS_SEARCHED = 2000


class BadRows(BadData):
    """Bad data with every bad row in `rows`; the message shows the first 20 and the total."""

    def __init__(self, what: str, path: str | Path | None = None, *, why: str, rows: Iterable[str], remedy: str = ""):
        self.rows = tuple(rows)
        super().__init__(what, path, why=f"{why}: {listing(self.rows)}", remedy=remedy)


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the images and of the folders in `folder`, each sorted; hidden names are left out.

    Names with an image's suffix count as images without a look at the file. Raises `InputMissing` when the folder is
    not there and `BadData` when it cannot be read.
    """
    images, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if is_image_name(entry.name):
                    images.append(entry.name)
                elif entry.is_dir():
                    folders.append(entry.name)
    except FileNotFoundError as error:
        raise InputMissing("folder", folder, why="not found") from error
    except OSError as error:
        raise BadData("folder", folder, why=(error.strerror or str(error)).lower()) from error
    return sorted(images), sorted(folders)


def is_image_name(name: str) -> bool:
    """Whether a file name ends like an image, and is no hidden file.

    >>> is_image_name("0001.JPG"), is_image_name("._0001.jpg"), is_image_name("Thumbs.db")
    (True, False, False)
    """
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def find_folder(root: Path, accept: Callable[[Path], bool], depth: int = 3) -> Path | None:
    """The first folder that `accept` takes: `root` itself, then its subfolders level by level, each level sorted.

    Archives unpack into one or two folders of their own, so the data may lie `depth` levels below where it was put.
    """
    level, searched = [root], 0
    for remaining in range(depth, -1, -1):
        for folder in level:
            searched += 1
            if accept(folder):
                return folder
            if searched > MOST_FOLDERS_SEARCHED:
                return None
        if remaining:
            level = [folder / name for folder in level for name in _subfolders(folder)]
    return None


def _subfolders(folder: Path) -> list[str]:
    try:
        return list_folder(folder)[1]
    except AmemError:
        return []


def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts names by the numbers in them: frame 2 before frame 10.

    >>> sorted(["f10.jpg", "f2.jpg", "f1.jpg"], key=natural_key)
    ['f1.jpg', 'f2.jpg', 'f10.jpg']
    """
    parts = re.split(r"([0-9]+)", os.path.splitext(name)[0])
    return tuple((int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts))


def frames_in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Frame names by number, never by file system or alphabet.

    Raises `ValueError` naming two frames with the same number ("1.jpg" and "01.png"): their order would be a guess.
    """
    keyed = sorted((natural_key(name), name) for name in names)
    for (key, name), (next_key, next_name) in itertools.pairwise(keyed):
        if key == next_key:
            raise ValueError(f"{name} and {next_name} have the same number")
    return tuple(name for _, name in keyed)


def read_text(path: Path, what: str) -> str:
    """A text file as UTF-8; bytes that are none become surrogates, as Python does with file names, so both compare."""
    return read_bytes(path, what).decode("utf-8-sig", "surrogateescape")


def read_json(path: Path, what: str) -> Any:
    """A JSON file from outside; `BadData` when it is none."""
    try:
        return json.loads(read_bytes(path, what).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadData(what, path, why=f"it is not JSON ({error})") from error


def read_bytes(path: Path, what: str) -> bytes:
    """A metadata file; `InputMissing` when it is not there, `BadData` when it is no file, unreadable or too large."""
    _check_size(path, what)
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadData(what, path, why=(error.strerror or str(error)).lower()) from error


def _check_size(path: Path, what: str) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise InputMissing(what, path, why="not found") from error
    except OSError as error:
        raise BadData(what, path, why=(error.strerror or str(error)).lower()) from error
    if not path.is_file():
        raise BadData(what, path, why="this is not a file")
    if size > MOST_BYTES_OF_METADATA:
        raise BadData(what, path, why=f"{size / 2**20:.0f} MiB is too much for such a file")


def whole_numbers(values: Any, path: Path, variable: str, what: str) -> np.ndarray:
    """`values` as int64 of the same shape (scalars become (1,)); `BadData` unless all of them are whole numbers."""
    array = np.atleast_1d(np.asarray(values))
    if array.dtype.kind not in "biuf":
        raise BadData(what, path, why=f"{variable} holds {array.dtype}, not numbers")
    if array.size and not np.all(np.isfinite(array)):
        raise BadData(what, path, why=f"{variable} holds values that are not finite")
    if array.size and not (np.all(array == np.floor(array)) and np.all(np.abs(array.astype(np.float64)) < 2**53)):
        raise BadData(what, path, why=f"{variable} holds values that are not whole numbers")
    return array.astype(np.int64)
