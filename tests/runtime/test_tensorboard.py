"""`--tensorboard`: the figures of metrics.jsonl as event files, and one line when the package is missing."""

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from amem_cli.artifacts.provenance import Provenance
from amem_cli.cli.app import run
from amem_cli.options import TrainArmOptions
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Silent
from amem_cli.runtime.training import Run


def training(folder: Path, rank: int = 0) -> Run:
    chosen = TrainArmOptions(tensorboard=True)
    processes = Processes(rank, 1, torch.device("cpu"))
    return Run(folder, chosen, Provenance("train-arm", chosen.science()), processes, Silent(), {}, {})


def test_a_missing_package_is_one_line_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else found(name))
    assert run(["train-arm", "--tensorboard"]) == 66
    assert capsys.readouterr().err == (
        "error: --tensorboard: the package tensorboard is not installed. Run: python -m pip install tensorboard.\n"
    )


def test_the_same_scalars_as_in_metrics_jsonl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []

    class Writer:
        def __init__(self, folder: Path, purge_step: int, flush_secs: int):
            written.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append("closed")

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name == "tensorboard" or found(name, *rest))
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with training(tmp_path) as run_of_steps:
        run_of_steps.step = 7
        run_of_steps.log({"attribute": 0.5, "gradient_norms": {"triplet": 2.0, "identity": 3.0}})
    scalars = [("attribute", 0.5, 7), ("gradient_norms/triplet", 2.0, 7), ("gradient_norms/identity", 3.0, 7)]
    assert written == [(tmp_path / "tensorboard", 0), *scalars, "closed"]
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["attribute"] == 0.5
    written.clear()
    with training(tmp_path, rank=1) as other:  # only the first process writes
        other.log({"attribute": 0.5})
    assert written == []


def test_event_files_that_tensorboard_reads(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with training(tmp_path) as run_of_steps:
        for step in range(3):
            run_of_steps.step = step
            run_of_steps.log({"attribute": step / 2})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("attribute")] == [(0, 0.0), (1, 0.5), (2, 1.0)]
