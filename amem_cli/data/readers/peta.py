"""PETA (Deng et al., ACM MM 2014): 19,000 images of ten data sets with 105 binary attributes.

`PETA dataset/<subset>/archive/` holds images and `Label.txt`, whose lines are `<key> attribute attribute ...`. The key
is the image's name up to the first `_`; in CUHK, where every image is a person, it is the whole file name. `PETA.mat`
has the same labels in another order and five random partitions.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.attributes import ATTRIBUTES
from amem_cli.data.readers.files import BadRows, find_folder, list_folder, read_text, whole_numbers
from amem_cli.data.readers.matlab import read_matlab
from amem_cli.data.tracklets import AttributeDataset
from amem_cli.errors import BadData, listing

SUBSETS = ("3DPeS", "CAVIAR4REID", "CUHK", "GRID", "MIT", "PRID", "SARC3D", "TownCentre", "VIPeR", "i-LID")
LAYOUT = "PETA dataset/<subset>/archive/ with images and Label.txt"
OTHER_SPELLINGS = {"footwearSneakers": "footwearSneaker"}  # Label.txt says Sneakers, ReadMe and PETA.mat Sneaker
NO_ATTRIBUTES = {"accessoryFaceMask", "lowerBodyLogo", "accessoryShawl"}  # in Label.txt, but not among the 105
# The usual 35: those with positives in more than one of twenty images.
EVALUATED = (
    "accessoryHat", "accessoryMuffler", "accessoryNothing", "accessorySunglasses", "hairLong", "upperBodyCasual",
    "upperBodyFormal", "upperBodyJacket", "upperBodyLogo", "upperBodyPlaid", "upperBodyShortSleeve",
    "upperBodyThinStripes", "upperBodyTshirt", "upperBodyOther", "upperBodyVNeck", "lowerBodyCasual",
    "lowerBodyFormal", "lowerBodyJeans", "lowerBodyShorts", "lowerBodyShortSkirt", "lowerBodyTrousers",
    "footwearLeatherShoes", "footwearSandals", "footwearShoes", "footwearSneaker", "carryingBackpack",
    "carryingOther", "carryingMessengerBag", "carryingNothing", "carryingPlasticBags", "personalLess30",
    "personalLess45", "personalLess60", "personalLarger60", "personalMale",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subset:
    """One subset as its folder has it: images in order of name, and the labels of Label.txt by key."""

    name: str
    folder: Path
    images: tuple[str, ...]
    labels: Mapping[str, frozenset[str]]

    def key(self, image: str) -> str:
        """The key in Label.txt of an image: its whole name (CUHK), or the name up to the first `_`."""
        if self.name == "CUHK" or image in self.labels:
            return image
        return image.split("_", 1)[0] if "_" in image else os.path.splitext(image)[0]


@dataclass(frozen=True, slots=True)
class PetaTable:
    """What PETA.mat holds: `subset` (N,) int64 from 1, `labels` (N, 105) uint8 with columns as in `ATTRIBUTES`, the
    `partitions` as row indices from 0, and `evaluated`, column indices into `ATTRIBUTES`."""

    subset: np.ndarray
    labels: np.ndarray
    partitions: tuple[dict[str, np.ndarray], ...]
    evaluated: tuple[int, ...]


def read(root: Path, name: str) -> AttributeDataset:
    """All images that have a label, subset after subset, by name without regard to case: the order of PETA.mat.

    The partitions and the evaluated attributes come from PETA.mat when it is there and lists as many images of each
    subset as the folders hold; in a part of PETA its rows cannot be told apart, so it is left alone and that is noted.
    Raises `BadData` when there are no images, `BadRows` for labels that are no attributes and for every image whose
    labels in Label.txt and in PETA.mat differ.
    """
    base = find(root)
    if base is None:
        raise BadData("PETA folder", root, why="it holds no <subset>/archive", remedy=f"Expected {LAYOUT}")
    subsets = read_subsets(base)
    paths, rows, people, number_of = [], [], [], {}
    unlabelled: list[str] = []
    position = {attribute: column for column, attribute in enumerate(ATTRIBUTES)}
    for subset in subsets:
        for image in subset.images:
            key = subset.key(image)
            if key not in subset.labels:
                unlabelled.append(f"{subset.name}/{image}")
                continue
            row = np.zeros(len(ATTRIBUTES), dtype=np.uint8)
            row[[position[attribute] for attribute in subset.labels[key]]] = 1
            paths.append(subset.folder / image)
            rows.append(row)
            people.append(number_of.setdefault((subset.name, key), len(number_of)))
    if not paths:
        why = f"none of its {len(unlabelled)} images has a label" if unlabelled else "it holds no images"
        raise BadData("PETA folder", base, why=why, remedy=f"Expected {LAYOUT}")
    labels = np.stack(rows)
    notes = (f"{len(unlabelled)} images without a label left out: {listing(unlabelled, 5)}",) if unlabelled else ()
    partitions: tuple[dict[str, np.ndarray], ...] = ()
    evaluated = tuple(position[attribute] for attribute in EVALUATED)
    table_path = find_table(root, base)
    if table_path is not None:
        table = read_peta_mat(table_path)
        evaluated = table.evaluated
        counts = {subset.name: len(subset.images) for subset in subsets}
        expected = {subset: int((table.subset == number).sum()) for number, subset in enumerate(SUBSETS, start=1)}
        different = [
            f"{subset} {counts.get(subset, 0)} of {expected.get(subset, 0)}"
            for subset in (*SUBSETS, *sorted(set(counts) - set(SUBSETS)))
            if counts.get(subset, 0) != expected.get(subset, 0)
        ]
        if different or unlabelled:
            shown = listing(different, 10) or f"{len(unlabelled)} without a label"
            notes += (f"the partitions of {table_path.name} do not fit these images ({shown}) and are not used",)
        else:
            _compare(table_path, table.labels, labels, paths)
            partitions = table.partitions
    return AttributeDataset(
        name, tuple(paths), np.array(people, dtype=np.int64), labels, ATTRIBUTES, partitions, evaluated, notes
    )


def find(root: Path) -> Path | None:
    """The folder of the subsets: the first, at most three levels down, with a subfolder that has an `archive`."""

    def has_subset(folder: Path) -> bool:
        if any((folder / subset / "archive").is_dir() for subset in SUBSETS):
            return True
        return any((folder / name / "archive" / "Label.txt").is_file() for name in list_folder(folder)[1])

    return find_folder(root, has_subset)


def find_table(root: Path, base: Path) -> Path | None:
    """PETA.mat beside the subsets, up to two levels above them, or in the data set's root."""
    places = (base, base.parent, base.parent.parent, root)
    return next((place / "PETA.mat" for place in places if (place / "PETA.mat").is_file()), None)


def read_subsets(base: Path) -> list[Subset]:
    """The subsets below `base`, the ten of PETA in its order and then others by name.

    Raises `BadRows` with every label that is no attribute and every key that has two different lines.
    """
    there = [name for name in list_folder(base)[1] if (base / name / "archive").is_dir()]
    ordered = [name for name in SUBSETS if name in there] + [name for name in there if name not in SUBSETS]
    subsets, bad = [], []
    for name in ordered:
        folder = (base / name / "archive").absolute()
        images = sorted(list_folder(folder)[0], key=lambda image: (image.lower(), image))
        labels = parse_labels(read_text(folder / "Label.txt", "PETA labels"), f"{name}/archive/Label.txt", bad)
        subsets.append(Subset(name, folder, tuple(images), labels))
    if bad:
        raise BadRows("PETA labels", base, why="lines that cannot be read", rows=bad)
    return subsets


def parse_labels(text: str, where: str, bad: list[str]) -> dict[str, frozenset[str]]:
    """Key -> attributes, in the spelling of `ATTRIBUTES`; what is wrong is added to `bad`."""
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
    """`PETA.mat`: struct `peta` with `data`, `attribute`, `selected_attribute`, `partion_attribute` (sic).

    Raises `BadData` when a field is missing, of another shape, or holds values that cannot be.
    """
    what = "PETA table"
    peta = read_matlab(path, "peta", what)
    fields = ("data", "attribute", "selected_attribute", "partion_attribute")
    missing = [field for field in fields if not isinstance(peta, dict) or field not in peta]
    if missing:
        raise BadData(what, path, why=f"the struct peta lacks {', '.join(missing)}")

    data = whole_numbers(peta["data"], path, "data", what)
    names = [str(name) for name in np.atleast_1d(np.asarray(peta["attribute"], dtype=object)).ravel()]
    names = [OTHER_SPELLINGS.get(name, name) for name in names]
    if sorted(names) != sorted(ATTRIBUTES):
        unknown = sorted(set(names) - set(ATTRIBUTES))
        lacking = sorted(set(ATTRIBUTES) - set(names))
        why = f"its {len(names)} attributes are not the 105 (unknown: {listing(unknown, 5) or 'none'}; "
        raise BadData(what, path, why=f"{why}missing: {listing(lacking, 5) or 'none'})")
    if data.ndim != 2 or data.shape[1] != 4 + len(names):
        raise BadData(what, path, why=f"data has the shape {data.shape}, not (images, 109)")
    number, subset, labels = data[:, 0], data[:, 2], data[:, 4:]
    if not np.array_equal(number, np.arange(1, len(data) + 1)):
        raise BadData(what, path, why="the images are not numbered 1, 2, ... in the first column of data")
    if not np.isin(labels, (0, 1)).all():
        raise BadData(what, path, why="data holds labels that are neither 0 nor 1")
    if not (np.isin(subset, np.arange(1, len(SUBSETS) + 1)).all() and np.all(np.diff(subset) >= 0)):
        raise BadData(what, path, why="the third column of data is not the subset, 1 to 10 in order")
    column_of = {name: column for column, name in enumerate(names)}
    ordered = labels[:, [column_of[name] for name in ATTRIBUTES]].astype(np.uint8)

    selected = whole_numbers(peta["selected_attribute"], path, "selected_attribute", what).ravel()
    if not ((selected >= 5) & (selected <= 4 + len(names))).all() or len(np.unique(selected)) < len(selected):
        raise BadData(what, path, why="selected_attribute does not list columns of data")
    evaluated = tuple(ATTRIBUTES.index(names[column - 5]) for column in selected.tolist())
    return PetaTable(subset, ordered, _partitions(peta["partion_attribute"], len(data), path), evaluated)


def _partitions(cells: Any, images: int, path: Path) -> tuple[dict[str, np.ndarray], ...]:
    """Row indices from 0 of each partition's train, val and test, which together are all images once."""
    what = "PETA table"
    if isinstance(cells, dict):
        cells = [cells]
    partitions = []
    for number, cell in enumerate(np.asarray(cells, dtype=object).ravel()):
        if not isinstance(cell, dict) or not {"train", "val", "test"} <= set(cell):
            raise BadData(what, path, why=f"partition {number + 1} has no train, val and test")
        parts = {
            part: whole_numbers(cell[part], path, f"partition {number + 1} {part}", what).ravel() - 1
            for part in ("train", "val", "test")
        }
        if not np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(images)):
            raise BadData(what, path, why=f"partition {number + 1} does not hold every image once")
        partitions.append(parts)
    return tuple(partitions)


def _compare(path: Path, table: np.ndarray, labels: np.ndarray, paths: Sequence[Path]) -> None:
    """Raise `BadRows` unless the (N, 105) labels of PETA.mat and of Label.txt are the same in every row."""
    different = np.flatnonzero((table != labels).any(axis=1))
    if len(different):
        rows = [
            f"image {row + 1} {paths[row].parent.parent.name}/{paths[row].name}: "
            + ", ".join(ATTRIBUTES[column] for column in np.flatnonzero(table[row] != labels[row]))
            for row in different.tolist()
        ]
        raise BadRows("PETA table", path, why="its labels are not those of the Label.txt files", rows=rows)


def extra_counts(root: Path) -> dict[str, int]:
    """Images of each subset, labels without images and images without label, for `amem data check`."""
    base = find(root)
    if base is None:
        return {}
    counts: dict[str, int] = {}
    labels_without, images_without = 0, 0
    for subset in read_subsets(base):
        keys = {subset.key(image) for image in subset.images}
        counts[f"images_in_{re.sub(r'[^A-Za-z0-9]', '_', subset.name)}"] = len(subset.images)
        labels_without += len(set(subset.labels) - keys)
        images_without += sum(subset.key(image) not in subset.labels for image in subset.images)
    return {**counts, "labels_without_images": labels_without, "images_without_labels": images_without}
