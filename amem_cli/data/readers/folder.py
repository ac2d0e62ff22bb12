"""Own data in folders whose levels the manifest names, `<person>/<camera>/<frame>.jpg` by default.

The levels are `person`, `camera`, `tracklet` and `split` in any order. Without `camera` the names of the frames have
it (`0001_C6_F0001.jpg`); `split` has folders named train, val, query, gallery or test. The last one is a tracklet.
"""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from amem_cli.data.readers import files, splits
from amem_cli.data.readers.files import BadRows, is_image_name, list_folder, natural_key
from amem_cli.data.readers.splits import PeopleSplit, Protocol, is_plain_name
from amem_cli.data.tracklets import Split, Tracklet, VideoDataset
from amem_cli.errors import BadData, counted

WHAT = "data folder"
LEVELS = ("split", "person", "camera", "tracklet")
DEFAULT = "person/camera"
SPLIT_NAME = re.compile(r"(?:[a-z]+_)*(train|val|test|query|probe|gallery)(?:ing|idation)?", re.IGNORECASE)
TRAIN = ("train", "val")  # train-amem --validate holds out people of its own
CAMERA_NAME = re.compile(r"(?:c|cam|camera|view|kamera)[ _-]?[a-z0-9]{1,3}", re.IGNORECASE)
CAMERA_IN_FRAME = re.compile(r"(?<![a-z])c(?:am)?_?(\d+)", re.IGNORECASE)
FOLDERS_GUESSED_FROM = 2000


def read(root: Path, name: str, protocol: Protocol, folders: str = "") -> VideoDataset:
    """All people below `root`, in the splits of `protocol.file`, of the level `split`, or in drawn ones.

    Ids are the folders' names where all of them are positive numbers, otherwise they count the sorted names from 1.
    With a split file only the people in it are used. Raises `BadData` if there is no person, `BadRows` with every
    folder that cannot be read or every listed person without a folder.
    """
    tracklets_of, sides, notes = _tracklets(root, folders)
    if sides:
        return VideoDataset(name, (_split_of_folders(root, tracklets_of, sides),), numbered=True, notes=notes)
    if protocol.file is None:
        if found := splits.find_split_files(root):
            why = f"{found[0].relative_to(root)} may hold its splits, but the manifest does not name it"
            raise BadData(WHAT, root, why=why, remedy="Set file in its [protocol], or move it elsewhere")
        return splits.numbered_splits(name, tracklets_of, protocol, notes, None)
    file = Path(protocol.file)
    listed = splits.as_present(splits.read_split_file(file), tracklets_of)
    if absent := sorted(splits.listed_people(listed) - set(tracklets_of)):
        raise BadRows("split file", file, why=f"people who are not in {root}", rows=absent)
    cameras_of = {person: {tracklet.camera_id for tracklet in own} for person, own in tracklets_of.items()}
    untested = [f"split {k}" for k, split in enumerate(listed) if all(len(cameras_of[p]) == 1 for p in split.test)]
    if untested:
        raise BadRows("split file", file, why="no test person is seen in two cameras", rows=untested)
    return splits.numbered_splits(name, tracklets_of, protocol, notes, file, listed)


def find(root: Path) -> Path | None:
    """The folder whose subfolders are the first level."""
    guessed = guess(root)
    return guessed and guessed[0]


def guess(root: Path) -> tuple[Path, str] | None:
    """The folder with the first level, below `root`, and the names of the levels; None without two levels. A level is
    `split` or `camera` by its names; else the one with fewer names is `camera`, as people outnumber cameras."""
    with_images = (place for place, _, names in files.walk(root) if place != root and any(map(is_image_name, names)))
    places = [place.relative_to(root).parts for place in itertools.islice(with_images, FOLDERS_GUESSED_FROM)]
    if not places:
        return None
    depth = Counter(map(len, places)).most_common(1)[0][0]
    rows = [parts for parts in places if len(parts) == depth]
    while depth > 2 and len({parts[0] for parts in rows}) == 1:
        root, rows, depth = root / rows[0][0], [parts[1:] for parts in rows], depth - 1
    names = [sorted({parts[level] for parts in rows}) for level in range(depth)]
    levels = ["split"] if len(names[0]) > 1 and all(map(SPLIT_NAME.fullmatch, names[0])) else []
    left = names[len(levels) :]
    if not 2 <= len(left) <= 3:
        return None
    cameras = [level for level, own in enumerate(left) if all(map(CAMERA_NAME.fullmatch, own))]
    in_names = {_camera_of([image]) for image in list_folder(root.joinpath(*rows[0]))[0]}
    if len(in_names) > 1:  # single images of one person
        return None
    if not cameras and in_names != {""} and len(left) == 2:
        return root, "/".join((*levels, "person", "tracklet"))
    fewest = min((1, 0) if len(left) == 2 or len(left[1]) > 1 else (2, 0), key=lambda level: len(left[level]))
    others = iter(("person", "tracklet"))
    camera = cameras[0] if cameras else fewest
    return root, "/".join((*levels, *("camera" if level == camera else next(others) for level in range(len(left)))))


def _tracklets(root: Path, given: str) -> tuple[dict[str, list[Tracklet]], dict[str, str], tuple[str, ...]]:
    """Person -> tracklets by camera; tracklet -> side; notes."""
    levels = (given or DEFAULT).split("/")
    place = root
    folders, ignored = files.image_folders(place, len(levels))
    while not folders and len(inner := list_folder(place)[1]) == 1:  # an archive's own folder
        place = place / inner[0]
        folders, ignored = files.image_folders(place, len(levels))
    if not folders:
        guessed = guess(root)
        remedy = f'Set folders = "{guessed[1]}" in the manifest' if guessed else "Expected " + "/".join(
            f"<{level}>" for level in (*levels, "frame")) + ".jpg"  # fmt: skip
        raise BadData(WHAT, root, why=files.why_empty(root), remedy=remedy)
    parts = {name: dict(zip(levels, name.split("/"), strict=True)) for name in folders}
    bad: list[str] = []
    for name, own in parts.items():
        own.setdefault("camera", _camera_of(folders[name]))
        if not own["camera"]:
            bad.append(f"{name}: its frames do not have one camera in their names, as in 0001_C6_F0001.jpg")
    names = [{own[level] for own in parts.values()} for level in ("person", "camera")]
    bad += [f"{name!r} cannot be stored as a name" for name in sorted(set.union(*names)) if not is_plain_name(name)]
    person_ids, camera_ids = _ids(names[0], "people", bad), _ids(names[1], "cameras", bad)
    tracklets_of: dict[str, list[Tracklet]] = {}
    keys = {name: (own["person"], natural_key(own["camera"]), natural_key(name)) for name, own in parts.items()}
    for name in sorted(keys, key=keys.__getitem__):
        ids = (person_ids[parts[name]["person"]], camera_ids[parts[name]["camera"]])
        if tracklet := files.read_tracklet(place, name, folders[name], ids, bad):
            tracklets_of.setdefault(parts[name]["person"], []).append(tracklet)
    sides = _sides(parts, bad) if "split" in levels else {}
    if bad:
        raise BadRows(WHAT, root, why="folders that cannot be read", rows=bad)
    notes = files.frame_notes(place, folders, ignored, given or DEFAULT)
    cameras_first = all(map(CAMERA_NAME.fullmatch, names[0])) and not all(map(CAMERA_NAME.fullmatch, names[1]))
    if not given and (cameras_first or len(names[0]) < len(names[1])):
        people = counted(len(names[0]), "people")
        remedy = 'if the first level is the camera, set folders = "camera/person" in the manifest, else "person/camera"'
        notes += (f"{people} in {len(names[1])} cameras: {remedy}",)
    return tracklets_of, sides, notes


def _camera_of(images: Iterable[str]) -> str:
    """The one camera in the names of frames ("6" of 0001_C6_F0001.jpg), empty without one or with several."""
    cameras = {match[1] if (match := CAMERA_IN_FRAME.search(image)) else "" for image in images}
    return cameras.pop() if len(cameras) == 1 else ""


def _sides(parts: Mapping[str, Mapping[str, str]], bad: list[str]) -> dict[str, str]:
    """Tracklet's name -> "train", "val", "query", "gallery" or "test"; faults are added to `bad`."""
    sides: dict[str, str] = {}
    for name, own in parts.items():
        if match := SPLIT_NAME.fullmatch(own["split"]):
            sides[name] = match[1].lower().replace("probe", "query")
        else:
            bad.append(f"{name}: its folder is not named train, val, query, gallery or test")
    train = {parts[name]["person"] for name, side in sides.items() if side in TRAIN}
    test = {parts[name]["person"] for name, side in sides.items() if side not in TRAIN}
    bad += [f"{person} is in training and test" for person in sorted(train & test)]
    return sides


def _split_of_folders(root: Path, tracklets_of: Mapping[str, list[Tracklet]], sides: Mapping[str, str]) -> Split:
    """The split of the level `split`: queries are its folder query, or those of the rule for splits of people."""
    train = tuple(person for person, own in tracklets_of.items() if sides[own[0].name] in TRAIN)
    test = tuple(person for person in tracklets_of if person not in train)
    source = "the folders of the level split" + ", val among train" * ("val" in sides.values())
    split = splits.cross_camera_split(tracklets_of, PeopleSplit(train, test), (), source)
    if "query" in sides.values():
        split = replace(split, is_query=tuple(sides[tracklet.name] == "query" for tracklet in split.test))
    if not train or not any(split.is_query) or all(split.is_query):
        why = "the level split has no training people, or no test person in two cameras"
        raise BadData(WHAT, root, why=why, remedy="Name its folders train and test, or train, query and gallery")
    return split


def _ids(names: Iterable[str], what: str, bad: list[str]) -> dict[str, int]:
    """Names -> numbers: their own if all are positive, else 1, 2, ...; two names for one number are added to `bad`."""
    ordered = sorted(names, key=lambda name: (natural_key(name), name))
    numbers = all(name.isascii() and name.isdigit() and len(name) <= 15 and int(name) >= 1 for name in ordered)
    first: dict[int | str, str] = {}
    for name in ordered:  # macOS decomposes letters like "é"
        if (other := first.setdefault(int(name) if numbers else unicodedata.normalize("NFC", name), name)) != name:
            same = "the same number" if numbers else "the same name, with the letters composed and decomposed"
            bad.append(f"{what}: {other!r} and {name!r} are {same}")
    return {name: int(name) if numbers else place for place, name in enumerate(sorted(ordered), start=1)}
