"""`amem report`: one HTML page of a workspace."""

from pathlib import Path

from amem_cli.artifacts import atomic
from amem_cli.errors import InputMissing, UsageError
from amem_cli.runtime.progress import Progress
from amem_cli.tools.source import Source

LARGEST_PAGE = 15_000_000  # bytes
FRAMES_PER_TRACKLET = (32, 16, 8, 4)  # in the dialog; fewer when the page would be too large


def report(out: Path, source: Source, progress: Progress, *, queries: int, seed: int) -> Path:
    """Write the page of one data set (and split) to `out`; returns it.

    A section that cannot be made shows the reason and the command that makes its missing input. Raises `UsageError` if
    there are so many queries that the page would exceed 15 MB.
    """
    atomic.require_writable(out)
    if queries < 1:
        raise UsageError("--queries", str(queries), why="at least 1 is needed")
    from amem_cli.pictures.report.content import Missing
    from amem_cli.pictures.report.page import report_page  # after the check: these import torch and matplotlib
    from amem_cli.tools.collect import Collector

    collected = Collector(source, progress).report(queries, seed)
    sections = (collected.result, collected.ranked_lists, collected.predictions, *collected.curves)
    tracks = [one for one in collected.artifacts if one.sha256 and source.manifest.layout == "tracks"]
    if not tracks and all(isinstance(section, Missing) for section in sections):
        command = next((one.state.command for one in collected.artifacts if one.state.command), "")
        remedy = f"Run: {command}" if command else "Check --workspace and --dataset"
        raise InputMissing("workspace", source.workspace.root, why="nothing to report on", remedy=remedy)
    for frames in FRAMES_PER_TRACKLET:
        page = report_page(collected, frames).encode()
        if len(page) <= LARGEST_PAGE:
            return atomic.write_bytes(out, page)
    why = f"the page would have {len(page) / 1e6:.0f} MB, more than {LARGEST_PAGE / 1e6:.0f}"
    raise UsageError("--queries", str(queries), why=why, remedy="Ask for fewer")
