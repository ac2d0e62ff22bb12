"""Several processes under torchrun: the same files as one, exact resuming, one line when a process fails or dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.artifacts.workspace import locked
from amem_cli.attributes import ATTRIBUTES, GROUP_SIZES
from amem_cli.models.amem import build_main_model
from amem_cli.models.attributes import Arm
from amem_cli.options import TrainAmemOptions
from amem_cli.stages.train_amem import describe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

MAIN = """
import os, signal, sys
from amem_cli.artifacts import shards
from amem_cli.cli.app import run
from amem_cli.training import Run

shards.FRAMES_PER_SHARD = 40  # several for each process
victim, at = os.environ.get("KILL", "-1 0").split()
done = Run.step_done

def step_done(self, last_in_epoch):
    if os.environ.get("RANK") == victim and self.step == int(at):
        os.kill(os.getpid(), signal.SIGKILL)
    done(self, last_in_epoch)

Run.step_done = step_done
sys.exit(run(sys.argv[1:]))
"""
TRAIN = [
    "train-amem", "--modules", "baseline", "--branch", "conv2d", "--image-size", "32x32", "--clip-frames", "4",
    "--predict-frames", "2", "--clips-per-person", "2", "--people-per-batch", "4", "--epochs", "2",
    "--log-steps", "1", "--gradient-steps", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("main") / "main.py"
    path.write_text(MAIN)
    return path


def amem(main: Path, world: int, walkers: Path, workspace: Path, *arguments: str, **environment: str):
    """Run a command in `world` processes; (exit code is 0, lines of amem on standard error, seconds)."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)] if world > 1 else []
    command = [sys.executable, *launcher, str(main), *arguments, "--device", "cpu", "--quiet"]
    command += ["--data-root", str(walkers), "--workspace", str(workspace)]
    began = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "this is a bug" not in done.stderr, done.stderr
    return done, lines, time.monotonic() - began


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with untrained models."""
    workspace = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    described = {"depth": 18, "attributes": list(ATTRIBUTES), "image_size": "32x32"}
    arm = Arm(18, GROUP_SIZES).state_dict()
    checkpoint.save(workspace / "arm/arm.safetensors", "amem-arm", arm, Provenance("train-arm", {}), model=described)
    described = describe(TrainAmemOptions(modules="baseline", image_size="32x32", clip_frames=4, predict_frames=2), 4)
    network = build_main_model(described).state_dict()
    path = workspace / "amem/mars/amem-main.safetensors"
    checkpoint.save(path, "amem-main", network, Provenance("train-amem", {}), model=described)
    return workspace


@pytest.mark.parametrize(("command", "file"), [("label-videos", "labels"), ("extract-features", "features")])
def test_files_are_the_same_bytes_for_one_two_and_three_processes(
    command: str, file: str, main: Path, models: Path, walkers: Path
) -> None:
    found = []
    for world in (1, 2, 3):
        done, _, _ = amem(main, world, walkers, models, command)
        assert done.returncode == 0, done.stderr
        made = models / file / "mars.h5"
        found.append(made.read_bytes())
        made.unlink()
    assert found[0] == found[1] == found[2]


def weights(workspace: Path) -> bytes:
    return (workspace / "amem/mars/amem-main.safetensors").read_bytes()


def test_two_processes_resume_exactly_and_a_killed_one_is_told(main: Path, walkers: Path, tmp_path: Path) -> None:
    how = [*TRAIN, "--validate", "0"]
    done, _, _ = amem(main, 2, walkers, tmp_path / "whole", *how)
    assert done.returncode == 0, done.stderr
    for step in ("1", "2"):
        done, lines, seconds = amem(
            main, 2, walkers, tmp_path / "cut", *how, "--save-seconds", "0", KILL=f"{int(step) % 2} {step}"
        )
        assert done.returncode != 0
        assert len(lines) == 1, done.stderr
        assert f"process {int(step) % 2} of 2 (" in lines[0]
        assert "was killed or crashed" in lines[0]
        assert "torchrun --nproc-per-node 2 -m amem_cli train-amem" in lines[0]
        assert seconds < 60
        assert sorted((tmp_path / "cut/amem/mars").glob("state-*"))
    done, _, _ = amem(main, 2, walkers, tmp_path / "cut", *how)
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    metrics = [(tmp_path / run / "amem/mars/metrics.jsonl").read_text().splitlines() for run in ("whole", "cut")]
    terms = [[line.split('"seconds"')[0] + line.split(", ", 3)[3] for line in lines] for lines in metrics]
    assert terms[0] == terms[1]


def test_a_process_that_fails_ends_all_with_one_line(main: Path, walkers: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "amem/mars/amem.safetensors"):
        done, lines, seconds = amem(main, 2, walkers, tmp_path, *TRAIN)
    assert done.returncode != 0
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: process 0 of 2: output ")
    assert f"another run writes it (process {os.getpid()} on " in lines[0]
    assert seconds < 60


def test_a_mistake_of_all_is_told_once(main: Path, walkers: Path, tmp_path: Path) -> None:
    done, lines, _ = amem(main, 2, walkers, tmp_path, *TRAIN, "--sync-batchnorm")
    assert done.returncode != 0
    assert len(lines) == 1, done.stderr
    assert "--sync-batchnorm: synchronised batch norm needs CUDA devices" in lines[0]


def test_torchrun_stopped_by_a_batch_queue_says_how_to_continue(main: Path, walkers: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(main)]
    command += [*TRAIN, "--epochs", "500", "--device", "cpu", "--quiet"]
    command += ["--data-root", str(walkers), "--workspace", str(tmp_path), "--save-seconds", "0"]
    launched = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        end = time.monotonic() + 120
        while not list(tmp_path.rglob("state-*.safetensors")) and time.monotonic() < end:
            time.sleep(0.1)
        launched.send_signal(signal.SIGTERM)
        _, errors = launched.communicate(timeout=120)
    finally:
        launched.kill()
        launched.wait()
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, errors
    assert "is saved" in lines[0] or "was saved is kept" in lines[0]
    assert "continue" in lines[0]
