"""`make soak`: stop tiny runs of the stages after every step and at random moments; write docs/RELIABILITY.md.

    python tests/soak.py [--kills 2] [--seed 0] [--out docs/RELIABILITY.md]

Exit code 1 if any row of the page fails.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import processes
import torch
import toys
from faults import flip_bit

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import AmemError
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.models.checkpoints import save_arm, save_main
from amem_cli.models.config import ArmConfig, model_config
from amem_cli.options import BACKBONES, ExtractFeaturesOptions, LabelVideosOptions
from amem_cli.runtime import sharding
from amem_cli.runtime.progress import Silent
from amem_cli.stages.extract_features import extract_features
from amem_cli.stages.label_videos import label_videos
from amem_cli.stages.train_amem import train_amem
from amem_cli.stages.train_arm import train_arm
from amem_cli.stages.train_tae import train_tae
from amem_cli.walkers.layouts import write_walkers
from amem_cli.walkers.options import WalkerOptions

Row = dict[str, Any]  # the columns of one line of a table; "as it should be" is the last


@dataclass(frozen=True)
class Stage:
    """A stage on tiny data: `run(workspace, **changed options)`, and the files that it writes."""

    name: str
    run: Callable[..., object]
    outputs: tuple[str, ...]


def stages(folder: Path) -> list[Stage]:
    """The long stages, on generated people and a tiny backbone."""
    data = write_walkers(
        folder / "data", WalkerOptions(people=8, frames=(6, 12), images_per_person=3, height=64, width=32)
    )
    torch.manual_seed(0)
    sharding.FRAMES_PER_SHARD, BACKBONES["i3d"] = 40, "tiny3d:Tiny3D"
    provenance = Provenance("train-amem", {})
    arm_config = ArmConfig(backbone="resnet18", image_size="32x32")
    arm = save_arm(folder / "arm.safetensors", ARM(arm_config.backbone), arm_config, provenance)
    config = model_config(toys.amem_options(data, folder), people=4)
    main = save_main(folder / "main.safetensors", build_main_model(config), config, provenance)
    train = read_videos(load_manifest("mars"), data).splits[0].train
    labels = toys.write_labels(folder / "labels.h5", [tracklet.name for tracklet in train])
    four = {"people_per_batch": 4}  # two in each of two processes
    both = four | {"tae": str(toys.write_tae(folder / "tae.safetensors")), "labels": str(labels)}
    how = {"save_seconds": 0.5, "epochs": 2, "validate": 0.5, "validate_epochs": 1}
    common = {"data_root": data, "device": "cpu"}
    of_amem = tuple(f"amem/mars/{name}.safetensors" for name in ("amem-main", "amem-main-best", "amem"))

    def training(stage: Callable, options: Callable, **chosen: Any) -> Callable:
        return lambda at, **changed: stage(options(data, at, **how | chosen | changed), Silent())

    def label(at: Path) -> object:
        return label_videos(LabelVideosOptions(workspace=at, arm=str(arm), **common), Silent())

    def extract(at: Path) -> object:
        return extract_features(ExtractFeaturesOptions(workspace=at, model=str(main), **common), Silent())

    return [
        Stage("train-arm", training(train_arm, toys.arm_options), ("arm/arm.safetensors", "arm/arm-best.safetensors")),
        Stage("label-videos", label, ("labels/mars.h5",)),
        Stage("train-tae", training(train_tae, toys.tae_options), ("tae/tae.safetensors", "tae/tae-best.safetensors")),
        Stage("train-amem baseline", training(train_amem, toys.amem_options, modules="baseline", **four), of_amem),
        Stage("train-amem", training(train_amem, toys.amem_options, **both), of_amem),
        Stage("extract-features", extract, ("features/mars.h5",)),
    ]


def digest(workspace: Path, stage: Stage) -> str:
    """One SHA-256 of the outputs; of a model its tensors, because its metrics hold times. Empty if one is missing."""
    total = hashlib.sha256()
    for file in (workspace / name for name in stage.outputs):
        if not file.is_file():
            return ""
        if file.suffix == ".safetensors":
            kind = checkpoint.read_description(file)["kind"]
            for name, tensor in sorted(checkpoint.load(file, kind).tensors.items()):
                total.update(name.encode() + tensor.numpy().tobytes())
        else:
            total.update(file.read_bytes())
    return total.hexdigest()


# -- stopped after every step ------------------------------------------------------------------------------------------


def stop_after_every_step(stage: Stage, folder: Path, world: int, workers: int) -> Row:
    """Stop a training by `--time-limit` after each step, in `world` processes, and continue it until it is done."""

    def go(workspace: Path, limit: str) -> processes.Ended:
        def action(rank: int) -> None:
            try:
                stage.run(workspace, workers=workers, time_limit=limit, epochs=1 if workers else 2)
            except AmemError as error:
                raise SystemExit(error.exit_code) from None

        return processes.together(action, world, folder)

    ended = go(folder / "whole", "")
    if any(ended.codes):
        raise SystemExit(f"{stage.name} does not run in {world} process(es): {ended.codes} {ended.text}")
    lines = (folder / "whole" / stage.outputs[0]).with_name("metrics.jsonl").read_text().splitlines()
    steps, stops = max(json.loads(line)["step"] for line in lines), 0
    while set(go(folder / "cut", "0s").codes) in ({143}, {143, -signal.SIGTERM}):  # the first to end stops the others
        stops += 1
    same = digest(folder / "cut", stage) == digest(folder / "whole", stage) and stops == steps - 1
    shutil.rmtree(folder)
    row = {"stage": stage.name, "processes": world, "loader workers": workers, "steps": steps, "stops": stops}
    return row | {"same weights": same}


# -- stopped at random moments -----------------------------------------------------------------------------------------


def child(action: Callable[[], object], moment: float | None, number: int = signal.SIGKILL) -> int:
    """Run `action` in a forked child that gets a signal after `moment` seconds; its exit code, negative for a
    signal's number."""
    process = os.fork()
    if process == 0:
        code = 70
        try:
            action()
            code = 0
        except AmemError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    end = None if moment is None else time.monotonic() + moment
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            os.kill(process, number)
            end = None
        time.sleep(0.002)


def flip_newest(workspace: Path, draw: np.random.Generator) -> bool:
    """Flip a bit of the newest saved state or shard; False without one."""
    found = sorted(workspace.rglob("state-*.safetensors")) or sorted(workspace.rglob("0*.safetensors"))
    for path in found[-1:]:
        flip_bit(path, int(draw.integers(path.stat().st_size)), int(draw.integers(8)))
    return bool(found)


def stop_at_random(stage: Stage, folder: Path, kills: int, draw: np.random.Generator) -> Row:
    """Stop a stage at random moments, run it again until it is done, and so on until `kills` signals were sent.

    One signal in four is SIGTERM; before one rerun in four, a bit of the newest state or shard is flipped.
    """
    began = time.monotonic()
    if child(lambda: stage.run(folder / "whole"), None):
        raise SystemExit(f"{stage.name} does not run")
    seconds = time.monotonic() - began
    rounds = killed = terminated = flipped = same = 0
    while killed + terminated < kills:
        rounds += 1
        workspace = folder / f"round {rounds}"
        while True:
            number = signal.SIGTERM if draw.random() < 0.25 else signal.SIGKILL
            moment = float(draw.uniform(0, seconds)) if killed + terminated < kills else None
            code = child(lambda workspace=workspace: stage.run(workspace), moment, number)
            killed += code == -signal.SIGKILL
            terminated += code in (143, -signal.SIGTERM)
            if code not in (-signal.SIGKILL, 143, -signal.SIGTERM):
                break
            if draw.random() < 0.25:
                flipped += flip_newest(workspace, draw)
        same += code == 0 and digest(workspace, stage) == digest(folder / "whole", stage)
    row = {"stage": stage.name, "uninterrupted": f"{seconds:.1f} s", "rounds": rounds, "SIGKILL": killed}
    return row | {"SIGTERM": terminated, "flipped bits": flipped, "same weights or bytes": same == rounds}


# -- the page ----------------------------------------------------------------------------------------------------------

STOPS = (
    "Tiny trainings, stopped by `--time-limit` after each of their steps and continued. The processes of one run share "
    "its batches over gloo."
)
KILLS = (
    "Tiny runs on generated people, one CPU thread. A round is one run from its start to its end, through all signals "
    "that it gets. Now and then a bit of the newest saved state or shard is flipped before the rerun."
)


def shown(row: Row) -> Row:
    """Print a row."""
    print(row, flush=True)
    return row


def table(rows: list[Row]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[{True: "yes", False: "NO"}[v] if isinstance(v, bool) else str(v) for v in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Run everything, print and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=2, help="signals for each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/RELIABILITY.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began, draw = time.monotonic(), np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        every = stages(folder)
        kills = [shown(stop_at_random(stage, folder / stage.name, arguments.kills, draw)) for stage in every]
        trainings = [stage for stage in every if stage.name.startswith("train")]
        runs = [(stage, world, workers) for stage in trainings for world in (1, 2) for workers in (0, 2)]
        stops = [
            shown(stop_after_every_step(stage, folder / "stops", world, workers)) for stage, world, workers in runs
        ]
    text = "# Reliability, measured\n\n"
    text += f"Written by `make soak` (seed {arguments.seed}, {time.monotonic() - began:.0f} seconds).\n"
    for title, words, rows in (
        ("Stopped after every step and continued", STOPS, stops),
        ("Stopped at random moments and run again", KILLS, kills),
    ):
        text += f"\n## {title}\n\n{words}\n\n{table(rows)}\n"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, "utf-8")
    print(text)
    return 0 if all(list(row.values())[-1] for row in (*stops, *kills)) else 1


if __name__ == "__main__":
    sys.exit(main())
