"""Experiment trackers: what they get, runs that are continued, packages and servers that are missing."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import ALONE, arm_options

from amem_cli.artifacts.provenance import Provenance
from amem_cli.cli.app import run as amem
from amem_cli.errors import InputMissing, UsageError
from amem_cli.options import TrainArmOptions
from amem_cli.runtime.progress import Progress
from amem_cli.runtime.train_log import TrainLog
from amem_cli.runtime.train_state import Run, TrainState


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All packages of trackers can be found."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin="there"))


def run_of(folder: Path, **changed: Any) -> Run:
    chosen = arm_options(Path("data"), Path("workspace"), **changed)
    return Run(folder, chosen, Provenance("train-arm", chosen.fingerprint()), ALONE, Progress(quiet=True), {}, {})


class FakeWandb:
    """Records what `wandb` would get; `fails` are the calls that raise."""

    def __init__(self, *fails: str):
        self.started: list[dict[str, Any]] = []
        self.calls: list[Any] = []
        self.fails = fails

    def init(self, **how: Any) -> "FakeWandb":
        self.started.append(how)
        return self.call("init")

    def log(self, figures: dict[str, float], step: int) -> None:
        self.call((step, figures))

    def finish(self) -> None:
        self.call("finish")

    def call(self, what: Any) -> "FakeWandb":
        self.calls.append(what)
        if (what if isinstance(what, str) else "log") in self.fails:
            raise ConnectionError("no server\nmore")
        return self

    Settings = dict


def fake_wandb(monkeypatch: pytest.MonkeyPatch, *fails: str) -> FakeWandb:
    fake = FakeWandb(*fails)
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    return fake


@pytest.mark.usefixtures("installed")
def test_wandb_gets_figures_and_a_resumed_training_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_wandb(monkeypatch)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = run_of(tmp_path / "mars", log_to="wandb")
    for step in (0, 7, 0):
        with TrainLog(run, TrainState(step=step)) as log:
            log.write({"loss": 1.5, "validation": {"mA": 0.5}})
            log.sample([torch.zeros(1, 3, 4, 4)])
    wrote = [(step, {"loss": 1.5, "validation/mA": 0.5}) for step in (0, 7, 0)]
    assert fake.calls == [call for figures in wrote for call in ("init", figures, "finish")]
    first, resumed, again = (how["id"] for how in fake.started)
    assert first == resumed != again
    how = fake.started[0]
    assert (how["mode"], how["resume"], how["dir"], how["project"]) == ("offline", "allow", run.folder, "amem")
    assert (how["name"], how["config"]) == ("train-arm mars", run.options.fingerprint())
    monkeypatch.setenv("WANDB_MODE", "online")
    TrainLog(run, TrainState())
    assert fake.started[-1]["mode"] == "online"


@pytest.mark.usefixtures("installed")
def test_log_goes_on_without_a_tracker_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, run = fake_wandb(monkeypatch, "log"), run_of(tmp_path, log_to="wandb")
    with TrainLog(run, TrainState()) as log:
        log.write({"loss": 1.0})
        log.write({"loss": 2.0})
    assert fake.calls == ["init", (0, {"loss": 1.0})]
    assert run.progress.warnings == ["wandb gets no more figures: no server\\nmore"]
    assert len(run.metrics_file.read_text().splitlines()) == 2


@pytest.mark.usefixtures("installed")
def test_log_needs_a_tracker_that_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wandb(monkeypatch, "init")
    with pytest.raises(UsageError, match=r"--log-to wandb: no server\. Set up wandb"):
        TrainLog(run_of(tmp_path, log_to="wandb"), TrainState())


@pytest.mark.parametrize("spec", [None, SimpleNamespace(origin=None)])
def test_log_to_needs_the_package(spec: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    for name in ("tensorboard", "wandb", "mlflow"):
        with pytest.raises(InputMissing, match=f"{name}: not installed"):
            TrainArmOptions(log_to=name)  # type: ignore[arg-type]
    assert amem(["train-arm", "--log-to", "wandb", "--dry-run"]) == 66
    line = "error: --log-to wandb: not installed. Run: python -m pip install wandb.\n"
    assert capsys.readouterr().err == line
    assert amem(["train-arm", "--tensorboard", "--dry-run"]) == 66
    assert amem(["train-arm", "--log-to", "excel", "--dry-run"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"tensorboard": True}, {"log_to": "tensorboard"}])
def test_tensorboard(how: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step in (2, 3):
        with TrainLog(run_of(tmp_path, **how), TrainState(step=step)) as log:
            log.write({"loss": 1.5, "validation": {"mA": 0.5}})
            log.sample([torch.zeros(1, 3, 4, 4)])
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == {"loss", "validation/mA"}
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(2, 1.5), (3, 1.5)]
    assert found.Tags()["images"] == ["validation"]


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for step in (0, 4):
        with TrainLog(run_of(tmp_path, log_to="wandb"), TrainState(step=step)) as log:
            log.write({"loss": 1.5, "validation": {"mA": 0.5}})
    (name,) = {path.name for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb")}
    assert name == f"run-{(tmp_path / 'wandb-run.txt').read_text().strip()}.wandb"
    assert any(b"validation/mA" in path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.slow
def test_mlflow_gets_figures_and_a_resumed_training_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for step in (0, 4, 0):
        with TrainLog(run_of(tmp_path, log_to="mlflow"), TrainState(step=step)) as log:
            log.write({"loss": 1.5, "validation": {"mA": 0.5}})
    client = mlflow.MlflowClient()
    found = client.search_runs([client.get_experiment_by_name("amem").experiment_id], order_by=["start_time"])
    steps = [[entry.step for entry in client.get_metric_history(run.info.run_id, "validation/mA")] for run in found]
    assert steps == [[0, 4], [0]]
    assert {run.info.status for run in found} == {"FINISHED"}
    assert found[0].data.params["backbone"] == run_of(tmp_path).options.backbone
    assert (found[0].data.metrics["loss"], found[0].info.run_name) == (1.5, f"train-arm {tmp_path.name}")
