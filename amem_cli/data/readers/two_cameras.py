"""The common layout of iLIDS-VID and PRID-2011: two camera folders with one folder per person."""

from pathlib import Path

from amem_cli.data.readers.files import BadRows, find_folder, ignored_note, image_folders, list_folder, read_tracklet
from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import BadData

Cameras = tuple[str, str]  # query, gallery


def find_cameras(root: Path, cameras: Cameras, name: str = "") -> Path | None:
    """The folder (named `name` unless that is empty) with a folder for each camera, the first one with people."""

    def has_people(folder: Path) -> bool:
        both = all((folder / camera).is_dir() for camera in cameras)
        return both and (not name or folder.name == name) and bool(list_folder(folder / cameras[0])[1])

    return find_folder(root, has_people)


def find_split_file(root: Path, sequences: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the split files `names` next to the sequences, up to two levels above, or in `root`."""
    places = (sequences, sequences.parent, sequences.parent.parent, root)
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def two_camera_tracklets(
    sequences: Path, cameras: Cameras, what: str
) -> tuple[dict[str, list[Tracklet]], list[str], tuple[str, ...]]:
    """Person's name -> both tracklets, for people with images in both cameras; all people with images; and notes.

    Tracklets are called "cam1/person001"; the person's id is the number in the folder's name. Raises `BadData` if
    there is no person, `BadRows` for folder names without a number or with an equal number, and for frames of
    unknown order.
    """
    tracklets_of: dict[str, list[Tracklet]] = {}
    person_of: dict[int, str] = {}
    bad: list[str] = []
    ignored: list[str] = []
    for camera_id, camera in enumerate(cameras, start=1):
        folders, others = image_folders(sequences / camera)
        ignored += [f"{camera}/{name}" for name in others]
        for person, images in folders.items():
            name = f"{camera}/{person}"
            digits = "".join(character for character in person if character in "0123456789")
            number = int(digits) if 1 <= len(digits) <= 15 else 0
            if number < 1:
                bad.append(f"{name}: no person's number in the name")
            elif person_of.setdefault(number, person) != person:
                bad.append(f"{name}: the same number as {person_of[number]}")
            elif tracklet := read_tracklet(sequences, name, images, (number, camera_id), bad):
                tracklets_of.setdefault(person, []).append(tracklet)
    if bad:
        raise BadRows(what, sequences, why="folders that cannot be read", rows=bad)
    both = {person: tracklets for person, tracklets in sorted(tracklets_of.items()) if len(tracklets) == 2}
    if not both:
        raise BadData(what, sequences, why=f"no person has images in both {cameras[0]} and {cameras[1]}")
    return both, sorted(tracklets_of), ignored_note(ignored)
