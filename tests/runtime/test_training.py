"""Stop requests, training state and log."""

import json
import math
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from faults import in_child
from PIL import Image
from toys import ALONE, CPU, Lines, arm_options, tensors_equal

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, DiskError, InputMissing, Interrupted, OutputExists, Terminated
from amem_cli.options import TrainArmOptions
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Progress, Silent
from amem_cli.runtime.schedule import (
    learning_rate,
    set_learning_rate,
)
from amem_cli.runtime.stop import REPEATED, StopRequest
from amem_cli.runtime.train_log import TrainLog, finish_step
from amem_cli.runtime.train_state import Run, TrainState, load_state, remove_states, save_state

EPOCHS, STEPS = 3, 4


def steps_in(epoch: int) -> int:
    return STEPS


def options(**changed: Any) -> TrainArmOptions:
    how = {"epochs": EPOCHS, "lr_step": 1, "warmup_steps": 3, "save_seconds": 1e9}
    return arm_options(Path("data"), Path("workspace"), **(how | changed))


def toy_run(
    folder: Path, chosen: TrainArmOptions | None = None, progress: Progress | None = None, seed: int = 0
) -> Run:
    chosen = chosen or options()
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    adam = torch.optim.Adam(network.parameters(), weight_decay=5e-4)
    provenance = Provenance("train-arm", chosen.fingerprint())
    return Run(folder, chosen, provenance, ALONE, progress or Silent(), {"network": network}, {"adam": adam})


def train(run: Run, before_finish: Any = lambda step: None) -> TrainState:
    """A training loop like those of the stages, on random batches."""
    network, adam = run.networks["network"].train(), run.optimizers["adam"]
    state = load_state(run, run.folder / "best.safetensors", steps_in)
    with StopRequest(run.options, ALONE) as stop, TrainLog(run, state) as log:
        while state.epoch < EPOCHS:
            for number in range(state.step_in_epoch, STEPS):
                set_learning_rate(adam, learning_rate(run.options, state.epoch, state.step))
                generator = torch.Generator().manual_seed(100 * state.epoch + number)
                loss = network(torch.randn(6, 3, generator=generator)).square().sum(dim=1).pow(2).mean()
                adam.zero_grad()
                loss.backward()
                adam.step()
                log.add({"loss": loss.item()})
                before_finish(state.step + 1)
                finish_step(run, state, log, stop, last_in_epoch=number + 1 == STEPS)
    return state


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.networks["network"].state_dict().items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    run = toy_run(tmp_path_factory.mktemp("complete"))
    train(run)
    return weights(run)


# -- stop, save, resume ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 4, 11, 12])  # in the last step, too: other splits may follow
def test_signal_stops_after_the_step_and_resume_is_exact(
    number: int, step: int, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match=f"a signal after step {step}; the state is saved") as raised:
        train(toy_run(tmp_path), lambda now: os.kill(os.getpid(), number) if now == step else None)
    assert raised.value.exit_code == 128 + number
    progress = Lines()
    run = toy_run(tmp_path, progress=progress, seed=1)
    state = train(run)
    assert f"resuming after step {step} (state-{step:08d}.safetensors)" in progress.lines
    assert state.step == EPOCHS * STEPS
    assert tensors_equal(weights(run), expected)
    remove_states(run)
    assert not list(tmp_path.glob("state-*"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["epoch"]) for line in lines] == [(n, n // STEPS) for n in range(EPOCHS * STEPS)]


def test_kill_in_a_step_resumes_from_the_last_state(expected: dict[str, torch.Tensor], tmp_path: Path) -> None:
    chosen = options(save_seconds=0)
    ended = in_child(
        lambda: train(toy_run(tmp_path, chosen), lambda now: os.kill(os.getpid(), signal.SIGKILL) if now == 6 else 0)
    )
    assert ended == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.glob("state-*")) == [f"state-{n:08d}.safetensors" for n in (4, 5)]
    run = toy_run(tmp_path, chosen, seed=1)
    train(run)
    assert tensors_equal(weights(run), expected)


def test_damaged_state_falls_back(expected: dict[str, torch.Tensor], tmp_path: Path) -> None:
    chosen = options(save_seconds=0)
    with pytest.raises(Interrupted):
        train(toy_run(tmp_path, chosen), lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == 6 else None)
    newest = sorted(tmp_path.glob("state-*"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    progress = Lines()
    run = toy_run(tmp_path, chosen, progress, seed=1)
    train(run)
    assert any("state-00000005" in warning for warning in progress.warnings)
    assert tensors_equal(weights(run), expected)


def test_second_signal_or_interruptible_work_raises_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest(options(), ALONE) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # as by a queue and by the trap of its script
        assert stop.requested()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        stop._signalled -= REPEATED
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        stop._signalled -= REPEATED
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="after step 3"), stop.interruptible(3):
            pytest.fail("a requested stop comes first")
    with StopRequest(options(), processes := Mock(wraps=ALONE)) as stop:
        with stop.interruptible(1):
            pass
        processes.barrier.assert_called_once()  # the time of the validation is not one of the others' next step
        with pytest.raises(Interrupted) as raised, stop.interruptible(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert raised.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_time_limit_counts_the_work_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stop = StopRequest(options(time_limit="100s"), ALONE)
    for work, seconds in (("step", 10), ("save", 5), ("step", 20), ("validation", 30)):
        now[0] += seconds
        stop.measure(work)
    assert now[0] == 65
    assert not stop.requested()  # 65 + 20 + 5
    assert stop.requested(validation_next=True)  # + 30
    now[0] = 76
    assert stop.requested()
    assert not StopRequest(options(), ALONE).requested()
    with stop:
        error = stop.interrupted(7)
    assert (error.exit_code, "--time-limit 100s after step 7" in str(error)) == (143, True)


def test_save_before_validation_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr("amem_cli.runtime.train_log.save_state", lambda run, state: saved.append(state.step))
    train(toy_run(tmp_path / "a", options(validate=0.2, validate_epochs=2)))
    assert saved == [8, 12]
    saved.clear()
    train(toy_run(tmp_path / "b", options(save_seconds=0)))
    assert saved == list(range(1, 13))


def test_load_state_other_options(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(toy_run(tmp_path), lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == 2 else None)
    with pytest.raises(OutputExists, match=r"learning_rate: 0\.0001 there, 0\.01 now"):
        load_state(toy_run(tmp_path, options(learning_rate=0.01)), tmp_path / "best", steps_in)
    progress = Lines()
    state = load_state(
        toy_run(tmp_path, options(learning_rate=0.01, force=True), progress), tmp_path / "best", steps_in
    )
    assert (state.step, len(progress.warnings)) == (0, 1)
    path = next(tmp_path.glob("state-*"))
    assert load_state(toy_run(tmp_path, options(resume=str(path))), tmp_path / "best", steps_in).step == 2
    assert load_state(toy_run(tmp_path, options(resume="never")), tmp_path / "best", steps_in).step == 0
    assert not list(tmp_path.glob("state-*"))
    with pytest.raises(InputMissing, match="--resume"):
        options(resume="nothing")


def test_load_state_best_file(tmp_path: Path) -> None:
    best = tmp_path / "best"
    best.write_text("weights of another run")
    run = toy_run(tmp_path)
    state = load_state(run, best, steps_in)
    assert not best.exists()
    state.best = {"metric": "mA", "value": 0.5}
    save_state(run, state)
    progress = Lines()
    assert load_state(toy_run(tmp_path, progress=progress), best, steps_in).best == {}
    assert any("best is missing" in warning for warning in progress.warnings)
    best.write_text("weights")
    assert load_state(toy_run(tmp_path), best, steps_in).best == state.best
    assert best.exists()


def test_load_state_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskError):
        load_state(toy_run(tmp_path), tmp_path / "best", steps_in)


def reseal(run: Run, step: int, changed: dict) -> None:
    saved = checkpoint.load(run.folder / f"state-{step:08d}.safetensors", "amem-state")
    position = saved.description["position"] | changed
    groups = saved.description["param_groups"]
    checkpoint.save(saved.path, "amem-state", saved.tensors, run.provenance, position=position, param_groups=groups)


@pytest.mark.parametrize("changed", [
    {"machine": []}, {"epoch": "x"}, {"means_of_processes": []}, {"step": None}, {"step_in_epoch": 10**6},
    {"step_in_epoch": STEPS}, {"step_in_epoch": -1}, {"epoch": -1}, {"epoch": EPOCHS + 1},
])  # fmt: skip
def test_load_state_of_other_types(tmp_path: Path, changed: dict) -> None:
    run = toy_run(tmp_path)
    save_state(run, TrainState(step=2))
    reseal(run, 2, changed)
    with pytest.raises(BadData, match=r"its description is malformed .* Use --resume auto or never"):
        load_state(toy_run(tmp_path), tmp_path / "best", steps_in)


@pytest.mark.parametrize("damage", ["malformed", "network", "folder", "pipe", "link loop"])
def test_load_state_continues_from_the_older_state(tmp_path: Path, damage: str) -> None:
    """Whether the newest state is damaged before or while its values are loaded."""
    older, newest = tmp_path / "state-00000003.safetensors", tmp_path / "state-00000005.safetensors"
    run = toy_run(tmp_path, seed=1)
    save_state(run, TrainState(step=3, step_in_epoch=3))
    expected, kept = weights(run), older.read_bytes()
    if damage == "network":  # of another size in its last tensor
        run.networks["network"] = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(5))
    save_state(run, TrainState(step=5, epoch=1, step_in_epoch=1))
    if damage == "malformed":
        reseal(run, 5, {"step_in_epoch": 10**6})
    elif damage != "network":
        newest.unlink()
        make = {
            "folder": newest.mkdir,
            "pipe": lambda: os.mkfifo(newest),
            "link loop": lambda: newest.symlink_to(newest),
        }
        make[damage]()
    progress = Lines()
    resumed = toy_run(tmp_path, progress=progress, seed=2)
    state = load_state(resumed, tmp_path / "best", steps_in)
    assert (state.step, state.step_in_epoch, older.read_bytes()) == (3, 3, kept)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    assert damage == "folder" or "Falling back to state-00000003.safetensors." in progress.warnings[0]


def test_load_state_other_steps_of_the_processes(tmp_path: Path) -> None:
    class Two(Processes):
        def gather(self, value: Any) -> list[Any]:
            return [value, 1]

    save_state(toy_run(tmp_path), TrainState(step=2))
    run = replace(toy_run(tmp_path), processes=Two(0, 1, CPU))
    with pytest.raises(DiskError, match=r"read those of the steps 1; 2\. Every host must read the same"):
        load_state(run, tmp_path / "best", steps_in)


def test_load_state_other_machine_is_a_warning(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    save_state(run, TrainState(step=3))
    state = next(tmp_path.glob("state-*"))
    saved = checkpoint.load(state, "amem-state")
    position = saved.description["position"]
    assert position["machine"]["threads"] == torch.get_num_threads()
    position["machine"]["threads"] = 99
    checkpoint.save_state(tmp_path, 3, run.networks, run.optimizers, run.provenance, position)
    progress = Lines()
    load_state(toy_run(tmp_path, progress=progress), tmp_path / "best", steps_in)
    assert any("threads 99 ->" in warning for warning in progress.warnings)


# -- log ---------------------------------------------------------------------------------------------------------------


def test_log_means_and_validation(tmp_path: Path) -> None:
    run = toy_run(tmp_path, progress=Lines())
    state = TrainState()
    with TrainLog(run, state) as log:
        log.add({"a": 1.0})
        log.add({"a": 2.0, "b": 4.0})
        log.write_means()
        assert state.metrics == {"a": 1.5, "b": 2.0}
        assert (state.sums, state.count) == ({}, 0)
        assert log.validation("mA", {"mA": 0.5})
        assert not log.validation("mA", {"mA": 0.5})
        state.step, state.epoch = 9, 2
        assert log.validation("mA", {"mA": 0.6})
        assert not log.validation("mA", {"mA": 0.7}, lower_is_better=True)
        assert log.validation("mA", {"mA": 0.1}, lower_is_better=True)
        assert not log.validation("mA", {"mA": math.nan}, lower_is_better=True)
    assert state.best == {"metric": "mA", "value": 0.1, "step": 9, "epoch": 2, "figures": {"mA": 0.1}}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (lines[0]["a"], lines[0]["step"], lines[1]["validation"]) == (1.5, 0, {"mA": 0.5})
    assert lines[-1]["step"] == 9
    assert lines[-1]["seconds"] >= lines[0]["seconds"] >= 0


def test_log_sample_picture(tmp_path: Path) -> None:
    with TrainLog(toy_run(tmp_path), TrainState(step=7)) as log:
        log.sample([torch.full((2, 3, 4, 5), 2.0), torch.full((2, 3, 4, 5), 0.5)])
    picture = np.asarray(Image.open(tmp_path / "samples" / "step-000007.png"))
    assert picture.shape == (14, 16, 3)  # 2 rows of 2 images of 4 x 5, and lines of 2 pixels
    assert picture[2, 2].tolist() == [255, 255, 255]  # more than 1 is white
    assert picture[8:12, 2:7].min() == picture[8:12, 9:14].max() == 128


# -- a training that replaces another ----------------------------------------------------------------------------------


def test_files_of_the_finished_training_stay_until_the_next_is_finished(tmp_path: Path) -> None:
    for name in ("arm.safetensors", "arm-best.safetensors", "metrics.jsonl", "samples/step-000001.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    for _ in range(2):  # interrupted twice
        run = toy_run(tmp_path, options(resume="never"))
        load_state(run, tmp_path / "arm-best.safetensors", steps_in)
        (tmp_path / "arm-best.safetensors").write_text("new")
    kept = {
        str(path.relative_to(tmp_path / "previous")): path.read_text() for path in (tmp_path / "previous").rglob("*.*")
    }
    assert kept == dict.fromkeys(("arm-best.safetensors", "metrics.jsonl", "samples/step-000001.png"), "old")
    remove_states(run)
    assert not (tmp_path / "previous").exists()


def test_load_state_counts_the_space_of_its_own_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy_run(tmp_path)
    save_state(run, TrainState(step=3))
    size = sum(path.stat().st_size for path in tmp_path.glob("state-*"))
    asked: list[int] = []
    monkeypatch.setattr("amem_cli.artifacts.atomic.require_free_space", lambda folder, needed: asked.append(needed))
    load_state(run, tmp_path / "best", steps_in)
    load_state(toy_run(tmp_path / "other"), tmp_path / "other" / "best", steps_in)
    assert asked[1] - asked[0] == size > 0


def test_time_limit_counts_from_the_start_of_the_command() -> None:
    began = time.monotonic() - 100
    assert StopRequest(options(time_limit="90s"), ALONE, began).requested()
    assert not StopRequest(options(time_limit="90s"), ALONE).requested()


@pytest.mark.usefixtures("default_hangup")
def test_closed_terminal_stops_like_sigterm() -> None:
    with StopRequest(options(), ALONE) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested()
        assert stop.interrupted(1).exit_code == 143
