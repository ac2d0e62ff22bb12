"""What a training recorded about itself, for the report: metrics.jsonl as curves, its duration, its sample pictures."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts.metrics_log import recorded_seconds
from amem_cli.artifacts.paths import sample_pictures
from amem_cli.pictures.report.content import Curves, Missing

CURVE_POINTS = 300
TITLES = {
    "gradient_norms": "Gradient norm of each weighted term at the backbone maps",
    "validation": "Held-out training people",
}
COUNTS = ("images", "queries", "people")  # of a validation; no curves


def training_curves(stage: str, folder: Path, command: str) -> Curves | Missing:
    """The curves, duration and sample pictures of the training in `folder`; `command` makes it where there is none."""
    path = folder / "metrics.jsonl"
    records = read_metrics(path)
    if not records:
        return Missing(f"{stage} has no curves yet", command)
    return Curves(stage, path, curve_panels(records), recorded_seconds(path) or None, sample_pictures(folder))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, in the order of their steps.

    A torn line (a crash) is left out; where a run went back (resumed, or begun anew) the later lines count.
    """
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    records: list[dict[str, Any]] = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or not isinstance(record.get("step"), int | float):
            continue
        if records and records[-1]["step"] > record["step"]:
            records = [kept for kept in records if kept["step"] < record["step"]]
        records.append(record)
    return records


def curve_panels(
    records: Sequence[dict[str, Any]],
) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """The figures of metrics.jsonl as panels of lines that share a scale: title -> name -> (steps, values).

    Long runs are thinned to means over equal runs of records.
    """
    found: dict[str, dict[str, tuple[list[float], list[float]]]] = {}

    def add(title: str, name: str, step: float, value: Any) -> None:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            steps, values = found.setdefault(title, {}).setdefault(name, ([], []))
            steps.append(step)
            values.append(float(value))

    for record in records:
        for name, value in record.items():
            if name in ("step", "epoch", "seconds"):
                continue
            if isinstance(value, dict):
                for key, inner in value.items():
                    if key not in COUNTS:
                        add(TITLES.get(name, name.replace("_", " ")), key, record["step"], inner)
            elif name.startswith("weighted_"):
                add("Loss terms as they add up (weighted)", name.removeprefix("weighted_"), record["step"], value)
            elif name == "accuracy":
                add("Share of clips whose person is named rightly", name, record["step"], value)
            elif name in ("image", "copy_image"):
                words = {"image": "predicted", "copy_image": "copying the last frame"}[name]
                add("Squared error of predicted frames, beside copying", words, record["step"], value)
            else:
                add("Loss terms, unweighted", name, record["step"], value)
    order = ("Held-out", "Loss terms as", "Loss terms,", "Squared", "Share", "Gradient")
    titles = sorted(found, key=lambda title: next((i for i, start in enumerate(order) if title.startswith(start)), 9))
    return {title: {name: _thinned(*line) for name, line in found[title].items()} for title in titles}


def _thinned(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    if len(steps) <= CURVE_POINTS:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), CURVE_POINTS)
    means = [(float(np.mean([steps[i] for i in part])), float(np.mean([values[i] for i in part]))) for part in parts]
    return [step for step, _ in means], [value for _, value in means]
