"""How `extract-features` grows: seconds and peak memory over tracklets, frames per tracklet, and processes.

Every point is a run of the whole command in its own process, with one thread per process, on frames of 32 x 32 and an
untrained baseline model with clips of 4 frames: everything but the network is in its real size. Memory is the largest
resident set of any process (Linux, macOS).
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from amem_cli.artifacts.provenance import Provenance
from amem_cli.models.amem import build_main_model
from amem_cli.models.checkpoints import save_main
from amem_cli.models.config import model_config
from amem_cli.options import TrainAmemOptions

CLIP_FRAMES, SIDE = 4, 32
POINTS = {"tracklets": (100, 1000, 10_000), "length": (8, 64, 256, 920), "processes": (1, 2)}
AXES = {"tracklets": "tracklets", "length": "frames per tracklet", "processes": "processes"}
# what varies: (tracklets, frames per tracklet, processes), None for the varied one
FIXED = {"tracklets": (None, 4, 1), "length": (20, None, 1), "processes": (200, 40, None)}


def write_dataset(folder: Path, tracklets: int, frames: int) -> Path:
    """A data set of layout "folder" with this number of test tracklets; returns its manifest.

    Frames are links to a few files: all are read, little is written.
    """
    images = []
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        images.append(folder / f"{number}.jpg")
        Image.fromarray(noise).save(images[-1])
    for person in range(1, tracklets + 1):  # two cameras each; half of the people are for training
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
    config = model_config(options, 4)
    return save_main(path, build_main_model(config), config, Provenance("train-amem", {"dataset": "own", "split": 0}))


def extract(tracklets: int, frames: int, processes: int) -> dict[str, float]:
    """Seconds of the command, and the peak memory of its largest process in bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, model = write_dataset(folder, tracklets, frames), write_model(folder / "amem-main.safetensors")
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
        command = [sys.executable, "-m", *(torchrun if processes > 1 else []), "amem_cli", "extract-features"]
        command += ["--dataset", str(manifest), "--model", str(model), "--workspace", str(folder / "workspace")]
        command += ["--split", "0", "--device", "cpu", "--engine", "torch", "--quiet"]
        began = time.perf_counter()
        process = os.posix_spawn(sys.executable, command, os.environ | {"OMP_NUM_THREADS": "1"})
        _, status, usage = os.wait4(process, 0)
        seconds = time.perf_counter() - began
        if status:
            raise RuntimeError(f"extract-features ended with {os.waitstatus_to_exitcode(status)}")
    return {"seconds": seconds, "memory": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


def run(what: str) -> list[dict[str, float]]:
    """The curve over one of `POINTS`: {"x", "seconds", "memory"} for each point."""
    return [{"x": x} | extract(*(x if n is None else n for n in FIXED[what])) for x in POINTS[what]]


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """The curves as one SVG: seconds above, memory below."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(curves), 4.8), layout="constrained")
    axes = figure.subplots(2, len(curves), squeeze=False, sharex="col")
    for (above, below), (what, rows) in zip(axes.T, curves.items(), strict=True):
        x, seconds, memory = ([row[key] for row in rows] for key in ("x", "seconds", "memory"))
        above.plot(x, seconds, "o-")
        above.set(ylabel="seconds", ylim=(0, 1.1 * max(seconds)))
        below.plot(x, [value / 1e6 for value in memory], "o-")
        below.set(xlabel=AXES[what], ylabel="peak memory, MB", ylim=(0, 1.3 * max(memory) / 1e6))
        if what == "processes":
            below.set_xticks(x)
    with matplotlib.rc_context({"svg.hashsalt": "amem"}):  # the same bytes for the same figures
        figure.savefig(path, metadata={"Date": None})
