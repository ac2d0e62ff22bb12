"""`--on-bad-image skip`: unreadable images are left out and listed, never replaced by others.

They are found before the work begins: all batches, also of a resumed run, are those of a data set without them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from amem_cli.artifacts.output import OutputSlot
from amem_cli.data.images import in_threads, open_rgb
from amem_cli.data.tracklets import Tracklet, frames_of
from amem_cli.errors import BadData, counted, listing
from amem_cli.options import DataOptions
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Progress

MOST_SKIPPED = 0.01  # of all images; more indicate a broken copy of the data set


def readable_rows(
    paths: Sequence[Path], options: DataOptions, slot: OutputSlot, processes: Processes, progress: Progress
) -> np.ndarray:
    """The rows of `paths` to use, (n,) int64, sorted: all, or with `--on-bad-image skip` those that can be decoded.

    `slot` lists the others when it accepts the run. Each image is decoded once, by one of the processes. Raises
    `BadData` when more than one image in a hundred is unreadable; the list is then written at once.
    """
    if options.on_bad_image == "stop":
        return np.arange(len(paths))
    mine = processes.shard(range(len(paths)))
    faults: dict[int, str] = {}
    with progress.loop("looking for unreadable images", len(mine), unit="images") as loop:
        for row, fault in zip(mine, in_threads(_fault, [paths[row] for row in mine]), strict=True):
            if fault:
                faults[row] = fault
            loop.advance()
    bad = {row: fault for shard in processes.gather(faults) for row, fault in shard.items()}
    slot.unreadable[:] = [bad[row] for row in sorted(bad)]
    if len(bad) > MOST_SKIPPED * len(paths):
        slot.list_unreadable()
        why = f"{len(bad)} of {len(paths)} cannot be decoded"
        raise BadData("images", why=why, remedy=f"See {slot.unreadable_list}")
    if bad:
        progress.warn(f"{counted(len(bad), 'unreadable images')} {'is' if len(bad) == 1 else 'are'} left out")
    return np.array([row for row in range(len(paths)) if row not in bad], dtype=np.int64)


def _fault(path: Path) -> str:
    try:
        open_rgb(path)
    except BadData as error:
        return str(error)
    return ""


def without_unreadable(
    tracklets: Sequence[Tracklet], options: DataOptions, slot: OutputSlot, processes: Processes, progress: Progress
) -> list[Tracklet]:
    """The tracklets without the frames that `readable_rows` leaves out; the frames around a gap become neighbours.
    Raises as it does, and `BadData` if a tracklet has no readable frame."""
    if options.on_bad_image == "stop":
        return list(tracklets)
    rows = readable_rows([*frames_of(tracklets)], options, slot, processes, progress)
    readable, kept, first = set(rows.tolist()), [], 0
    for tracklet in tracklets:
        files = tuple(file for row, file in enumerate(tracklet.files, start=first) if row in readable)
        kept.append(replace(tracklet, files=files))
        first += len(tracklet)
    if empty := [tracklet.name for tracklet in kept if not tracklet.files]:
        raise BadData("tracklets", why=f"no readable frame in {listing(empty)}", remedy="Remove or replace them")
    return kept
