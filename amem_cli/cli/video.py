"""The commands from videos to an answer: options, one call, one print."""

import dataclasses
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from amem_cli.artifacts.paths import Workspace
from amem_cli.cli import console, flags
from amem_cli.cli.flags import app, command
from amem_cli.errors import counted
from amem_cli.runtime.progress import Progress
from amem_cli.video.options import FindOptions, LinkOptions, SearchOptions, TrackletOptions

if TYPE_CHECKING:
    from amem_cli.video.search import SearchResult


@command(app, "tracklets", "amem tracklets a.mp4 b.mp4 --out people", "amem tracklets a.mp4 --boxes a.txt --out people")
def tracklets(output: flags.Output, options: TrackletOptions) -> None:
    """Cut people out of videos, as a data set of tracks.

    OUT gets <camera>/<track>/<frame>.jpg, tracks.csv, boxes.csv and a .toml.
    It shows people: use only videos that you may use.
    """
    from amem_cli.video.tracklets import cut_tracklets

    result = cut_tracklets(options, Progress(output.quiet))
    if output.as_json:
        return console.print_json(result)
    cameras = ", ".join(f"{name} {count}" for name, count in result.tracks.items())
    print(f"tracklets: {result.folder} ({'reused' if result.reused else f'{result.pictures} pictures'})")
    print(f"  tracks: {cameras}; left out: {result.dropped} with fewer than {options.min_frames} frames")
    model = Workspace(Path(os.environ.get("AMEM_WORKSPACE") or FindOptions.workspace)).amem_main("mars", None)
    use = shlex.quote(str(model)) if model.is_file() else "MODEL"
    print(f"  next: amem extract-features --dataset {shlex.quote(str(result.manifest))} --model {use}")


@command(
    app, "search", "amem search hall/0003 --gallery people.h5", "amem search --with upperBodyRed --gallery people.h5"
)
def search(
    output: flags.Output,
    options: SearchOptions,
    out: Annotated[Path | None, Option(help="also write this HTML page; it shows people")] = None,
) -> None:
    """Find the tracklets that are nearest to a person, or that fit a description."""
    from amem_cli.video.search import search

    if out is not None:
        from amem_cli.pictures.html import require_page

        require_page(out)  # before a long video is processed
    result = search(options, progress := Progress(output.quiet))
    if out is not None:
        from amem_cli.video.page import write_search_page

        write_search_page(result, out, progress)
    if output.as_json:
        return console.print_json(as_json(result) | {"page": out, "warnings": progress.warnings})
    print_hits(result)
    if out is not None:
        print(f"page: {out}, open it in a browser")


def as_json(result: "SearchResult") -> dict[str, Any]:
    """The hits of each query, without their rows."""
    queries = [dataclasses.asdict(one) for one in result.found]
    found = [{"query": one["query"], "results": [hit for hit in one["hits"] if hit.pop("row") >= 0]} for one in queries]
    figures = {"searched": result.searched, "seconds": result.seconds, "trained_on": result.gallery.trained_on}
    return {"queries": found} | figures


def print_hits(result: "SearchResult") -> None:
    several = len(result.gallery.paths) > 1
    for found in result.found:
        columns = ["", "tracklet", "camera", "seconds", "distance", "same person", "fits"]
        rows = []
        for hit in found.hits:
            name = f"{hit.dataset}:{hit.tracklet}" if several else hit.tracklet
            when = "" if hit.first_seconds is None else f"{hit.first_seconds:.1f}-{hit.last_seconds:.1f}"
            far = "" if hit.distance is None else f"{hit.distance:.3f}"
            chances = (hit.probability, hit.fits)  # none is 100 %
            rates = ["" if p is None else "> 99 %" if p > 0.99 else f"{100 * p:.0f} %" for p in chances]
            rows.append([str(hit.rank), name, hit.camera, when, far, *rates])
        used = [place for place in range(len(columns)) if place < 3 or any(row[place] for row in rows)]
        table = [[row[place] for place in used] for row in rows]
        console.print_table(
            [columns[place] for place in used],
            table,
            title=f"{'fits' if found.described else 'nearest to'} {found.query}",
        )
    print(f"{counted(result.searched, 'tracklets')} searched in {result.seconds:.2f} s")


@command(
    app,
    "link",
    "amem link hall.h5 door.h5 --threshold 0.6 --out people",
    "amem link a.h5 --calibration mars.json --out x",
)
def link(output: flags.Output, options: LinkOptions) -> None:
    """Give each person one number over all cameras."""
    from amem_cli.video.link import link

    linked, out = link(options, progress := Progress(output.quiet)), options.out
    figures = {"out": out, "tracks": len(linked.person), "people": linked.people, "forbidden_pairs": linked.forbidden}
    figures |= {"in_several_cameras": linked.in_several_cameras(), "threshold": linked.threshold}
    if output.as_json:
        return console.print_json(figures | {"warnings": progress.warnings})
    tracks = counted(len(linked.person), "tracks")
    print(f"link: {out / 'identities.csv'}: {counted(linked.people, 'people')} in {tracks}")
    print(f"  {figures['in_several_cameras']} of them in several cameras; one person up to a squared distance of "
          f"{linked.threshold:.3g}")  # fmt: skip


@command(
    app, "find", "amem find hall.mp4 door.mp4 --out answer", "amem find a.mp4 b.mp4 --adapt-cameras --parts 4 --out x"
)
def find(output: flags.Output, options: FindOptions) -> None:
    """From videos to one page, OUT/index.html: who is where, and when.

    The same as tracklets, extract-features, label-videos and link. It shows
    people: use only videos that you may use.
    """
    from amem_cli.video.find import find

    progress = Progress(output.quiet)
    page, linked, used = find(options, progress)
    figures = {"tracks": len(linked.person), "people": linked.people, "in_several_cameras": linked.in_several_cameras()}
    if output.as_json:
        made = {"page": page, "features": linked.gallery.paths[0]}
        return console.print_json(made | figures | {"used": used, "warnings": progress.warnings})
    print(f"find: {page}, open it in a browser")
    several = figures["in_several_cameras"]
    tracks = counted(len(linked.person), "tracks")
    print(f"  {counted(linked.people, 'people')} in {tracks}, {several} in several cameras")
    names = shlex.quote(linked.gallery.tracklets[0]), shlex.quote(str(linked.gallery.paths[0]))
    print(f"  to search in them: amem search {names[0]} --gallery {names[1]}")
