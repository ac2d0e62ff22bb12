"""Signals in every phase of a command: one line, 130 or 143, and the same command goes on."""

import itertools
import os
import re
import signal
from pathlib import Path

import h5py
import numpy as np
import PIL.Image
import processes
import pytest
import safetensors.torch
import torch

from amem_cli.artifacts import checkpoint, pseudo_labels, shards
from amem_cli.artifacts.provenance import Provenance
from amem_cli.artifacts.shards import Shards
from amem_cli.attributes import ATTRIBUTES, GROUP_SIZES
from amem_cli.models.arm import ARM
from amem_cli.runtime.training import Run
from amem_cli.stages import train_amem as amem_stage

pytestmark = pytest.mark.usefixtures("one_thread", "tiny_backbone")


def sends(number: int, owner: object, name: str, call: int = 0):
    """What makes a process send itself a signal in the `call`-th call (from 0) of `owner.name`, and go on."""

    def begin(rank: int) -> None:
        real, calls = getattr(owner, name), itertools.count()

        def signalling(*arguments, **named):
            if next(calls) == call:
                os.kill(os.getpid(), number)
            return real(*arguments, **named)

        setattr(owner, name, signalling)

    return begin


PHASES = {  # of label-videos; most lie inside a library's call whose errors are taken for a damaged file
    "reading the ARM": (safetensors.torch, "load", 0),
    "decoding": (PIL.Image.Image, "load", 30),
    "the networks": (ARM, "forward", 0),
    "writing a shard": (os, "fsync", 2),
    "reading a shard": (safetensors.torch, "load", 2),
    "merging": (np, "concatenate", -1),
    "writing the labels": (h5py.File, "create_dataset", 3),
    "the last rename": (os, "replace", -1),
    "reading the labels": (pseudo_labels, "read", 0),
}


@pytest.fixture
def arm(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    described = {"depth": 18, "attributes": list(ATTRIBUTES), "image_size": "32x32"}
    path = tmp_path / "arm.safetensors"
    weights = ARM(18, GROUP_SIZES).state_dict()
    return checkpoint.save(path, "amem-arm", weights, Provenance("train-arm", {}), model=described)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in_any_phase_of_labelling(
    phase: str, number: int, walkers: Path, arm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "FRAMES_PER_SHARD", 40)
    owner, name, call = PHASES[phase]
    if phase == "merging":
        owner, name, call = Shards, "merge", 0
    if phase == "the last rename":
        call = 4  # after four shards
    arguments = ["label-videos", "--arm", str(arm), "--data-root", str(walkers), "--device", "cpu", "--quiet"]
    arguments += ["--engine", "eager", "--workspace", str(tmp_path / "w")]
    ended = processes.amem(arguments, 1, tmp_path, sends(number, owner, name, call))
    assert ended.codes == [128 + number], ended.text
    words = "finished parts are kept. Run the same command again to continue."
    assert ended.errors == [f"error: interrupted: {words}"]
    assert "Traceback" not in ended.text
    assert processes.amem(arguments, 1, tmp_path).codes == [0]
    assert (tmp_path / "w/labels/mars.h5").is_file()
    assert not list((tmp_path / "w/labels").glob(".mars.h5.*.amem-tmp"))


TRAIN = [
    "train-amem", "--modules", "baseline", "--image-size", "32x32", "--clip-frames", "4", "--predict-frames", "2",
    "--people-per-batch", "2", "--clips-per-person", "2", "--epochs", "3", "--save-seconds", "0", "--log-steps", "1",
    "--validate", "0.5", "--validate-epochs", "1", "--device", "cpu", "--quiet",
]  # fmt: skip
TRAINING_PHASES = {
    "reading the data": (amem_stage, "read_videos", 0, False),
    "building the model": (amem_stage, "build_amem", 0, False),
    "reading a state": (safetensors.torch, "load", 0, None),
    "decoding": (PIL.Image.Image, "load", 30, True),
    "a step": (torch.optim.Adam, "step", 1, True),
    "saving a state": (os, "fsync", 4, True),
    "validation": (amem_stage, "evaluate_ranking", 0, True),
    "writing the best weights": (amem_stage, "save_main", 0, True),
    "writing the model": (amem_stage, "save_models", 0, False),
}


@pytest.mark.parametrize("phase", TRAINING_PHASES)
def test_sigterm_in_any_phase_of_training(phase: str, walkers: Path, tmp_path: Path) -> None:
    owner, name, call, saves = TRAINING_PHASES[phase]
    arguments = [*TRAIN, "--data-root", str(walkers), "--workspace", str(tmp_path / "w")]
    whole = [*TRAIN, "--data-root", str(walkers), "--workspace", str(tmp_path / "whole")]
    if phase == "reading a state":
        ended = processes.amem(arguments, 1, tmp_path, sends(signal.SIGTERM, Run, "step_done", 2))
        assert ended.codes == [143], ended.text
    ended = processes.amem(arguments, 1, tmp_path, sends(signal.SIGTERM, owner, name, call))
    assert ended.codes == [143], ended.text
    assert len(ended.errors) == 1, ended.text
    if saves:
        assert re.search(r"stopped by a signal after step \d+, which is saved", ended.errors[0])
    assert processes.amem(arguments, 1, tmp_path).codes == [0]
    assert processes.amem(whole, 1, tmp_path).codes == [0]
    for file in ("amem-main.safetensors", "amem-main-best.safetensors"):
        made, wanted = (tmp_path / at / "amem/mars" / file for at in ("w", "whole"))
        assert made.read_bytes() == wanted.read_bytes(), file


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_a_training_at_once(number: int, walkers: Path, tmp_path: Path) -> None:
    arguments = [*TRAIN, "--data-root", str(walkers), "--workspace", str(tmp_path / "w"), "--save-seconds", "1000"]

    def begin(rank: int) -> None:
        sends(number, torch.optim.Adam, "step", 1)(rank)
        sends(number, torch.optim.Adam, "step", 1)(rank)

    ended = processes.amem(arguments, 1, tmp_path, begin)
    assert ended.codes == [128 + number]
    assert len(ended.errors) == 1
    assert not list(tmp_path.rglob("state-*"))


def test_workers_leave_signals_to_the_main_process(walkers: Path, tmp_path: Path) -> None:
    """A terminal and torchrun send them to the whole group: loader processes that died of one would end the run."""
    arguments = [*TRAIN, "--data-root", str(walkers), "--workspace", str(tmp_path / "w"), "--workers", "1"]

    def begin(rank: int) -> None:
        os.setpgrp()
        real = torch.optim.Adam.step
        calls = itertools.count()

        def step(self, closure=None):
            if next(calls) == 1:
                os.killpg(0, signal.SIGTERM)
            return real(self, closure)

        torch.optim.Adam.step = step

    ended = processes.amem(arguments, 1, tmp_path, begin)
    assert ended.codes == [143], ended.text
    assert "which is saved" in ended.errors[0]
