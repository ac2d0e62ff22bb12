"""`make soak`: faults at every step of every writer, stops in every step of tiny trainings, kills at random moments,
flipped bits in every artifact; writes the table.

    python tests/soak.py [--kills 2] [--flips 100] [--seed 0] [--out docs/RELIABILITY.md]

Figures only: anything that is not as it should be ends the command with exit code 1, the table being written all the
same.
"""

import argparse
import errno
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import processes
import torch
from artifacts.test_atomic import NEW, OLD, WRITERS
from faults import DEAD, KILL, hit, in_child, steps_of, temporaries

from amem_cli.artifacts import (
    checkpoint,
    features,
    output,
    pseudo_labels,
    results,
    shards,
)
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import ATTRIBUTES, GROUP_SIZES
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import AmemError, BadData, DiskError
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.models.tae import Discriminator, TextureDecoder, TextureEncoder
from amem_cli.options import (
    ExtractFeaturesOptions,
    LabelVideosOptions,
    TrainAmemOptions,
    TrainArmOptions,
    TrainTaeOptions,
)
from amem_cli.runtime.progress import Silent
from amem_cli.stages.extract_features import extract_features
from amem_cli.stages.label_videos import label_videos
from amem_cli.stages.train_amem import describe, train_amem
from amem_cli.stages.train_arm import train_arm
from amem_cli.stages.train_tae import train_tae
from amem_cli.walkers import WalkerOptions, write_walkers

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


# -- stops in every step -----------------------------------------------------------------------------------------------


@dataclass
class Chain:
    """What came of stopping a training after each of its steps, one after another, until it was done."""

    stage: str
    processes: int
    workers: int
    steps: int = 0
    stops: int = 0
    same: bool = False  # the weights of an uninterrupted run

    @property
    def good(self) -> bool:
        return self.same and self.stops == self.steps - 1


def chain(stage: str, run: Callable[..., object], outputs: list[str], folder: Path, world: int, workers: int) -> Chain:
    """Stop `run(workspace, workers=, time_limit=, epochs=)` after every step, in `world` processes."""
    found = Chain(stage, world, workers)
    place = folder / f"{stage} {world} {workers}"

    def go(workspace: Path, limit: str) -> processes.Ended:
        def action(rank: int) -> None:
            try:
                run(workspace, workers=workers, time_limit=limit, epochs=1 if workers else 2)
            except AmemError as error:
                raise SystemExit(error.exit_code) from None

        return processes.together(action, world, place)

    ended = go(place / "whole", "")
    if ended.codes != [0] * world:
        raise SystemExit(f"{stage} does not run at all in {world} process(es): {ended.text}")
    found.steps = max(
        json.loads(line)["step"] + 1
        for line in (place / "whole" / outputs[0]).with_name("metrics.jsonl").read_text().splitlines()
    )
    while go(place / "cut", "0s").codes == [143] * world:
        found.stops += 1
    made, wanted = ([place / at / output for output in outputs] for at in ("cut", "whole"))
    found.same = all(file.is_file() for file in made) and digest(made) == digest(wanted)
    shutil.rmtree(place)
    return found


# -- flipped bits ------------------------------------------------------------------------------------------------------


@dataclass
class Flips:
    """What came of flipping single bits, drawn at random, in one artifact."""

    artifact: str
    bytes: int
    flipped: int = 0
    refused: int = 0  # by what the next stage reads it with
    verified: int = 0  # told by what `amem status --verify` calls

    @property
    def good(self) -> bool:
        return self.flipped == self.refused == self.verified


def flip_bits(name: str, path: Path, count: int, draw: np.random.Generator) -> Flips:
    """Flip `count` bits of an artifact one at a time, each put right again."""
    read = {".h5": pseudo_labels.read if "labels" in name else features.read, ".json": results.read}.get(
        path.suffix, lambda path: checkpoint.load(path, kind)
    )
    kind = checkpoint.read_description(path)["kind"] if path.suffix == ".safetensors" else ""
    found = Flips(name, path.stat().st_size)
    with open(path, "r+b", buffering=0) as file:
        for number in range(count):
            # every other one in the first 4 kB, where headers, seals and descriptions stand
            at = int(draw.integers(min(found.bytes, 4096) if number % 2 else found.bytes))
            good = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([good[0] ^ 1 << int(draw.integers(8))]), at)
            found.flipped += 1
            for call, counter in ((read, "refused"), (output.verify, "verified")):
                try:
                    call(path)
                except BadData:
                    setattr(found, counter, getattr(found, counter) + 1)
            os.pwrite(file.fileno(), good, at)
    read(path)
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


def stages(folder: Path) -> dict[str, tuple[Callable[..., object], list[str]]]:
    """The stages that write for long, tiny, on generated people; each as (run(workspace, ...), its files)."""
    people = WalkerOptions(people=8, frames=(6, 12), images_per_person=3, height=64, width=32)
    data = write_walkers(folder / "data", people)
    torch.manual_seed(0)
    described = {"depth": 18, "attributes": list(ATTRIBUTES), "image_size": "32x32"}
    arm = checkpoint.save(
        folder / "arm.safetensors", "amem-arm", ARM(18, GROUP_SIZES).state_dict(), Provenance("train-arm", {}),
        model=described,
    )  # fmt: skip
    described = describe(TrainAmemOptions(modules="baseline", image_size="32x32", clip_frames=4, predict_frames=2), 4)
    main = checkpoint.save(
        folder / "main.safetensors", "amem-main", build_main_model(described).state_dict(),
        Provenance("train-amem", {}), model=described,
    )  # fmt: skip
    shards.FRAMES_PER_SHARD = 40
    labels = write_labels(folder / "labels.h5", read_videos(load_manifest("mars"), data).splits[0].train)
    torch.manual_seed(0)
    parts = {"encoder.": TextureEncoder(), "decoder.": TextureDecoder(), "discriminator.": Discriminator(32, 32)}
    tensors = {name: t for prefix, part in parts.items() for name, t in checkpoint.prefixed(prefix, part).items()}
    tae = checkpoint.save(
        folder / "tae.safetensors", "amem-tae", tensors, Provenance("train-tae", {}), model={"image_size": "32x32"}
    )
    common = {"data_root": data, "device": "cpu"}
    how = {"image_size": "32x32", "save_seconds": 0.5, "log_steps": 1, "epochs": 2}
    how |= {"validate": 0.5, "validate_epochs": 1}
    amem = {"branch": "conv2d", "clip_frames": 4, "predict_frames": 2, "gradient_steps": 0}
    amem |= {"people_per_batch": 4, "clips_per_person": 2}
    in_mars = ["amem/mars/amem-main.safetensors", "amem/mars/amem-main-best.safetensors", "amem/mars/amem.safetensors"]

    def training(options: type, run: Callable[..., object], **how: Any) -> Callable[..., object]:
        def go(at: Path, **more: Any) -> object:
            return run(options(**common | how | more, workspace=at), Silent())

        return go

    whole = {"modules": "amem", "tae": str(tae), "labels": str(labels)}
    return {
        "train-arm": (
            training(TrainArmOptions, train_arm, backbone="resnet18", batch_size=64, partition="none", **how),
            ["arm/arm.safetensors", "arm/arm-best.safetensors"],
        ),
        "label-videos": (
            lambda at: label_videos(LabelVideosOptions(workspace=at, arm=str(arm), **common), Silent()),
            ["labels/mars.h5"],
        ),
        "train-tae": (
            training(TrainTaeOptions, train_tae, batch_size=4, **how),
            ["tae/tae.safetensors", "tae/tae-best.safetensors"],
        ),
        "train-amem": (training(TrainAmemOptions, train_amem, modules="baseline", **how, **amem), in_mars),
        "train-amem with AEM and MEM": (training(TrainAmemOptions, train_amem, **how | amem | whole), in_mars),
        "extract-features": (
            lambda at: extract_features(ExtractFeaturesOptions(workspace=at, model=str(main), **common), Silent()),
            ["features/mars.h5"],
        ),
    }


def write_labels(path: Path, tracklets: Sequence[Tracklet]) -> Path:
    """Made-up labels of some tracklets."""
    rows = np.arange(len(tracklets))
    labels = (rows[:, None] + np.arange(len(ATTRIBUTES))) % 2
    table = pseudo_labels.PseudoLabels(
        "mars", [tracklet.name for tracklet in tracklets], rows, rows, rows + 1, labels.astype(np.float32),
        labels.astype(np.uint8), tuple(ATTRIBUTES), 0.5, {},
    )  # fmt: skip
    return pseudo_labels.write(path, table, Provenance("label-videos", {}))


# -- the table ---------------------------------------------------------------------------------------------------------


def table(
    sweeps: list[Sweep], chains: list[Chain], flips: list[Flips], soaks: list[Soak], seed: int, seconds: float
) -> str:
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
        "## Stopped after every step and continued",
        "",
        "Tiny trainings, stopped by `--time-limit` after each of their steps, one after another. The processes of one "
        "run share its batches over gloo. AEM and MEM bring MEM's two optimisers.",
        "",
        "| stage | processes | loader workers | steps | stops | same weights |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.stage} | {c.processes} | {c.workers} | {c.steps} | {c.stops} | {'yes' if c.same else 'NO'} |"
        for c in chains
    ]
    lines += [
        "",
        "## One flipped bit",
        "",
        "Single bits of artifacts that the stages wrote, drawn at random, every other one in the first 4 kB. Refused: "
        "by what the next stage reads the file with. Verified: told by `amem status --verify`.",
        "",
        "| artifact | bytes | flipped | refused | verified |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {f.artifact} | {f.bytes:,} | {f.flipped} | {f.refused} | {f.verified} |" for f in flips]
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
    parser.add_argument("--flips", type=int, default=100, help="bits for each artifact")
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
        every = stages(folder)
        soaks = []
        for stage, (run, outputs) in every.items():
            soaks.append(soak(stage, run, outputs, folder / stage, arguments.kills, draw))
            print(soaks[-1], flush=True)
        flips = []
        last = {Path(output).name: (stage, output) for stage, (_, outputs) in every.items() for output in outputs}
        for stage, output in last.values():
            artifact = folder / stage / "whole" / output
            flips.append(flip_bits(output, artifact, arguments.flips, draw))
            print(flips[-1], flush=True)
        chains = []
        for stage, (run, outputs) in every.items():
            for world, workers in ((1, 0), (1, 2), (2, 0), (2, 2)) if stage.startswith("train") else ():
                chains.append(chain(stage, run, outputs, folder / "chains", world, workers))
                print(chains[-1], flush=True)
    text = table(sweeps, chains, flips, soaks, arguments.seed, time.monotonic() - began)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, "utf-8")
    print(text)
    return 0 if all(each.good for each in (*sweeps, *chains, *flips, *soaks)) else 1


if __name__ == "__main__":
    sys.exit(main())
