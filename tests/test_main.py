"""SIGINT and SIGTERM at any time: one line, exit code 130 or 143, and the same command continues."""

import itertools
import os
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import PIL.Image
import processes
import pytest
import torch

from amem_cli.artifacts.provenance import Provenance
from amem_cli.models.arm import ARM
from amem_cli.models.checkpoints import save_arm
from amem_cli.models.config import ArmConfig
from amem_cli.runtime import sharding
from amem_cli.stages.train_amem import stage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_backbones", "one_thread")]


def signals(number: int, owner: Any, name: str, call: int = 0) -> Callable[[int], None]:
    """A start function after which the `call`-th call (from 0) of `owner.name` first signals its own process."""

    def begin(rank: int) -> None:
        real, calls = getattr(owner, name), itertools.count()

        def signalling(*arguments: Any, **named: Any) -> Any:
            if next(calls) == call:
                os.kill(os.getpid(), number)
            return real(*arguments, **named)

        setattr(owner, name, signalling)

    return begin


@pytest.mark.usefixtures("default_hangup")
@pytest.mark.parametrize(
    ("number", "owner", "name", "call"),
    [
        (signal.SIGTERM, PIL.Image.Image, "load", 30),  # inside a library whose errors mean a damaged image
        (signal.SIGINT, ARM, "forward", 0),
        (signal.SIGTERM, os, "fsync", 2),  # writing a shard
        (signal.SIGHUP, os, "fsync", 2),  # a closed terminal
        (signal.SIGTERM, h5py.File, "create_dataset", 3),  # writing the labels
    ],
    ids=["decode", "forward", "shard", "terminal", "labels"],
)
def test_signal_during_labelling(
    number: int, owner: Any, name: str, call: int, walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "FRAMES_PER_SHARD", 40)
    torch.manual_seed(0)
    config = ArmConfig(backbone="mobilenet_v2", image_size="32x32")
    arm = save_arm(tmp_path / "arm.safetensors", ARM("mobilenet_v2"), config, Provenance("train-arm", {}))
    arguments = ["label-videos", "--arm", str(arm), "--data-root", str(walkers), "--device", "cpu", "--quiet"]
    arguments += ["--engine", "eager", "--workspace", str(tmp_path / "w")]
    ended = processes.amem(arguments, 1, tmp_path, signals(number, owner, name, call))
    assert ended.codes == [130 if number == signal.SIGINT else 143], ended.text
    command = shlex.join(["amem", *arguments])
    assert ended.errors == [f"error: interrupted: only saved work is kept. Run: {command}."]
    assert "Traceback" not in ended.text
    assert processes.amem(arguments, 1, tmp_path).codes == [0]
    assert (tmp_path / "w/labels/mars.h5").is_file()
    assert not list((tmp_path / "w/labels").glob("*.amem-tmp"))


TRAIN = [
    "train-amem", "--modules", "baseline", "--image-size", "32x32", "--clip-frames", "4", "--predict-frames", "2",
    "--people-per-batch", "2", "--clips-per-person", "2", "--epochs", "3", "--log-steps", "1",
    "--validate", "0.5", "--validate-epochs", "1", "--device", "cpu", "--quiet",
]  # fmt: skip
FILES = ("amem-main.safetensors", "amem-main-best.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(walkers: Path, tmp_path_factory: pytest.TempPathFactory, tiny_backbones: None) -> list[bytes]:
    """The weights of a training without a signal."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    ended = processes.amem([*TRAIN, "--data-root", str(walkers), "--workspace", str(folder / "w")], 1, folder)
    assert ended.codes == [0], ended.text
    return [(folder / "w/amem/mars" / file).read_bytes() for file in FILES]


@pytest.mark.parametrize(
    ("owner", "name", "call", "saves"),
    [
        (torch.optim.Adam, "step", 1, True),
        (os, "fsync", 4, True),  # saving a state
        (stage, "evaluate_ranking", 0, True),  # validation
        (stage, "save_amem", 0, False),
    ],
    ids=["step", "state", "validation", "model"],
)
def test_sigterm_during_training(
    owner: Any, name: str, call: int, saves: bool, walkers: Path, uninterrupted: list[bytes], tmp_path: Path
) -> None:
    arguments = [*TRAIN, "--save-seconds", "0", "--data-root", str(walkers), "--workspace", str(tmp_path / "w")]
    ended = processes.amem(arguments, 1, tmp_path, signals(signal.SIGTERM, owner, name, call))
    assert ended.codes == [143], ended.text
    assert len(ended.errors) == 1, ended.text
    assert bool(re.search(r"stopped by a signal after step \d+; the state is saved", ended.errors[0])) == saves
    ended = processes.amem(arguments, 1, tmp_path)
    assert ended.codes == [0], ended.text
    assert [(tmp_path / "w/amem/mars" / file).read_bytes() for file in FILES] == uninterrupted


def test_second_signal_stops_training_at_once(walkers: Path, tmp_path: Path) -> None:
    arguments = [*TRAIN, "--data-root", str(walkers), "--workspace", str(tmp_path / "w"), "--save-seconds", "1000"]

    def begin(rank: int) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # the same one twice within a second counts once
            signals(number, torch.optim.Adam, "step", 1)(rank)

    ended = processes.amem(arguments, 1, tmp_path, begin)
    assert ended.codes == [130]
    assert len(ended.errors) == 1
    assert "only saved work is kept" in ended.errors[0]
    assert not list(tmp_path.rglob("state-*"))


def test_workers_ignore_signals(walkers: Path, tmp_path: Path) -> None:
    """Terminals and torchrun signal the whole process group; loader processes must survive until the state is saved."""
    arguments = [*TRAIN, "--data-root", str(walkers), "--workspace", str(tmp_path / "w"), "--workers", "1"]

    def begin(rank: int) -> None:
        os.setpgrp()
        real, calls = torch.optim.Adam.step, itertools.count()

        def step(self: torch.optim.Adam, closure: Any = None) -> Any:
            if next(calls) == 1:
                os.killpg(0, signal.SIGTERM)
            return real(self, closure)

        torch.optim.Adam.step = step  # type: ignore[method-assign]

    ended = processes.amem(arguments, 1, tmp_path, begin)
    assert ended.codes == [143], ended.text
    assert "the state is saved" in ended.errors[0]
