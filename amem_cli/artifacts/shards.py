"""Long inference in shards: each is written whole and sealed when it is done, a rerun goes on at the first missing one.

How tracklets fall into shards, and batches into a shard, does not depend on the number of processes, so neither does
the merged file.
"""

import shutil
import time
from collections.abc import Sequence, Sized
from pathlib import Path

import numpy as np

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.metrics_log import append_metrics, recorded_seconds
from amem_cli.artifacts.paths import metrics_path
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, InputMissing
from amem_cli.runtime.distributed import Processes

FRAMES_PER_SHARD = 4096  # about a minute of I3D on two CPU cores: what a crash costs at most


def plan_shards(tracklets: Sequence[Sized]) -> list[range]:
    """Consecutive rows of `tracklets`, whose lengths are frames, each range about `FRAMES_PER_SHARD` frames."""
    plan, start, frames = [], 0, 0
    for row, tracklet in enumerate(tracklets):
        frames += len(tracklet)
        if frames >= FRAMES_PER_SHARD or row == len(tracklets) - 1:
            plan.append(range(start, row + 1))
            start, frames = row + 1, 0
    return plan


class Shards:
    """The unfinished parts of one output file, in a folder beside it that is named after the provenance.

    Beside the output a metrics.jsonl tells how long the first process took, over all runs that it needed.
    """

    def __init__(self, output: Path, provenance: Provenance, *, fresh: bool, processes: Processes):
        self.provenance = provenance
        self.folder = output.parent / f".{output.name}.parts" / f"{provenance.fingerprint()}-{FRAMES_PER_SHARD}"
        if processes.is_main and fresh:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._first = processes.is_main
        self._metrics = metrics_path(output)
        if self._first and not self.folder.is_dir():
            self._metrics.unlink(missing_ok=True)
        self._before, self._began = recorded_seconds(self._metrics), time.monotonic()
        processes.barrier()

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def has(self, number: int) -> bool:
        """Whether the shard is there and whole."""
        try:
            checkpoint.load(self.path(number), "amem-shard")
        except (InputMissing, BadData):
            return False
        return True

    def write(self, number: int, columns: dict[str, np.ndarray]) -> None:
        """Write the columns (rows of the shard's tracklets) of one shard."""
        import torch

        tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in columns.items()}
        checkpoint.save(self.path(number), "amem-shard", tensors, self.provenance)
        if self._first:
            seconds = round(self._before + time.monotonic() - self._began, 3)
            append_metrics(self._metrics, {"step": number + 1, "seconds": seconds})

    def merge(self, count: int) -> dict[str, np.ndarray]:
        """The columns of all `count` shards, in order."""
        parts = [checkpoint.load(self.path(number), "amem-shard").tensors for number in range(count)]
        return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}

    def remove(self) -> None:
        """The merged file is written: the parts, those of other configurations too, have served."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)
