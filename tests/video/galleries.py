"""Files of tracks for tests: features, labels, calibrations; and models that are not loaded."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from writers import some_result

from amem_cli.artifacts import features, pseudo_labels, results
from amem_cli.artifacts.features import Extraction, Features
from amem_cli.artifacts.provenance import Provenance
from amem_cli.artifacts.pseudo_labels import PseudoLabels
from amem_cli.models.config import ArmConfig


def unit_rows(rows: int, width: int = 8, seed: int = 0) -> np.ndarray:
    """Random features (rows, width) of unit length."""
    values = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def write_gallery(path: Path, rows: np.ndarray, *, dataset: str = "people", camera: str = "hall", **more) -> Path:
    """Tracks `<camera>/0001`, ... of one camera, each in view for a second, one after the other."""
    count = len(rows)
    first = more.pop("first_seconds", np.arange(count) * 2.0)
    last = more.pop("last_seconds", None if first is None else first + 1.0)
    model = {"amem-main": {"name": "m", "sha256": more.pop("model", "")}}
    made = asdict(more.pop("extraction", Extraction())) | {"image_size": more.pop("image_size", "")}
    table = Features(
        dataset, [f"{camera}/{row + 1:04d}" for row in range(count)], np.zeros(0, np.int64),
        np.ones(count, np.int64), np.zeros(count, bool), np.ascontiguousarray(rows, np.float32), {},
        camera=[camera] * count, first_seconds=first, last_seconds=last, **more,
    )  # fmt: skip
    return features.write(path, table, Provenance("extract-features", made, model))


def write_attributes(path: Path, names: list[str], probabilities: np.ndarray, attributes: tuple[str, ...]) -> Path:
    """A labels file of data set "people"."""
    values, count = np.asarray(probabilities, np.float32), len(names)
    table = PseudoLabels(
        "people", names, np.zeros(0, np.int64), np.ones(count, np.int64), np.ones(count, np.int64), values,
        (values > 0.5).astype(np.uint8), attributes, 0.5, {},
    )  # fmt: skip
    return pseudo_labels.write(path, table, Provenance("label-videos", {}))


def write_calibration(path: Path, parents: dict[str, dict[str, str]] | None = None, **more: object) -> Path:
    """A result with a calibration, whose numbers are 0.5 unless others are given."""
    names = ("intercept", "slope", "threshold_squared_distance", "threshold_cosine", "wanted_false_match_rate")
    found = dict.fromkeys((*names, "true_match_rate", "false_match_rate"), 0.5) | more
    return results.write(path, some_result(calibration=found), Provenance("evaluate", {}, parents or {}))


def load_no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any file be a model of images of 256 x 128 pixels."""
    for loader in ("load_feature_model", "load_arm"):
        monkeypatch.setattr(
            f"amem_cli.models.checkpoints.{loader}",
            lambda *given, **named: (None, ArmConfig(backbone="resnet18", image_size="256x128")),
        )
