"""`--on-bad-image skip`: unreadable frames are left out of their tracklets and listed, never replaced by others."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from amem_cli.artifacts import atomic
from amem_cli.data.tracklets import Tracklet
from amem_cli.data.transforms import read_image
from amem_cli.distributed import Processes
from amem_cli.errors import BadData, listing
from amem_cli.progress import Progress

MOST_SKIPPED = 0.01  # of all frames; with more the data set itself is in question


def without_unreadable(
    tracklets: Sequence[Tracklet], list_file: Path, processes: Processes, progress: Progress
) -> list[Tracklet]:
    """The tracklets without the frames that cannot be decoded; those are written to `list_file`, a line each.

    Every frame is decoded once for this, by one of the processes. Without any bad one there is no `list_file`. Raises
    `BadData` when more than one frame in a hundred is unreadable, or a tracklet has none left.
    """
    rows = processes.share(range(len(tracklets)))
    found: dict[int, list[str | None]] = {}
    with progress.loop("looking for unreadable frames", len(rows), unit="tracklets") as loop:
        with ThreadPoolExecutor() as pool:
            for row in rows:
                found[row] = list(pool.map(_fault, tracklets[row].frames))
                loop.advance()
    faults = {row: why for part in processes.gather(found) for row, why in part.items()}
    kept: list[Tracklet] = []
    empty: list[str] = []
    for row, tracklet in enumerate(tracklets):
        files = tuple(file for file, fault in zip(tracklet.files, faults[row], strict=True) if fault is None)
        if files:
            kept.append(replace(tracklet, files=files))
        else:
            empty.append(tracklet.name)
    bad = [fault for row in range(len(tracklets)) for fault in faults[row] if fault is not None]
    if processes.first:
        if bad:
            atomic.write_text(list_file, "\n".join(bad) + "\n")
            progress.warn(f"{len(bad)} unreadable frames are left out; they are listed in {list_file}")
        else:
            list_file.unlink(missing_ok=True)
    if empty:
        raise BadData("tracklets", why=f"no readable frame in {listing(empty)}", remedy="Remove or replace them")
    frames = sum(map(len, tracklets))
    if len(bad) > MOST_SKIPPED * frames:
        why = f"{len(bad)} of {frames} frames cannot be decoded (see {list_file})"
        raise BadData("images", why=why, remedy="Check the disk or fetch the data set again")
    return kept


def _fault(path: Path) -> str | None:
    try:
        read_image(path, 32, 32)
    except BadData as error:
        return str(error)
    return None
