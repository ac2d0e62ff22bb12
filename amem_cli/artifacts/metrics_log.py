"""metrics.jsonl: the figures of a stage, one JSON object a line."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amem_cli.artifacts import atomic
from amem_cli.artifacts.paths import sample_path, sample_pictures


def recorded_seconds(path: Path) -> float:
    """The `seconds` of the last line that has them: the time of all runs of a stage; 0 without any."""
    recorded = [record.get("seconds") for _, record in read_lines(path)]
    return next((float(s) for s in reversed(recorded) if isinstance(s, int | float) and math.isfinite(s)), 0.0)


def append_metrics(path: Path, record: dict[str, Any]) -> None:
    """Add one line. The file is not replaced: readers skip a last line that a crash cut off."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # end the line that was cut off
                    file.write(b"\n")
            file.write(json.dumps(record).encode() + b"\n")
    except OSError as error:
        raise atomic.disk_error(path, error) from error


def keep_metrics(path: Path, last_step: int) -> None:
    """Remove the lines from `last_step` on: a run that continues there writes them again."""
    if path.is_file():
        kept = [line for line, record in read_lines(path) if isinstance(s := record.get("step"), int) and s < last_step]
        atomic.write_text(path, "".join(line + "\n" for line in kept))


def keep_samples(folder: Path, last_step: int) -> None:
    """Remove the sample pictures of steps after `last_step`, which a continued run makes again."""
    atomic.sweep_temporaries(sample_path(folder, 0))
    for step, path in sample_pictures(folder):
        if step > last_step:
            path.unlink(missing_ok=True)


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The complete lines that are JSON objects, each with its content; none without the file. Raises `DiskError`."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise atomic.input_error(path, error, "metrics") from error
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(record := json.loads(line), dict):
                yield line, record
