"""A file system that is really full: a small one in memory."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import toys
from faults import temporaries
from writers import NEW, write

from amem_cli.artifacts import atomic, shards
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import ATTRIBUTES
from amem_cli.errors import DiskError
from amem_cli.models.arm import build_arm
from amem_cli.models.checkpoints import save_arm
from amem_cli.models.config import ArmConfig
from amem_cli.options import LabelVideosOptions
from amem_cli.runtime.progress import Silent
from amem_cli.stages.label_videos import label_videos
from amem_cli.stages.train_amem import train_amem


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the space."""
    with open(disk / "filling", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return disk / "filling"


def test_write_keeps_the_old_file(disk: Path) -> None:
    path = disk / "folder" / "features.h5"
    write(path)
    old = path.read_bytes()
    filling = fill(disk)
    with pytest.raises(DiskError, match="no space left on device"):
        write(path, NEW)
    assert path.read_bytes() == old
    assert temporaries(disk) == []
    filling.unlink()
    write(path, NEW)
    assert path.read_bytes() != old


def label(walkers: Path, workspace: Path) -> None:
    torch.manual_seed(0)
    arm, config = build_arm(config := ArmConfig(depth=18, attributes=ATTRIBUTES, image_size="32x32")), config
    file = save_arm(workspace.parent / "arm.safetensors", arm, config, Provenance("train-arm", {}))
    options = LabelVideosOptions(data_root=walkers, workspace=workspace, arm=str(file), device="cpu")
    label_videos(options, Silent())


def train(walkers: Path, workspace: Path) -> None:
    how = {"modules": "baseline", "epochs": 3, "save_seconds": 0.0}
    train_amem(toys.amem_options(walkers, workspace, **how), Silent())


STAGES = {  # stage, output, space on the disk for a part of what the stage writes
    "label-videos": (label, "labels/mars.h5", 40_000),
    "train-amem": (train, "amem/mars/amem-main.safetensors", 900_000),
}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread", "tiny_backbone")
@pytest.mark.parametrize("name", STAGES)
def test_stage_continues_when_there_is_space(name, disk, walkers, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "require_free_space", lambda folder, needed: None)  # the disk fills during the run
    monkeypatch.setattr(shards, "FRAMES_PER_SHARD", 1)
    stage, output, space = STAGES[name]
    stage(walkers, tmp_path / "whole")
    fill(disk).write_bytes(bytes(2 * 1024**2 - space))
    with pytest.raises(DiskError, match=r"no space left on device\. Free some space"):
        stage(walkers, disk)
    assert temporaries(disk) == []
    assert not (disk / output).exists()
    assert [*disk.rglob("0*.safetensors"), *disk.rglob("state-*.safetensors")]
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    stage(walkers, disk)
    assert (disk / output).read_bytes() == (tmp_path / "whole" / output).read_bytes()
