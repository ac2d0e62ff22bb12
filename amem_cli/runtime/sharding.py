"""Long inference in shards: each is a complete file with a checksum, and a second run computes the missing ones.

Neither shards nor batches depend on the number of processes, so neither does the merged file.
"""

import shutil
import time
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amem_cli.artifacts import atomic, checkpoint
from amem_cli.artifacts.metrics_log import append_metrics, recorded_seconds
from amem_cli.artifacts.output import is_complete
from amem_cli.artifacts.paths import metrics_path
from amem_cli.artifacts.provenance import Provenance
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Loop, Progress

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
    Raises `DiskError` if the disk has fewer than `needed` bytes left.
    """

    def __init__(self, output: Path, provenance: Provenance, processes: Processes, *, fresh: bool, needed: int = 0):
        self.provenance, self.processes = provenance, processes
        self.folder = output.parent / f".{output.name}.parts" / f"{provenance.fingerprint()}-{FRAMES_PER_SHARD}"
        self._metrics = metrics_path(output)
        if processes.is_main:
            atomic.require_free_space(output.parent, needed)
            try:
                if fresh:
                    shutil.rmtree(self.folder, ignore_errors=True)
                if not self.folder.is_dir():
                    self._metrics.unlink(missing_ok=True)
                    self.folder.mkdir(parents=True)
            except OSError as error:
                raise atomic.disk_error(self.folder, error, "folder") from error
        self._before, self._began = recorded_seconds(self._metrics), time.monotonic()
        processes.barrier()

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def compute(
        self, tracklets: Sequence[Any], counts: Sequence[int], compute: Callable[[list[Any], Loop], dict],
        progress: Progress, unit: str,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Write this process's shards that do not exist yet; the main process gets the columns of all, others nothing.

        `compute(tracklets, bar)` gives the columns of a shard, and advances the bar; a tracklet has `counts` `unit`s.
        """
        plan = plan_shards(tracklets)
        mine = self.processes.shard(list(enumerate(plan)))
        missing = [(number, rows) for number, rows in mine if not is_complete(self.path(number))]
        total, left = (sum(counts[row] for _, rows in some for row in rows) for some in (mine, missing))
        with progress.loop(self.provenance.command, total, done=total - left, unit=unit) as bar:
            for number, rows in missing:
                self.write(number, compute([tracklets[row] for row in rows], bar))
        self.processes.barrier()
        return self.merge(plan) if self.processes.is_main else {}

    def write(self, number: int, columns: dict[str, np.ndarray]) -> None:
        """Write one shard: `columns` with a row for each of its tracklets."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in columns.items()}
        checkpoint.save(self.path(number), "amem-shard", tensors, self.provenance)
        if self.processes.is_main:
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
        """Remove all shards of the output, also those of other configurations, when every process is here."""
        if self.processes.is_main:
            shutil.rmtree(self.folder.parent, ignore_errors=True)
        self.processes.barrier()
