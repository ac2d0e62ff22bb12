"""Any tree of images, for the texture auto-encoder: people, cameras and the number of levels do not matter."""

import re
from pathlib import Path

from amem_cli.data.readers import files
from amem_cli.data.tracklets import ImageDataset
from amem_cli.errors import BadData
from amem_cli.person_ids import JUNK

WHAT = "image folder"
PERSON_IN_NAME = re.compile(r"(-1|\d{1,15})_?c\d.*", re.IGNORECASE)  # as in Market-1501 and MARS


def read(root: Path, name: str) -> ImageDataset:
    """All images below `root`, sorted by path, without junk (person -1); the people hold out validation images.

    A person is the number at the start of all file names (`0002_c1s1_000451_03.jpg`), else the last folder, else the
    image itself. Raises `BadData` when there are no images.
    """
    paths = [root.absolute() / path for path in files.image_files(root)]
    if not paths:
        raise BadData(WHAT, root, why=files.why_empty(root))
    matches = [PERSON_IN_NAME.fullmatch(path.name) for path in paths]
    folders = {folder: number for number, folder in enumerate(sorted({path.parent for path in paths}), start=1)}
    people = [
        int(match[1]) if match and all(matches) else folders[path.parent] if len(folders) > 1 else number
        for number, (path, match) in enumerate(zip(paths, matches, strict=True), start=1)
    ]
    kept = [row for row, person in enumerate(people) if person != JUNK]
    names_in: dict[str, list[str]] = {}
    for path in paths:
        names_in.setdefault(path.parent.name, []).append(path.name)
    notes = files.copies_note(names_in)
    if len(kept) < len(people):
        notes += (f"{len(people) - len(kept)} junk images (person -1) left out",)
    return ImageDataset(name, tuple(paths[row] for row in kept), tuple(people[row] for row in kept), notes)


def find(root: Path) -> Path | None:
    """`root`, if there is an image in it or below."""
    return root if next(files.image_files(root), None) else None
