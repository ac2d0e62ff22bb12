"""Refusal of work that needs more memory than there is."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amem_cli.errors import UsageError
from amem_cli.metrics.rerank import rerank_bytes
from amem_cli.options import TrainAmemOptions, TrainTaeOptions
from amem_cli.runtime import schedule
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.memory import require_memory

ALONE, TWO = (Processes(0, size, torch.device("cpu")) for size in (1, 2))


def test_require_memory() -> None:
    require_memory("--x", "1", 10, 10, "Lower it")
    require_memory("--x", "1", 10, None, "Lower it")
    with pytest.raises(UsageError) as raised:
        require_memory("--x", "1", 11_000_000_000, 10_000_000_000, "Lower it")
    assert str(raised.value) == "--x 1: needs at least 11.0 GB of memory, and 10.0 GB are free. Lower it."


def test_saved_bytes() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 7, 1))
    kept = 3 + 5  # the inputs of the two convolutions; the ReLU keeps its output, which is the second one

    def forward(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        assert network.training
        return network(images)

    assert schedule.saved_bytes(network, forward, 2, 3, 4, 6) == 4 * 2 * 4 * 6 * kept
    assert network[0].weight.device.type == "cpu"


def test_saved_bytes_of_synchronised_batch_norm(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Conv2d(5, 7, 1))
    shape = (2, 3, 4, 6)
    expected = 4 * 2 * 4 * 6 * (3 + 5 + 5)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(plain)
        statistics = 4 * 4 * 5  # two a channel, and their copies
        assert expected <= schedule.saved_bytes(network, nn.Module.__call__, *shape) <= expected + statistics
        assert network.training
    finally:
        torch.distributed.destroy_process_group()


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
    amem: Any = {"image_size": "64x32", "clip_frames": 8, "people_per_batch": 2, "clips_per_person": 2}

    def of_clips(network: nn.Module, clips: torch.Tensor) -> torch.Tensor:
        return network(clips.transpose(1, 2).flatten(0, 1))

    assert fits(4 * 8 * image, forward=of_clips, **amem)
    assert not fits(4 * 8 * image - 1, forward=of_clips, **amem)


def test_rerank_bytes() -> None:
    assert rerank_bytes(2, 10, 3) == 4 * (2 * 2 * 10 + 2 * 10 * 3 + 3 * 512 * 10) + 2000 * 10
