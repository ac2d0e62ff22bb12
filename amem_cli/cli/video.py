"""The commands from videos to an answer: options, one call, one print."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from amem_cli.cli import completion, console, flags
from amem_cli.cli.flags import command
from amem_cli.cli.root import app
from amem_cli.options import check_device
from amem_cli.runtime.progress import Progress

Videos = Annotated[list[Path], Argument(help="video files; with --camera several of one camera, in order")]
BoxesFrom = Annotated[
    list[str] | None,
    Option(
        help="motion | torchvision[:MODEL] | MOT file; once, or once per video; empty: torchvision if its weights are "
        "on this machine, else motion",
        autocompletion=completion.words("motion", "torchvision"),
    ),
]
DetectorWeights = Annotated[Path | None, Option(help="file of torchvision's weights for --boxes torchvision")]
CameraNames = Annotated[
    list[str] | None, Option("--camera", help="name of each video's camera; empty: the file's name")
]
Fps = Annotated[float, Option(help="pictures looked at per second; 0: all")]
MinFrames = Annotated[int, Option(help="shorter tracks are left out")]
Device = Annotated[str, Option(help=flags.HELP["device"], autocompletion=completion.OF_OPTION["device"])]
Force = Annotated[bool, Option("--force", help="replace the output of other videos or options")]


@command(app, "tracklets", "amem tracklets a.mp4 b.mp4 --out people", "amem tracklets a.mp4 --boxes a.txt --out people")
def tracklets(
    output: flags.Output,
    videos: Videos,
    out: Annotated[Path, Option(help="folder to make: <camera>/<track>/<frame>.jpg, tracks.csv, boxes.csv, a .toml")],
    boxes: BoxesFrom = None,
    detector_weights: DetectorWeights = None,
    camera: CameraNames = None,
    fps: Fps = 0.0,
    min_frames: MinFrames = 8,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Cut people out of videos, as a data set of tracks.

    It shows people: it falls under the law of the place and the people's consent.
    """
    from amem_cli.video.tracklets import TrackletOptions, cut_tracklets

    check_device(device)
    options = TrackletOptions(
        videos=tuple(videos), out=out, boxes=tuple(boxes or ()), detector_weights=detector_weights,
        cameras=tuple(camera or ()), fps=fps, min_frames=min_frames, device=device, force=force,
    )  # fmt: skip
    result = cut_tracklets(options, Progress(output.quiet))
    if output.as_json:
        return console.print_json(result)
    cameras = ", ".join(f"{name} {count}" for name, count in result.tracks.items())
    print(f"tracklets: {result.folder} ({'reused' if result.reused else f'{result.pictures} pictures'})")
    print(f"  tracks: {cameras}; {result.dropped} shorter than {min_frames} frames left out; boxes: {result.source}")
    print(f"  next: amem extract-features --dataset {result.manifest}")
