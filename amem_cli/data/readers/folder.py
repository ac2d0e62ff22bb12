"""Own data: `<person>/<camera>/<frame>.(jpg|jpeg|png|bmp)`, one tracklet per person and camera."""

from collections.abc import Iterable
from pathlib import Path

from amem_cli.data.readers import files
from amem_cli.data.readers.files import BadRows, list_folder, natural_key
from amem_cli.data.readers.splits import Protocol, is_plain_name, listed_people, numbered_splits, read_split_file
from amem_cli.data.tracklets import Tracklet, VideoDataset
from amem_cli.errors import BadData, listing

WHAT = "data folder"
LAYOUT = "<person>/<camera>/<frame>.jpg (or .jpeg, .png, .bmp)"


def read(root: Path, name: str, protocol: Protocol) -> VideoDataset:
    """All people below `root`, in the splits of `protocol.file` or in drawn ones.

    Ids are the folders' names where all of them are positive numbers, otherwise they count the sorted names from 1.
    With a split file only the people in it are used. Without one, people seen in one camera are distractors in every
    test gallery, with their ids. Raises `BadData` if there is no person, `BadRows` with every folder that cannot be
    read or every listed person without a folder.
    """
    tracklets_of, notes = _tracklets(root)
    if protocol.file is None:
        return numbered_splits(name, tracklets_of, protocol, notes, None)
    file = Path(protocol.file)
    listed = read_split_file(file)
    if absent := sorted(listed_people(listed) - set(tracklets_of)):
        raise BadRows("split file", file, why=f"people who are not in {root}", rows=absent)
    untested = [f"split {k}" for k, split in enumerate(listed) if all(len(tracklets_of[p]) == 1 for p in split.test)]
    if untested:
        raise BadRows("split file", file, why="no test person is seen in two cameras", rows=untested)
    if unlisted := sorted(set(tracklets_of) - listed_people(listed)):
        notes += (f"{len(unlisted)} people are not in {file.name}: {listing(unlisted, 5)}",)
    return numbered_splits(name, tracklets_of, protocol, notes, file, listed)


def find(root: Path) -> Path | None:
    """The folder whose subfolders are people, up to one level down."""

    def is_person(folder: Path) -> bool:
        images, cameras = list_folder(folder)
        return not images and any(list_folder(folder / camera)[0] for camera in cameras[:3])

    def holds_people(folder: Path) -> bool:
        images, people = list_folder(folder)
        return not images and any(is_person(folder / person) for person in people[:3])

    return files.find_folder(root, holds_people, depth=1)


def _tracklets(root: Path) -> tuple[dict[str, list[Tracklet]], tuple[str, ...]]:
    """Person's name -> tracklets in order of camera, people in order of name; and notes."""
    folders, ignored = files.image_folders(root, depth=2)
    if not folders:
        raise BadData(WHAT, root, why="it holds no images", remedy=f"Expected {LAYOUT}")
    pairs = sorted((name.split("/") for name in folders), key=lambda pair: (pair[0], natural_key(pair[1])))
    names = [{name for name, _ in pairs}, {name for _, name in pairs}]
    bad = [f"{name!r} cannot be stored as a name" for name in sorted(set.union(*names)) if not is_plain_name(name)]
    person_ids, camera_ids = _ids(names[0], "people", bad), _ids(names[1], "cameras", bad)
    tracklets_of: dict[str, list[Tracklet]] = {}
    for person, camera in pairs:
        name, ids = f"{person}/{camera}", (person_ids[person], camera_ids[camera])
        if tracklet := files.read_tracklet(root, name, folders[name], ids, bad):
            tracklets_of.setdefault(person, []).append(tracklet)
    if bad:
        raise BadRows(WHAT, root, why="folders that cannot be read", rows=bad)
    notes = files.ignored_note(ignored)
    if loose := [person for person in list_folder(root)[1] if list_folder(root / person)[0]]:
        notes += (f"images of {listing(loose, 5)} that are in no camera's folder are left out",)
    return tracklets_of, notes


def _ids(names: Iterable[str], what: str, bad: list[str]) -> dict[str, int]:
    """The names as numbers, if all are positive numbers (0 and -1 mean distractor and junk); else 1, 2, ...

    Two names for one number ("1" and "01") are added to `bad`.
    """
    ordered = sorted(names, key=lambda name: (natural_key(name), name))
    if all(name.isascii() and name.isdigit() and len(name) <= 15 and int(name) >= 1 for name in ordered):
        by_number: dict[int, str] = {}
        for name in ordered:
            if by_number.setdefault(int(name), name) != name:
                bad.append(f"{what}: {by_number[int(name)]!r} and {name!r} are the same number")
        return {name: int(name) for name in ordered}
    return {name: number for number, name in enumerate(sorted(names), start=1)}
