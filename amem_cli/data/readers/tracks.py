"""Tracks without identities, as `amem tracklets` cuts them: `<camera>/<track>/<frame>.jpg`, and their times."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amem_cli.data.readers import files
from amem_cli.data.readers.files import BadRows, list_folder, natural_key
from amem_cli.data.readers.splits import is_plain_name
from amem_cli.data.tracklets import Split, VideoDataset
from amem_cli.errors import BadData
from amem_cli.person_ids import UNKNOWN

WHAT = "tracks folder"
LAYOUT = "<camera>/<track>/<frame>.jpg (or .jpeg, .png, .bmp)"
TRACK_COLUMNS = (
    "tracklet", "camera", "video", "first_frame", "last_frame", "first_seconds", "last_seconds", "frames",
    "mean_confidence",
)  # fmt: skip
BOX_COLUMNS = ("tracklet", "frame", "seconds", "left", "top", "width", "height")
MOST_BOX_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Seen:
    """When a track was seen: camera, presentation times of its first and last picture."""

    camera: str
    first_seconds: float
    last_seconds: float


def read(root: Path, name: str) -> VideoDataset:
    """All tracks below `root`. The people are unknown: one split has all tracks, for training the TAE and for the test.
    Raises `BadData` without tracks, `BadRows` with every folder that cannot be read."""
    folders, ignored = files.image_folders(root, depth=2)
    if not folders:
        raise BadData(WHAT, root, why=files.why_empty(root), remedy=f"Expected {LAYOUT}")
    pairs = sorted((folder.split("/") for folder in folders), key=lambda pair: [(natural_key(n), n) for n in pair])
    parts = sorted({part for pair in pairs for part in pair})
    bad = [f"{part!r} cannot be stored as a name" for part in parts if not is_plain_name(part)]
    cameras = {camera: number for number, camera in enumerate(dict.fromkeys(camera for camera, _ in pairs), start=1)}
    tracklets = []
    for camera, track in pairs:
        tracklet = f"{camera}/{track}"
        found = files.read_tracklet(root, tracklet, folders[tracklet], (UNKNOWN, cameras[camera]), bad)
        tracklets += [found] if found else []
    if bad:
        raise BadRows(WHAT, root, why="folders that cannot be read", rows=bad)
    every = tuple(tracklets)
    split = Split(every, every, (False,) * len(every), "no identities")
    times = read_times(root)
    unseen = [tracklet.name for tracklet in every if tracklet.name not in times] if times else []
    notes = files.note("tracks", unseen, "not in tracks.csv, so that no track has times")
    return VideoDataset(name, (split,), False, files.frame_notes(root, folders, ignored, "camera/track") + notes)


def find(root: Path) -> Path | None:
    """The folder with a tracks.csv and folders of cameras."""
    return files.find_folder(root, lambda folder: (folder / "tracks.csv").is_file() and bool(list_folder(folder)[1]), 1)


def read_times(root: Path) -> dict[str, Seen]:
    """When each track was seen, from tracks.csv; empty without the file. Raises `BadRows` for rows of other form."""
    path = root / "tracks.csv"
    if not path.is_file():
        return {}
    seen, bad = {}, []
    rows = _rows(path, "tracks table")
    head = next(rows, [])
    for number, values in enumerate(rows, start=2):
        row = dict(zip(head, values, strict=False))
        try:
            first, last = float(row["first_seconds"]), float(row["last_seconds"])
            if not -math.inf < first <= last < math.inf:
                raise ValueError
            seen[row["tracklet"]] = Seen(row["camera"], first, last)
        except (KeyError, TypeError, ValueError):
            bad.append(f"line {number}")
    if bad:
        why = f"rows without {', '.join(TRACK_COLUMNS[:7])}, or with impossible times"
        raise BadRows("tracks table", path, why=why, rows=bad)
    return seen


def read_boxes(root: Path, tracklets: Iterable[str]) -> dict[str, np.ndarray]:
    """The boxes (n, 6) of tracks, from boxes.csv: frame, seconds, left, top, width, height."""
    path, wanted = root / "boxes.csv", set(tracklets)
    found: dict[str, list[list[float]]] = {}
    bad = []
    rows = _rows(path, "boxes table", MOST_BOX_BYTES)
    next(rows, None)
    for number, (tracklet, *values) in enumerate(rows, start=2):
        try:
            if tracklet in wanted:
                box = [float(value) for value in values]
                if len(box) != 6 or not all(map(math.isfinite, box)) or box[0] != int(box[0]):
                    raise ValueError
                found.setdefault(tracklet, []).append(box)
        except ValueError:
            bad.append(f"line {number}")
    if bad:
        raise BadRows("boxes table", path, why=f"rows other than {', '.join(BOX_COLUMNS)}", rows=bad)
    return {tracklet: np.array(values) for tracklet, values in found.items()}


def _rows(path: Path, what: str, most: int = files.MOST_BYTES_OF_METADATA) -> Iterator[list[str]]:
    """The rows of a CSV file that are not empty; `BadData` for a quote that does not end."""
    lines = csv.reader(io.StringIO(files.read_text(path, what, most)), strict=True)
    try:
        yield from filter(None, lines)
    except csv.Error as error:
        raise BadData(what, path, why=f"no CSV ({error}, line {lines.line_num})") from error
