"""How `extract-features` grows: seconds and peak memory against tracklets, frames of a tracklet, and processes.

    python benchmarks/growth.py [--what tracklets length processes] [--tracklets 100 1000 10000]
                                [--length 8 64 256 920] [--processes 1 2]

Every point is a whole run of the command in a process of its own, from its start to the features file, on frames of
32 x 32 and an untrained baseline (I3D, clips of 4 frames): what grows is everything but the network. Memory is the
largest resident set of any one process (Linux, macOS). Threads are one for each process.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.models.amem import build_main_model
from amem_cli.options import TrainAmemOptions
from amem_cli.stages.train_amem import describe

ROOT = Path(__file__).resolve().parents[1]
CLIP_FRAMES, SIDE = 4, 32
POINTS = {"tracklets": (100, 1000, 10_000), "length": (8, 64, 256, 920), "processes": (1, 2)}
FRAMES = 4  # of a tracklet where their number grows
SOME = 200  # tracklets where processes grow
FEW = 20  # tracklets where their length grows
FRAMES_OF_PROCESSES = 40


def write_dataset(folder: Path, tracklets: int, frames: int) -> Path:
    """An own data set whose test part has `tracklets` of `frames` each; returns its manifest.

    The frames are links to a few files: what is read is the same, what is written is little.
    """
    images = []
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        images.append(folder / f"{number}.jpg")
        Image.fromarray(noise).save(images[-1])
    people = tracklets  # two cameras each, and half of the people train
    for person in range(1, people + 1):
        for camera in (1, 2):
            place = folder / "people" / str(person) / str(camera)
            place.mkdir(parents=True)
            for frame in range(frames):
                os.link(images[(person + frame) % len(images)], place / f"{frame:04d}.jpg")
    manifest = folder / "own.toml"
    manifest.write_text(
        f'name = "own"\nlayout = "folder"\nroot = "{folder / "people"}"\n'
        '[protocol]\nkind = "cross-camera-splits"\nsplits = 1\ntrain_fraction = 0.5\nseed = 0\n'
    )
    return manifest


def write_model(path: Path) -> Path:
    torch.manual_seed(0)
    size = f"{SIDE}x{SIDE}"
    options = TrainAmemOptions(modules="baseline", image_size=size, clip_frames=CLIP_FRAMES, predict_frames=2)
    described = describe(options, 4)
    model = build_main_model(described)
    checkpoint.save(
        path, "amem-main", model.state_dict(), Provenance("train-amem", {"dataset": "own", "split": 0}), model=described
    )
    return path


def extract(tracklets: int, frames: int, processes: int = 1) -> dict[str, float]:
    """Seconds of the whole command, and the peak memory of its largest process in bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_dataset(folder, tracklets, frames)
        model = write_model(folder / "amem-main.safetensors")
        start = [sys.executable, "-m"]
        if processes > 1:
            start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
        arguments = ["amem_cli", "extract-features", "--dataset", manifest, "--model", model, "--quiet"]
        arguments += ["--workspace", folder / "workspace", "--device", "cpu", "--engine", "torch", "--split", "0"]
        began = time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        process = os.posix_spawn(sys.executable, list(map(str, start + arguments)), environment)
        _, status, usage = os.wait4(process, 0)
        seconds = time.perf_counter() - began
        if status:
            raise RuntimeError(f"extract-features ended with {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "memory": usage.ru_maxrss * unit}


def run(what: str, points: tuple[int, ...] = ()) -> list[dict[str, float]]:
    """The curve over `what`, one of `POINTS`: {"x", "seconds", "memory"} for each point."""
    rows = []
    for x in points or POINTS[what]:
        if what == "tracklets":
            found = extract(x, FRAMES)
        elif what == "length":
            found = extract(FEW, x)
        else:
            found = extract(SOME, FRAMES_OF_PROCESSES, x)
        rows.append({"x": x} | found)
    return rows


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """The curves as one SVG: seconds above, memory below; the line of least squares shows what is linear."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "amem"  # the same bytes for the same figures
    from matplotlib.figure import Figure

    labels = {"tracklets": "tracklets", "length": "frames of each tracklet", "processes": "processes"}
    figure = Figure(figsize=(3.2 * len(curves), 4.8), layout="constrained")
    axes = figure.subplots(2, len(curves), squeeze=False)
    for column, (what, rows) in enumerate(curves.items()):
        x = [row["x"] for row in rows]
        seconds, memory = [row["seconds"] for row in rows], [row["memory"] / 1e6 for row in rows]
        above, below = axes[:, column]
        above.plot(x, seconds, "o", label="measured")
        if what != "processes":
            slope, begin = np.polyfit(x, seconds, 1)
            above.plot(
                x, [begin + slope * value for value in x], "--", label=f"{begin:.1f} s + {1000 * slope:.2g} ms each"
            )
        above.set(ylabel="seconds", ylim=(0, 1.1 * max(seconds)))
        above.legend(fontsize="small")
        below.plot(x, memory, "o-")
        below.set(xlabel=labels[what], ylabel="peak memory, MB", ylim=(0, 1.3 * max(memory)))
        if what == "processes":
            for axis in (above, below):
                axis.set_xticks(x)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", default=list(POINTS), choices=list(POINTS))
    for what, points in POINTS.items():
        parser.add_argument(f"--{what}", nargs="+", type=int, default=points)
    options = parser.parse_args()
    for what in options.what:
        for row in run(what, tuple(getattr(options, what))):
            print(json.dumps({what: row.pop("x")} | row), flush=True)


if __name__ == "__main__":
    main()
