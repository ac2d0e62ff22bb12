"""Splits over people: drawn with a seed or read from a file, then turned into queries and gallery.

iLIDS-VID, PRID-2011 and own data use one rule ("cross-camera-splits"): some people are for training, the others for
testing; the tracklets of a test person in the first camera are queries, those in other cameras are the gallery.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from amem_cli.artifacts.atomic import read_bytes
from amem_cli.data.readers.files import MOST_BYTES_OF_METADATA, BadRows, folders_in, image_files, list_folder, note
from amem_cli.data.tracklets import Split, Tracklet, VideoDataset
from amem_cli.errors import BadData, listing
from amem_cli.randomness import keyed_generator
from amem_cli.text import decode_text

MOST_SPLITS = 1000
IN_ONE_CAMERA = "seen in one camera, in the galleries only"
SPLITS_NAME = re.compile(
    r".*split.*|.*(?<![a-z])(?:(?:train(?:ing)?|test(?:ing)?|val(?:idation)?|query|probe|gallery)[ _-]?(?:sets?|ids?|"
    r"idx|ind(?:ex|ices)?|lists?|names?|people|persons?)?|partitions?|folds?|protocols?|ls_set)(?![a-z]).*\.(?:json|mat|txt|csv|tsv|lst|xlsx?|np[yz]|pkl|pickle|ya?ml)"
)
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]  # files are named after it
ProtocolKind = Literal["", "single-split", "cross-camera-splits"]  # empty: the one of the layout
Names = Annotated[tuple[str, ...], Meta(min_length=1)]


class Protocol(Struct, frozen=True, forbid_unknown_fields=True):
    """How a video data set is split and evaluated; the table `[protocol]` of a manifest.

    `name` is for `amem evaluate --protocol`. "single-split" is the official split; "cross-camera-splits" are several,
    from `file` or the data set's own split file, or drawn with `seed` so that `train_fraction` of the people train.
    """

    name: Name = ""
    kind: ProtocolKind = ""
    splits: Annotated[int, Meta(ge=1, le=MOST_SPLITS)] = 10
    train_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    seed: Annotated[int, Meta(ge=0)] = 0
    file: str | None = None

    @property
    def numbers(self) -> list[int | None]:
        """The numbers of the splits; None for the official one."""
        return [None] if self.kind == "single-split" else list(range(self.splits))


class PeopleSplit(Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the training people and of the test people: disjoint, each in sorted order."""

    train: Names
    test: Names


def draw_splits(people: Iterable[str], splits: int, train_fraction: float, seed: int) -> tuple[PeopleSplit, ...]:
    """`splits` random divisions of `people`; round(train_fraction * people), at least one and not all, train. Split k
    is keyed by (seed, "split", k), so it does not depend on how many are drawn."""
    names = sorted(people)
    to_train = min(max(round(train_fraction * len(names)), 1), len(names) - 1)
    drawn = []
    for number in range(splits):
        order = [names[place] for place in keyed_generator(seed, "split", number).permutation(len(names)).tolist()]
        drawn.append(PeopleSplit(tuple(sorted(order[:to_train])), tuple(sorted(order[to_train:]))))
    return tuple(drawn)


def read_split_file(path: Path) -> tuple[PeopleSplit, ...]:
    """The splits of a JSON list of `{"train": [person, ...], "test": [person, ...]}`. Raises `BadData` for another
    structure, `BadRows` naming every repeated person and every name that is a path."""
    try:
        content = decode_text(read_bytes(path, "split file", most=MOST_BYTES_OF_METADATA))
        splits = msgspec.json.decode(content, type=Annotated[tuple[PeopleSplit, ...], Meta(min_length=1)])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        why = f'not a list of {{"train": [...], "test": [...]}} ({error})'
        remedy = "Save it in UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise BadData("split file", path, why=why, remedy=remedy) from error
    if len(splits) > MOST_SPLITS:
        raise BadData("split file", path, why=f"{len(splits)} splits, more than {MOST_SPLITS}")
    faults = []
    for number, split in enumerate(splits):
        times = Counter((*split.train, *split.test))
        faults += [f"split {number}: {name!r} is not a plain name" for name in times if not is_plain_name(name)]
        faults += [f"split {number}: {name!r} is listed {times[name]} times" for name in times if times[name] > 1]
    if faults:
        raise BadRows("split file", path, why="names that cannot be used", rows=faults)
    return tuple(PeopleSplit(tuple(sorted(split.train)), tuple(sorted(split.test))) for split in splits)


def looks_like_splits(path: Path) -> bool:
    """Whether a file, or a folder of files without images, may say who is for training and who for the test: by name.

    >>> names = "splits.zip", "trainids.txt", "5folds.json", "latest.txt", "test.png"
    >>> [bool(SPLITS_NAME.fullmatch(name)) for name in names]
    [True, True, True, False, False]
    """
    name = path.name.lower()
    if name.startswith(".") or not SPLITS_NAME.fullmatch(name):
        return False
    if path.is_dir():
        return any(map(Path.is_file, path.iterdir())) and next(image_files(path), None) is None
    return path.is_file()


def find_split_files(root: Path) -> list[Path]:
    """What looks like splits in `root` and up to four levels down, outside of folders of images."""
    places = (folder for folder in folders_in(root, 4) if folder == root or not list_folder(folder)[0])
    return [path for place in places for path in sorted(filter(looks_like_splits, place.iterdir()))]


def is_plain_name(name: str) -> bool:
    """Whether a name is one visible folder entry that can be stored as text: no path, control or broken characters.

    >>> [is_plain_name(name) for name in ("person001", "../person001", "a/b", "", "\\udce9", ".hidden")]
    [True, False, False, False, False, False]
    """
    return bool(name) and not name.startswith(".") and name.isprintable() and not set(name) & set("/\\:\0")


def listed_people(splits: Iterable[PeopleSplit]) -> set[str]:
    """All people in the splits."""
    return {name for split in splits for name in (*split.train, *split.test)}


def as_present(splits: Iterable[PeopleSplit], present: Iterable[str]) -> tuple[PeopleSplit, ...]:
    """The splits with the spelling of the folders `present`: macOS decomposes letters like "é"."""
    spelt = {unicodedata.normalize("NFC", name): name for name in present}

    def names(side: Names) -> Names:
        return tuple(spelt.get(unicodedata.normalize("NFC", name), name) for name in side)

    return tuple(PeopleSplit(names(split.train), names(split.test)) for split in splits)


def present_people(
    splits: Sequence[PeopleSplit], present: Set[str], path: Path
) -> tuple[tuple[PeopleSplit, ...], list[str]]:
    """The splits without absent people (in a subset of a data set), and the absent names; `BadRows` for empty sides."""
    absent = sorted(listed_people(splits) - present)
    kept = tuple(
        PeopleSplit(*(tuple(name for name in side if name in present) for side in (split.train, split.test)))
        for split in splits
    )
    empty = [f"split {number}" for number, split in enumerate(kept) if not split.train or not split.test]
    if empty:
        why = f"{len(absent)} of its people have no images ({listing(absent, 3)}): train or test is empty"
        raise BadRows("split file", path, why=why, rows=empty)
    return kept, absent


def cross_camera_split(
    tracklets_of: Mapping[str, Sequence[Tracklet]], people: PeopleSplit, distractors: Sequence[str], source: str
) -> Split:
    """The tracklets of a split of people; `tracklets_of` has those of each person, sorted by camera.

    Queries are a test person's tracklets in their first camera; a test person in one camera is never a query.
    `distractors` are other people, whose tracklets are added to the gallery. `test` lists all queries first.
    """
    train = [tracklet for name in people.train for tracklet in tracklets_of[name]]
    queries: list[Tracklet] = []
    gallery: list[Tracklet] = []
    for name in people.test:
        first, last = tracklets_of[name][0].camera_id, tracklets_of[name][-1].camera_id
        for tracklet in tracklets_of[name]:
            asks = first != last and tracklet.camera_id == first
            (queries if asks else gallery).append(tracklet)
    gallery += [tracklet for name in sorted(distractors) for tracklet in tracklets_of[name]]
    is_query = (True,) * len(queries) + (False,) * len(gallery)
    return Split(tuple(train), (*queries, *gallery), is_query, source)


def numbered_splits(
    name: str,
    tracklets_of: Mapping[str, Sequence[Tracklet]],
    protocol: Protocol,
    notes: tuple[str, ...],
    file: Path | None,
    listed: tuple[PeopleSplit, ...] = (),
) -> VideoDataset:
    """The data set with the splits `listed` in `file`, or, when `file` is None, with splits drawn by the protocol among
    the people seen in two cameras; the others are distractors in every test gallery. Raises `BadData` for fewer than
    two of them."""
    cameras_of = {person: {tracklet.camera_id for tracklet in own} for person, own in tracklets_of.items()}
    alone = [person for person, cameras in cameras_of.items() if len(cameras) == 1]
    if file is not None:
        alone, source = [], f"file {file.name}"
        people, absent = present_people(listed, set(tracklets_of), file)
        notes += note("people", sorted(set(tracklets_of) - listed_people(listed)), f"not in {file.name}")
        notes += note("people", absent, f"in {file.name} without images in both cameras")
    else:
        source = f"drawn with seed {protocol.seed}"
        pairs = set(tracklets_of).difference(alone)
        if len(pairs) < 2:
            why = f"a split needs two people in two cameras, there are {len(pairs)}"
            raise BadData("data set", name, why=why, remedy='For train-tae alone use layout = "images"')
        people = draw_splits(pairs, protocol.splits, protocol.train_fraction, protocol.seed)
        notes += note("people", alone, IN_ONE_CAMERA)
    splits = tuple(cross_camera_split(tracklets_of, split, alone, source) for split in people)
    return VideoDataset(name, splits, numbered=True, notes=notes)
