"""`--on-bad-image skip`: unreadable images are left out and listed, never replaced by others.

They are found before the work begins: all batches, also of a resumed run, are those of a data set without them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from amem_cli.artifacts import atomic
from amem_cli.data.images import in_threads, open_rgb
from amem_cli.data.tracklets import Tracklet, frames_of
from amem_cli.errors import BadData, listing
from amem_cli.options import DataOptions
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Progress

MOST_SKIPPED = 0.01  # of all images; more indicate a broken copy of the data set


def readable_rows(
    paths: Sequence[Path], options: DataOptions, output: Path, processes: Processes, progress: Progress
) -> np.ndarray:
    """The rows of `paths` to use, (n,) int64, sorted: all, or with `--on-bad-image skip` those that can be decoded.

    The others are written to OUTPUT.unreadable.txt, a line each; without any there is no such file. Each image is
    decoded once, by one of the processes. Raises `BadData` when more than one image in a hundred is unreadable.
    """
    if options.on_bad_image == "stop":
        return np.arange(len(paths))
    list_file, mine = output.with_suffix(".unreadable.txt"), processes.shard(range(len(paths)))
    faults: dict[int, str] = {}
    with progress.loop("looking for unreadable images", len(mine), unit="images") as loop:
        for row, fault in zip(mine, in_threads(_fault, [paths[row] for row in mine]), strict=True):
            if fault:
                faults[row] = fault
            loop.advance()
    bad = {row: fault for shard in processes.gather(faults) for row, fault in shard.items()}
    if processes.is_main:
        if bad:
            atomic.write_text(list_file, "".join(f"{bad[row]}\n" for row in sorted(bad)))
            progress.warn(f"{len(bad)} unreadable images are left out; they are listed in {list_file}")
        else:
            list_file.unlink(missing_ok=True)
    if len(bad) > MOST_SKIPPED * len(paths):
        raise BadData("images", why=f"{len(bad)} of {len(paths)} cannot be decoded", remedy=f"See {list_file}")
    return np.array([row for row in range(len(paths)) if row not in bad], dtype=np.int64)


def _fault(path: Path) -> str:
    try:
        open_rgb(path)
    except BadData as error:
        return str(error)
    return ""


def without_unreadable(
    tracklets: Sequence[Tracklet], options: DataOptions, output: Path, processes: Processes, progress: Progress
) -> list[Tracklet]:
    """The tracklets without the frames that `readable_rows` leaves out; the frames around a gap become neighbours.
    Raises as it does, and `BadData` if a tracklet has no readable frame."""
    if options.on_bad_image == "stop":
        return list(tracklets)
    rows = readable_rows([*frames_of(tracklets)], options, output, processes, progress)
    readable, kept, first = set(rows.tolist()), [], 0
    for tracklet in tracklets:
        files = tuple(file for row, file in enumerate(tracklet.files, start=first) if row in readable)
        kept.append(replace(tracklet, files=files))
        first += len(tracklet)
    if empty := [tracklet.name for tracklet in kept if not tracklet.files]:
        raise BadData("tracklets", why=f"no readable frame in {listing(empty)}", remedy="Remove or replace them")
    return kept
