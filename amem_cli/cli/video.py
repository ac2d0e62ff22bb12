"""The commands from videos to an answer: options, one call, one print."""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from amem_cli.cli import console, flags
from amem_cli.cli.flags import command
from amem_cli.cli.root import app
from amem_cli.options import TrainAmemOptions, check_device
from amem_cli.runtime.progress import Progress

if TYPE_CHECKING:
    from amem_cli.video.search import SearchResult
    from amem_cli.video.tracklets import TrackletOptions

MODEL = "workspace/amem/mars/amem-main.safetensors"  # of a bare `amem train-amem`
Videos = Annotated[list[Path], Argument(help="video files; with --camera several of one camera, in order")]
BoxesFrom = Annotated[
    list[str] | None,
    Option(
        help="motion | torchvision[:MODEL] | MOT file; once, or once per video; empty: torchvision if its weights are "
        "on this machine, else motion",
    ),
]
DetectorWeights = Annotated[Path | None, Option(help="file of torchvision's weights for --boxes torchvision")]
Device = Annotated[str, Option(help=flags.HELP["device"])]
Calibrated = Annotated[Path | None, Option("--calibration", help="result of amem evaluate --calibrate")]
Threshold = Annotated[float | None, Option(help="squared distance (0 to 4) up to which tracks are one person")]


@dataclass(frozen=True)
class Cutting:
    """How people are cut out of videos."""

    boxes: BoxesFrom = None
    detector_weights: DetectorWeights = None
    camera: Annotated[list[str] | None, Option(help="name of each video's camera; empty: the file's name")] = None
    fps: Annotated[float, Option(help="pictures used per second; 0: all")] = 0.0
    min_frames: Annotated[int, Option(help="shorter tracks are left out")] = 8
    device: Device = "auto"
    force: Annotated[bool, Option("--force", help="replace the output of other videos or options")] = False

    def options(self, videos: list[Path], out: Path) -> "TrackletOptions":
        from amem_cli.video.tracklets import TrackletOptions

        check_device(self.device)
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        boxes, cameras = (tuple(values.pop(name) or ()) for name in ("boxes", "camera"))
        return TrackletOptions(videos=tuple(videos), out=out, boxes=boxes, cameras=cameras, **values)


@command(app, "tracklets", "amem tracklets a.mp4 b.mp4 --out people", "amem tracklets a.mp4 --boxes a.txt --out people")
def tracklets(
    output: flags.Output,
    videos: Videos,
    out: Annotated[Path, Option(help="folder to make: <camera>/<track>/<frame>.jpg, tracks.csv, boxes.csv, a .toml")],
    cutting: Cutting,
) -> None:
    """Cut people out of videos, as a data set of tracks.

    It shows people: use only videos that you may use.
    """
    from amem_cli.video.tracklets import cut_tracklets

    result = cut_tracklets(cutting.options(videos, out), Progress(output.quiet))
    if output.as_json:
        return console.print_json(result)
    cameras = ", ".join(f"{name} {count}" for name, count in result.tracks.items())
    print(f"tracklets: {result.folder} ({'reused' if result.reused else f'{result.pictures} pictures'})")
    print(f"  tracks: {cameras}; {result.dropped} with fewer than {cutting.min_frames} frames are left out")
    print(f"  next: amem extract-features --dataset {shlex.quote(str(result.manifest))} --model {MODEL}")


@dataclass(frozen=True)
class Criteria:
    """What a search looks for and where."""

    gallery: Annotated[list[Path], Option(help="features file; repeatable")]
    top: Annotated[int, Option(help="tracklets to list")] = 10
    calibration: Calibrated = None
    camera: Annotated[list[str] | None, Option(help="only this camera; repeatable")] = None
    after: Annotated[float | None, Option(help="only tracklets in view after this second of the video")] = None
    before: Annotated[float | None, Option(help="only tracklets in view before this second of the video")] = None
    with_: Annotated[str | None, Option("--with", help="attributes the person has: upperBodyRed,carryingBackpack")] = (
        None
    )
    without: Annotated[str | None, Option(help="attributes the person does not have")] = None
    labels: Annotated[list[Path] | None, Option(help="pseudo-labels file; empty: the workspace's")] = None
    workspace: flags.Workspace = TrainAmemOptions.workspace
    model: Annotated[Path | None, Option(help="amem-main that made the gallery, for a folder or a video")] = None
    boxes: BoxesFrom = None
    detector_weights: DetectorWeights = None
    device: Device = "auto"


@command(
    app, "search", "amem search hall/0003 --gallery people.h5", "amem search --with upperBodyRed --gallery people.h5"
)
def search(
    output: flags.Output,
    criteria: Criteria,
    query: Annotated[str, Argument(help="tracklet of the gallery, folder of frames, or video; empty with --with")] = "",
    out: Annotated[Path | None, Option(help="also write this HTML page; it shows people")] = None,
) -> None:
    """Find the tracklets that are nearest to a person, or that fit a description."""
    from amem_cli.video.search import SearchOptions, search, write_page

    check_device(criteria.device)
    values = {field.name: getattr(criteria, field.name) for field in dataclasses.fields(criteria)}
    values |= {name: tuple(values[name] or ()) for name in ("gallery", "labels", "boxes")}
    values |= {name: tuple(filter(None, (values[name] or "").split(","))) for name in ("with_", "without")}
    result = search(SearchOptions(query=query, cameras=tuple(values.pop("camera") or ()), **values),
                    progress := Progress(output.quiet))  # fmt: skip
    if out is not None:
        write_page(result, out, progress)
    if output.as_json:
        return console.print_json(as_json(result) | {"page": out, "warnings": progress.warnings})
    print_hits(result)
    if out is not None:
        print(f"page: {out}, open it in a browser")


def as_json(result: "SearchResult") -> dict[str, Any]:
    """The hits of each query, without their rows."""
    queries = [dataclasses.asdict(one) for one in result.found]
    found = [{"query": one["query"], "results": [hit for hit in one["hits"] if hit.pop("row") >= 0]} for one in queries]
    return {"queries": found, "searched": result.searched, "seconds": result.seconds}


def print_hits(result: "SearchResult") -> None:
    several = len(result.gallery.paths) > 1
    for found in result.found:
        columns = ["", "tracklet", "camera", "seconds", "distance", "same person", "fits"]
        rows = []
        for hit in found.hits:
            name = f"{hit.dataset}:{hit.tracklet}" if several else hit.tracklet
            when = "" if hit.first_seconds is None else f"{hit.first_seconds:.1f}-{hit.last_seconds:.1f}"
            far = "" if hit.distance is None else f"{hit.distance:.3f}"
            rates = ["" if rate is None else f"{100 * rate:.0f} %" for rate in (hit.probability, hit.fits)]
            rows.append([str(hit.rank), name, hit.camera, when, far, *rates])
        used = [place for place in range(len(columns)) if place < 3 or any(row[place] for row in rows)]
        table = [[row[place] for place in used] for row in rows]
        console.print_table([columns[place] for place in used], table, title=f"nearest to {found.query}")
    print(f"{result.searched} tracklets searched in {result.seconds:.2f} s")


@command(
    app,
    "link",
    "amem link hall.h5 door.h5 --threshold 0.6 --out people",
    "amem link a.h5 --calibration mars.json --out x",
)
def link(
    output: flags.Output,
    files: Annotated[list[Path], Argument(help="features files of one model")],
    out: Annotated[Path, Option(help="folder for identities.csv and a MOTChallenge file per camera")],
    threshold: Threshold = None,
    calibration: Calibrated = None,
    tracks: Annotated[
        list[Path] | None, Option(help="folder of each file's tracks; empty: where the features file says")
    ] = None,
) -> None:
    """Give each person one number over all cameras."""
    from amem_cli.video.link import link

    progress = Progress(output.quiet)
    linked = link(tuple(files), out, progress, threshold=threshold, calibration=calibration, tracks=tuple(tracks or ()))
    figures = {"out": out, "tracks": len(linked.person), "people": linked.people, "forbidden_pairs": linked.forbidden}
    figures |= {"in_several_cameras": linked.in_several_cameras(), "threshold": linked.threshold}
    if output.as_json:
        return console.print_json(figures | {"warnings": progress.warnings})
    print(f"link: {out / 'identities.csv'}: {linked.people} people in {len(linked.person)} tracks")
    print(f"  {figures['in_several_cameras']} of them in several cameras; one person up to a squared distance of "
          f"{linked.threshold:.3g}")  # fmt: skip


@dataclass(frozen=True)
class Comparing:
    """How tracks are compared."""

    model: Annotated[Path | None, Option(help="amem-main checkpoint; empty: the workspace's")] = None
    arm: Annotated[Path | None, Option(help="attribute model; empty: the workspace's, if there is one")] = None
    threshold: Threshold = None
    calibration: Calibrated = None
    dataset: flags.Dataset = TrainAmemOptions.dataset
    workspace: flags.Workspace = TrainAmemOptions.workspace


@command(app, "find", "amem find hall.mp4 door.mp4 --out answer", "amem find a.mp4 b.mp4 --model m.safetensors --out x")
def find(
    output: flags.Output,
    videos: Videos,
    out: Annotated[Path, Option(help="folder to make; the page is OUT/index.html")],
    cutting: Cutting,
    how: Comparing,
) -> None:
    """From videos to one page: who is where, and when.

    The same as tracklets, extract-features, label-videos and link. It shows
    people: use only videos that you may use.
    """
    from amem_cli.video.find import FindOptions, find

    progress = Progress(output.quiet)
    answer = find(FindOptions(tracklets=cutting.options(videos, out), **dataclasses.asdict(how)), progress)
    linked = answer.linked
    figures = {"tracks": len(linked.person), "people": linked.people, "in_several_cameras": linked.in_several_cameras()}
    if output.as_json:
        return console.print_json({"page": answer.page, **figures, "used": answer.used, "warnings": progress.warnings})
    print(f"find: {answer.page}, open it in a browser")
    several = figures["in_several_cameras"]
    print(f"  {linked.people} people in {len(linked.person)} tracks, {several} in several cameras")
