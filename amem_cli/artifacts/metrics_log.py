"""metrics.jsonl: the figures of a stage, one JSON line each."""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from amem_cli.artifacts import atomic
from amem_cli.artifacts.paths import sample_path, sample_pictures
from amem_cli.errors import DiskError


def recorded_seconds(path: Path) -> float:
    """How long a stage has worked on its artifact by its metrics.jsonl, over all runs; 0 when nothing is recorded."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return 0.0
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a crash tore it
            seconds = float(json.loads(line)["seconds"])
            if math.isfinite(seconds):
                return seconds
    return 0.0


def append_metrics(path: Path, record: dict[str, Any]) -> None:
    """Add one line to a stage's metrics.jsonl; the one file that grows in place, a torn last line is harmless."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash tore the last line: do not glue this one to it
                    file.write(b"\n")
            file.write(json.dumps(record).encode() + b"\n")
    except OSError as error:
        raise DiskError("file", path, why=(error.strerror or str(error)).lower(), remedy="Free some space") from error


def keep_metrics(path: Path, last_step: int) -> None:
    """Keep the lines of metrics.jsonl up to `last_step`, where a run continues: what was undone is written again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] < last_step:
                kept.append(line)
    atomic.write_text(path, "".join(line + "\n" for line in kept))


def keep_samples(folder: Path, last_step: int) -> None:
    """Keep the sample pictures up to `last_step`, where a run continues: those of an abandoned run go."""
    atomic.sweep_temporaries(sample_path(folder, 0))
    for step, path in sample_pictures(folder):
        if step > last_step:
            path.unlink(missing_ok=True)
