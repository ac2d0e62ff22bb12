"""MARS (Zheng et al., ECCV 2016): six cameras, tracklets made by a detector and a tracker.

`bbox_train/0001/0001C1T0001F001.jpg` is person, camera, tracklet, frame; in `bbox_test` the folder `0000` holds
distractors (person 0) and `00-1` junk (person -1). The tables in `info/` give one row [first, last, person, camera]
per tracklet, counted from 1 and inclusive, into the list of image names.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from amem_cli.data.readers import files
from amem_cli.data.readers.files import BadRows, find_folder, frames_in_order, read_text, whole_numbers
from amem_cli.data.readers.matlab import read_matlab
from amem_cli.data.tracklets import Split, Tracklet, VideoDataset
from amem_cli.errors import BadData, counted
from amem_cli.person_ids import JUNK

WHAT = "MARS folder"
FRAME_NAME = re.compile(r"(00-1|\d{4,})C\d+T\d+F\d+\.\w+")
MOST_IMAGES = 10**6  # of one person
LAYOUT = "bbox_train/<person>/*.jpg, bbox_test/<person>/*.jpg and info/*.mat"
REMEDY = "The tables are damaged, reordered or of other images: take info/ from where the images came from"


def read(root: Path, name: str) -> VideoDataset:
    """The tracklets in the order of the tables, with junk and distractors; a note reports those without any image.

    The lists of images are `train_name.txt` and `test_name.txt`, or, without these, the sorted folders. Raises
    `BadData` when images or tables are missing, and `BadRows` with every row that does not fit its images.
    """
    train, test = (files.find_named(root, f"bbox_{side}") for side in ("train", "test"))
    info = find_folder(root, lambda folder: (folder / "tracks_train_info.mat").is_file())
    if train is None or test is None:
        missing = "bbox_test" if train else "bbox_train" if test else "bbox_train and bbox_test"
        raise BadData(WHAT, root, why=files.why_missing(root, missing), remedy=f"Expected {LAYOUT}")
    if info is None:
        why = files.why_missing(root, "tracks_train_info.mat")
        raise BadData(WHAT, root, why=why, remedy=f"Take info/ from the code MARS-evaluation; expected {LAYOUT}")
    train_rows = read_table(info / "tracks_train_info.mat", "track_train_info", 4)
    test_rows = read_table(info / "tracks_test_info.mat", "track_test_info", 4)
    query_rows = read_table(info / "query_IDX.mat", "query_IDX", 1)[:, 0]
    train_names, train_notes = _names(train, info / "train_name.txt", train_rows)
    test_names, test_notes = _names(test, info / "test_name.txt", test_rows)
    table = parse_info(train_names, test_names, train_rows, test_rows, query_rows, path=info)
    notes = train_notes + test_notes
    sides = []
    for side, folder, rows in (("train", train, table.train), ("test", test, table.test)):
        name_file = info / f"{side}_name.txt"
        present = tuple(replace(row, folder=str(folder.absolute() / row.folder)) for row in rows if row.files)
        if not present:
            listed = f"; none of the images that {name_file.name} lists is there" if name_file.is_file() else ""
            raise BadData(WHAT, folder, why=f"{files.why_empty(folder)}{listed}", remedy=f"Expected {LAYOUT}")
        if absent := len(rows) - len(present):
            notes += (f"{absent} of the {len(rows)} tracklets in the {side} table have no images here",)
        sides.append(present)
    is_query = tuple(query for row, query in zip(table.test, table.is_query, strict=True) if row.files)
    split = replace(table, train=sides[0], test=sides[1], is_query=is_query)
    return VideoDataset(name, (split,), numbered=False, notes=notes)


def find(root: Path) -> Path | None:
    """The folder above `bbox_train`, if there is `bbox_test` too, and the images are in folders of people."""
    train, test = (files.find_named(root, f"bbox_{side}") for side in ("train", "test"))
    return train.parent if train and test and next(files.image_files(train), "/").count("/") == 1 else None


def person_folder(person_id: int) -> str:
    """How MARS writes a person's number: 4 digits, and `00-1` for junk."""
    return "00-1" if person_id == JUNK else f"{person_id:04d}"


def parse_info(
    train_names: Sequence[str | None], test_names: Sequence[str | None], train_rows: np.ndarray, test_rows: np.ndarray,
    query_rows: np.ndarray, path: Path | None = None,
) -> Split:  # fmt: skip
    """The tracklets of all rows of both tables, each row checked against its images' names, None for a missing image.

    `train_rows` and `test_rows` are (N, 4) int64 [first, last, person, camera], `query_rows` (Q,) int64, all counted
    from 1. Checked: the ranges are consecutive from the first name to the last; all names of a row have its person and
    camera and the same tracklet; no two rows are the same tracklet; queries are different rows that show people. Raises
    `BadRows` with every bad row.
    """
    bad: list[str] = []
    train = _parse_table("train", train_names, train_rows, bad)
    test = _parse_table("test", test_names, test_rows, bad)
    queries = Counter(query_rows.tolist())
    people = {row for row, person in enumerate(test_rows[:, 2].tolist(), start=1) if person > 0}
    odd = [row for row, times in queries.items() if times > 1 or row not in people]
    bad += [f"query row {row} is listed twice, or is not a row of the test table that shows a person" for row in odd]
    if bad:
        raise BadRows("MARS tables", path, why=counted(len(bad), "bad rows"), rows=bad, remedy=REMEDY)
    return Split(train, test, tuple(row in queries for row in range(1, len(test) + 1)), "official")


def _parse_table(side: str, names: Sequence[str | None], rows: np.ndarray, bad: list[str]) -> tuple[Tracklet, ...]:
    """The tracklet of each row, without files if none of its images exists; bad rows are added to `bad`."""
    parsed: list[Tracklet] = []
    known: set[str] = set()
    expected = 1
    for number, (first, last, person, camera) in enumerate(rows.tolist(), start=1):
        images = [name for name in names[max(first - 1, 0) : max(last, 0)] if name is not None]
        tracklets = {name.rpartition("F")[0] for name in images}
        tracklet = next(iter(tracklets), "")
        try:
            if first != expected or not first <= last <= len(names):
                raise ValueError(f"does not continue the previous rows, which end at image {expected - 1}")
            if 0 < len(images) < last - first + 1:
                raise ValueError(f"{last - first + 1 - len(images)} of its {last - first + 1} images are missing")
            if (images and not tracklet.startswith(f"{person_folder(person)}C{camera}T")) or len(tracklets) > 1:
                raise ValueError(f"its images are {images[0]} to {images[-1]}")
            if tracklet in known:
                raise ValueError(f"{tracklet} is an earlier row already")
            parsed.append(Tracklet(tracklet, person, camera, person_folder(person), frames_in_order(images)))
        except ValueError as error:
            bad.append(f"{side} row {number} [{first}, {last}, {person}, {camera}]: {error}")
        known |= tracklets
        expected = last + 1  # so that one bad range does not make all later rows bad
    if expected != len(names) + 1:
        bad.append(f"{side} table: ends at image {expected - 1}, but there are {len(names)}")
    return tuple(parsed)


def read_table(path: Path, variable: str, columns: int) -> np.ndarray:
    """A table (rows, columns) int64."""
    table = whole_numbers(read_matlab(path, variable, "MARS table"), path, variable, "MARS table")
    if table.ndim == 1 and (columns == 1 or len(table) == columns):
        table = table.reshape(-1, columns)  # axes of length 1 are lost
    if table.ndim != 2 or table.shape[1] != columns:
        raise BadData("MARS table", path, why=f"{variable} has the shape {table.shape}, not (rows, {columns})")
    return table


def _names(folder: Path, name_file: Path, rows: np.ndarray) -> tuple[list[str | None], tuple[str, ...]]:
    """The list of image names that the table's rows refer to, None for missing images; and notes.

    Without the name file it is that of the sorted folders. In a subset of MARS some people are missing: the list has
    None for each of their images in the table.
    """
    folders, ignored = files.image_folders(folder)
    notes = files.note("folders", [f"{folder.name}/{name}" for name in ignored], files.IGNORED)
    if name_file.is_file():
        lines = read_text(name_file, "MARS image list").splitlines()
        listed = [re.split(r"[/\\]", line.strip(" \t\"'"))[-1] for line in lines if line.strip()]
        if strange := [repr(name) for name in listed if FRAME_NAME.fullmatch(name) is None]:
            raise BadRows("MARS image list", name_file, why="these are not MARS image names", rows=strange)
        present = {name for person, images in folders.items() for name in images if name.startswith(f"{person}C")}
        stems = {os.path.splitext(name)[0] for name in listed}
        if extra := sum(os.path.splitext(name)[0] not in stems for name in present):
            notes += (f"{counted(extra, 'images')} in {folder.name} and not in {name_file.name}",)
        converted = {os.path.splitext(name)[0]: name for name in present.difference(listed)}  # .JPG or .png here
        return [name if name in present else converted.get(os.path.splitext(name)[0]) for name in listed], notes

    try:
        in_order = {person: frames_in_order(images) for person, images in folders.items()}
    except ValueError as error:
        raise BadData(WHAT, folder, why=str(error)) from error
    rebuilt: list[str | None] = [name for images in in_order.values() for name in images]
    if len(rebuilt) == (rows[-1, 1] if len(rows) else 0):
        return rebuilt, notes
    counts: Counter[str] = Counter()
    for first, last, person, _ in rows.tolist():
        counts[person_folder(person)] += max(last - first + 1, 0)
    wrong = [
        f"{person}: {counted(len(in_order.get(person, ())), 'images')}, {count} in the table"
        for person, count in counts.items()
        if count > MOST_IMAGES or (person in in_order and len(in_order[person]) != count)
    ]
    if wrong:
        raise BadRows(WHAT, folder, why="people whose images do not fit the table", rows=wrong)
    notes += files.note("people", sorted(set(in_order) - set(counts)), f"in {folder.name} that are not in the table")
    return [name for person, count in counts.items() for name in in_order.get(person, [None] * count)], notes
