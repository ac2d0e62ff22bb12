"""`make soak`: faults at every step of every writer, and kills at random moments of tiny runs; writes the table.

    python tests/soak.py [--kills 2] [--seed 0] [--out docs/RELIABILITY.md]

Figures only: anything that is not as it should be ends the command with exit code 1, the table being written all the
same.
"""

import argparse
import errno
import hashlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from artifacts.test_atomic import NEW, OLD, WRITERS
from faults import DEAD, KILL, hit, in_child, steps_of, temporaries

from amem_cli.artifacts import checkpoint, shards
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import ATTRIBUTES, GROUP_SIZES
from amem_cli.data.walkers import write_walkers
from amem_cli.errors import AmemError, DiskError
from amem_cli.models.amem import build_main_model
from amem_cli.models.attributes import Arm
from amem_cli.options import (
    ExtractFeaturesOptions,
    LabelVideosOptions,
    TrainAmemOptions,
    TrainArmOptions,
    TrainTaeOptions,
)
from amem_cli.progress import Silent
from amem_cli.stages.extract_features import extract_features
from amem_cli.stages.label_videos import label_videos
from amem_cli.stages.train_amem import describe, train_amem
from amem_cli.stages.train_arm import train_arm
from amem_cli.stages.train_tae import train_tae

FAULTS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EDQUOT": errno.EDQUOT, "kill": KILL}


# -- every step of every writer ----------------------------------------------------------------------------------------


@dataclass
class Sweep:
    """What came of the faults in one writer."""

    writer: str
    steps: int
    injected: int = 0
    fired: int = 0
    whole: int = 0  # the old or the new content stood there afterwards
    told: int = 0  # an error gave a DiskError, a kill the exit code of one
    left: int = 0  # temporaries that an error (not a kill) left behind

    @property
    def good(self) -> bool:
        return self.injected == self.fired == self.whole == self.told and not self.left


def sweep(name: str, folder: Path) -> Sweep:
    """Every fault at every step of one writer."""
    path, write = folder / name, WRITERS[name]
    write(path, NEW)
    new = path.read_bytes()
    write(path, OLD)
    old = path.read_bytes()
    found = Sweep(name, len(steps_of(lambda: write(path, NEW))))
    for fault in FAULTS.values():
        for at in range(found.steps):
            write(path, OLD)
            found.injected += 1
            if fault == KILL:

                def die(at: int = at) -> None:
                    with hit(at, KILL):
                        write(path, NEW)

                fired = in_child(die) == DEAD  # nothing else ends a child with that code
                told = fired
                for temporary in temporaries(folder):
                    temporary.unlink()
            else:
                told = False
                with hit(at, fault) as steps:
                    try:
                        write(path, NEW)
                    except DiskError:
                        told = True
                fired = steps.fired
                found.left += len(temporaries(folder))
            found.fired += fired
            found.told += told
            found.whole += path.read_bytes() in (old, new)
    return found


# -- kills at random moments -------------------------------------------------------------------------------------------


@dataclass
class Soak:
    """What came of stopping one stage at random moments until it was done, again and again."""

    stage: str
    seconds: float  # of the uninterrupted run
    rounds: int = 0
    kills: int = 0  # SIGKILL
    terms: int = 0  # SIGTERM
    flipped: int = 0  # states or shards with a flipped bit before the rerun
    other: int = 0  # ends that were none of: killed, 143, done
    same: int = 0  # rounds whose files have the bytes of the uninterrupted run

    @property
    def good(self) -> bool:
        return self.same == self.rounds and not self.other


def child(action: Callable[[], object], moment: float | None, number: int = signal.SIGKILL) -> int:
    """Run `action` in a forked child and send it a signal after `moment` seconds; its exit code, negative for a
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
            return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        time.sleep(0.002)


def flip_newest(folder: Path, draw: np.random.Generator) -> bool:
    """Flip one bit of the newest state or shard; whether there was one."""
    parts = sorted(folder.rglob("state-*.safetensors")) or sorted(folder.rglob("0*.safetensors"))
    if not parts:
        return False
    content = bytearray(parts[-1].read_bytes())
    content[draw.integers(len(content))] ^= 1 << int(draw.integers(8))
    parts[-1].write_bytes(content)
    return True


def digest(files: list[Path]) -> str:
    """One SHA-256 of weights and rows; of a model its tensors, whose training log may differ in seconds only."""
    total = hashlib.sha256()
    for file in files:
        if file.suffix == ".safetensors":
            for name, tensor in sorted(checkpoint.load(file, _kind(file)).tensors.items()):
                total.update(name.encode() + tensor.numpy().tobytes())
        else:
            total.update(file.read_bytes())
    return total.hexdigest()


def _kind(file: Path) -> str:
    return checkpoint.read_description(file)["kind"]


def soak(
    stage: str, run: Callable[[Path], object], outputs: list[str], folder: Path, kills: int, draw: np.random.Generator
) -> Soak:
    """Stop `run(workspace)` at random moments and start it again until it is done; one signal in four is SIGTERM, and
    before one rerun in four a bit is flipped. Goes on until `kills` signals have hit."""
    began = time.monotonic()
    whole = folder / "whole"
    if child(lambda: run(whole), None) != 0:
        raise SystemExit(f"{stage} does not run at all")
    found = Soak(stage, time.monotonic() - began)
    wanted = digest([whole / output for output in outputs])
    while found.kills + found.terms < kills:
        found.rounds += 1
        workspace = folder / f"round {found.rounds}"
        while True:
            number = signal.SIGTERM if draw.random() < 0.25 else signal.SIGKILL
            left = kills - found.kills - found.terms
            moment = float(draw.uniform(0, found.seconds)) if left > 0 else None
            code = child(lambda workspace=workspace: run(workspace), moment, number)
            if code == 0:
                break
            found.kills += code == -signal.SIGKILL
            found.terms += code in (143, -signal.SIGTERM)
            if code not in (-signal.SIGKILL, 143, -signal.SIGTERM):
                found.other += 1
                break
            if draw.random() < 0.25:
                found.flipped += flip_newest(workspace, draw)
        files = [workspace / output for output in outputs]
        found.same += all(file.is_file() for file in files) and digest(files) == wanted
    return found


def stages(folder: Path) -> dict[str, tuple[Callable[[Path], object], list[str]]]:
    """The stages that write for long, tiny, on generated people; each as (run(workspace), its files)."""
    data = write_walkers(folder / "data", people=4, frames=(6, 12), images_per_person=3, height=64, width=32)
    torch.manual_seed(0)
    described = {"depth": 18, "attributes": list(ATTRIBUTES), "image_size": "32x32"}
    arm = checkpoint.save(
        folder / "arm.safetensors", "amem-arm", Arm(18, GROUP_SIZES).state_dict(), Provenance("train-arm", {}),
        model=described,
    )  # fmt: skip
    described = describe(TrainAmemOptions(modules="baseline", image_size="32x32", clip_frames=4, predict_frames=2), 4)
    main = checkpoint.save(
        folder / "main.safetensors", "amem-main", build_main_model(described).state_dict(),
        Provenance("train-amem", {}), model=described,
    )  # fmt: skip
    shards.FRAMES_PER_SHARD = 40
    common = {"data_root": data, "device": "cpu"}
    training = common | {"image_size": "32x32", "save_seconds": 0.5, "log_steps": 1, "epochs": 2}
    training |= {"validate": 0.5, "validate_epochs": 1}
    amem = {"modules": "baseline", "branch": "conv2d", "clip_frames": 4, "predict_frames": 2, "gradient_steps": 0}
    amem |= {"people_per_batch": 2, "clips_per_person": 2}
    in_mars = ["amem/mars/amem-main.safetensors", "amem/mars/amem-main-best.safetensors", "amem/mars/amem.safetensors"]

    def trains_amem(workers: int) -> Callable[[Path], object]:
        return lambda at: train_amem(TrainAmemOptions(workspace=at, workers=workers, **training, **amem), Silent())

    return {
        "train-arm": (
            lambda at: train_arm(
                TrainArmOptions(workspace=at, backbone="resnet18", batch_size=8, partition="none", **training), Silent()
            ),
            ["arm/arm.safetensors", "arm/arm-best.safetensors"],
        ),
        "label-videos": (
            lambda at: label_videos(LabelVideosOptions(workspace=at, arm=str(arm), **common), Silent()),
            ["labels/mars.h5"],
        ),
        "train-tae": (
            lambda at: train_tae(TrainTaeOptions(workspace=at, batch_size=4, **training), Silent()),
            ["tae/tae.safetensors", "tae/tae-best.safetensors"],
        ),
        "train-amem": (trains_amem(0), in_mars),
        "train-amem, 2 workers": (trains_amem(2), in_mars),
        "extract-features": (
            lambda at: extract_features(ExtractFeaturesOptions(workspace=at, model=str(main), **common), Silent()),
            ["features/mars.h5"],
        ),
    }


# -- the table ---------------------------------------------------------------------------------------------------------


def table(sweeps: list[Sweep], soaks: list[Soak], seed: int, seconds: float) -> str:
    """The Markdown page."""
    lines = [
        "# Reliability, measured",
        "",
        f"Written by `make soak` (seed {seed}, {seconds:.0f} seconds); not by hand.",
        "",
        "## A fault at every step of every writer",
        "",
        "Steps are making the temporary file, each write, fchmod, fsync of file and folder, close and rename; faults "
        f"are {', '.join(FAULTS)}. After each the old or the new file must stand there whole.",
        "",
        "| file | steps | faults | fired | old or new | told | temporaries left by errors |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {s.writer} | {s.steps} | {s.injected} | {s.fired} | {s.whole} | {s.told} | {s.left} |" for s in sweeps
    ]
    lines += [
        "",
        "## Stopped at random moments and run again",
        "",
        "Tiny runs on generated people, one CPU thread. A round is one run from nothing to its end through as many "
        "stops as come; the moments are drawn over the time of an uninterrupted run. Now and then a bit of the newest "
        "saved state or shard is flipped before the rerun. `best` weights are compared too.",
        "",
        "| stage | uninterrupted | rounds | SIGKILL | SIGTERM | flipped bits | other ends | same weights or bytes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {s.stage} | {s.seconds:.1f} s | {s.rounds} | {s.kills} | {s.terms} | {s.flipped} | {s.other} "
        f"| {s.same} of {s.rounds} |"
        for s in soaks
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run everything, print and write the table; 1 when something was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=2, help="signals for each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/RELIABILITY.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    draw = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweeps = []
        for writer in sorted(WRITERS):
            sweeps.append(sweep(writer, folder / "sweep"))
            print(sweeps[-1], flush=True)
        soaks = []
        for stage, (run, outputs) in stages(folder).items():
            soaks.append(soak(stage, run, outputs, folder / stage, arguments.kills, draw))
            print(soaks[-1], flush=True)
    text = table(sweeps, soaks, arguments.seed, time.monotonic() - began)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, "utf-8")
    print(text)
    return 0 if all(each.good for each in (*sweeps, *soaks)) else 1


if __name__ == "__main__":
    sys.exit(main())
