"""The features file: one f_s per tracklet. Files of other programs in this format can be evaluated too."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import hdf5
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, listing
from amem_cli.option_values import MOST_PARTS

KIND = "amem-features"
WRITERS = "amem extract-features and amem features convert write such a file"
BLOCK_ROWS = 16384
COLUMNS: hdf5.Columns = {
    "tracklet": ("str", 1),
    "camera_id": ("int64", 1),
    "is_query": ("bool", 1),
    "features": ("float32", 2),
}
FLIPPED: hdf5.Columns = {"features_flip": ("float32", 2)}
GENERATED_PEOPLE = "generated"
FEW_TRACKLETS = 8  # of a camera that is adapted to: fewer say more about these people than about the camera
SEEN: hdf5.Columns = {"camera": ("str", 1), "first_seconds": ("float64", 1), "last_seconds": ("float64", 1)}


def few_tracklets(cameras: Sequence[str | int]) -> str:
    """A warning that names the cameras with too few tracklets for statistics of their own; empty if there are none.
    `cameras` has that of each tracklet."""
    counts = sorted(Counter(cameras).items())
    few = [f"camera {camera}: {count}" for camera, count in counts if count < FEW_TRACKLETS]
    why = f"--adapt-cameras: fewer than {FEW_TRACKLETS} tracklets say little about a camera ({listing(few)})"
    return f"{why}. Features that are not adapted may be better" if few else ""


@dataclass(frozen=True)
class Extraction:
    """The options of `extract-features` that distances depend on, besides the model and the size of its images."""

    adapt_cameras: bool = False
    parts: int = 1

    def __str__(self) -> str:
        """As flags.

        >>> str(Extraction(True, 4)), str(Extraction())
        ('--adapt-cameras --parts 4', 'the defaults')
        """
        flags = ["--adapt-cameras"] * self.adapt_cameras + [f"--parts {self.parts}"] * (self.parts > 1)
        return " ".join(flags) or "the defaults"

    @classmethod
    def of(cls, recorded: dict[str, Any]) -> "Extraction":
        """What a file has recorded; the default for values that the options cannot have."""
        parts = recorded.get("parts")
        if type(parts) is not int or not 1 <= parts <= MOST_PARTS:
            parts = 1
        return cls(recorded.get("adapt_cameras") is True, parts)


@dataclass(frozen=True)
class Features:
    """One row per tracklet: `features` (N, D) float32 of unit length, `is_query` (N,) bool.

    `features_flip` (N, D) is averaged over the clips and their mirror images; None without `--flip`. Tracks without
    identities have an empty `person_id` (0,), which is not in their file, and, if known, the name of the `camera`, the
    times `first_seconds` and `last_seconds` (N,) in its video, and the `folder` of their images.
    """

    dataset: str
    tracklet: list[str]
    person_id: np.ndarray
    camera_id: np.ndarray
    is_query: np.ndarray
    features: np.ndarray
    provenance: dict[str, Any]
    features_flip: np.ndarray | None = None
    camera: list[str] | None = None
    first_seconds: np.ndarray | None = None
    last_seconds: np.ndarray | None = None
    folder: str = ""

    @property
    def has_people(self) -> bool:
        return len(self.person_id) == len(self.tracklet)

    def model(self, what: str) -> str:
        """Of the model that made the features "name", "sha256", "dataset", "people" (generated), "epoch" (best),
        "mirror" (on) or "training" (JSON: its options, and the SHA-256 of its parents, by name); empty if unknown."""
        parents = self.provenance.get("parents", {})
        value = parents.get("amem-main", parents.get("amem-arm", {})).get(what)
        return value if isinstance(value, str) else ""

    @property
    def training(self) -> dict[str, Any]:
        """The options of the model's training and the SHA-256 of its parents, by name; empty if unknown."""
        try:
            found = json.loads(self.model("training") or "{}")
        except ValueError:
            found = {}
        return found if isinstance(found, dict) else {}

    @property
    def image_size(self) -> str:
        """The size of the images that the model was given, as in "256x128"; empty if unknown."""
        value = str(self.provenance.get("options", {}).get("image_size"))
        return value if re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", value) else ""

    @property
    def extraction(self) -> Extraction:
        """How they were extracted, as far as distances depend on it."""
        return Extraction.of(self.provenance.get("options", {}))


def write(path: Path, features: Features, provenance: Provenance) -> Path:
    """Write the features file."""
    columns = COLUMNS | {name: spec for name, spec in (FLIPPED | SEEN).items() if getattr(features, name) is not None}
    columns |= hdf5.PEOPLE if features.has_people else {}
    more = {"folder": features.folder} if features.folder else {}
    return hdf5.write(path, KIND, features, columns, provenance, **more)


def read(path: Path, *, remedy: str = WRITERS, people: bool = True) -> Features:
    """Read a features file; `features` and `features_flip` are memory maps of it where it has them as float32.

    Raises `BadData` for rows that are not of unit length, and like `hdf5.read`; with `people` also for a file without
    `person_id` and for a repeated tracklet.
    """
    if path.suffix.lower() in (".npz", ".npy", ".mat", ".pt", ".pth", ".parquet"):
        remedy = f"Run: {shlex.join(['amem', 'features', 'convert', str(path), str(path.with_suffix('.h5'))])}"
        raise BadData(KIND, path, why="it is not an HDF5 file", remedy=remedy)
    optional = hdf5.PEOPLE | SEEN | FLIPPED
    attributes, columns = hdf5.read(path, KIND, COLUMNS, remedy=remedy, optional=optional, mapped=True)
    if people and "person_id" not in columns:
        why = "it has no person_id, so its tracks have no identities"
        raise BadData(KIND, path, why=why, remedy="Use amem search or amem link, or label the people")
    columns.setdefault("person_id", np.zeros(0, np.int64))
    for name in [name for name in ("features", "features_flip") if name in columns]:
        off: list[int] = []
        for start in range(0, len(columns[name]), BLOCK_ROWS):
            block = columns[name][start : start + BLOCK_ROWS]
            with np.errstate(over="ignore", invalid="ignore"):
                lengths = np.sqrt(np.einsum("nd,nd->n", block, block))
            off += (start + np.flatnonzero(~(np.abs(lengths - 1) <= 1e-3))).tolist()
        if off:
            why = f"'{name}' has rows that are not L2-normalised: {listing(map(str, off))}"
            raise BadData(KIND, path, why=why, remedy="Divide each row by its norm")
    counts = Counter(columns["tracklet"] if people else ())
    if repeated := [name for name, times in counts.items() if times > 1]:
        raise BadData(KIND, path, why=f"has several rows of one tracklet: {listing(repeated, 3)}", remedy=remedy)
    folder = str(attributes.get("folder", ""))
    return Features(str(attributes["dataset"]), provenance=attributes["provenance"], folder=folder, **columns)
