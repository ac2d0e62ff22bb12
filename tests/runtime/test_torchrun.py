"""Several processes: byte-identical files, exact resume, failures; forked, and under torchrun."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from toys import tensors_equal, write_main

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.output import locked
from amem_cli.artifacts.provenance import Provenance
from amem_cli.data import loading
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.models.checkpoints import save_arm
from amem_cli.models.config import ArmConfig, model_config
from amem_cli.options import TrainAmemOptions
from amem_cli.runtime import sharding
from amem_cli.runtime.distributed import process_group
from amem_cli.runtime.progress import Silent
from amem_cli.stages import train_arm as arm_stage
from amem_cli.stages import train_tae as tae_stage
from amem_cli.stages.train_amem import stage as amem_stage

pytestmark = pytest.mark.usefixtures("one_thread", "tiny_backbone", "several_shards")

TRAIN = ["--image-size", "32x32", "--epochs", "2", "--log-steps", "1"]
COMMANDS = {
    "train-arm": [*TRAIN, "--backbone", "mobilenet_v2", "--batch-size", "64", "--partition", "none"],
    "train-tae": [*TRAIN, "--tae-encoder", "mobilenet_v2", "--batch-size", "6"],
    "train-amem": [
        *TRAIN, "--modules", "baseline", "--branch", "conv2d", "--clip-frames", "4", "--predict-frames", "2",
        "--clips-per-person", "2", "--people-per-batch", "4", "--gradient-steps", "0",
    ],
    "label-videos": [],
    "extract-features": [],
}  # fmt: skip
TRAININGS = list(COMMANDS)[:3]
FILES = {
    "train-arm": "arm/arm.safetensors",
    "train-tae": "tae/tae.safetensors",
    "train-amem": "amem/mars/amem-main.safetensors",
    "label-videos": "labels/mars.h5",
    "extract-features": "features/mars.h5",
}


@pytest.fixture
def several_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each process."""
    monkeypatch.setattr(sharding, "FRAMES_PER_SHARD", 20)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ARM."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "arm.safetensors"
    config = ArmConfig(backbone="mobilenet_v2", image_size="32x32")
    return save_arm(path, ARM("mobilenet_v2"), config, Provenance("train-arm", {}))


def baseline_options(**changed: Any) -> TrainAmemOptions:
    how = {"modules": "baseline", "branch": "conv2d", "image_size": "32x32", "clip_frames": 4, "predict_frames": 2}
    return TrainAmemOptions(**(how | changed))


@pytest.fixture
def main(tmp_path: Path, tiny_backbone: None) -> Path:
    """An untrained main model with the tiny backbone."""
    return write_main(tmp_path / "main.safetensors")


@pytest.fixture
def workspace(tmp_path: Path, arm: Path, main: Path) -> Path:
    """An empty workspace, with the models next to it."""
    (tmp_path / "arm.safetensors").symlink_to(arm)
    return tmp_path / "workspace"


def arguments(stage: str, walkers: Path, workspace: Path, *more: str) -> list[str]:
    models = {"label-videos": ["--arm", "arm.safetensors"], "extract-features": ["--model", "main.safetensors"]}
    flags = [str(workspace.parent / word) if "." in word else word for word in models.get(stage, ())]
    given = [stage, *COMMANDS[stage], *flags, "--device", "cpu", "--quiet", "--data-root", str(walkers)]
    return [*given, "--workspace", str(workspace), *more]


def run(stage: str, world: int, walkers: Path, workspace: Path, *more: str, begin=lambda rank: None) -> processes.Ended:
    ended = processes.amem(arguments(stage, walkers, workspace, *more), world, workspace.parent / "printed", begin)
    assert "this is a bug" not in ended.text, ended.text
    return ended


def same_weights(one: Path, other: Path) -> bool:
    kind = checkpoint.read_description(one)["kind"]
    return tensors_equal(checkpoint.load(one, kind).tensors, checkpoint.load(other, kind).tensors)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["label-videos", "extract-features", "extract-features --adapt-cameras"])
def test_same_bytes_for_one_two_and_three_processes(command: str, walkers: Path, workspace: Path) -> None:
    stage, *more = command.split()
    found = []
    for world in (1, 2, 3):
        assert run(stage, world, walkers, workspace, *more).codes == [0] * world
        found.append((workspace / FILES[stage]).read_bytes())
        (workspace / FILES[stage]).unlink()
    assert found[0] == found[1] == found[2]


# -- exact resume ------------------------------------------------------------------------------------------------------


def signal_in_step(victim: int, step: int, number: int):
    """Let process `victim` send itself a signal at the end of its `step`-th training step."""

    def begin(rank: int) -> None:
        for module in (arm_stage, tae_stage, amem_stage):
            original = module.finish_step

            def finish_step(run: Any, state: Any, *rest: Any, original: Any = original, **how: Any) -> None:
                if rank == victim and state.step == step:
                    os.kill(os.getpid(), number)
                original(run, state, *rest, **how)

            module.finish_step = finish_step

    return begin


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "more"), [("train-arm", ()), ("train-tae", ("--accumulate", "2", "--epochs", "4")),
                                             ("train-amem", ())])  # fmt: skip
def test_two_processes_stopped_in_each_step_give_the_same_weights(
    stage: str, more: tuple[str, ...], walkers: Path, workspace: Path
) -> None:
    assert run(stage, 2, walkers, workspace / "complete", *more).codes == [0, 0]
    stopped = workspace / "stopped"
    kinds = itertools.cycle([(signal.SIGKILL, 0), (signal.SIGTERM, 0), (signal.SIGKILL, 1), (signal.SIGTERM, 1)])
    for step, (number, victim) in zip(range(1, 100), kinds, strict=False):
        begin = signal_in_step(victim, step, number)
        ended = run(stage, 2, walkers, stopped, "--save-seconds", "0", *more, begin=begin)
        if ended.codes == [0, 0]:
            break
        states = sorted((stopped / FILES[stage]).parent.glob("state-*"))
        # after SIGTERM the step is finished and saved, after SIGKILL the previous state is the last one
        assert int(states[-1].stem[6:]) == step + (number == signal.SIGTERM), ended.text
    assert step >= 3
    assert same_weights(stopped / FILES[stage], workspace / "complete" / FILES[stage])
    metrics = [((at / FILES[stage]).parent / "metrics.jsonl").read_text() for at in (workspace / "complete", stopped)]
    without_time = [re.sub(r'"seconds": [\d.]+', "", text) for text in metrics]
    assert without_time[0] == without_time[1]


# -- failures ----------------------------------------------------------------------------------------------------------


def failing(how: str, victim: int):
    """Let process `victim` get a signal or raise an error at its second batch."""

    def begin(rank: int) -> None:
        if rank != victim:
            return
        original = loading.DataLoader.__iter__
        count = itertools.count()

        def broken(self):
            for batch in original(self):
                if next(count) == 1:
                    if how == "error":
                        raise BadData("image", "x.jpg", why="cannot be decoded", remedy="Replace it")
                    os.kill(os.getpid(), getattr(signal, how))
                yield batch

        loading.DataLoader.__iter__ = broken

    return begin


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "how"), [("train-tae", "SIGKILL"), ("train-arm", "error"),
                                            ("label-videos", "error"), ("extract-features", "SIGTERM")])  # fmt: skip
def test_failure_ends_all_processes(stage: str, how: str, walkers: Path, workspace: Path) -> None:
    more = ["--batch-size", "4"] if stage in ("label-videos", "extract-features") else []
    ended = run(stage, 2, walkers, workspace, *more, begin=failing(how, victim=1))
    code = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143, "error": 65}[how]
    assert ended.codes[1] == code, ended.text
    assert ended.codes[0] in (70, 143), ended.text  # 70: it noticed the other's end before its SIGTERM came
    assert "Traceback" not in ended.text
    if how == "error":
        assert "error: process 1 of 2: image x.jpg: cannot be decoded. Replace it." in ended.errors
    assert any(line.startswith("error: process 0 of 2: interrupted") for line in ended.errors), ended.text


def test_locked_output_ends_all_processes(walkers: Path, workspace: Path) -> None:
    with locked(workspace / "amem/mars/amem.safetensors"):
        ended = run("train-amem", 2, walkers, workspace)
    assert ended.codes[0] == 75
    assert ended.codes[1] != 0
    assert f"another run is writing it (process {os.getpid()} on " in ended.errors[0]


# -- validation --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_validate_same_figures_for_several_processes(world: int, walkers: Path, tmp_path: Path) -> None:
    """With three processes and two tracklets one process has nothing to extract."""
    train = read_videos(load_manifest("mars"), walkers).splits[0].train
    tracklets = [t for t in train if t.person_id == train[0].person_id][:2] if world == 3 else list(train)

    def validate(rank: int) -> None:
        torch.manual_seed(0)
        main = build_main_model(model_config(baseline_options(), 4))
        with process_group("cpu") as group:
            if rank:  # the main process's BN statistics are used
                main.backbone[1].running_mean += 1
            found = amem_stage.validate(main, tracklets, baseline_options(device="cpu"), "fp32", group, Silent())
            (tmp_path / f"{group.world_size} {rank}").write_text(repr(found))

    for each in (1, world):
        assert processes.together(validate, each, tmp_path).codes == [0] * each
    alone = (tmp_path / "1 0").read_text()
    assert {(tmp_path / f"{world} {rank}").read_text() for rank in range(world)} == {alone}


@pytest.mark.slow
def test_signal_during_validation(walkers: Path, workspace: Path) -> None:
    more = ["--validate", "0.3", "--validate-epochs", "1"]

    def begin(rank: int) -> None:
        original = arm_stage.validate

        def validate(*arguments: object) -> dict[str, float]:
            os.kill(os.getpid(), signal.SIGTERM)
            return original(*arguments)

        arm_stage.validate = validate

    assert run("train-arm", 2, walkers, workspace / "complete", *more).codes == [0, 0]
    ended = run("train-arm", 2, walkers, workspace / "stopped", *more, begin=begin)
    assert 0 not in ended.codes, ended.text
    assert run("train-arm", 2, walkers, workspace / "stopped", *more).codes == [0, 0]
    for name in ("arm", "arm-best"):
        file = f"arm/{name}.safetensors"
        assert same_weights(workspace / "stopped" / file, workspace / "complete" / file)


# -- torchrun ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["a process", "torchrun"])
def test_torchrun_reports_and_stops(victim: str, walkers: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "amem_cli"]
    command += [*arguments("train-arm", walkers, tmp_path), "--epochs", "500", "--workers", "1", "--save-seconds", "0"]
    launched = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        end = time.monotonic() + 240
        while not list(tmp_path.rglob("state-*.safetensors")) and time.monotonic() < end and launched.poll() is None:
            time.sleep(0.1)
        if victim == "torchrun":
            launched.send_signal(signal.SIGTERM)
        else:
            holder = (tmp_path / "arm" / ".arm.safetensors.holder").read_text()
            os.kill(int(holder.split()[1]), signal.SIGKILL)
        _, errors = launched.communicate(timeout=240)
    finally:
        launched.kill()
        launched.wait()
    assert launched.returncode != 0
    if victim == "torchrun":
        assert "the state is saved" in errors, errors
    else:
        assert "Signal 9 (SIGKILL)" in errors, errors
        assert "error: process 1 of 2: interrupted" in errors, errors
