"""Any tree of images, for the texture auto-encoder: people, cameras and the number of levels do not matter."""

import re
from collections.abc import Mapping
from pathlib import Path

from amem_cli.data.readers import files
from amem_cli.data.tracklets import ImageDataset
from amem_cli.errors import BadData, counted
from amem_cli.person_ids import JUNK

PERSON_IN_NAME = re.compile(r"(-1|\d{1,15})_?c\d.*", re.IGNORECASE)  # as in Market-1501 and MARS


def read(root: Path, name: str) -> ImageDataset:
    """All images below `root`, sorted by path, without junk (person -1); the people hold out validation images.

    A person is the number at the start of all file names (`0002_c1s1_000451_03.jpg`), else the last folder, else the
    image itself. Raises `BadData` when there are no images.
    """
    ignored: list[str] = []
    images = list(files.image_files(root, ignored))
    if not images:
        raise BadData("image folder", root, why=files.why_empty(root))
    parts = [image.rpartition("/") for image in images]
    matches = [PERSON_IN_NAME.fullmatch(file) for _, _, file in parts]
    folders = {folder: number for number, folder in enumerate(sorted({folder for folder, _, _ in parts}), start=1)}
    if all(matches):
        people = [int(match[1]) for match in matches if match]
    else:
        people = [folders[folder] for folder, _, _ in parts] if len(folders) > 1 else list(range(1, len(images) + 1))
    return image_dataset(name, root.absolute(), dict(zip(images, people, strict=True)), ignored)


def image_dataset(name: str, folder: Path, person_of: Mapping[str, int], ignored: list[str]) -> ImageDataset:
    """The images of `folder` (path in it -> person) without junk; notes about junk, copies and ignored folders."""
    kept = {image: person for image, person in person_of.items() if person != JUNK}
    notes = files.note("folders", ignored, files.IGNORED) + files.copies_note({folder.name: kept})
    if junk := len(person_of) - len(kept):
        notes += (f"{counted(junk, 'junk images')} (person -1) left out",)
    return ImageDataset(name, tuple(folder / image for image in kept), tuple(kept.values()), notes)


def find(root: Path) -> Path | None:
    """`root`, if there is an image in it or below."""
    return root if next(files.image_files(root), None) else None
