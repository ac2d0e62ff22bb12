"""The pseudo attribute labels of a data set's tracklets (paper, section AEM: temporal mean, threshold 0.5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import hdf5
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, listing

KIND = "amem-pseudo-labels"
COLUMNS: hdf5.Columns = {
    "tracklet": ("str", 1),
    "camera_id": ("int64", 1),
    "frames": ("int64", 1),
    "probabilities": ("float32", 2),
    "labels": ("uint8", 2),
}


@dataclass(frozen=True)
class PseudoLabels:
    """One row per tracklet: `probabilities` (N, A) float32 temporal means in [0, 1], `labels` (N, A) uint8.

    `frames` (N,) int64 counts the averaged frames; `attributes` names the A columns. Tracks without identities have an
    empty `person_id` (0,), which is not in their file.
    """

    dataset: str
    tracklet: list[str]
    person_id: np.ndarray
    camera_id: np.ndarray
    frames: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    attributes: tuple[str, ...]
    threshold: float
    provenance: dict[str, Any]

    def rows_for(self, names: Sequence[str], path: Path, remedy: str) -> np.ndarray:
        """The labels (len(names), A) of the named tracklets; `BadData` lists those without labels."""
        row = {name: index for index, name in enumerate(self.tracklet)}
        missing = [name for name in names if name not in row]
        if missing:
            why = f"does not cover {len(missing)} of {len(names)} training tracklets ({listing(missing, 5)})"
            raise BadData("pseudo-labels", path, why=why, remedy=remedy)
        return self.labels[[row[name] for name in names]]


def write(path: Path, labels: PseudoLabels, provenance: Provenance) -> Path:
    """Write the labels file."""
    extra = {"attributes": list(labels.attributes), "threshold": labels.threshold}
    columns = COLUMNS | (hdf5.PEOPLE if len(labels.person_id) == len(labels.tracklet) else {})
    return hdf5.write(path, KIND, labels, columns, provenance, **extra)


def read(path: Path, *, remedy: str = "amem label-videos writes such a file") -> PseudoLabels:
    """Read a labels file. Raises `BadData` if columns and attributes contradict each other, and like `hdf5.read`."""
    attributes, columns = hdf5.read(path, KIND, COLUMNS, remedy=remedy, optional=hdf5.PEOPLE)
    columns.setdefault("person_id", np.zeros(0, np.int64))
    try:
        names, threshold = tuple(map(str, attributes["attributes"])), float(attributes["threshold"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(KIND, path, why=f"lacks 'attributes' or 'threshold' ({error})", remedy=remedy) from error
    rest = {"attributes": names, "threshold": threshold, "provenance": attributes["provenance"]}
    labels = PseudoLabels(str(attributes["dataset"]), **columns, **rest)
    widths = {labels.probabilities.shape[1], labels.labels.shape[1], len(names)}
    if len(widths) > 1 or labels.labels.max(initial=0) > 1 or len(set(labels.tracklet)) != len(labels.tracklet):
        raise BadData(KIND, path, why="columns, attribute names or tracklets do not fit together", remedy=remedy)
    if labels.probabilities.size and not 0 <= labels.probabilities.min() <= labels.probabilities.max() <= 1:
        raise BadData(KIND, path, why="'probabilities' outside [0, 1]", remedy=remedy)
    return labels
