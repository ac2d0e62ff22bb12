"""iLIDS-VID (Wang et al., ECCV 2014): 300 people, two cameras of an airport hall, one tracklet each.

`i-LIDS-VID/sequences/cam1/person001/cam1_person001_00317.png`; people and frame numbers have gaps. The ten official
splits are in `train_test_splits_ilidsvid.mat`; other copies carry them as `splits.json`.
"""

from pathlib import Path

import numpy as np

from amem_cli.data.readers.files import BadRows, find_folder, frames_in_order, list_folder, whole_numbers
from amem_cli.data.readers.matlab import read_matlab
from amem_cli.data.readers.splits import PeopleSplit, cross_camera_split, draw_splits, people_there, read_split_file
from amem_cli.data.tracklets import Tracklet, VideoDataset
from amem_cli.errors import BadData, listing

CAMERAS = ("cam1", "cam2")  # query, gallery
LAYOUT = "i-LIDS-VID/sequences/cam1/person001/*.png and cam2 likewise"
SPLIT_FILES = (
    "train-test people splits/train_test_splits_ilidsvid.mat",
    "train_test_splits_ilidsvid.mat",
    "splits.json",
)


def read(root: Path, name: str, *, splits: int = 10, train_fraction: float = 0.5, seed: int = 0) -> VideoDataset:
    """The tracklets of the people seen by both cameras, in the official splits where a file of them is there.

    Without one, `splits` splits are drawn with `seed`, and each says so in `source`. Query is cam1, gallery cam2.
    Raises `BadData` when there are no images and `BadRows` for splits that do not fit them.
    """
    sequences = find(root)
    if sequences is None:
        raise BadData("iLIDS-VID folder", root, why="it holds no sequences/cam1 and cam2", remedy=f"Expected {LAYOUT}")
    tracklets_of, notes = two_camera_tracklets(sequences, CAMERAS, "iLIDS-VID folder", LAYOUT)
    file = find_split_file(root, sequences, SPLIT_FILES)
    everybody = sorted(set(list_folder(sequences / "cam1")[1]) | set(list_folder(sequences / "cam2")[1]))
    return numbered_splits(name, tracklets_of, file, everybody, notes, splits, train_fraction, seed)


def find(root: Path) -> Path | None:
    """The folder with `cam1` and `cam2`: `sequences`, not the single shots in `images`."""

    def has_people(folder: Path) -> bool:
        return all((folder / camera).is_dir() for camera in CAMERAS) and bool(list_folder(folder / "cam1")[1])

    return find_folder(root, lambda folder: folder.name == "sequences" and has_people(folder)) or find_folder(
        root, has_people
    )


def find_split_file(root: Path, sequences: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the split files `names` beside the sequences, one level up from there, or in the data set's root."""
    for place in (sequences, sequences.parent, sequences.parent.parent, root):
        for name in names:
            if (place / name).is_file():
                return place / name
    return None


def two_camera_tracklets(
    sequences: Path, cameras: tuple[str, str], what: str, layout: str
) -> tuple[dict[str, list[Tracklet]], tuple[str, ...]]:
    """Person's name -> the tracklet of each camera, for people whom both cameras have images of; and notes.

    Names are "cam1/person001"; the person's id is the number in the folder's name. Raises `BadData` when there is
    nobody, `BadRows` for folders whose names hold no number of their own and for frames without a clear order.
    """
    found: dict[str, list[Tracklet]] = {}
    bad, empty = [], []
    for camera_id, camera in enumerate(cameras, start=1):
        for person in list_folder(sequences / camera)[1]:
            digits = "".join(character for character in person if character in "0123456789")
            folder = sequences / camera / person
            images = list_folder(folder)[0]
            if not 1 <= len(digits) <= 15 or int(digits) < 1:
                bad.append(f"{camera}/{person}: no person's number in the name")
                continue
            if not images:
                empty.append(f"{camera}/{person}")
                continue
            try:
                frames = frames_in_order(images)
            except ValueError as error:
                bad.append(f"{camera}/{person}: {error}")
                continue
            tracklet = Tracklet(f"{camera}/{person}", int(digits), camera_id, str(folder.absolute()), frames)
            found.setdefault(person, []).append(tracklet)
    person_of: dict[int, str] = {}
    for person, tracklets in sorted(found.items()):
        if person_of.setdefault(tracklets[0].person_id, person) != person:
            bad.append(f"{person}: the same number as {person_of[tracklets[0].person_id]}")
    if bad:
        raise BadRows(what, sequences, why="folders that cannot be read", rows=bad)
    both = {person: tracklets for person, tracklets in sorted(found.items()) if len(tracklets) == 2}
    if not both:
        why = f"nobody has images in both {cameras[0]} and {cameras[1]}"
        raise BadData(what, sequences, why=why, remedy=f"Expected {layout}")
    notes = (f"folders without images: {listing(empty, 5)}",) if empty else ()
    return both, notes


def numbered_splits(
    name: str,
    tracklets_of: dict[str, list[Tracklet]],
    file: Path | None,
    everybody: list[str],
    notes: tuple[str, ...],
    splits: int,
    train_fraction: float,
    seed: int,
) -> VideoDataset:
    """The data set with the splits of `file`, or drawn ones when it is None.

    `everybody` are the sorted folders that the numbers of a `.mat` count.
    """
    if file is None:
        source = f"drawn with seed {seed}"
        try:
            people = draw_splits(tracklets_of, splits, train_fraction, seed)
        except ValueError as error:
            raise BadData("data set", name, why=str(error)) from error
    else:
        source = f"file {file.name}"
        read_splits = read_official_splits(file, everybody) if file.suffix == ".mat" else read_split_file(file)
        people, absent = people_there(read_splits, tracklets_of, file)
        if absent:
            notes += (f"{len(absent)} people of {file.name} are not there in both cameras: {listing(absent, 5)}",)
    made = tuple(cross_camera_split(tracklets_of, split, (), source) for split in people)
    return VideoDataset(name, made, numbered=True, notes=notes)


def read_official_splits(path: Path, everybody: list[str]) -> tuple[PeopleSplit, ...]:
    """The splits of `ls_set` (splits, people): a row's first half are the test people, counted from 1 into `everybody`.

    Raises `BadData` when the table is no such table or counts other people than are there.
    """
    what = "split file"
    table = np.atleast_2d(whole_numbers(read_matlab(path, "ls_set", what), path, "ls_set", what))
    if table.ndim != 2 or table.shape[1] < 2 or table.shape[0] > 1000:
        raise BadData(what, path, why=f"ls_set has the shape {table.shape}, not (splits, people)")
    count = table.shape[1]
    wrong = [f"row {row}" for row in range(len(table)) if sorted(table[row].tolist()) != list(range(1, count + 1))]
    if wrong:
        raise BadRows(what, path, why=f"rows of ls_set that do not list the people 1 to {count} once each", rows=wrong)
    if count != len(everybody):
        why = f"ls_set counts {count} people by their place in the sorted folders, and {len(everybody)} are there"
        raise BadData(
            what, path, why=why, remedy="With a part of the data set, use a splits.json that names the people"
        )
    people = []
    for row in (table - 1).tolist():
        test, train = row[: count // 2], row[count // 2 :]
        people.append(
            PeopleSplit(tuple(everybody[i] for i in sorted(train)), tuple(everybody[i] for i in sorted(test)))
        )
    return tuple(people)
