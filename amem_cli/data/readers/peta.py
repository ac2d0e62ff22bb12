"""PETA (Deng et al., ACM MM 2014): 19,000 images of ten data sets with 105 binary attributes.

`PETA dataset/<subset>/archive/` holds images and `Label.txt`, whose lines are `<key> attribute attribute ...`. The key
is the image's name up to the first `_`; in CUHK, where every image is a person, it is the full file name. `PETA.mat`
has the same labels with other columns, five random partitions and the 35 attributes that papers evaluate. The
processed form has `images/00001.png` ... in the order of `PETA.mat`, and no Label.txt.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amem_cli.attributes import ATTRIBUTES, USUAL_35
from amem_cli.data.readers import files
from amem_cli.data.readers.files import BadRows, list_folder, whole_numbers
from amem_cli.data.readers.matlab import read_matlab
from amem_cli.data.tracklets import AttributeDataset
from amem_cli.errors import BadData, listing

# In the order of PETA.mat.
SUBSETS = ("3DPeS", "CAVIAR4REID", "CUHK", "GRID", "i-LID", "MIT", "PRID", "SARC3D", "TownCentre", "VIPeR")
WHAT, TABLE = "PETA folder", "PETA table"
LAYOUT = "PETA dataset/<subset>/archive/ with images and Label.txt, or images/00001.png ... with PETA.mat"
NUMBERED = re.compile(r"0*([1-9][0-9]{0,8})\.\w+")
OTHER_SPELLINGS = {"footwearSneakers": "footwearSneaker"}  # Label.txt has Sneakers, ReadMe and PETA.mat have Sneaker
NO_ATTRIBUTES = {"accessoryFaceMask", "lowerBodyLogo", "accessoryShawl"}  # in Label.txt, but not among the 105
SIDES = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Subset:
    """The folder of one subset: images in order of name, and the labels of Label.txt by key."""

    name: str
    folder: Path
    images: tuple[str, ...]
    labels: Mapping[str, frozenset[str]]

    def key(self, image: str) -> str:
        """The key of an image in Label.txt: its name (CUHK), its person folder, or its name up to the first `_`."""
        if self.name == "CUHK" or image in self.labels:
            return image
        if "/" in image:
            return image.split("/", 1)[0]
        return image.split("_", 1)[0] if "_" in image else os.path.splitext(image)[0]


@dataclass(frozen=True, slots=True)
class PetaTable:
    """PETA.mat: `people` (N,) int64 number the people, `subset` (N,) int64 counts `SUBSETS` from 1, `labels` (N, 105)
    uint8 has the columns of `ATTRIBUTES`, `partitions` are row indices from 0, `evaluated` are columns."""

    people: np.ndarray
    subset: np.ndarray
    labels: np.ndarray
    partitions: tuple[dict[str, np.ndarray], ...]
    evaluated: tuple[int, ...]


def read(root: Path, name: str) -> AttributeDataset:
    """All images with a label, subset after subset, by name without regard to case: the order of PETA.mat, which has
    the partitions and its own list of the evaluated attributes. If it lists other images than the folders contain, the
    partitions are left out with a note. Raises `BadData` when there are no images, `BadRows` for unknown attributes and
    for every image whose labels in Label.txt and in PETA.mat differ."""
    base = find(root)
    if base is None:
        raise BadData(WHAT, root, why=files.why_missing(root, "<subset>/archive"), remedy=f"Expected {LAYOUT}")
    table_path = find_table(root, base)
    if table_path and not _has_subset(base):
        return _read_processed(table_path, base, name)
    paths, rows, people, unlabelled = [], [], [], []
    number_of: dict[tuple[str, str], int] = {}
    notes: tuple[str, ...] = ()
    ignored = list(filter(files.is_system_folder, list_folder(base, system=True)[1]))
    for subset in read_subsets(base):
        ignored += [f"{subset.name}/{folder}" for folder in files.image_folders(subset.folder)[1]]
        notes += files.copies_note({subset.name: subset.images})
        for image in subset.images:
            key = subset.key(image)
            if key not in subset.labels:
                unlabelled.append(f"{subset.name}/{image}")
                continue
            paths.append(subset.folder / image)
            rows.append([attribute in subset.labels[key] for attribute in ATTRIBUTES])
            people.append(number_of.setdefault((subset.name, key), len(number_of)))
    if not paths:
        why = f"none of its {len(unlabelled)} images has a label" if unlabelled else files.why_empty(base)
        raise BadData(WHAT, base, why=why, remedy=f"Expected {LAYOUT}")
    labels, person_ids = np.array(rows, dtype=np.uint8), np.array(people, dtype=np.int64)
    notes += files.note("folders", ignored, files.IGNORED)
    notes += files.note("images", unlabelled, "without a label left out")
    partitions: tuple[dict[str, np.ndarray], ...] = ()
    evaluated = tuple(map(ATTRIBUTES.index, USUAL_35))
    if table_path:
        table = read_peta_mat(table_path)
        evaluated = table.evaluated
        subsets = [subset for subset, _ in number_of]  # of each person
        if [subsets[person] for person in people] == [SUBSETS[number - 1] for number in table.subset]:
            _compare(table_path, table.labels, labels, paths)
            partitions = table.partitions
        else:
            counts = f"{len(table.subset)} images there, {len(paths)} here"
            notes += (f"the partitions of {table_path.name} do not fit these images ({counts}) and are not used",)
    return AttributeDataset(name, tuple(paths), person_ids, labels, ATTRIBUTES, partitions, evaluated, notes)


def _read_processed(table_path: Path, base: Path, name: str) -> AttributeDataset:
    """The images `images/00001.png` ..., each with the row of PETA.mat that its name counts from 1."""
    table, folder = read_peta_mat(table_path), base.absolute()
    images: dict[int, str] = {}
    bad, total = [], len(table.labels)
    for image in list_folder(folder)[0]:
        number = int(match[1]) if (match := NUMBERED.fullmatch(image)) else 0
        if not 1 <= number <= total or images.setdefault(number - 1, image) != image:
            bad.append(image)
    if bad:
        why = f"names that are not one number each from 1 to {total}, the rows of {table_path.name}"
        raise BadRows(WHAT, folder, why=why, rows=bad)
    rows = np.array(sorted(images))
    paths, absent = tuple(folder / images[row] for row in sorted(images)), total - len(rows)
    why = f"{absent} of the {total} images in {table_path.name} are not here, so its partitions are not used"
    return AttributeDataset(
        name, paths, table.people[rows], table.labels[rows], ATTRIBUTES, () if absent else table.partitions,
        table.evaluated, (why,) if absent else (),
    )  # fmt: skip


def find(root: Path) -> Path | None:
    """The folder of the subsets: the first, up to three levels down, with a subfolder that has an `archive`; else the
    one of numbered images, if PETA.mat is there."""

    def has_numbered(folder: Path) -> bool:
        return any(map(NUMBERED.fullmatch, list_folder(folder)[0][:3])) and find_table(root, folder) is not None

    return files.find_folder(root, _has_subset) or files.find_folder(root, has_numbered)


def _has_subset(folder: Path) -> bool:
    known = any((folder / subset / "archive").is_dir() for subset in SUBSETS)
    return known or any(_archive(folder / name) for name in list_folder(folder)[1])


def _archive(subset: Path) -> Path | None:
    """The folder of a subset's images: `archive`, also one folder deeper than it should be, or the subset itself."""
    inner = subset / subset.name / "archive"
    places = (subset / "archive", subset / "archive" / "archive", inner, subset)
    return next((place for place in places if place.is_dir() and _named(place, "label.txt")), None)


def find_table(root: Path, base: Path) -> Path | None:
    """PETA.mat next to the subsets, up to two levels above them, or anywhere in the data set's folder."""
    elsewhere = files.find_folder(root, lambda folder: _named(folder, "peta.mat") is not None) or root
    places = (base, base.parent, base.parent.parent, elsewhere)
    return next(filter(None, (_named(folder, "peta.mat") for folder in places)), None)


def _named(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder, in letters of any case."""
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() == name and path.is_file()), None)


def read_subsets(base: Path) -> list[Subset]:
    """The subsets below `base`, the ten of PETA in its order and then others by name. Raises `BadRows` with every
    unknown attribute and every key that has two different lines."""
    names = [name for name in list_folder(base)[1] if _archive(base / name) or (base / name / "archive").is_dir()]
    order = {name: place for place, name in enumerate(SUBSETS)}
    subsets: list[Subset] = []
    bad: list[str] = []
    for name in sorted(names, key=lambda name: (order.get(name, len(order)), name)):
        folder = (_archive(base / name) or base / name / "archive").absolute()
        own = [f"{person}/{image}" for person, names in files.image_folders(folder)[0].items() for image in names]
        images = sorted(list_folder(folder)[0] + own, key=lambda image: (image.lower(), image))
        labels_file = _named(folder, "label.txt") or folder / "Label.txt"
        where = str(labels_file.relative_to(base.absolute()))
        labels = parse_labels(files.read_text(labels_file, "PETA labels"), where, bad)
        subsets.append(Subset(name, folder, tuple(images), labels))
    if bad:
        raise BadRows("PETA labels", base, why="lines that cannot be read", rows=bad)
    return subsets


def parse_labels(text: str, where: str, bad: list[str]) -> dict[str, frozenset[str]]:
    """Key -> attributes, in the spelling of `ATTRIBUTES`; faults are added to `bad`."""
    known = set(ATTRIBUTES)
    labels: dict[str, frozenset[str]] = {}
    # only \n ends a line: splitlines() would also cut at odd characters of files that are not UTF-8
    for number, line in enumerate(text.split("\n"), start=1):
        key, *tokens = line.split() or [""]
        if not key:
            continue
        attributes = {OTHER_SPELLINGS.get(token, token) for token in tokens} - NO_ATTRIBUTES
        if unknown := sorted(attributes - known):
            bad.append(f"{where} line {number}: {', '.join(map(ascii, unknown))} is no attribute")
        if labels.setdefault(key, frozenset(attributes & known)) != attributes & known:
            bad.append(f"{where} line {number}: {key!a} has other attributes on an earlier line")
    return labels


def read_peta_mat(path: Path) -> PetaTable:
    """`PETA.mat`: struct `peta` with `data`, `attribute`, `selected_attribute`, `partion_attribute` (sic), which may be
    absent. Raises `BadData` when a field is missing, has another shape, or holds impossible values."""

    def refuse(why: str) -> BadData:
        return BadData(TABLE, path, why=why, remedy="Take PETA.mat from the archive of PETA, or move it elsewhere")

    try:
        peta = read_matlab(path, "peta", TABLE)
        # SciPy writes a list of texts as rows of one length
        names = [OTHER_SPELLINGS.get(name.rstrip(), name.rstrip()) for name in peta["attribute"]]
        data, selected = (whole_numbers(peta[field], path, field, TABLE) for field in ("data", "selected_attribute"))
        cells = peta.get("partion_attribute", peta.get("partition_attribute", []))
        partitions = [
            {side: whole_numbers(cell[side], path, f"partition {number} {side}", TABLE) - 1 for side in SIDES}
            for number, cell in enumerate([cells] if isinstance(cells, dict) else cells, start=1)
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise refuse(f"the struct peta lacks a field ({error})") from error
    if sorted(names) != sorted(ATTRIBUTES):
        raise refuse(f"its {len(names)} attributes are not the 105 ({listing(names, 5)})")
    if data.ndim != 2 or data.shape[1] != 4 + len(names):
        raise refuse(f"data has the shape {data.shape}, not (images, 109)")
    subset, labels = data[:, 2], data[:, [4 + names.index(attribute) for attribute in ATTRIBUTES]]
    if not np.isin(labels, (0, 1)).all() or not np.isin(subset, np.arange(1, len(SUBSETS) + 1)).all():
        raise refuse("data holds labels that are neither 0 nor 1, or subsets that are not 1 to 10")
    if not np.isin(selected, np.arange(5, 5 + len(names))).all() or len(set(selected)) < len(selected):
        raise refuse("selected_attribute does not list columns of data")
    for number, sides in enumerate(partitions, start=1):
        if not np.array_equal(np.sort(np.concatenate(list(sides.values()))), np.arange(len(data))):
            raise refuse(f"partition {number} does not hold every image once")
    evaluated = tuple(ATTRIBUTES.index(names[column - 5]) for column in selected)
    return PetaTable(data[:, 1], subset, labels.astype(np.uint8), tuple(partitions), evaluated)


def _compare(path: Path, table: np.ndarray, labels: np.ndarray, paths: list[Path]) -> None:
    """Raise `BadRows` unless the (N, 105) labels of PETA.mat and of Label.txt are the same in every row."""
    rows = [
        f"image {row + 1} {paths[row].parent.parent.name}/{paths[row].name}: "
        + ", ".join(ATTRIBUTES[column] for column in np.flatnonzero(table[row] != labels[row]))
        for row in np.flatnonzero((table != labels).any(axis=1)).tolist()
    ]
    if rows:
        raise BadRows(TABLE, path, why="its labels are not those of the Label.txt files", rows=rows)


def extra_counts(root: Path) -> dict[str, int]:
    """Labels without images and images without a label, for `amem data check`."""
    base = find(root)
    if base is None or not _has_subset(base):
        return {"images_without_labels": 0}
    counts = {"labels_without_images": 0, "images_without_labels": 0}
    for subset in read_subsets(base):
        keys = {subset.key(image) for image in subset.images}
        counts["labels_without_images"] += len(set(subset.labels) - keys)
        counts["images_without_labels"] += sum(subset.key(image) not in subset.labels for image in subset.images)
    return counts
