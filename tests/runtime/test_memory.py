"""Refusal of work that needs more memory than there is."""

import contextlib

import pytest
import torch

from amem_cli.cli.app import run
from amem_cli.errors import UsageError
from amem_cli.metrics.rerank import rerank_bytes
from amem_cli.options import TrainAmemOptions
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


def test_require_batch_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = 8 * 4 * 8 * 256 * 128 * 3 * 4  # P x K clips of T frames, three colours, float32

    def fits(free: int, processes: Processes = ALONE, **options: object) -> bool:
        monkeypatch.setattr(schedule, "free_memory", lambda: free)
        with contextlib.suppress(UsageError):
            made = TrainAmemOptions(**options)
            factors = ("people_per_batch", "clips_per_person")
            schedule.require_batch_memory(made, factors, processes, made.clip_frames)
            return True
        return False

    assert fits(4 * pixels)
    assert not fits(4 * pixels - 1)
    assert fits(2 * pixels, TWO)
    assert not fits(2 * pixels - 1, TWO)
    assert fits(pixels, checkpoint_activations=True)
    assert not fits(4 * pixels, clip_frames=9)
    assert fits(pixels, image_size="128x64")


@pytest.mark.parametrize("command", ["train-arm", "train-tae"])
def test_large_batches_are_refused_at_once(command: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(schedule, "free_memory", lambda: 4_000_000_000)
    assert run([command, "--batch-size", "10000", "--device", "cpu", "--data-root", "none"]) == 2
    assert "--batch-size 10000: needs at least 15.7 GB" in capsys.readouterr().err


def test_long_clips_are_refused_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(schedule, "free_memory", lambda: 64_000_000_000)
    assert run(["train-amem", "--clip-frames", "2000", "--device", "cpu", "--data-root", "none"]) == 2
    assert "--clip-frames 2000: needs at least 100.7 GB" in capsys.readouterr().err


def test_rerank_bytes() -> None:
    assert rerank_bytes(2, 10, 3) == 4 * (2 * 2 * 10 + 2 * 10 * 3 + 3 * 512 * 10) + 2000 * 10
