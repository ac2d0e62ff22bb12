"""A file system that is really full: every writer and the stages that write for long, on a small disk in memory."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from artifacts.test_atomic import NEW, OLD, WRITERS
from faults import temporaries

from amem_cli.artifacts import atomic, checkpoint, metrics_log, shards
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import ATTRIBUTES, GROUP_SIZES
from amem_cli.cli.app import run
from amem_cli.errors import DiskError
from amem_cli.models.arm import ARM

pytestmark = pytest.mark.usefixtures("one_thread", "tiny_backbone")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of two megabytes, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    with open(disk / "filling", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return disk / "filling"


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_writer_leaves_the_old_file_and_goes_on_when_there_is_room(name: str, disk: Path) -> None:
    path, write = disk / "folder" / name, WRITERS[name]
    write(path, OLD)
    old = path.read_bytes()
    filling = fill(disk)
    with pytest.raises(DiskError, match="no space left on device") as raised:
        write(path, NEW)
    assert raised.value.exit_code == 74
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == old
    assert temporaries(disk) == []
    filling.unlink()
    write(path, NEW)
    assert path.read_bytes() != old


def test_metrics_grow_again_when_there_is_room(disk: Path) -> None:
    path = disk / "metrics.jsonl"
    metrics_log.append_metrics(path, {"step": 0})
    filling = fill(disk)
    with pytest.raises(DiskError, match="no space left"):
        metrics_log.append_metrics(path, {"step": 1, "text": "x" * 5000})
    filling.unlink()
    metrics_log.append_metrics(path, {"step": -1})
    assert path.read_text().splitlines()[-1] == '{"step": -1}'


def test_a_stage_does_not_begin_on_a_disk_as_good_as_full(disk: Path, walkers: Path, capsys) -> None:
    arguments = ["--data-root", str(walkers), "--workspace", str(disk), "--quiet", "--device", "cpu"]
    assert run(["train-tae", *arguments]) == 74
    assert "0.00 GB free, this run needs about 0.01 GB" in capsys.readouterr().err


STAGES = {  # options, output, bytes on the disk: room for a part of what the stage writes
    "label-videos": ([], "labels/mars.h5", 40_000),
    "train-amem": (
        ["--modules", "baseline", "--image-size", "32x32", "--clip-frames", "4", "--predict-frames", "2",
         "--people-per-batch", "2", "--clips-per-person", "2", "--epochs", "3", "--save-seconds", "0",
         "--log-steps", "1"],
        "amem/mars/amem-main.safetensors",
        900_000,
    ),
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_fills_the_disk_says_so_and_continues_when_there_is_room(
    stage: str, disk: Path, walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(atomic, "require_free_space", lambda folder, needed: None)  # the space goes while it runs
    monkeypatch.setattr(shards, "FRAMES_PER_SHARD", 1)
    options, output, room = STAGES[stage]
    torch.manual_seed(0)
    described = {"depth": 18, "attributes": list(ATTRIBUTES), "image_size": "32x32"}
    arm = tmp_path / "arm.safetensors"
    checkpoint.save(arm, "amem-arm", ARM(18, GROUP_SIZES).state_dict(), Provenance("train-arm", {}), model=described)
    options = [*options, "--arm", str(arm)] if stage == "label-videos" else options
    arguments = [stage, *options, "--data-root", str(walkers), "--device", "cpu", "--quiet", "--workspace"]
    assert run([*arguments, str(tmp_path / "whole")]) == 0
    fill(disk).write_bytes(bytes(2 * 1024**2 - room))
    assert run([*arguments, str(disk)]) == 74
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "no space left on device. Free some space" in line
    assert temporaries(disk) == []
    assert not (disk / output).exists()
    done = len(list(disk.rglob("0*.safetensors"))) + len(list(disk.rglob("state-*.safetensors")))
    assert done > 0
    grow(disk)
    assert run([*arguments, str(disk)]) == 0
    assert (disk / output).read_bytes() == (tmp_path / "whole" / output).read_bytes()
