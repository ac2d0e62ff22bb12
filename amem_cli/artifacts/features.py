"""The features file: one f_s per tracklet. Files of other programs in this format can be evaluated too."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import hdf5
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, listing

KIND = "amem-features"
COLUMNS: hdf5.Columns = {
    "tracklet": ("str", 1),
    "person_id": ("int64", 1),
    "camera_id": ("int64", 1),
    "is_query": ("bool", 1),
    "features": ("float32", 2),
}
FLIPPED: hdf5.Columns = {"features_flip": ("float32", 2)}


@dataclass(frozen=True)
class Features:
    """One row per tracklet: `features` (N, D) float32 of unit length, `is_query` (N,) bool.

    `features_flip` (N, D) is averaged over the clips and their mirror images; None without `--flip`.
    """

    dataset: str
    tracklet: list[str]
    person_id: np.ndarray
    camera_id: np.ndarray
    is_query: np.ndarray
    features: np.ndarray
    provenance: dict[str, Any]
    features_flip: np.ndarray | None = None


def write(path: Path, features: Features, provenance: Provenance) -> Path:
    """Write the features file."""
    columns = COLUMNS if features.features_flip is None else COLUMNS | FLIPPED
    return hdf5.write(path, KIND, features, columns, provenance)


def read(path: Path, *, remedy: str = "Run: amem extract-features") -> Features:
    """Read a features file; raises `BadData` for rows that are not of unit length, and like `hdf5.read`."""
    attributes, columns = hdf5.read(path, KIND, COLUMNS, remedy=remedy, optional=FLIPPED)
    for name in ("features", "features_flip"):
        with np.errstate(over="ignore"):
            lengths = np.linalg.norm(columns.get(name, columns["features"]), axis=1)
        if len(off := np.flatnonzero(np.abs(lengths - 1) > 1e-3)):
            why = f"'{name}' has rows that are not L2-normalised: {listing(map(str, off))}"
            raise BadData(KIND, path, why=why, remedy="Divide each row by its norm")
    if len(set(columns["tracklet"])) != len(columns["tracklet"]):
        raise BadData(KIND, path, why="has several rows of one tracklet", remedy=remedy)
    return Features(str(attributes["dataset"]), provenance=attributes["provenance"], **columns)
