"""Long inference over tracklets in shards, divided among the processes."""

from collections.abc import Callable, Sequence
from typing import Any

from amem_cli.artifacts.shards import Shards, plan_shards
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Loop, Progress


def compute_shards(
    shards: Shards, tracklets: Sequence[Any], counts: Sequence[int], compute: Callable[[list[Any], Loop], dict],
    processes: Processes, progress: Progress, unit: str,
) -> None:  # fmt: skip
    """Write this process's shards that do not exist yet, and wait for the other processes.

    `compute(tracklets, bar)` gives the columns of a shard, and advances the bar; a tracklet has `counts` `unit`s.
    """
    mine = processes.shard(list(enumerate(plan_shards(tracklets))))
    missing = [(number, rows) for number, rows in mine if not shards.has(number)]
    total, left = (sum(counts[row] for _, rows in some for row in rows) for some in (mine, missing))
    with progress.loop(shards.provenance.command, total, done=total - left, unit=unit) as bar:
        for number, rows in missing:
            shards.write(number, compute([tracklets[row] for row in rows], bar))
    processes.barrier()
