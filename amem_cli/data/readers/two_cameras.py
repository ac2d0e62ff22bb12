"""The common layout of iLIDS-VID and PRID-2011: two camera folders with one folder per person."""

from pathlib import Path

import numpy as np

from amem_cli.data.readers import files
from amem_cli.data.readers.files import BadRows, list_folder
from amem_cli.data.readers.matlab import read_matlab
from amem_cli.data.readers.splits import MOST_SPLITS, PeopleSplit, find_split_files, looks_like_splits, read_split_file
from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import BadData, listing

Cameras = tuple[str, str]  # query, gallery


def find_cameras(root: Path, cameras: Cameras, name: str = "") -> Path | None:
    """The folder (named `name` unless that is empty) with a folder for each camera, the first one with people. Raises
    `BadData` for folders of people next to the two cameras, which this layout would drop."""

    def has_people(folder: Path) -> bool:
        both = all((folder / camera).is_dir() for camera in cameras)
        return both and (not name or folder.name == name) and bool(list_folder(folder / cameras[0])[1])

    found = files.find_folder(root, has_people)
    others = sorted(set(list_folder(found)[1]) - set(cameras)) if found else []
    if found and (more := [other for other in others if files.image_folders(found / other)[0]]):
        why = f"{listing(more, 5)} next to {cameras[0]} and {cameras[1]}"
        raise BadData("camera folders", found, why=why, remedy='Use layout = "folder", folders = "camera/person"')
    return found


def as_original(found: Path | None, camera: str, words: tuple[str, ...]) -> Path | None:
    """`found`, if its people have numbers, their folders images and its path one of `words`; others are own cameras."""
    if not found or not any(word in str(found.absolute()).lower() for word in words):
        return None
    numbered = any(map(str.isdigit, list_folder(found / camera)[1][0]))
    return found if numbered and next(files.image_files(found / camera), "/").count("/") == 1 else None


def find_split_file(root: Path, sequences: Path) -> Path | None:
    """The file that looks like splits in `root`, or next to or above the sequences; else any .mat file in `root` there.
    .json comes before .mat, which needs the complete data set. Raises `BadData` for several files, and other types."""
    inside = [place for place in (root, *sequences.parents[:2]) if place.is_relative_to(root)]
    above = [path for place in inside for path in place.iterdir() if looks_like_splits(path)]
    found = {*above, *find_split_files(root)} or {path for place in inside for path in place.glob("*.mat")}
    for suffix in (".json", ".mat"):
        fitting = sorted(path for path in found if path.suffix.lower() == suffix)
        if len(fitting) > 1:
            names = listing(map(str, fitting))
            raise BadData("splits", root, why=f"several files look like splits: {names}", remedy="Keep one of them")
        if fitting:
            return fitting[0]
    if found:
        remedy = 'Write it as splits.json: [{"train": [person, ...], "test": [...]}, ...]; or move it elsewhere'
        raise BadData("splits", min(found), why="it is neither a .json nor a .mat file", remedy=remedy)
    return None


def read_official_splits(path: Path, people: list[str]) -> tuple[PeopleSplit, ...]:
    """The splits of a .json file, or of `ls_set` (splits, people) in a .mat file. A row's first half are the test
    people, counted from 1 into `people`. Raises `BadData` for another table or another number of people."""
    if path.suffix.lower() == ".json":
        return read_split_file(path)
    what = "split file"
    table = np.atleast_2d(files.whole_numbers(read_matlab(path, "ls_set", what), path, "ls_set", what))
    if table.ndim != 2 or table.shape[1] < 2 or table.shape[0] > MOST_SPLITS:
        raise BadData(what, path, why=f"ls_set has the shape {table.shape}, not (splits, people)")
    count = table.shape[1]
    wrong = [f"row {row}" for row in range(len(table)) if sorted(table[row].tolist()) != list(range(1, count + 1))]
    if wrong:
        raise BadRows(what, path, why=f"rows of ls_set that do not list the people 1 to {count} once each", rows=wrong)
    if count != len(people):
        why = f"ls_set has {count} people, and {len(people)} are here"
        raise BadData(what, path, why=why, remedy="For a part of the data set use a splits.json")

    def names(places: list[int]) -> tuple[str, ...]:
        return tuple(people[place - 1] for place in sorted(places))

    return tuple(PeopleSplit(names(row[count // 2 :]), names(row[: count // 2])) for row in table.tolist())


def two_camera_tracklets(
    sequences: Path, cameras: Cameras, what: str
) -> tuple[dict[str, list[Tracklet]], list[str], tuple[str, ...]]:
    """Person's name -> both tracklets, for people with images in both cameras; all people with images; and notes.

    Tracklets are called "cam1/person001"; the person's id is the number in it. Raises `BadData` if there is no person,
    `BadRows` for folder names without a number or with an equal number, and for frames of unknown order.
    """
    tracklets_of: dict[str, list[Tracklet]] = {}
    person_of: dict[int, str] = {}
    bad: list[str] = []
    folders, ignored = files.image_folders(sequences, depth=2)
    for name, images in folders.items():
        camera, person = name.split("/")
        digits = "".join(character for character in person if character in "0123456789")
        number = int(digits) if 1 <= len(digits) <= 15 else 0
        if number < 1:
            bad.append(f"{name}: no person's number in the name")
        elif person_of.setdefault(number, person) != person:
            bad.append(f"{name}: the same number as {person_of[number]}")
        elif tracklet := files.read_tracklet(sequences, name, images, (number, cameras.index(camera) + 1), bad):
            tracklets_of.setdefault(person, []).append(tracklet)
    if bad:
        raise BadRows(what, sequences, why="folders that cannot be read", rows=bad)
    both = {person: tracklets for person, tracklets in sorted(tracklets_of.items()) if len(tracklets) == 2}
    if not both:
        why = f"no person has images in both {' and '.join(cameras)}" if tracklets_of else files.why_empty(sequences)
        raise BadData(what, sequences, why=why)
    return both, sorted(tracklets_of), files.frame_notes(sequences, folders, ignored, "camera/person")
