"""An image that cannot be decoded: every stage stops and names it, or leaves it out with a list."""

import shutil
from pathlib import Path

import pytest
import torch

from amem_cli.artifacts import checkpoint, features, pseudo_labels
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import ATTRIBUTES, GROUP_SIZES
from amem_cli.cli.app import run
from amem_cli.data import unreadable as quarantine
from amem_cli.data.manifest import load_manifest, read_attributes, read_images, read_videos
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.options import TrainAmemOptions
from amem_cli.stages.train_amem import describe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def place(walkers: Path, tmp_path: Path) -> Path:
    """A copy of the walkers' MARS and a workspace with untrained models."""
    shutil.copytree(walkers / "mars", tmp_path / "data" / "mars")
    torch.manual_seed(0)
    described = {"depth": 18, "attributes": list(ATTRIBUTES), "image_size": "32x32"}
    arm = ARM(18, GROUP_SIZES).state_dict()
    workspace = tmp_path / "workspace"
    checkpoint.save(workspace / "arm/arm.safetensors", "amem-arm", arm, Provenance("train-arm", {}), model=described)
    described = describe(TrainAmemOptions(modules="baseline", image_size="32x32", clip_frames=4, predict_frames=2), 4)
    main = build_main_model(described).state_dict()
    path = workspace / "amem/mars/amem-main.safetensors"
    checkpoint.save(path, "amem-main", main, Provenance("train-amem", {}), model=described)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "part", "output"), [("label-videos", "train", "labels"), ("extract-features", "test", "features")]
)
def test_stop_names_the_file_and_skip_covers_the_rest(
    command: str, part: str, output: str, place: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracklets = getattr(read_videos(load_manifest("mars"), place / "data").splits[0], part)
    bad = tracklets[1].frames[2]
    bad.write_bytes(bad.read_bytes()[:50])
    arguments = [command, "--data-root", str(place / "data"), "--workspace", str(place / "workspace"), "--quiet"]
    arguments += ["--device", "cpu"]
    assert run(arguments) == 65
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    assert len(errors) == 1
    assert str(bad) in errors[0]
    assert "--on-bad-image skip" in errors[0]
    file = place / "workspace" / output / "mars.h5"
    assert not file.exists()

    frames = sum(map(len, tracklets))
    monkeypatch.setattr(quarantine, "MOST_SKIPPED", 0.5 / frames)  # one frame is too many
    assert run([*arguments, "--on-bad-image", "skip"]) == 65
    assert f"1 of {frames} images cannot be decoded" in capsys.readouterr().err
    assert not file.exists()

    monkeypatch.setattr(quarantine, "MOST_SKIPPED", 1.5 / frames)
    assert run([*arguments, "--on-bad-image", "skip"]) == 0
    listed = file.with_suffix(".unreadable.txt").read_text().splitlines()
    assert len(listed) == 1
    assert str(bad) in listed[0]
    if output == "labels":
        found = pseudo_labels.read(file)
        assert found.frames.tolist() == [len(t) - (row == 1) for row, t in enumerate(tracklets)]
    else:
        found = features.read(file)
    assert found.tracklet == [tracklet.name for tracklet in tracklets]
    assert run(arguments) == 73  # without skip it is another result


TRAININGS = {
    "train-arm": ("peta", "arm/arm", ["--backbone", "resnet18", "--batch-size", "60", "--partition", "none"]),
    "train-tae": ("market1501", "tae/tae", ["--batch-size", "4"]),
    "train-amem": (
        "mars", "amem/mars/amem",
        ["--modules", "baseline", "--clip-frames", "4", "--predict-frames", "2", "--people-per-batch", "4",
         "--clips-per-person", "2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("stage", TRAININGS)
def test_a_training_stops_or_goes_on_without_the_image(
    stage: str, walkers: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch,
    tiny_backbone: None,
) -> None:  # fmt: skip
    dataset, output, options = TRAININGS[stage]
    root = tmp_path / "data"
    shutil.copytree(walkers / dataset, root / dataset)
    manifest = load_manifest(dataset)
    if dataset == "mars":
        bad = read_videos(manifest, root).splits[0].train[0].frames[1]
    else:
        bad = (read_images if dataset == "market1501" else read_attributes)(manifest, root).paths[1]
    bad.write_bytes(b"<html>not found</html>")
    arguments = [stage, "--data-root", str(root), "--workspace", str(tmp_path / "w"), "--quiet", "--device", "cpu"]
    arguments += ["--image-size", "32x32", "--epochs", "1", "--log-steps", "1", *options]
    assert run(arguments) == 65
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    for part in (str(bad), "--on-bad-image skip", "amem data check NAME --deep lists all such files"):
        assert part in line

    monkeypatch.setattr(quarantine, "MOST_SKIPPED", 0.0)
    assert run([*arguments, "--on-bad-image", "skip"]) == 65
    assert "images cannot be decoded" in capsys.readouterr().err
    monkeypatch.setattr(quarantine, "MOST_SKIPPED", 0.5)
    stopped = [*arguments, "--on-bad-image", "skip", "--time-limit", "0s", "--resume", "auto"]
    assert run(stopped) == 143
    while (code := run(stopped)) == 143:
        pass
    assert code == 0
    listed = (tmp_path / "w" / f"{output}.unreadable.txt").read_text().splitlines()
    assert len(listed) == 1
    assert str(bad) in listed[0]

    if dataset == "market1501":  # there an image may be missing: the weights are those of a data set without it
        bad.unlink()
        arguments[arguments.index("--workspace") + 1] = str(tmp_path / "without")
        assert run(arguments) == 0
        places = tmp_path / "w", tmp_path / "without"
        made = [checkpoint.load(at / "tae/tae.safetensors", "amem-tae").tensors for at in places]
        assert all(torch.equal(tensor, made[1][name]) for name, tensor in made[0].items())
