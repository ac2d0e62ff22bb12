"""Small artifacts of every format, each with one of two contents, for tests of writing and damage."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from amem_cli.artifacts import checkpoint, features, pseudo_labels, results
from amem_cli.artifacts.provenance import Provenance

OLD, NEW = 1, 2


def some_features(content: int = OLD, **changed: Any) -> features.Features:
    """Two rows of three dimensions."""
    values = np.zeros((2, 3), np.float32)
    values[:, content] = 1
    ids = np.arange(2)
    table = {"dataset": "mars", "tracklet": ["a", "é"], "person_id": ids, "camera_id": ids, "provenance": {}}
    return features.Features(**table | {"is_query": ids == 0, "features": values} | changed)


def some_labels(content: int = OLD, **changed: Any) -> pseudo_labels.PseudoLabels:
    """Two rows of two attributes."""
    table = {"dataset": "mars", "tracklet": ["a", "b"], "person_id": np.array([1, 2]), "camera_id": np.array([1, 1])}
    table |= {"frames": np.array([content, 9]), "attributes": ("hat", "bag"), "threshold": 0.5, "provenance": {}}
    table |= {"probabilities": np.array([[0.1, 0.9], [0.5, 0.6]]), "labels": np.array([[0, 1], [0, 1]])}
    return pseudo_labels.PseudoLabels(**table | changed)


def write_checkpoint(path: Path, content: int, provenance: Provenance) -> None:
    checkpoint.save(path, "amem-arm", {"w": torch.full((64,), content)}, provenance)


def write_features(path: Path, content: int, provenance: Provenance) -> None:
    features.write(path, some_features(content), provenance)


def write_labels(path: Path, content: int, provenance: Provenance) -> None:
    pseudo_labels.write(path, some_labels(content), provenance)


def some_result(**changed: object) -> dict:
    """The least that a result has."""
    rates = {"rank": dict.fromkeys(("1", "5", "10", "20"), 0.5), "mAP": 0.25}
    counts = {"queries": 8, "gallery": 9, "chance": rates, "cmc": [0.5]}
    return {"protocol": "mars", "dataset": "mars", "choices": {}} | rates | counts | changed


def write_result(path: Path, content: int, provenance: Provenance) -> None:
    results.write(path, {"protocol": "mars", "choices": {}, "mAP": content / 4}, provenance)


WRITERS = {
    "arm.safetensors": write_checkpoint,
    "features.h5": write_features,
    "labels.h5": write_labels,
    "result.json": write_result,
}


def write(path: Path, content: int = OLD, provenance: Provenance | None = None) -> None:
    """Write the artifact for the name of the file."""
    WRITERS[path.name](path, content, provenance or Provenance("evaluate", {"content": content}, {}, "listing"))
