"""The schedule of a training, the losses of a step, and refusal of batches that do not fit into memory."""

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toys import CPU, Lines, arm_options

from amem_cli.errors import BadData, UsageError
from amem_cli.options import TrainAmemOptions, TrainArmOptions, TrainTaeOptions
from amem_cli.runtime import schedule
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.schedule import (
    batches_per_step,
    learning_rate,
    log_batch_size,
    mean_losses,
    set_learning_rate,
    validation_due,
)
from amem_cli.runtime.train_state import TrainState

ALONE, TWO = (Processes(0, size, CPU) for size in (1, 2))


def options(**changed: Any) -> TrainArmOptions:
    how = {"epochs": 3, "lr_step": 1, "warmup_steps": 3, "save_seconds": 1e9}
    return arm_options(Path("data"), Path("workspace"), **(how | changed))


def test_learning_rate_of_the_paper() -> None:
    paper = options(learning_rate=1e-3, lr_step=60, lr_factor=0.2, warmup_steps=0)
    rates = [learning_rate(paper, epoch, 10_000) for epoch in (0, 59, 60, 119, 120, 239)]
    assert rates == pytest.approx([1e-3, 1e-3, 2e-4, 2e-4, 4e-5, 8e-6])
    warm = options(learning_rate=1.0 - 1e-9, lr_step=2, lr_factor=0.5, warmup_steps=4)
    assert [learning_rate(warm, 0, step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert learning_rate(warm, 2, 1) == pytest.approx(0.25)


def test_learning_rate_cosine() -> None:
    how = options(learning_rate=0.5, lr_schedule="cosine", epochs=8, warmup_steps=0)
    rates = [learning_rate(how, epochs, 10_000) for epochs in (0, 2, 4, 8)]
    assert rates == pytest.approx([0.5, 0.25 + 0.25 * 2**-0.5, 0.25, 0])
    warm = options(learning_rate=0.5, lr_schedule="cosine", epochs=8, warmup_steps=4)
    assert learning_rate(warm, 4, 1) == pytest.approx(0.125)
    assert TrainState(epoch=5, step_in_epoch=3).epochs(6) == 5.5


def test_set_learning_rate_factor() -> None:
    layers = [torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)]
    adam = torch.optim.Adam([{"params": layers[0].parameters()}, {"params": layers[1].parameters(), "factor": 0.1}])
    set_learning_rate(adam, 0.5)
    assert [group["lr"] for group in adam.param_groups] == pytest.approx([0.5, 0.05])


def test_batches_per_step() -> None:
    assert batches_per_step(7, 3) == [3, 3, 1]
    assert batches_per_step(2, 1) == [1, 1]


def test_validation_due() -> None:
    chosen = options(validate=0.2, validate_epochs=2)
    due = [epoch for epoch in range(4) if validation_due(chosen, TrainState(epoch=epoch))]
    assert due == [2, 3]
    assert not validation_due(chosen, TrainState(epoch=2, step_in_epoch=1))
    assert not validation_due(options(), TrainState(epoch=2))


def test_mean_losses() -> None:
    batches = [{"a": torch.tensor(1.0), "b": torch.tensor(4.0)}, {"a": torch.tensor(2.0), "b": torch.tensor(0.0)}]
    assert mean_losses(batches) == {"a": 1.5, "b": 2.0}
    assert mean_losses(batches[:1]) == {"a": 1.0, "b": 4.0}
    for value in (math.nan, math.inf):
        with pytest.raises(BadData, match="loss: b is not finite"):
            mean_losses([{"a": torch.tensor(1.0), "b": torch.tensor(value)}])


def test_log_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    progress = Lines()
    for steps in ([2, 2, 1], [2], [1]):
        log_batch_size(options(batch_size=30, accumulate=2), ("batch_size",), "images", steps, TWO, progress)
    assert [line.removeprefix("batch: 30 images, 15 on each of 2 processes; ") for line in progress.lines] == [
        "first epoch: 5 batches in 3 optimiser steps of 2, 60 images (the last: 1)",
        "first epoch: 2 batches in 1 optimiser step of 2, 60 images",
        "first epoch: 1 batch in 1 optimiser step of 1, 30 images",
    ]
    for precision, device, lines in (("auto", "cpu", 0), ("auto", "cuda", 1), ("fp32", "cuda", 0)):
        progress, alone = Lines(), Processes(0, 1, torch.device(device))
        log_batch_size(options(batch_size=30, precision=precision), ("batch_size",), "images", [1] * 3, alone, progress)
        assert progress.lines.pop(0) == "batch: 30 images; first epoch: 3 batches"
        assert len([line for line in progress.lines if "bf16" in line]) == lines


def test_saved_bytes() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 7, 1))
    kept = 3 + 5  # the inputs of the two convolutions; the ReLU keeps its output, which is the second one

    def forward(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        assert network.training
        return network(images)

    assert schedule.saved_bytes(network, forward, 2, 3, 4, 6) == 4 * 2 * 4 * 6 * kept
    assert network[0].weight.device.type == "cpu"


def test_require_batch_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 1000, 1), nn.ReLU(), nn.Conv2d(1000, 1, 1))
    image = 4 * 64 * 32 * 1003

    def fits(
        free: int, precision: str = "fp32", forward: Any = nn.Module.__call__, processes: Any = ALONE, **options: Any
    ) -> bool:
        monkeypatch.setattr(schedule, "free_memory", lambda: free)
        made: Any = TrainAmemOptions(**options) if "clip_frames" in options else TrainTaeOptions(**options)
        factors = ("people_per_batch", "clips_per_person") if "clip_frames" in options else ("batch_size",)
        with contextlib.suppress(UsageError):
            schedule.require_batch_memory(made, factors, processes, network, precision, forward)
            return True
        return False

    tae: Any = {"image_size": "64x32", "batch_size": 10}
    assert fits(10 * image, **tae)
    assert not fits(10 * image - 1, **tae)
    assert fits(5 * image, "bf16", **tae)
    assert fits(5 * image, processes=TWO, **tae)
    assert not fits(5 * image - 1, processes=TWO, **tae)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # both need their half at the same time
    assert fits(10 * image, processes=TWO, **tae)
    assert not fits(10 * image - 1, processes=TWO, **tae)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    amem: Any = {"image_size": "64x32", "clip_frames": 8, "people_per_batch": 2, "clips_per_person": 2}

    def of_clips(network: nn.Module, clips: torch.Tensor) -> torch.Tensor:
        return network(clips.transpose(1, 2).flatten(0, 1))

    assert fits(4 * 8 * image, forward=of_clips, **amem)
    on_gpu = Processes(0, 1, torch.device("cuda"))
    assert fits(0, processes=on_gpu, **tae)  # the first step says so
    assert not fits(4 * 8 * image - 1, forward=of_clips, **amem)
