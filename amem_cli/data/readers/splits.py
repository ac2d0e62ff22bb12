"""Splits over people: drawn with a seed or read from a file, then turned into queries and gallery.

The same rule holds for iLIDS-VID, PRID-2011 and own data ("cross-camera-splits"): some people train, the others are
tested; a test person's tracklets in the first camera are queries, those in other cameras the gallery.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amem_cli.data.readers.files import BadRows, read_json
from amem_cli.data.tracklets import Split, Tracklet
from amem_cli.errors import BadData
from amem_cli.randomness import keyed_generator

MOST_SPLITS = 1000


@dataclass(frozen=True, slots=True)
class PeopleSplit:
    """Names of the people to train on and to test on: disjoint, each in sorted order."""

    train: tuple[str, ...]
    test: tuple[str, ...]


def draw_splits(people: Iterable[str], splits: int, train_fraction: float, seed: int) -> tuple[PeopleSplit, ...]:
    """`splits` random halves (or other fractions) of `people`.

    Split k orders the sorted names by `keyed_generator(seed, "split", k).permutation`; the first
    round(train_fraction * people) of them, at least one and not all, train. So one split can be drawn alone, and
    drawing more of them changes none. Raises `ValueError` for fewer than two people.
    """
    names = sorted(people)
    if len(names) < 2:
        raise ValueError(f"{len(names)} people cannot be divided into train and test")
    to_train = min(max(round(train_fraction * len(names)), 1), len(names) - 1)
    drawn = []
    for number in range(splits):
        order = keyed_generator(seed, "split", number).permutation(len(names))
        train, test = order[:to_train], order[to_train:]
        drawn.append(PeopleSplit(tuple(names[i] for i in sorted(train)), tuple(names[i] for i in sorted(test))))
    return tuple(drawn)


def read_split_file(path: Path) -> tuple[PeopleSplit, ...]:
    """The splits of a JSON list of `{"train": [person, ...], "test": [person, ...]}`.

    Raises `BadRows` naming every fault: no list of objects, no or repeated people, people on both sides, names that
    could lead out of the data set's folder.
    """
    content = read_json(path, "split file")
    if not isinstance(content, list) or not 0 < len(content) <= MOST_SPLITS:
        raise BadData("split file", path, why='it is not a list of {"train": [...], "test": [...]}')
    faults, splits = [], []
    for number, entry in enumerate(content):
        where = f"split {number}"
        if not isinstance(entry, dict) or set(entry) != {"train", "test"}:
            faults.append(f'{where}: not an object with "train" and "test" alone')
            continue
        for part in ("train", "test"):
            names = entry[part]
            if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
                faults.append(f"{where}: {part} is not a list of names")
                break
            faults += [f"{where}: {name!r} is not a plain name" for name in names if not is_plain_name(name)]
            if len(set(names)) < len(names):
                faults.append(f"{where}: {part} repeats {_first_repeated(names)!r}")
        else:
            if both := sorted(set(entry["train"]) & set(entry["test"])):
                faults.append(f"{where}: {', '.join(map(repr, both[:5]))} ({len(both)} in all) train and are tested")
            splits.append(PeopleSplit(tuple(sorted(entry["train"])), tuple(sorted(entry["test"]))))
    if faults:
        raise BadRows("split file", path, why="it cannot be used", rows=faults)
    return tuple(splits)


def is_plain_name(name: str) -> bool:
    """Whether a name names one entry of a folder and can be stored as text: no path, control or broken characters.

    >>> [is_plain_name(name) for name in ("person001", "../person001", "a/b", "", "\\udce9", ".hidden")]
    [True, False, False, False, False, False]
    """
    return bool(name) and not name.startswith(".") and name.isprintable() and not set(name) & set("/\\:\0")


def _first_repeated(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))


def cross_camera_split(
    tracklets_of: dict[str, Sequence[Tracklet]], people: PeopleSplit, distractors: Sequence[str], source: str
) -> Split:
    """The tracklets of a split of people.

    `tracklets_of` maps a person's name to the person's tracklets, sorted by camera. Queries are a test person's
    tracklets in their first camera; a test person seen in one camera only is never a query. `distractors` are people
    of no side whose tracklets join the gallery. The test part lists all queries first, then the gallery, each in
    order of person.
    """
    train = [tracklet for name in people.train for tracklet in tracklets_of[name]]
    queries, gallery = [], []
    for name in people.test:
        first_camera = tracklets_of[name][0].camera_id
        alone = all(tracklet.camera_id == first_camera for tracklet in tracklets_of[name])
        for tracklet in tracklets_of[name]:
            (queries if tracklet.camera_id == first_camera and not alone else gallery).append(tracklet)
    gallery += [tracklet for name in sorted(distractors) for tracklet in tracklets_of[name]]
    is_query = (True,) * len(queries) + (False,) * len(gallery)
    return Split(tuple(train), (*queries, *gallery), is_query, source)


def people_there(
    splits: Sequence[PeopleSplit], there: Iterable[str], path: Path
) -> tuple[tuple[PeopleSplit, ...], tuple[str, ...]]:
    """The splits without people who are not `there`, and the names of those, sorted (a part of a data set).

    Raises `BadRows` when a side of a split is left empty.
    """
    known = set(there)
    absent = sorted({name for split in splits for name in (*split.train, *split.test)} - known)
    if not absent:
        return tuple(splits), ()
    kept = tuple(
        PeopleSplit(
            tuple(name for name in split.train if name in known), tuple(name for name in split.test if name in known)
        )
        for split in splits
    )
    empty = [f"split {number}" for number, split in enumerate(kept) if not split.train or not split.test]
    if empty:
        why = f"of the people it lists {len(absent)} are not there, and nobody is left to train or to test"
        raise BadRows("split file", path, why=f"{why} ({', '.join(absent[:3])}, ...)", rows=empty)
    return kept, tuple(absent)
