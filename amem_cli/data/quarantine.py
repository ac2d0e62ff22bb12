"""`--on-bad-image skip`: unreadable frames are left out of their tracklets and listed, never replaced by others."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from amem_cli.artifacts import atomic
from amem_cli.data.tracklets import Tracklet
from amem_cli.data.transforms import read_image
from amem_cli.errors import BadData, listing
from amem_cli.progress import Progress

MOST_SKIPPED = 0.01  # of all frames; with more the data set itself is in question


def without_unreadable(tracklets: Sequence[Tracklet], list_file: Path, progress: Progress) -> list[Tracklet]:
    """The tracklets without the frames that cannot be decoded; those are written to `list_file`, a line each.

    Every frame is decoded once for this. Raises `BadData` when more than one frame in a hundred is unreadable, or a
    tracklet has none left.
    """
    kept: list[Tracklet] = []
    bad: list[str] = []
    empty: list[str] = []
    with progress.loop("looking for unreadable frames", len(tracklets), unit="tracklets") as loop:
        with ThreadPoolExecutor() as pool:
            for tracklet in tracklets:
                faults = list(pool.map(_fault, tracklet.frames))
                files = tuple(file for file, fault in zip(tracklet.files, faults, strict=True) if fault is None)
                bad += [fault for fault in faults if fault is not None]
                if files:
                    kept.append(replace(tracklet, files=files))
                else:
                    empty.append(tracklet.name)
                loop.advance()
    if bad:
        atomic.write_text(list_file, "\n".join(bad) + "\n")
        progress.warn(f"{len(bad)} unreadable frames are left out; they are listed in {list_file}")
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
