"""Features files as one gallery: memory-mapped rows, their cameras and times, exact nearest neighbours."""

import itertools
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from amem_cli.artifacts import features, results
from amem_cli.artifacts.features import FEW_TRACKLETS, Extraction
from amem_cli.errors import BadData, UsageError, did_you_mean, listing
from amem_cli.metrics.calibration import Probability
from amem_cli.resolve import folder_flags
from amem_cli.video.options import suggested_features

BLOCK_ROWS = 65536
FEW_PAIRS = 20  # of one person in two cameras: with fewer a rate of true matches is uncertain by more than 20 points


@dataclass(frozen=True)
class Calibration:
    """What a result of `amem evaluate --calibrate` says about distances: the probability, and the threshold below which
    two tracklets are one person. `extraction` is that of the features, `image_size` that of their images, empty if
    unknown; `genuine_pairs` are the pairs of one person, infinite if unknown.
    """

    probability: Probability
    threshold: float
    false_match_rate: float
    name: str
    extraction: Extraction = Extraction()
    image_size: str = ""
    genuine_pairs: float = float("inf")


def read_calibration(
    path: Path, model: str = "", extraction: Extraction | None = None, image_size: str = ""
) -> Calibration:
    """The calibration of a result; `BadData` for a result without one. `UsageError` for one of another model than the
    `model` of this SHA-256 or of images of another size, if both are known, and of features of another `extraction`, if
    it is given."""
    result = results.read(path)
    found = result.get("calibration")
    numbers = ("intercept", "slope", "threshold_squared_distance", "wanted_false_match_rate")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), int | float) for name in numbers):
        home = {"workspace": path.parent.parent} if path.absolute().parent.name == "results" else {}
        remedy = f"amem evaluate --protocol {shlex.quote(result['protocol'])} --calibrate 0.001{folder_flags(**home)}"
        raise BadData("calibration", path, why="this result has none", remedy=f"{remedy} writes one")
    curve = Probability(found["intercept"], found["slope"], found.get("calibration_error"))
    models, size = found.get("models"), found.get("image_size", "")
    recorded = Extraction.of(found.get("extraction", {}))
    why, remedy = "", "Give a result of features that were extracted alike"
    if model and models and model not in models:
        why = "it was measured with another model than the one that is used here"
        remedy = "Evaluate that model with --calibrate 0.001"
    elif extraction not in (None, recorded):
        why = f"its features were extracted with {recorded}, those to compare with {extraction}"
    elif image_size and size and image_size != size:
        why = f"its features are of images of {size} pixels, those to compare of {image_size}"
    if why:
        raise UsageError("--calibration", path, why=why, remedy=remedy)
    pairs = found.get("genuine_pairs", float("inf"))
    return Calibration(curve, found[numbers[2]], found[numbers[3]], path.name, recorded, size, pairs)


class Gallery:
    """The tracklets of several features files, in order. Row i is row `i - starts[k]` of file k.

    Data sets of one name with cameras of one name, as of two `amem find`, become tracks-1, tracks-2. Raises
    `UsageError` when two files have features of different models, image sizes or extractions, and `BadData` for files
    without tracklets.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        self.tables = [features.read(path, people=False, remedy=_remedy(path)) for path in self.paths]
        self._cameras = [one.camera or [str(camera) for camera in one.camera_id.tolist()] for one in self.tables]
        self._doubled = any(set(one) & set(other) for one, other in itertools.combinations(self._cameras, 2))
        self.renamed = self._doubled and len({table.dataset for table in self.tables}) < len(self.tables)
        if self.renamed:
            self.tables = [replace(one, dataset=f"{one.dataset}-{n}") for n, one in enumerate(self.tables, start=1)]
        self.starts = np.cumsum([0, *(len(table.tracklet) for table in self.tables)])
        first = self.tables[0]
        for path, table in zip(self.paths, self.tables, strict=True):
            models = {table.model("sha256"), self.model} - {""}
            if len(models) < 2 and table.extraction != first.extraction:
                why = f"it was extracted with {table.extraction}, {self.paths[0]} with {first.extraction}"
                raise UsageError("features", path, why=why, remedy="Extract both alike")
            if table.features.shape[1] != first.features.shape[1] or len(models) > 1:
                why = "its features are of another model than those before"
                raise UsageError("features", path, why=why, remedy="Extract both with one model")
            if len({table.image_size, self.image_size} - {""}) > 1:
                why = f"its features are of {table.image_size} pixels, those before of {self.image_size}"
                raise UsageError("features", path, why=why, remedy="Extract both with one --image-size")
        if not len(self):
            raise BadData("features", listing(map(str, self.paths), 3), why="it has no tracklets")

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def model(self) -> str:
        """The SHA-256 of the model, empty if the files do not say."""
        return next(filter(None, (table.model("sha256") for table in self.tables)), "")

    @property
    def image_size(self) -> str:
        """The size of the images that the model was given, as in "256x128"; empty if the files do not say."""
        return next((table.image_size for table in self.tables if table.image_size), "")

    @property
    def extraction(self) -> Extraction:
        return self.tables[0].extraction

    @property
    def extracted_with(self) -> list[str]:
        """A line for a reader of the answer, if there is something to say."""
        return [f"features: {self.extraction}"] if self.extraction != Extraction() else []

    @property
    def trained_on(self) -> str:
        """The data set that the model was trained on, empty if the files do not say."""
        return next(filter(None, (table.model("dataset") for table in self.tables)), "")

    @property
    def of_generated_people(self) -> bool:
        """Whether the model was trained on generated people."""
        return any(table.model("people") == features.GENERATED_PEOPLE for table in self.tables)

    @property
    def training(self) -> str:
        """What the model was trained on, as the pages say it; empty if the files do not say."""
        return self.trained_on + " (generated people)" * self.of_generated_people

    def calibration(self, path: Path | None) -> Calibration | None:
        """`read_calibration` for these features; None without a result."""
        return read_calibration(path, self.model, self.extraction, self.image_size) if path else None

    @cached_property
    def tracklets(self) -> list[str]:
        return [name for table in self.tables for name in table.tracklet]

    @cached_property
    def cameras(self) -> list[str]:
        """The names of the cameras, or their numbers where a file has no names; with several files, after their
        data set's name if two of them have a camera of the same name."""
        heads = [f"{table.dataset}:" * self._doubled for table in self.tables]
        return [head + name for head, names in zip(heads, self._cameras, strict=True) for name in names]

    @cached_property
    def seconds(self) -> np.ndarray:
        """(N, 2) first and last presentation time, NaN where a file has none."""
        parts = [
            np.full((len(table.tracklet), 2), np.nan)
            if table.first_seconds is None or table.last_seconds is None
            else np.stack([table.first_seconds, table.last_seconds], axis=1)
            for table in self.tables
        ]
        return np.concatenate(parts)

    @cached_property
    def uncertain(self) -> np.ndarray:
        """(N,) bool: a track of a camera that was adapted to with fewer than `FEW_TRACKLETS` of them, for whose
        distances a calibration does not hold."""
        if not self.extraction.adapt_cameras:
            return np.zeros(len(self), bool)
        counts = Counter(self.cameras)
        return np.array([counts[camera] < FEW_TRACKLETS for camera in self.cameras])

    def doubts(self, calibration: Calibration | None) -> list[str]:
        """What to say about `uncertain` tracks, and about a calibration with few pairs."""
        lines = []
        if self.uncertain.any():
            lines.append(features.few_tracklets(self.cameras))
            lines += ["no probabilities for the tracks of these cameras"] if calibration else []
        if calibration and calibration.genuine_pairs < FEW_PAIRS:
            pairs = f"only {calibration.genuine_pairs:.0f} pairs of one person"
            lines.append(f"the calibration {calibration.name} is of {pairs}: threshold and probabilities are rough")
        return lines

    def file_of(self, row: int) -> int:
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def rows_of(self, name: str) -> list[int]:
        """The rows of the tracklets of this name, or `dataset:name`."""
        return [
            start + row
            for start, table in zip(self.starts[:-1].tolist(), self.tables, strict=True)
            for row, one in enumerate(table.tracklet)
            if name in (one, f"{table.dataset}:{one}")
        ]

    def row_of(self, name: str) -> int:
        """The row of a tracklet, by its name or as `dataset:name`. Raises `UsageError` unless there is exactly one."""
        found = self.rows_of(name)
        if len(found) == 1:
            return found[0]
        if found:
            options = listing(f"{self.tables[self.file_of(row)].dataset}:{name}" for row in found)
            why = f"{len(found)} tracklets have this name"
            raise UsageError("query", name, why=why, remedy=f"Use one of {options}")
        remedy = f"{did_you_mean(name, self.tracklets[:10000])}Name a tracklet, a folder of frames, or a video"
        raise UsageError("query", name, why="no tracklet of the gallery has this name", remedy=remedy)

    def row(self, row: int) -> np.ndarray:
        """The features (D,) of a row."""
        file = self.file_of(row)
        return np.asarray(self.tables[file].features[row - self.starts[file]])

    def nearest(self, queries: np.ndarray, top: int, keep: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The `top` nearest rows of queries (Q, D): rows (Q, k) and squared distances (Q, k), nearest first.

        `keep` (N,) bool leaves rows out. No index is used; equal distances keep the gallery's order, but those of equal
        rows can differ by rounding.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        best = np.full((len(queries), 0), -np.inf, np.float32)
        rows = np.zeros((len(queries), 0), np.int64)
        for start, table in zip(self.starts.tolist(), self.tables, strict=False):
            for begin in range(0, len(table.features), BLOCK_ROWS):
                block = table.features[begin : begin + BLOCK_ROWS]
                at = start + begin
                similarity = queries @ np.asarray(block).T
                if keep is not None and not (kept := keep[at : at + len(block)]).all():
                    similarity[:, ~kept] = -np.inf
                best, rows = _merge(best, rows, similarity, at, top)
        count = min(top, int(keep.sum()) if keep is not None else len(self))
        return rows[:, :count], np.maximum(2 - 2 * best[:, :count].astype(np.float64), 0)


def _remedy(path: Path) -> str:
    """What to do if there is no features file at `path`."""
    suggested = "" if path.is_file() else suggested_features(path if path.is_dir() else path.parent)
    return suggested + features.WRITERS


def _merge(
    best: np.ndarray, rows: np.ndarray, similarity: np.ndarray, start: int, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `top` best of the ones so far and of a block (Q, B) whose first row is `start`, best first."""
    least = best[:, top - 1] if best.shape[1] >= top else np.full(len(best), -np.inf, np.float32)
    found_best, found_rows = [], []
    for query, similar in enumerate(similarity):
        near = np.flatnonzero(similar > least[query]) if np.isfinite(least[query]) else np.arange(len(similar))
        if len(near) > 4 * top:
            kth = np.partition(similar[near], len(near) - top)[len(near) - top]
            near = near[similar[near] >= kth]
        values = np.concatenate([best[query], similar[near]])
        order = np.argsort(-values, kind="stable")[:top]
        found_best.append(values[order])
        found_rows.append(np.concatenate([rows[query], near + start])[order])
    return np.stack(found_best), np.stack(found_rows)
