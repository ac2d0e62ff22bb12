"""`amem weights inspect`: the content of a file, the network it fits, and the exit codes."""

import functools
import json
from pathlib import Path

import pytest
import torch
from tiny3d import Tiny3D

from amem_cli.cli.app import run as amem
from amem_cli.errors import BadData
from amem_cli.models.backbones import backbone_class
from amem_cli.options import BACKBONES
from amem_cli.tools import inspect_weights as tool
from amem_cli.tools.inspect_weights import check_weights, inspect_weights
from amem_cli.weights.files import WeightFile
from amem_cli.weights.normalisation import HARA_2020, IMAGENET, PLUS_MINUS_ONE, TORCHVISION_KINETICS


def saved(path, tensors):
    torch.save(tensors, path)
    return path


def report_of(tensors, monkeypatch):
    file = WeightFile(Path("w"), tensors, "PyTorch", False, 0, "")
    monkeypatch.setattr(tool, "read_weight_file", lambda path: file)
    return inspect_weights("w")


@pytest.fixture
def state(monkeypatch):
    """The weights of the only network that files are compared with."""
    monkeypatch.setattr(tool, "IMAGE_NETWORKS", {})
    for name in list(BACKBONES):
        monkeypatch.delitem(BACKBONES, name)
    monkeypatch.setitem(BACKBONES, "tiny", "tiny3d:Tiny3D")
    return Tiny3D().state_dict()


def test_inspect_weights_prints_a_file_that_fits(state, tmp_path, capsys):
    path = saved(tmp_path / "w.pth", {f"module.{key}": value for key, value in state.items()})
    assert amem(["weights", "inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: PyTorch, 6 keys, 36,896 parameters\n")
    assert "tiny: the network's own keys, without a head" in out
    assert "  prefix removed: module.\n" in out
    assert out.endswith("fits tiny\n")
    assert amem(["weights", "inspect", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["path"] == str(path)
    assert (report["architecture"], report["fits"], report["problems"]) == ("tiny", True, [])
    assert report["notes"] == ["prefix removed: module."]
    assert report["normalisation"]["mean"] == list(IMAGENET.mean)


def test_inspect_weights_prints_every_problem(state, tmp_path, capsys):
    broken = state | {"1.bias": torch.zeros(3), "other": torch.zeros(1)}
    del broken["0.weight"]
    assert amem(["weights", "inspect", str(saved(tmp_path / "w.pt", broken))]) == 65
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "  problem: missing 0.weight",
        "  problem: left over other",
        "  problem: 1.bias is (3,), not (16,)",
        "does not fit",
    ]


def test_inspect_weights_of_an_unknown_network(state, tmp_path):
    path = saved(tmp_path / "w.pt", {"a": torch.zeros(2), "b": torch.zeros(1), "1.bias": state["1.bias"]})
    report = inspect_weights(path)
    assert (report.architecture, report.key_mapping, report.normalisation, report.fits) == (None, None, None, False)
    (problem,) = report.problems
    assert problem == "fewer than half of its tensors match any of tiny; it holds a (2,); b (1,); 1.bias (16,)"


def test_check_weights(state, tmp_path):
    check_weights("tiny", saved(tmp_path / "w.pt", state))
    with pytest.raises(BadData, match="left over other"):
        check_weights("tiny", saved(tmp_path / "w.pt", state | {"other": torch.zeros(1)}))


@pytest.mark.slow
def test_inspect_weights_recognises_every_network(monkeypatch):
    expected = {"i3d": PLUS_MINUS_ONE, "r3d": HARA_2020, "p3d": IMAGENET, "resnet18": IMAGENET, "resnet50": IMAGENET}
    expected |= {"mobilenet_v2": IMAGENET} | dict.fromkeys(
        ("s3d", "r3d_18", "mc3_18", "r2plus1d_18"), TORCHVISION_KINETICS
    )
    assert expected.keys() == {*BACKBONES, *tool.IMAGE_NETWORKS}
    monkeypatch.setattr(tool, "_empty", functools.cache(tool._empty))
    for name, normalisation in expected.items():
        tensors = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in tool._empty(name).state_dict().items()}
        report = report_of(tensors, monkeypatch)
        assert (report.architecture, report.problems, report.normalisation) == (name, (), normalisation)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_inspect_weights_recognises_inflated_networks(name, monkeypatch):
    with torch.device("meta"):
        network = backbone_class(name)()
    tensors = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in network.state_dict().items()}
    assert any(tensor.dim() == 5 for tensor in tensors.values())
    report = report_of(tensors, monkeypatch)
    assert (report.architecture, report.problems) == (name, ())
