"""Own data: `<person>/<camera>/<frame>.(jpg|jpeg|png|bmp)`, one tracklet per person and camera."""

from collections.abc import Iterable
from pathlib import Path

from amem_cli.data.readers.files import BadRows, find_folder, frames_in_order, list_folder, natural_key
from amem_cli.data.readers.splits import PeopleSplit, cross_camera_split, draw_splits, is_plain_name, read_split_file
from amem_cli.data.tracklets import Tracklet, VideoDataset
from amem_cli.errors import BadData, listing

LAYOUT = "<person>/<camera>/<frame>.jpg (or .jpeg, .png, .bmp)"


def read(
    root: Path,
    name: str,
    *,
    splits: int = 10,
    train_fraction: float = 0.5,
    seed: int = 0,
    split_file: Path | None = None,
) -> VideoDataset:
    """All people below `root`, in the splits of `split_file` or in drawn ones.

    Frames are ordered by number. Ids are the folders' names where all of them are positive numbers, otherwise they
    count the sorted names from 1. People seen in one camera only are never drawn: they join every test gallery as
    distractors, with their ids. With a split file exactly the people it lists take part. Raises `BadData` when nobody
    is there, and `BadRows` with every folder that cannot be read or every listed person who is not there.
    """
    tracklets_of, notes = _tracklets(root)
    alone = [person for person, tracklets in tracklets_of.items() if len(tracklets) == 1]
    if split_file is not None:
        people = read_split_file(split_file)
        absent = sorted({name for split in people for name in (*split.train, *split.test)} - set(tracklets_of))
        if absent:
            raise BadRows("split file", split_file, why=f"people who are not in {root}", rows=absent)
        untested = [str(k) for k, split in enumerate(people) if all(len(tracklets_of[p]) == 1 for p in split.test)]
        if untested:
            why = "splits without a test person who is seen in two cameras"
            raise BadRows("split file", split_file, why=why, rows=untested)
        unlisted = sorted(set(tracklets_of) - {p for split in people for p in (*split.train, *split.test)})
        if unlisted:
            notes += (f"{len(unlisted)} people are not in {split_file.name}: {listing(unlisted, 5)}",)
        return _dataset(name, tracklets_of, people, (), f"file {split_file.name}", notes)
    try:
        people = draw_splits(set(tracklets_of) - set(alone), splits, train_fraction, seed)
    except ValueError as error:
        why = f"{len(tracklets_of) - len(alone)} people are seen in at least two cameras, a split needs two of them"
        raise BadData("data folder", root, why=why, remedy=f"Expected {LAYOUT}") from error
    if alone:
        notes += (f"{len(alone)} people seen in one camera only are in the galleries alone: {listing(alone, 5)}",)
    return _dataset(name, tracklets_of, people, alone, f"drawn with seed {seed}", notes)


def _dataset(
    name: str,
    tracklets_of: dict[str, list[Tracklet]],
    people: Iterable[PeopleSplit],
    distractors: list[str] | tuple[str, ...],
    source: str,
    notes: tuple[str, ...],
) -> VideoDataset:
    splits = tuple(cross_camera_split(tracklets_of, split, distractors, source) for split in people)
    return VideoDataset(name, splits, numbered=True, notes=notes)


def looks_like(root: Path) -> bool:
    """Whether the first person's first camera holds images, and the levels above hold none."""

    def is_person(folder: Path) -> bool:
        images, cameras = list_folder(folder)
        return not images and any(list_folder(folder / camera)[0] for camera in cameras[:3])

    images, people = list_folder(root)
    return not images and any(is_person(root / person) for person in people[:3])


def find(root: Path) -> Path | None:
    """The folder whose subfolders are people, at most one level down."""
    return find_folder(root, looks_like, depth=1)


def _tracklets(root: Path) -> tuple[dict[str, list[Tracklet]], tuple[str, ...]]:
    """Person's name -> tracklets in order of camera, people in order of name; and notes."""
    folders, loose = {}, []
    for person in list_folder(root)[1]:
        images, folders[person] = list_folder(root / person)
        loose += [person] if images else []
    cameras = {camera for names in folders.values() for camera in names}
    bad = [f"{name!r} cannot be stored as a name" for name in sorted({*folders, *cameras}) if not is_plain_name(name)]
    person_ids, camera_ids = _ids(folders, "people", bad), _ids(cameras, "cameras", bad)
    found: dict[str, list[Tracklet]] = {}
    empty = []
    for person in sorted(folders):
        for camera in sorted(folders[person], key=natural_key):
            folder = root / person / camera
            try:
                frames = frames_in_order(list_folder(folder)[0])
            except ValueError as error:
                bad.append(f"{person}/{camera}: {error}")
                continue
            if not frames:
                empty.append(f"{person}/{camera}")
                continue
            tracklet = Tracklet(
                f"{person}/{camera}", person_ids[person], camera_ids[camera], str(folder.absolute()), frames
            )
            found.setdefault(person, []).append(tracklet)
    if bad:
        raise BadRows("data folder", root, why="folders that cannot be read", rows=bad)
    if not found:
        raise BadData("data folder", root, why="it holds no images", remedy=f"Expected {LAYOUT}")
    notes = [f"folders without images: {listing(empty, 5)}"] if empty else []
    if loose:
        notes.append(f"images of {listing(loose, 5)} that lie in no camera's folder are left out")
    return found, tuple(notes)


def _ids(names: Iterable[str], what: str, bad: list[str]) -> dict[str, int]:
    """The numbers that the names are, if all are positive (0 and -1 mean distractor and junk); else 1, 2, ...

    Two names for one number ("1" and "01") are a bad row.
    """
    ordered = sorted(names, key=lambda name: (natural_key(name), name))
    if all(name.isascii() and name.isdigit() and len(name) <= 15 and int(name) >= 1 for name in ordered):
        by_number: dict[int, str] = {}
        for name in ordered:
            if by_number.setdefault(int(name), name) != name:
                bad.append(f"{what}: {by_number[int(name)]!r} and {name!r} are the same number")
        return {name: int(name) for name in ordered}
    return {name: number for number, name in enumerate(sorted(names), start=1)}
