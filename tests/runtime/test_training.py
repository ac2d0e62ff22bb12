"""Stopping anywhere and resuming gives the weights of an uninterrupted run, bit for bit."""

import dataclasses
import hashlib
import json
import os
import signal

import pytest
import torch
from faults import KILL, hit, in_child

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, DiskError, InputMissing, Interrupted, OutputExists, Terminated
from amem_cli.options import TrainArmOptions
from amem_cli.randomness import keyed_seed
from amem_cli.runtime import training
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Silent
from amem_cli.runtime.training import Means, Run, check_finite, learning_rate, set_learning_rate

EPOCHS, STEPS = 3, 4
LAST = EPOCHS * STEPS
ALONE = Processes(0, 1, torch.device("cpu"))


def options(**changed):
    return TrainArmOptions(**({"epochs": EPOCHS, "lr_step": 1, "warmup_steps": 3, "save_seconds": 1e9} | changed))


class Toy:
    """A training run as the stages write it: two optimisers that fight, BN, keyed draws, a schedule."""

    def __init__(self, folder, chosen=None, progress=None, seed=0):
        torch.manual_seed(seed)
        self.options = chosen or options()
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.judge = torch.nn.Linear(4, 1)
        self.adam = torch.optim.Adam(self.net.parameters(), weight_decay=5e-4)
        self.judge_adam = torch.optim.Adam(self.judge.parameters(), betas=(0.5, 0.999))
        modules = {"net": self.net, "judge": self.judge}
        optimizers = {"adam": self.adam, "judge adam": self.judge_adam}
        provenance = Provenance("train-arm", self.options.science())
        self.run = Run(folder, self.options, provenance, ALONE, progress or Silent(), modules, optimizers)

    def train(self, before_step_done=lambda step: None, look=None):
        run = self.run
        with run:
            while run.goes_on(look):
                epoch = run.epoch
                for step_in_epoch in range(run.step_in_epoch, STEPS):
                    assert run.step_in_epoch == step_in_epoch
                    set_learning_rate(self.adam, learning_rate(self.options, epoch, run.step))
                    draw = torch.Generator().manual_seed(keyed_seed(0, epoch, step_in_epoch))
                    batch = torch.randn(6, 3, generator=draw)
                    for optimizer, sign in ((self.adam, 1), (self.judge_adam, -1)):
                        optimizer.zero_grad(set_to_none=True)
                        (sign * self.judge(self.net(batch)).square().mean()).backward()
                        optimizer.step()
                    run.log({"x": 1.0})
                    before_step_done(run.step + 1)
                    run.step_done(last_in_epoch=step_in_epoch + 1 == STEPS)
        return self

    def sha256(self):
        digest = hashlib.sha256()
        for tensor in (*self.net.state_dict().values(), *self.judge.state_dict().values()):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return Toy(tmp_path_factory.mktemp("whole")).train().sha256()


def stopper(stop, number=signal.SIGTERM):
    return lambda step: os.kill(os.getpid(), number) if step == stop else None


class Look:
    """What a stage does at a look at held-out people, and where it stood; sends itself `number` in the look `at`."""

    def __init__(self, toy, at=0, number=0):
        self.toy, self.at, self.number, self.steps = toy, at, number, []

    def __call__(self):
        self.steps.append(self.toy.run.step)
        if len(self.steps) == self.at:
            os.kill(os.getpid(), self.number)
        self.toy.run.validated("mA", {"mA": 0.1 * self.toy.run.step})


def test_the_toy_is_deterministic_and_moves(tmp_path, uninterrupted):
    assert Toy(tmp_path).train().sha256() == uninterrupted
    assert Toy(tmp_path / "new").sha256() != uninterrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("stop", range(1, LAST))
def test_a_signal_at_any_step_saves_and_the_resumed_run_is_exact(tmp_path, uninterrupted, stop, number, code):
    with pytest.raises(Interrupted, match=f"stopped by a signal after step {stop}, which is saved") as raised:
        Toy(tmp_path).train(stopper(stop, number))
    assert raised.value.exit_code == code
    assert "continue" in raised.value.remedy
    resumed = Toy(tmp_path, seed=99)
    assert (resumed.run.step, resumed.run.epoch, resumed.run.step_in_epoch) == (stop, stop // STEPS, stop % STEPS)
    assert resumed.train().sha256() == uninterrupted


def test_stopped_at_every_single_step(tmp_path, uninterrupted):
    for stop in range(1, LAST):
        with pytest.raises(Interrupted):
            Toy(tmp_path, seed=stop - 1).train(stopper(stop))
    assert Toy(tmp_path, seed=99).train().sha256() == uninterrupted


def test_a_signal_in_the_last_step_lets_the_run_finish(tmp_path, uninterrupted):
    assert Toy(tmp_path).train(stopper(LAST)).sha256() == uninterrupted


@pytest.mark.parametrize("at", range(7))
def test_a_kill_in_the_middle_of_saving_loses_that_state_only(tmp_path, uninterrupted, at):
    """Killed at each step of writing the second state: the first or the second one is there, and goes on exactly."""

    def die():
        with pytest.raises(Interrupted):
            Toy(tmp_path).train(stopper(2))
        toy = Toy(tmp_path)
        with hit(at, KILL):
            toy.train(stopper(5))

    assert in_child(die) == 137
    resumed = Toy(tmp_path, seed=99)
    assert resumed.run.step == (5 if at == 6 else 2)
    assert resumed.train().sha256() == uninterrupted


def test_a_full_disk_while_saving_is_a_disk_error_and_keeps_the_state_before(tmp_path, uninterrupted):
    with pytest.raises(Interrupted):
        Toy(tmp_path).train(stopper(2))
    run = Toy(tmp_path)
    with hit(1, 28) as steps, pytest.raises(DiskError, match="no space left"):
        run.train(stopper(5))
    assert steps.fired
    assert Toy(tmp_path, seed=99).train().sha256() == uninterrupted


LOOKS = {"validate": 0.5, "validate_epochs": 2}  # after the second of three epochs, and the last


def metrics_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_breaks_off_a_look_which_a_resumed_run_takes_again(tmp_path, at, number, code):
    whole = Toy(tmp_path / "whole", options(**LOOKS))
    look = Look(whole)
    expected = whole.train(look=look).sha256()
    assert look.steps == [2 * STEPS, LAST]

    toy = Toy(tmp_path / "cut", options(**LOOKS))
    cut = Look(toy, at, number)
    with pytest.raises(Interrupted, match=f"stopped by a signal after step {cut_at(at)}, which is saved") as raised:
        toy.train(look=cut)
    assert raised.value.exit_code == code
    again = Toy(tmp_path / "cut", options(**LOOKS), seed=99)
    assert again.run.step == cut_at(at)
    look = Look(again)
    assert again.train(look=look).sha256() == expected
    assert look.steps == [2 * STEPS, LAST][at - 1 :]
    assert metrics_of(tmp_path / "cut") == metrics_of(tmp_path / "whole")
    assert again.run.best == whole.run.best


def cut_at(look):
    return {1: 2 * STEPS, 2: LAST}[look]


def test_a_kill_in_a_look_loses_the_look_alone(tmp_path):
    expected = Toy(tmp_path / "whole", options(**LOOKS)).train(look=lambda: None).sha256()

    def train():
        toy = Toy(tmp_path / "cut", options(**LOOKS))
        toy.train(look=Look(toy, 1, signal.SIGKILL))

    assert in_child(train) == -signal.SIGKILL
    again = Toy(tmp_path / "cut", options(**LOOKS), seed=99)
    look = Look(again)
    assert again.run.step == 2 * STEPS
    assert again.train(look=look).sha256() == expected
    assert look.steps == [2 * STEPS, LAST]


def test_a_signal_in_the_last_step_comes_before_the_last_look(tmp_path):
    toy = Toy(tmp_path, options(**LOOKS))
    look = Look(toy)
    with pytest.raises(Interrupted, match=f"after step {LAST}, which is saved"):
        toy.train(stopper(LAST), look)
    assert look.steps == [2 * STEPS]


def test_the_time_limit_leaves_time_for_a_look(tmp_path, monkeypatch):
    """Steps take 10 s, looks 100 s: after the first look of four there is no time for another one and a step."""
    clock = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])
    toy = Toy(tmp_path, options(validate=0.5, validate_epochs=1, time_limit="200s"))

    def step(_):
        clock[0] += 10

    def look():
        clock[0] += 100

    with pytest.raises(Interrupted, match=f"--time-limit 200s after step {2 * STEPS}, which is saved"):
        toy.train(step, look)
    assert clock[0] == 2 * STEPS * 10 + 100


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_second_signal_stops_at_once(tmp_path, number, raised):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def twice(step):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    with pytest.raises(raised):
        Toy(tmp_path).train(twice)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert not list(tmp_path.glob("state-*"))


def test_the_time_limit_stops_with_the_state_saved(tmp_path, uninterrupted, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])

    def tick(step):
        clock[0] += 20

    with pytest.raises(Interrupted, match="stopped by --time-limit 1m10s after step 3") as raised:
        Toy(tmp_path, options(time_limit="1m10s")).train(tick)
    assert raised.value.exit_code == 143
    monkeypatch.undo()
    assert Toy(tmp_path, seed=99).train().sha256() == uninterrupted


def test_states_are_saved_every_so_often_and_two_are_kept(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])
    seen = []

    def tick(step):
        clock[0] += 25
        seen.append(sorted(int(path.stem[6:]) for path in tmp_path.glob("state-*.safetensors")))

    toy = Toy(tmp_path, options(save_seconds=60)).train(tick)
    assert seen == [[], [], [], [3], [3], [3], [3, 6], [3, 6], [3, 6], [6, 9], [6, 9], [6, 9]]
    toy.run.finished()
    assert not list(tmp_path.glob("state-*"))


def test_other_options_are_refused_key_by_key_and_forced_only_by_force(tmp_path):
    with pytest.raises(Interrupted):
        Toy(tmp_path).train(stopper(2))
    with pytest.raises(OutputExists, match=r"seed: 0 there, 7 now") as raised:
        Toy(tmp_path, options(seed=7))
    assert raised.value.exit_code == 73
    assert Toy(tmp_path, options(log_steps=99)).run.step == 2  # decides nothing that is computed
    assert Toy(tmp_path, options(seed=7, force=True)).run.step == 0


def test_resume_never_starts_anew_and_a_path_goes_back(tmp_path):
    with pytest.raises(Interrupted):
        Toy(tmp_path).train(stopper(2))
    with pytest.raises(Interrupted):
        Toy(tmp_path).train(stopper(5))
    older = tmp_path / "state-00000002.safetensors"
    assert Toy(tmp_path, options(resume=str(older))).run.step == 2
    with pytest.raises(InputMissing):
        Toy(tmp_path, options(resume=str(tmp_path / "none")))
    assert Toy(tmp_path, options(resume="never")).run.step == 0
    assert not list(tmp_path.glob("state-*"))


def test_going_back_by_path_and_stopping_again_continues_there(tmp_path, uninterrupted):
    for stop in (2, 5, 7):
        with pytest.raises(Interrupted):
            Toy(tmp_path).train(stopper(stop))
    with pytest.raises(Interrupted):
        Toy(tmp_path, options(resume=str(tmp_path / "state-00000005.safetensors"))).train(stopper(6))
    resumed = Toy(tmp_path)
    assert resumed.run.step == 6
    assert resumed.train().sha256() == uninterrupted


def test_a_damaged_newest_state_costs_its_steps_not_the_result(tmp_path, uninterrupted):
    for stop in (3, 6):
        with pytest.raises(Interrupted):
            Toy(tmp_path).train(stopper(stop))
    newest = tmp_path / "state-00000006.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    progress = Silent()
    resumed = Toy(tmp_path, progress=progress)
    assert resumed.run.step == 3
    assert "state-00000006" in progress.warnings[0]
    assert resumed.train().sha256() == uninterrupted


def test_the_state_holds_its_place_and_kind(tmp_path):
    with pytest.raises(Interrupted):
        Toy(tmp_path).train(stopper(6))
    description = checkpoint.read_description(tmp_path / "state-00000006.safetensors")
    assert description["kind"] == "amem-state"
    place = {key: description["position"][key] for key in ("epoch", "step_in_epoch", "step")}
    assert place == {"epoch": 1, "step_in_epoch": 2, "step": 6}


def test_metrics_have_a_line_per_log_with_its_place(tmp_path):
    Toy(tmp_path).train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["epoch"], line["x"]) for line in lines] == [(s, s // STEPS, 1.0) for s in range(LAST)]


def test_metrics_of_a_stopped_run_hold_each_step_once(tmp_path):
    """Steps done again after going back replace those that were lost, and a line torn by a crash goes."""
    for stop in (3, 6):
        with pytest.raises(Interrupted):
            Toy(tmp_path).train(stopper(stop))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "ep')
    newest = tmp_path / "state-00000006.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    Toy(tmp_path).train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(LAST))


# -- leaves ------------------------------------------------------------------------------------------------------------


def test_the_learning_rate_by_hand():
    paper = dataclasses.replace(options(), learning_rate=1e-3, lr_step=60, lr_factor=0.2, warmup_steps=0)
    for epoch, rate in ((0, 1e-3), (59, 1e-3), (60, 2e-4), (119, 2e-4), (120, 4e-5), (239, 8e-6)):
        assert learning_rate(paper, epoch, 10**6) == pytest.approx(rate, rel=1e-12)
    warm = dataclasses.replace(paper, warmup_steps=4)
    assert [learning_rate(warm, 0, step) for step in range(6)] == pytest.approx(
        [2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3]
    )
    assert learning_rate(warm, 60, 1) == pytest.approx(1e-4)


def test_set_learning_rate_sets_all_groups_by_their_factors():
    layer = torch.nn.Bilinear(2, 2, 2)
    groups = [{"params": [layer.weight], "factor": 0.1}, {"params": [layer.bias], "lr": 9.0}]
    adam = torch.optim.Adam(groups)
    set_learning_rate(adam, 0.25)
    assert [group["lr"] for group in adam.param_groups] == [0.025, 0.25]


def test_means():
    means = Means()
    assert means.take() == {}
    means.add({"a": torch.tensor(1.0), "b": 2.0})
    means.add({"a": 4.0, "b": torch.tensor(2.0)})
    assert means.take() == {"a": 2.5, "b": 2.0}
    means.add({"a": 7.0})
    assert means.take() == {"a": 7.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_named_with_its_step(value):
    check_finite({"identity": torch.tensor(1.0)}, 17)
    with pytest.raises(BadData, match=r"loss at step 17: triplet, motion is not finite") as raised:
        check_finite({"identity": torch.tensor(1.0), "triplet": torch.tensor(value), "motion": torch.tensor(value)}, 17)
    assert raised.value.exit_code == 65
    assert "--learning-rate" in str(raised.value)


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(tmp_path, uninterrupted):
    with pytest.raises(Interrupted):
        Toy(tmp_path).train(stopper(4))

    def diverge(step):
        if step == 6:
            check_finite({"loss": torch.tensor(float("nan"))}, step)

    with pytest.raises(BadData, match="loss at step 6"):
        Toy(tmp_path).train(diverge)
    resumed = Toy(tmp_path)
    assert resumed.run.step == 4
    assert resumed.train().sha256() == uninterrupted


def test_another_number_of_threads_is_told(tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        Toy(tmp_path).train(stopper(2))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert "not be bit by bit" in " ".join(Toy(tmp_path).run.progress.warnings)


def test_the_means_of_a_resumed_run_go_on(tmp_path):
    with pytest.raises(Interrupted):
        Toy(tmp_path).train(stopper(2))
    run = Toy(tmp_path).run
    run.add({"loss": torch.tensor(1.0)})
    run.save()
    again = Toy(tmp_path).run
    again.add({"loss": torch.tensor(3.0)})
    again.log_means()
    assert again.metrics == {"loss": 2.0}


def test_means_over_processes(monkeypatch):
    means, other = Means(), Means()
    means.add({"a": 1.0})
    other.add({"a": 4.0})
    monkeypatch.setattr(Processes, "gather", lambda self, value: [value, other.as_json()["sums"]])
    means.average(Processes(0, 2, torch.device("cpu")))
    assert means.take() == {"a": 2.5}


def test_the_best_survives_a_resume_and_is_forgotten_with_its_file(tmp_path):
    best = tmp_path / "best.safetensors"

    def run(folder=tmp_path):
        toy = Toy.__new__(Toy)
        net = torch.nn.Linear(2, 2)
        provenance = Provenance("train-arm", options().science())
        toy.run = Run(folder, options(validate=0.5), provenance, ALONE, Silent(), {"net": net}, {}, best)
        return toy.run

    best.write_bytes(b"of an abandoned run")
    first = run()
    assert not best.exists()
    assert first.validated("mA", {"mA": 0.5}) is True
    best.write_bytes(b"weights")
    assert first.validated("mA", {"mA": 0.5}) is False
    assert first.validated("mA", {"mA": 0.4}) is False
    first.save()
    again = run()
    assert (again.best["value"], again.best["step"]) == (0.5, 0)
    assert again.validated("mA", {"mA": 0.45}) is False
    best.unlink()
    lost = run()
    assert lost.best == {}
    assert "best.safetensors is gone" in lost.progress.warnings[0]
    assert lost.validated("mse", {"mse": 0.3}, lower_is_better=True)
    assert not lost.validated("mse", {"mse": 0.31}, lower_is_better=True)
    assert lost.validated("mse", {"mse": 0.2}, lower_is_better=True)
