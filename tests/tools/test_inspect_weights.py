"""`amem weights inspect`: what a file is and whether it fits, for people and for scripts."""

import hashlib
import json
from pathlib import Path

import pytest

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.cli.app import run as amem

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def state() -> dict[str, "torch.Tensor"]:
    from amem_cli.weights.loading import imagenet_resnet

    torch.manual_seed(0)
    return imagenet_resnet(18).state_dict()


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def test_a_file_that_fits(tmp_path, capsys, state):
    path = saved(tmp_path / "resnet18.pth", state | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)})
    assert amem(["weights", "inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"{path}: PyTorch" in out
    assert hashlib.sha256(path.read_bytes()).hexdigest() in out
    assert "resnet18: torchvision ResNet, with a head of 1000 classes" in out
    assert "minus (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225)" in " ".join(out.split())
    assert out.endswith("fits resnet18\n")


def test_a_file_that_does_not_fit_names_its_keys_and_is_bad_data(tmp_path, capsys, state):
    broken = dict(state)
    del broken["layer4.0.conv1.weight"]
    broken["layer1.0.bn1.bias"] = torch.zeros(3)
    path = saved(tmp_path / "broken.pth", broken)
    assert amem(["weights", "inspect", str(path)]) == 65
    out = capsys.readouterr().out
    assert "problem: missing layer4.0.conv1.weight" in out
    assert "problem: layer1.0.bn1.bias is (3,) where (64,) belongs" in out
    assert out.endswith("does not fit\n")


def test_json_is_one_document(tmp_path, capsys, state):
    path = saved(tmp_path / "w.pth", {f"module.{key}": value for key, value in state.items()})
    assert amem(["weights", "inspect", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["path"] == str(path)
    assert (report["architecture"], report["fits"], report["problems"]) == ("resnet18", True, [])
    assert report["head_classes"] is None
    assert report["normalisation"]["mean"] == [0.485, 0.456, 0.406]


def test_our_own_checkpoints_are_told_as_such(tmp_path, capsys):
    tensors, provenance = {"fc.weight": torch.zeros(2)}, Provenance("train-arm", {})
    path = checkpoint.save(tmp_path / "arm.safetensors", "amem-arm", tensors, provenance)
    assert amem(["weights", "inspect", str(path)]) == 65
    error = capsys.readouterr().err
    assert "it is a checkpoint of amem itself, of kind amem-arm" in error
    assert "the backbone of an amem-main.safetensors" in error


def test_foreign_tensors_resemble_nothing(tmp_path, capsys):
    path = saved(tmp_path / "other.pth", {"encoder.0": torch.zeros(2)})
    assert amem(["weights", "inspect", str(path), "--json"]) == 65
    report = json.loads(capsys.readouterr().out)
    assert (report["architecture"], report["normalisation"], report["fits"]) == (None, None, False)
    assert "resemble none" in report["problems"][0]


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (b"<!DOCTYPE html><html></html>", 65, "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", 65, "Git LFS pointer"),
        (None, 66, "not found"),
    ],
)
def test_what_is_no_weight_file_is_one_line(content, code, told, tmp_path, capsys):
    path = tmp_path / "rgb.pt"
    if content is not None:
        path.write_bytes(content)
    assert amem(["weights", "inspect", str(path)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: weights {path}: ")
    assert told in captured.err
    assert captured.err.count("\n") == 1
