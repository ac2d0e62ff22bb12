"""The features file: one f_s per tracklet. A file made by any other model in this form can be evaluated too."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import hdf5
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, listing

KIND = "amem-features"


@dataclass(frozen=True)
class Features:
    """One row per tracklet: `features` (N, D) float32 of unit length, `is_query` (N,) bool.

    `features_flip` (N, D) are the same averaged over mirrored clips too, where they were asked for.
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
    """Write the features file; see the contract in the README for its fields."""
    columns = {
        "tracklet": features.tracklet,
        "person_id": features.person_id.astype(np.int64),
        "camera_id": features.camera_id.astype(np.int64),
        "is_query": features.is_query.astype(np.bool_),
        "features": features.features.astype(np.float32),
    }
    if features.features_flip is not None:
        columns["features_flip"] = features.features_flip.astype(np.float32)
    return hdf5.write(path, KIND, features.dataset, columns, provenance)


def read(path: Path, *, remedy: str = "Run: amem extract-features") -> Features:
    """Read and check a features file; rows that are not of unit length are `BadData`."""
    wanted = {
        "tracklet": ("str", 1),
        "person_id": ("int64", 1),
        "camera_id": ("int64", 1),
        "is_query": ("bool", 1),
        "features": ("float32", 2),
    }
    table = hdf5.Table(path, KIND, wanted, remedy=remedy, optional={"features_flip": ("float32", 2)})
    features = Features(dataset=table.dataset, provenance=table.provenance, **table.columns)
    for name in ("features", "features_flip"):
        rows = getattr(features, name)
        if rows is None:
            continue
        with np.errstate(over="ignore"):
            off = np.flatnonzero(np.abs(np.linalg.norm(rows, axis=1) - 1) > 1e-3)
        if len(off):
            why = f"'{name}' has rows that are not L2-normalised: {listing(str(row) for row in off)}"
            raise BadData(KIND, path, why=why, remedy="Divide each row by its norm")
    if len(set(features.tracklet)) != len(features.tracklet):
        raise BadData(KIND, path, why="has rows of the same tracklet")
    return features
