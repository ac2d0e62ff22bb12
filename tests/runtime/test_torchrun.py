"""Several processes: the same files as one, exact resuming, one line when a process fails or dies.

Most run in forked processes that find each other as torchrun's do (`processes`), two under torchrun itself.
"""

import ctypes
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
import torch

from amem_cli.artifacts import checkpoint, shards
from amem_cli.artifacts.lock import locked
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import ATTRIBUTES, GROUP_SIZES
from amem_cli.data import loading
from amem_cli.data.manifest import load_manifest, read_videos
from amem_cli.errors import BadData
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.options import TrainAmemOptions
from amem_cli.runtime.distributed import process_group
from amem_cli.runtime.progress import Silent
from amem_cli.runtime.training import Run
from amem_cli.stages import train_amem as amem_stage
from amem_cli.stages import train_arm as arm_stage

pytestmark = pytest.mark.usefixtures("one_thread", "tiny_backbone", "several_shards")

TRAIN = ["--image-size", "32x32", "--epochs", "2", "--log-steps", "1"]
COMMANDS = {
    "train-arm": [*TRAIN, "--backbone", "resnet18", "--batch-size", "64", "--partition", "none"],
    "train-tae": [*TRAIN, "--batch-size", "6"],
    "train-amem": [
        *TRAIN, "--modules", "baseline", "--branch", "conv2d", "--clip-frames", "4", "--predict-frames", "2",
        "--clips-per-person", "2", "--people-per-batch", "4", "--gradient-steps", "0",
    ],
    "label-videos": [],
    "extract-features": [],
}  # fmt: skip
TRAININGS = list(COMMANDS)[:3]
FILES = {
    "train-arm": "arm/arm.safetensors",
    "train-tae": "tae/tae.safetensors",
    "train-amem": "amem/mars/amem-main.safetensors",
    "label-videos": "labels/mars.h5",
    "extract-features": "features/mars.h5",
}


@pytest.fixture
def several_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each process."""
    monkeypatch.setattr(shards, "FRAMES_PER_SHARD", 20)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ARM."""
    torch.manual_seed(0)
    described = {"depth": 18, "attributes": list(ATTRIBUTES), "image_size": "32x32"}
    path, weights = tmp_path_factory.mktemp("models") / "arm.safetensors", ARM(18, GROUP_SIZES).state_dict()
    return checkpoint.save(path, "amem-arm", weights, Provenance("train-arm", {}), model=described)


@pytest.fixture
def main(tmp_path: Path, tiny_backbone: None) -> Path:
    """An untrained main model with the tiny backbone."""
    torch.manual_seed(0)
    how = TrainAmemOptions(modules="baseline", branch="conv2d", image_size="32x32", clip_frames=4, predict_frames=2)
    described = amem_stage.describe(how, 4)
    path, weights = tmp_path / "main.safetensors", build_main_model(described).state_dict()
    return checkpoint.save(path, "amem-main", weights, Provenance("train-amem", {}), model=described)


@pytest.fixture
def workspace(tmp_path: Path, arm: Path, main: Path) -> Path:
    """An empty one, with the models beside it."""
    (tmp_path / "arm.safetensors").symlink_to(arm)
    return tmp_path / "workspace"


def arguments(stage: str, walkers: Path, workspace: Path, *more: str) -> list[str]:
    models = {"label-videos": ["--arm", "arm.safetensors"], "extract-features": ["--model", "main.safetensors"]}
    flag = [str(workspace.parent / word) if "." in word else word for word in models.get(stage, ())]
    given = [stage, *COMMANDS[stage], *flag, "--device", "cpu", "--quiet", "--data-root", str(walkers)]
    return [*given, "--workspace", str(workspace), *more]


def run(stage: str, world: int, walkers: Path, workspace: Path, *more: str, begin=lambda rank: None) -> processes.Ended:
    ended = processes.amem(arguments(stage, walkers, workspace, *more), world, workspace.parent / "printed", begin)
    assert "this is a bug" not in ended.text, ended.text
    return ended


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path, checkpoint.read_description(path)["kind"]).tensors


def same_weights(one: Path, other: Path) -> bool:
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stage", ["label-videos", "extract-features"])
def test_files_are_the_same_bytes_for_one_two_and_three_processes(stage: str, walkers: Path, workspace: Path) -> None:
    found = []
    for world in (1, 2, 3):
        assert run(stage, world, walkers, workspace).codes == [0] * world
        found.append((workspace / FILES[stage]).read_bytes())
        (workspace / FILES[stage]).unlink()
    assert found[0] == found[1] == found[2]


# -- exact resuming ----------------------------------------------------------------------------------------------------


def stops_at(victim: int, step: int, number: int):
    """What makes process `victim` send itself a signal in its `step`-th step of training."""

    def begin(rank: int) -> None:
        done = Run.step_done

        def step_done(self: Run, last_in_epoch: bool) -> None:
            if rank == victim and self.step == step:
                os.kill(os.getpid(), number)
            done(self, last_in_epoch)

        Run.step_done = step_done

    return begin


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--accumulate", "2", "--epochs", "4")], ids=["", "accumulate"])
@pytest.mark.parametrize("stage", TRAININGS)
def test_two_processes_stopped_in_every_step_give_the_weights_of_an_uninterrupted_run(
    stage: str, more: tuple[str, ...], walkers: Path, workspace: Path
) -> None:
    each_step = ["--save-seconds", "0", *more]
    assert run(stage, 2, walkers, workspace / "whole", *more).codes == [0, 0]
    cut = workspace / "cut"
    kills = zip(itertools.cycle([signal.SIGKILL, signal.SIGTERM]), itertools.cycle([0, 0, 1, 1]), strict=False)
    for step, (number, victim) in zip(range(1, 100), kills, strict=False):
        ended = run(stage, 2, walkers, cut, *each_step, begin=stops_at(victim, step, number))
        if ended.codes == [0, 0]:
            break
        assert len(ended.errors) == 1, ended.text
        states = sorted((cut / FILES[stage]).parent.glob("state-*"))
        # a SIGTERM lets the step finish and be saved, a SIGKILL leaves the one before
        assert int(states[-1].stem[6:]) == step + (number == signal.SIGTERM)
    assert step >= 4
    assert same_weights(cut / FILES[stage], workspace / "whole" / FILES[stage])
    metrics = [((at / FILES[stage]).parent / "metrics.jsonl").read_text() for at in (workspace / "whole", cut)]
    terms = [re.sub(r'"seconds": [\d.]+', "", text) for text in metrics]
    assert terms[0] == terms[1]


# -- a process that dies or fails --------------------------------------------------------------------------------------


def broken_by(how: str, victim: int):
    """What kills process `victim`, stops it or lets it fail, when it asks for its second batch."""

    def begin(rank: int) -> None:
        if rank != victim:
            return
        batches = loading._Loader.__iter__
        asked = itertools.count()

        def broken(self):
            for batch in batches(self):
                if next(asked) == 1:
                    if how == "fails":
                        raise BadData("image", "x.jpg", why="cannot be decoded", remedy="Replace it")
                    os.kill(os.getpid(), getattr(signal, how))
                yield batch

        loading._Loader.__iter__ = broken

    return begin


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "fails"])
@pytest.mark.parametrize("stage", COMMANDS)
def test_one_line_says_which_process_ended_why_and_how_to_go_on(
    stage: str, how: str, walkers: Path, workspace: Path
) -> None:
    more = ["--batch-size", "4"] if stage in ("label-videos", "extract-features") else []
    ended = run(stage, 2, walkers, workspace, *more, begin=broken_by(how, victim=1))
    assert len(ended.errors) == 1, ended.text
    (line,) = ended.errors
    code = {"SIGKILL": 143, "SIGTERM": 143, "fails": 65}[how]
    assert line.endswith(f"Exit code {code}; torchrun's own is 1.")
    assert ended.codes == [code, -signal.SIGKILL if how == "SIGKILL" else code], ended.text
    if how == "fails":
        assert line.startswith("error: process 1 of 2: image x.jpg: cannot be decoded. Replace it.")
    else:
        assert "continue" in line
        assert stage in line
    if how == "SIGKILL":
        assert "process 1 of 2 (" in line
        assert "was killed or crashed" in line
        assert f"torchrun --nproc-per-node 2 -m amem_cli {stage}" in line


def test_a_process_whose_main_thread_waits_for_a_dead_one_is_ended_with_a_line(tmp_path: Path, monkeypatch) -> None:
    """As nccl waits: in C, where no signal handler of Python's runs."""
    monkeypatch.setattr("amem_cli.runtime.distributed.NOTICE_SECONDS", 0.5)

    def wait_in_c(rank: int) -> None:
        sys.argv = ["amem", "train-amem"]
        with process_group("cpu") as group:
            group.barrier()
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            ctypes.CDLL(None).sleep(60)

    began = time.monotonic()
    ended = processes.together(wait_in_c, 2, tmp_path)
    assert ended.codes == [143, -signal.SIGKILL]
    assert len(ended.errors) == 1, ended.text
    assert "process 1 of 2 (" in ended.errors[0]
    assert time.monotonic() - began < 50  # or C's sleep was over


def test_a_process_that_is_done_early_is_not_missed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("amem_cli.runtime.distributed.NOTICE_SECONDS", 0.1)

    def work(rank: int) -> None:
        with process_group("cpu") as group:
            group.barrier()
            if rank == 0:
                time.sleep(2.5)

    ended = processes.together(work, 2, tmp_path)
    assert (ended.codes, ended.errors) == ([0, 0], [])


def test_a_process_that_fails_ends_all_with_one_line(walkers: Path, workspace: Path) -> None:
    with locked(workspace / "amem/mars/amem.safetensors"):
        ended = run("train-amem", 2, walkers, workspace)
    assert ended.codes == [75, 75]
    assert len(ended.errors) == 1, ended.text
    assert ended.errors[0].startswith("error: process 0 of 2: output ")
    assert f"another run writes it (process {os.getpid()} on " in ended.errors[0]


def test_a_mistake_of_all_is_told_once(walkers: Path, workspace: Path) -> None:
    ended = run("train-amem", 2, walkers, workspace, "--sync-batchnorm")
    assert ended.codes == [2, 2]
    assert len(ended.errors) == 1, ended.text
    assert "--sync-batchnorm: synchronised batch norm needs CUDA devices" in ended.errors[0]


# -- validation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 3])
def test_held_out_people_give_the_same_figures_when_shared_even_by_processes_without_any(
    world: int, walkers: Path, tmp_path: Path
) -> None:
    """With three processes and two tracklets one of them has nothing to extract."""
    train = read_videos(load_manifest("mars"), walkers).splits[0].train
    held_out = [t for t in train if t.person_id == train[0].person_id][:2] if world == 3 else list(train)
    how = {"modules": "baseline", "branch": "conv2d", "image_size": "32x32", "clip_frames": 4, "predict_frames": 2}
    options = TrainAmemOptions(**how, device="cpu")  # type: ignore[arg-type]

    def look(rank: int) -> None:
        torch.manual_seed(rank if rank == 0 else 0)
        main = build_main_model(amem_stage.describe(options, 4))
        with process_group("cpu") as group:
            if rank:  # statistics of batch norm are each process's own, the first one's count
                main.backbone[1].running_mean += 1
            found = amem_stage.validate(main, held_out, options, "fp32", group, Silent())
            (tmp_path / f"{group.world} {rank}").write_text(repr(found))

    for each in (1, world):
        assert processes.together(look, each, tmp_path).codes == [0] * each
    alone = (tmp_path / "1 0").read_text()
    assert {(tmp_path / f"{world} {rank}").read_text() for rank in range(world)} == {alone}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["train-arm", "train-tae"])  # train-amem wants more people than the walkers are
def test_two_processes_validate_without_waiting_for_each_other_forever(
    stage: str, walkers: Path, workspace: Path
) -> None:
    ended = run(stage, 2, walkers, workspace, "--validate", "0.3", "--validate-epochs", "1")
    assert ended.codes == [0, 0], ended.text
    best = (workspace / FILES[stage]).with_name(f"{Path(FILES[stage]).stem}-best.safetensors")
    assert checkpoint.read_description(best)["validation"]["value"] > 0


@pytest.mark.slow
def test_a_signal_in_a_look_at_held_out_people_ends_all_and_the_look_is_taken_again(
    walkers: Path, workspace: Path
) -> None:
    more = ["--validate", "0.3", "--validate-epochs", "1"]

    def begin(rank: int) -> None:
        taken = arm_stage.validate

        def look(*arguments: object) -> dict[str, float]:
            os.kill(os.getpid(), signal.SIGTERM)
            return taken(*arguments)

        arm_stage.validate = look

    assert run("train-arm", 2, walkers, workspace / "whole", *more).codes == [0, 0]
    ended = run("train-arm", 2, walkers, workspace / "cut", *more, begin=begin)
    assert 143 in ended.codes, ended.text
    assert 0 not in ended.codes, ended.text
    assert len(ended.errors) == 1, ended.text
    assert run("train-arm", 2, walkers, workspace / "cut", *more).codes == [0, 0]
    for name in ("arm", "arm-best"):
        file = f"arm/{name}.safetensors"
        assert same_weights(workspace / "cut" / file, workspace / "whole" / file)


# -- torchrun itself ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["a process", "torchrun"])
def test_torchrun_tells_once_what_happened_and_how_to_continue(victim: str, walkers: Path, tmp_path: Path) -> None:
    """SIGTERM reaches the loader's processes too: the step in progress still gets its batch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "amem_cli"]
    command += [*arguments("train-arm", walkers, tmp_path), "--epochs", "500", "--workers", "1", "--save-seconds", "0"]
    launched = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        end = time.monotonic() + 240
        while not list(tmp_path.rglob("state-*.safetensors")) and time.monotonic() < end and launched.poll() is None:
            time.sleep(0.1)
        if victim == "torchrun":
            launched.send_signal(signal.SIGTERM)
        else:
            holder = (tmp_path / "arm" / ".arm.safetensors.holder").read_text()
            os.kill(int(holder.split()[1]), signal.SIGKILL)
        _, errors = launched.communicate(timeout=240)
    finally:
        launched.kill()
        launched.wait()
    assert launched.returncode != 0
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, errors
    assert lines[0].endswith("Exit code 143; torchrun's own is 1.")
    if victim == "torchrun":
        assert "is saved" in lines[0], errors
    else:
        assert "process 0 of 2 (" in lines[0]
        assert "torchrun --nproc-per-node 2 -m amem_cli train-arm" in lines[0]
