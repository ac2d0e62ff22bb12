"""iLIDS-VID (Wang et al., ECCV 2014): 300 people, two cameras of an airport hall, one tracklet each.

`i-LIDS-VID/sequences/cam1/person001/cam1_person001_00317.png`; people and frame numbers have gaps. The ten official
splits are in `train_test_splits_ilidsvid.mat`; other copies have them as `splits.json`.
"""

from pathlib import Path

import numpy as np

from amem_cli.data.readers.files import BadRows, whole_numbers
from amem_cli.data.readers.matlab import read_matlab
from amem_cli.data.readers.splits import MOST_SPLITS, PeopleSplit, Protocol, numbered_splits, read_split_file
from amem_cli.data.readers.two_cameras import find_cameras, find_split_file, two_camera_tracklets
from amem_cli.data.tracklets import VideoDataset
from amem_cli.errors import BadData

CAMERAS = ("cam1", "cam2")  # query, gallery
WHAT = "iLIDS-VID folder"
LAYOUT = "i-LIDS-VID/sequences/cam1/person001/*.png and cam2 likewise"
SPLIT_FILES = (
    "train-test people splits/train_test_splits_ilidsvid.mat",
    "train_test_splits_ilidsvid.mat",
    "splits.json",
)


def read(root: Path, name: str, protocol: Protocol) -> VideoDataset:
    """The tracklets of the people seen by both cameras, in the splits of the split file or else in drawn ones.

    Query is cam1, gallery cam2. Raises `BadData` when there are no images and `BadRows` for splits that do not fit.
    """
    sequences = find(root)
    if sequences is None:
        raise BadData(WHAT, root, why="no sequences/cam1 and cam2 in it", remedy=f"Expected {LAYOUT}")
    tracklets_of, people, notes = two_camera_tracklets(sequences, CAMERAS, WHAT)
    file = find_split_file(root, sequences, SPLIT_FILES)
    listed: tuple[PeopleSplit, ...] = ()
    if file is not None:
        listed = read_official_splits(file, people) if file.suffix == ".mat" else read_split_file(file)
    return numbered_splits(name, tracklets_of, protocol, notes, file, listed)


def find(root: Path) -> Path | None:
    """The folder with `cam1` and `cam2`: `sequences` if there is one, not the single shots in `images`."""
    return find_cameras(root, CAMERAS, "sequences") or find_cameras(root, CAMERAS)


def read_official_splits(path: Path, people: list[str]) -> tuple[PeopleSplit, ...]:
    """The splits of `ls_set` (splits, people): a row's first half are the test people, counted from 1 into `people`.

    Raises `BadData` for another table or another number of people.
    """
    what = "split file"
    table = np.atleast_2d(whole_numbers(read_matlab(path, "ls_set", what), path, "ls_set", what))
    if table.ndim != 2 or table.shape[1] < 2 or table.shape[0] > MOST_SPLITS:
        raise BadData(what, path, why=f"ls_set has the shape {table.shape}, not (splits, people)")
    count = table.shape[1]
    wrong = [f"row {row}" for row in range(len(table)) if sorted(table[row].tolist()) != list(range(1, count + 1))]
    if wrong:
        raise BadRows(what, path, why=f"rows of ls_set that do not list the people 1 to {count} once each", rows=wrong)
    if count != len(people):
        why = f"ls_set counts {count} people by their place in the sorted folders, and {len(people)} are there"
        remedy = "For a part of the data set, use a splits.json that names the people"
        raise BadData(what, path, why=why, remedy=remedy)

    def names(places: list[int]) -> tuple[str, ...]:
        return tuple(people[place - 1] for place in sorted(places))

    return tuple(PeopleSplit(names(row[count // 2 :]), names(row[: count // 2])) for row in table.tolist())
