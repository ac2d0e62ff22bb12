"""The record of a training, for the report: metrics.jsonl as curves, duration, sample pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts.metrics_log import read_lines, recorded_seconds
from amem_cli.artifacts.paths import sample_pictures
from amem_cli.pictures.report.content import Curves, Missing

CURVE_POINTS = 300
VALIDATION = "Validation"
WEIGHTED = "Weighted losses: the terms of the loss that is trained"
UNWEIGHTED = "Unweighted losses"
PREDICTED = "Squared error of predicted frames and of copying the last one"
ACCURACY = "Accuracy of the person classifier on training clips"
GRADIENTS = "Gradient norm of each weighted loss at the backbone maps"
PANELS = (VALIDATION, WEIGHTED, UNWEIGHTED, PREDICTED, ACCURACY, GRADIENTS)
PANEL_OF = {"accuracy": ACCURACY, "image": PREDICTED, "copy_image": PREDICTED}
NAMES = {"image": "predicted", "copy_image": "copied"}
NO_CURVES = ("step", "epoch", "seconds", "queries", "people", "images")


def training_curves(stage: str, folder: Path, command: str) -> Curves | Missing:
    """The curves, duration and sample pictures of the training in `folder`; `command` runs it."""
    path = folder / "metrics.jsonl"
    records = [record for _, record in read_lines(path) if isinstance(record.get("step"), int | float)]
    if not records:
        return Missing(f"{stage} has no curves yet", command)
    return Curves(stage, path, curve_panels(records), recorded_seconds(path) or None, sample_pictures(folder))


def curve_panels(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """The figures of metrics.jsonl as panels of lines on one scale: title -> name -> (steps, values).

    A record holds numbers by name, and {"validation": {...}} or {"gradient_norms": {...}}. Values that are not finite
    are left out; long runs are thinned to means over equal numbers of records.
    """
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {title: {} for title in PANELS}
    for record in records:
        for title, name, value in _figures(record):
            if isinstance(value, int | float) and name not in NO_CURVES and math.isfinite(value):
                steps, values = panels[title].setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(float(value))
    for lines in panels.values():
        for name, line in lines.items():
            if len(line[0]) > CURVE_POINTS:
                steps, values = ([float(p.mean()) for p in np.array_split(each, CURVE_POINTS)] for each in line)
                lines[name] = steps, values
    return {title: lines for title, lines in panels.items() if lines}


def _figures(record: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """The figures of one record as (panel, name, value)."""
    figures = []
    for title, group in ((VALIDATION, record.get("validation")), (GRADIENTS, record.get("gradient_norms"))):
        figures += [(title, name, value) for name, value in group.items()] if isinstance(group, dict) else []
    for name, value in record.items():
        if name.startswith("weighted_"):
            figures.append((WEIGHTED, name.removeprefix("weighted_"), value))
        else:
            figures.append((PANEL_OF.get(name, UNWEIGHTED), NAMES.get(name, name), value))
    return figures
