"""`--on-bad-image skip`: unreadable images are left out and listed, never replaced by others.

They are found before the work begins: all batches, also of a resumed run, are those of a data set without them.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from amem_cli.artifacts import atomic
from amem_cli.data.tracklets import Tracklet
from amem_cli.data.transforms import read_image
from amem_cli.errors import BadData, listing
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Progress

MOST_SKIPPED = 0.01  # of all images; more indicate a broken copy of the data set
AT_ONCE = 1000  # images per task of the thread pool


def readable_rows(paths: Sequence[Path], list_file: Path, processes: Processes, progress: Progress) -> np.ndarray:
    """The rows of `paths` that can be decoded, (n,) int64, sorted; the others are written to `list_file`, a line each.

    Every image is decoded once, by one of the processes. Without a bad image there is no `list_file`. Raises `BadData`
    when more than one image in a hundred is unreadable.
    """
    mine = processes.shard(range(len(paths)))
    faults_of: dict[int, str] = {}
    with progress.loop("looking for unreadable images", len(mine), unit="images") as loop:
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(mine), AT_ONCE):
                rows = mine[start : start + AT_ONCE]
                faults = zip(rows, pool.map(_fault, [paths[row] for row in rows]), strict=True)
                faults_of |= {row: fault for row, fault in faults if fault is not None}
                loop.advance(len(rows))
    bad = {row: fault for shard in processes.gather(faults_of) for row, fault in shard.items()}
    if processes.is_main:
        if bad:
            atomic.write_text(list_file, "".join(f"{bad[row]}\n" for row in sorted(bad)))
            progress.warn(f"{len(bad)} unreadable images are left out; they are listed in {list_file}")
        else:
            list_file.unlink(missing_ok=True)
    if len(bad) > MOST_SKIPPED * len(paths):
        raise BadData("images", why=f"{len(bad)} of {len(paths)} cannot be decoded", remedy=f"See {list_file}")
    return np.array([row for row in range(len(paths)) if row not in bad], dtype=np.int64)


def without_unreadable(
    tracklets: Sequence[Tracklet], list_file: Path, processes: Processes, progress: Progress
) -> list[Tracklet]:
    """The tracklets without their unreadable frames; the frames around a gap become neighbours. Raises like
    `readable_rows`, and `BadData` if a tracklet has no readable frame."""
    frames = [frame for tracklet in tracklets for frame in tracklet.frames]
    readable = set(readable_rows(frames, list_file, processes, progress).tolist())
    kept, first = [], 0
    for tracklet in tracklets:
        files = tuple(file for row, file in enumerate(tracklet.files, start=first) if row in readable)
        kept.append(replace(tracklet, files=files))
        first += len(tracklet)
    if empty := [tracklet.name for tracklet in kept if not tracklet.files]:
        raise BadData("tracklets", why=f"no readable frame in {listing(empty)}", remedy="Remove or replace them")
    return kept


def _fault(path: Path) -> str | None:
    try:
        read_image(path, 32, 32)
    except BadData as error:
        return str(error)
    return None
