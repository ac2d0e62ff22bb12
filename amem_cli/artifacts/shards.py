"""Long inference in shards: each is a complete file with a checksum, and a second run computes the missing ones.

Neither shards nor batches depend on the number of processes, so neither does the merged file.
"""

import shutil
import time
from collections.abc import Sequence, Sized
from pathlib import Path

import numpy as np

from amem_cli.artifacts import atomic, checkpoint
from amem_cli.artifacts.metrics_log import append_metrics, recorded_seconds
from amem_cli.artifacts.output import is_complete
from amem_cli.artifacts.paths import metrics_path
from amem_cli.artifacts.provenance import Provenance

FRAMES_PER_SHARD = 4096  # about a minute of I3D on two CPU cores: the most work lost in a crash


def plan_shards(tracklets: Sequence[Sized]) -> list[range]:
    """Consecutive rows of `tracklets`, whose lengths are frames; each range has about `FRAMES_PER_SHARD` frames."""
    plan, start, frames = [], 0, 0
    for row, tracklet in enumerate(tracklets):
        frames += len(tracklet)
        if frames >= FRAMES_PER_SHARD or row == len(tracklets) - 1:
            plan.append(range(start, row + 1))
            start, frames = row + 1, 0
    return plan


class Shards:
    """The shards of one unfinished output, in a folder next to it, named after the provenance.

    The main process makes the folder, without old shards if `fresh`, and logs its time over all runs to metrics.jsonl.
    With several processes the caller needs a barrier after the construction.
    """

    def __init__(self, output: Path, provenance: Provenance, *, fresh: bool, is_main: bool):
        self.provenance, self._is_main = provenance, is_main
        self.folder = output.parent / f".{output.name}.parts" / f"{provenance.fingerprint()}-{FRAMES_PER_SHARD}"
        self._metrics = metrics_path(output)
        if is_main:
            try:
                if fresh:
                    shutil.rmtree(self.folder, ignore_errors=True)
                if not self.folder.is_dir():
                    self._metrics.unlink(missing_ok=True)
                    self.folder.mkdir(parents=True)
            except OSError as error:
                raise atomic.disk_error(self.folder, error, "folder") from error
        self._before, self._began = recorded_seconds(self._metrics), time.monotonic()

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def has(self, number: int) -> bool:
        """Whether the shard exists and matches its checksum."""
        return is_complete(self.path(number))

    def write(self, number: int, columns: dict[str, np.ndarray]) -> None:
        """Write one shard: `columns` with a row for each of its tracklets."""
        import torch

        tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in columns.items()}
        checkpoint.save(self.path(number), "amem-shard", tensors, self.provenance)
        if self._is_main:
            seconds = round(self._before + time.monotonic() - self._began, 3)
            append_metrics(self._metrics, {"step": number + 1, "seconds": seconds})

    def merge(self, plan: Sequence[range]) -> dict[str, np.ndarray]:
        """The columns of the shards of `plan`, in order; one shard at a time is in memory next to them."""
        columns: dict[str, np.ndarray] = {}
        for number, rows in enumerate(plan):
            for name, tensor in checkpoint.load(self.path(number), "amem-shard").tensors.items():
                values = tensor.numpy()
                whole = columns.setdefault(name, np.empty((plan[-1].stop, *values.shape[1:]), values.dtype))
                whole[rows.start : rows.stop] = values
        return columns

    def remove(self) -> None:
        """Remove all shards of the output, also those of other configurations."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)
