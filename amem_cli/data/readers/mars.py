"""MARS (Zheng et al., ECCV 2016): six cameras, tracklets made by a detector and a tracker.

`bbox_train/0001/0001C1T0001F001.jpg` is person, camera, tracklet, frame; in `bbox_test` the folder `0000` holds
distractors (person 0) and `00-1` junk (person -1). The tables in `info/` give one row [first, last, person, camera]
per tracklet, counted from 1 and inclusive, into the list of image names.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amem_cli.data.readers.files import BadRows, find_folder, list_folder, read_text, whole_numbers
from amem_cli.data.readers.matlab import read_matlab
from amem_cli.data.tracklets import Split, Tracklet, VideoDataset
from amem_cli.errors import BadData, listing
from amem_cli.person_ids import JUNK

FRAME_NAME = re.compile(r"(00-1|\d{4,})C(\d+)T(\d+)F\d+\.\w+")
TABLES = {
    "tracks_train_info.mat": "track_train_info",
    "tracks_test_info.mat": "track_test_info",
    "query_IDX.mat": "query_IDX",
}
MOST_IMAGES = 10**8
LAYOUT = "bbox_train/<person>/*.jpg, bbox_test/<person>/*.jpg and info/*.mat"


@dataclass(frozen=True, slots=True)
class InfoRow:
    """One row of a table: the tracklet's name ("0001C1T0001"), person, camera and image names; none when absent."""

    name: str
    person_id: int
    camera_id: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MarsInfo:
    """The tables as tracklets: all rows in the order of the tables; `is_query` goes with `test`."""

    train: tuple[InfoRow, ...]
    test: tuple[InfoRow, ...]
    is_query: tuple[bool, ...]


def read(root: Path, name: str) -> VideoDataset:
    """The training and the test tracklets, the latter in the order of the test table with junk and distractors.

    The name lists come from `train_name.txt` and `test_name.txt`, or, without these, from the sorted folders. A
    tracklet none of whose images is there is left out and noted: the folder holds a part of MARS. Raises `BadData`
    when images or tables are missing, and `BadRows` with every row that does not fit its images.
    """
    images, info = find(root), find_info(root)
    if images is None:
        raise BadData("MARS folder", root, why="it holds no bbox_train and bbox_test", remedy=f"Expected {LAYOUT}")
    if info is None:
        raise BadData("MARS folder", root, why="it holds no tracks_train_info.mat", remedy=f"Expected {LAYOUT}")
    train_rows = _table(info / "tracks_train_info.mat")
    test_rows = _table(info / "tracks_test_info.mat")
    query_rows = _query_rows(info / "query_IDX.mat")
    train_names, train_left_out = _names(images / "bbox_train", info / "train_name.txt", train_rows)
    test_names, test_left_out = _names(images / "bbox_test", info / "test_name.txt", test_rows)
    tables = parse_info(train_names, test_names, train_rows, test_rows, query_rows, path=info)

    def tracklets(rows: Sequence[InfoRow], folder: Path) -> tuple[Tracklet, ...]:
        return tuple(
            Tracklet(row.name, row.person_id, row.camera_id, str(folder / person_folder(row.person_id)), row.files)
            for row in rows
            if row.files
        )

    there = tuple(query for row, query in zip(tables.test, tables.is_query, strict=True) if row.files)
    split = Split(
        tracklets(tables.train, (images / "bbox_train").absolute()),
        tracklets(tables.test, (images / "bbox_test").absolute()),
        there,
        "official",
    )
    if not split.train or not split.test:
        raise BadData("MARS folder", root, why="bbox_train or bbox_test holds no images", remedy=f"Expected {LAYOUT}")
    notes = list(train_left_out + test_left_out)
    for part, rows in (("train", tables.train), ("test", tables.test)):
        if absent := sum(not row.files for row in rows):
            notes.append(f"{absent} of the {len(rows)} tracklets in the {part} table have no images here")
    return VideoDataset(name, (split,), numbered=False, notes=tuple(notes))


def find(root: Path) -> Path | None:
    """The folder with `bbox_train` and `bbox_test`, at most three levels down."""
    return find_folder(root, lambda folder: (folder / "bbox_train").is_dir() and (folder / "bbox_test").is_dir())


def find_info(root: Path) -> Path | None:
    """The folder with the tables, usually `info`, at most three levels down."""
    for place in (root / "info", *(folder / "info" for folder in (find(root),) if folder)):
        if (place / "tracks_train_info.mat").is_file():
            return place
    return find_folder(root, lambda folder: (folder / "tracks_train_info.mat").is_file())


def person_folder(person_id: int) -> str:
    """How MARS writes a person's number: 4 digits, and `00-1` for junk."""
    return "00-1" if person_id == JUNK else f"{person_id:04d}"


def parse_info(
    train_names: Sequence[str | None],
    test_names: Sequence[str | None],
    train_rows: np.ndarray,
    test_rows: np.ndarray,
    query_rows: np.ndarray,
    path: Path | None = None,
) -> MarsInfo:
    """The tables as tracklets, each row checked against its images' names.

    Names are those of the images, None where an image is not there. `train_rows` and `test_rows` are (N, 4) int64
    [first, last, person, camera], `query_rows` (Q,) int64, all counted from 1. Checked: the ranges follow one another
    from the first name to the last; person, camera and tracklet are the same in all names of a row and agree with it;
    no two rows are the same tracklet; queries are different rows that show people. A damaged or reordered table fails
    one of these. Raises `BadRows` with every bad row; `path` is what the message names.
    """
    bad: list[str] = []
    train = _parse_table("train", train_names, train_rows, bad)
    test = _parse_table("test", test_names, test_rows, bad)
    is_query = np.zeros(len(test_rows), dtype=bool)
    for place, row in enumerate(query_rows.tolist(), start=1):
        if not 1 <= row <= len(test_rows):
            bad.append(f"query {place}: row {row} is not in the test table of {len(test_rows)} rows")
        elif is_query[row - 1]:
            bad.append(f"query {place}: row {row} is a query twice")
        elif test_rows[row - 1, 2] <= 0:
            bad.append(f"query {place}: row {row} is person {test_rows[row - 1, 2]}, junk or a distractor")
        else:
            is_query[row - 1] = True
    if bad:
        remedy = "The tables are damaged, reordered or of other images: take info/ from where the images came from"
        raise BadRows("MARS tables", path, why=f"{len(bad)} bad rows", rows=bad, remedy=remedy)
    return MarsInfo(train, test, tuple(is_query.tolist()))


def _parse_table(part: str, names: Sequence[str | None], rows: np.ndarray, bad: list[str]) -> tuple[InfoRow, ...]:
    parsed: list[InfoRow] = []
    row_of: dict[str, int] = {}
    expected_first = 1
    for number, (first, last, person, camera) in enumerate(rows.tolist(), start=1):
        where = f"{part} row {number} [{first}, {last}, {person}, {camera}]"
        if first != expected_first:
            bad.append(f"{where}: begins at image {first}, but the row before ends at {expected_first - 1}")
        # the next row is compared with this one, so one bad range makes one or two bad rows, not all that follow
        expected_first = last + 1
        if not 1 <= first <= last <= len(names):
            bad.append(f"{where}: not a range of the {len(names)} images")
            continue
        files = names[first - 1 : last]
        there = sum(file is not None for file in files)
        if there == 0:
            parsed.append(InfoRow("", person, camera, ()))
            continue
        if there < len(files):
            bad.append(f"{where}: {len(files) - there} of its {len(files)} images are missing")
            continue
        match = FRAME_NAME.fullmatch(files[0])
        if match is None:
            bad.append(f"{where}: {files[0]!r} is not a MARS image name")
            continue
        tracklet = files[0][: files[0].rindex("F")]
        if match[1] != person_folder(person) or int(match[2]) != camera:
            bad.append(f"{where}: its first image is {files[0]}")
        elif strange := next((file for file in files if not file.startswith(f"{tracklet}F")), None):
            bad.append(f"{where}: its images begin with {files[0]}, but {strange} is among them")
        elif tracklet in row_of:
            bad.append(f"{where}: {tracklet} is row {row_of[tracklet]} already")
        elif any(one >= other for one, other in itertools.pairwise(files)):
            bad.append(f"{where}: the frames of {tracklet} are not in order")
        row_of.setdefault(tracklet, number)
        parsed.append(InfoRow(tracklet, person, camera, tuple(files)))
    if expected_first != len(names) + 1:
        bad.append(f"{part} table: ends at image {expected_first - 1}, but there are {len(names)}")
    return tuple(parsed)


def _table(path: Path) -> np.ndarray:
    """A table of tracklets, (N, 4) int64."""
    variable = TABLES[path.name]
    table = whole_numbers(read_matlab(path, variable, "MARS table"), path, variable, "MARS table")
    if table.shape == (4,):
        table = table[None]  # a table of one row comes without its first axis
    if table.ndim != 2 or table.shape[1] != 4:
        raise BadData("MARS table", path, why=f"{variable} has the shape {table.shape}, not (tracklets, 4)")
    return table


def _query_rows(path: Path) -> np.ndarray:
    """The rows of the test table that are queries, (Q,) int64, counted from 1."""
    rows = whole_numbers(read_matlab(path, "query_IDX", "MARS table"), path, "query_IDX", "MARS table")
    if rows.size != max(rows.shape):
        raise BadData("MARS table", path, why=f"query_IDX has the shape {rows.shape}, not (1, queries)")
    return rows.reshape(-1)


def _names(folder: Path, name_file: Path, rows: np.ndarray) -> tuple[list[str | None], tuple[str, ...]]:
    """The list of image names that the table's rows refer to, None for images that are not in the folder; and notes.

    Without the name file the list is that of the sorted folders. In a part of MARS whole people are missing: their
    stretch of the list is left open, after the table's own count of their images.
    """
    listed: dict[str, list[str]] = {}
    for person in list_folder(folder)[1]:
        listed[person] = list_folder(folder / person)[0]
    if name_file.is_file():
        listed_names = [line.strip() for line in read_text(name_file, "MARS image list").splitlines() if line.strip()]
        strange = [repr(name) for name in listed_names if FRAME_NAME.fullmatch(name) is None]
        if strange:
            raise BadRows("MARS image list", name_file, why="these are not MARS image names", rows=strange)
        there = {name for person, images in listed.items() for name in images if name.startswith(f"{person}C")}
        extra_images = len(there.difference(listed_names))
        notes = (f"{extra_images} images in {folder.name} are not in {name_file.name}",) if extra_images else ()
        return [name if name in there else None for name in listed_names], notes

    rebuilt = [name for person in sorted(listed) for name in listed[person]]
    if len(rebuilt) == (int(rows[-1, 1]) if len(rows) else 0):
        return list(rebuilt), ()
    names: list[str | None] = []
    counts: dict[str, int] = {}
    for first, last, person, _ in rows.tolist():
        counts[person_folder(person)] = counts.get(person_folder(person), 0) + max(last - first + 1, 0)
    wrong = [
        f"{person}: {len(listed[person])} images, {count} in the table"
        for person, count in counts.items()
        if person in listed and len(listed[person]) != count
    ]
    if wrong or sum(counts.values()) > MOST_IMAGES:
        raise BadRows("MARS folder", folder, why="people whose images do not fit the table", rows=wrong)
    for person, count in counts.items():
        names += listed.get(person) or [None] * count
    extra = sorted(set(listed) - set(counts))
    notes = (f"people in {folder.name} that the table does not know: {listing(extra, 5)}",) if extra else ()
    return names, notes
