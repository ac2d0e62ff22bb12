"""Loading weights: every key must fit, and the weights set the input normalisation."""

import argparse
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData
from amem_cli.models.image_networks import image_network
from amem_cli.models.inflated import InflatedResNet50
from amem_cli.weights.files import WeightFile
from amem_cli.weights.loading import load_pretrained, log_pretrained, weights_for
from amem_cli.weights.normalisation import HARA_2018, HARA_2020, IMAGENET


class Network(nn.Module):
    normalisation = IMAGENET
    head_keys = ("fc.weight", "fc.bias")

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.bn = nn.BatchNorm2d(3)


class WithHead(Network):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 5)


def saved(path, tensors):
    torch.save(tensors, path)
    return path


@pytest.fixture
def state():
    torch.manual_seed(0)
    return Network().state_dict()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_load_pretrained(dtype, state, tmp_path):
    stored = {key: value.to(dtype) for key, value in state.items() if not key.endswith("tracked")}
    path = saved(tmp_path / "w.pt", stored | {"fc.weight": torch.zeros(7, 3)})
    network = Network()
    load_pretrained(network, str(path), "own")
    assert network.pretrained == f"loaded {path} as the network's own keys; left out: fc"
    assert network.normalisation == IMAGENET
    assert network.conv.weight.dtype == torch.float32
    assert all(torch.equal(network.state_dict()[key], value.float()) for key, value in stored.items())


def test_load_pretrained_sets_the_normalisation(state, tmp_path):
    network = Network()
    for classes, expected in ((400, HARA_2018), (700, HARA_2020)):
        path = saved(tmp_path / "w.pt", state | {"fc.weight": torch.zeros(classes, 3)})
        load_pretrained(network, path, "r3d")
        assert network.normalisation == expected


def test_load_pretrained_lists_every_misfit(state, tmp_path):
    broken = {key: value for key, value in state.items() if key not in ("bn.weight", "bn.num_batches_tracked")}
    broken |= {"other": torch.zeros(1), "conv.weight": torch.zeros(3, 2, 2, 2), "bn.running_var": -torch.ones(3)}
    broken |= {"conv.bias": torch.full((3,), 1e300, dtype=torch.float64), "bn.bias": torch.zeros(3, dtype=torch.int64)}
    broken |= {"fc.bias": torch.tensor([float("nan")])}
    path = saved(tmp_path / "my w.pt", broken)
    network = Network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(BadData) as caught:
        load_pretrained(network, path, "own")
    assert sorted(caught.value.why.split(": ")[1].split("; ")) == [
        "bn.bias is torch.int64, not floating point",
        "bn.running_var has negative variances",
        "conv.bias has values that are NaN, infinite or beyond float32",
        "conv.weight is (3, 2, 2, 2), not (3, 2, 1, 1)",
        "fc.bias has values that are NaN, infinite or beyond float32",
        "left over other",
        "missing bn.weight",
    ]
    assert f"amem weights inspect '{path}'" in caught.value.remedy
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_load_pretrained_needs_the_head_of_a_network_that_has_one(state, tmp_path):
    with pytest.raises(BadData, match=r"missing fc\.weight; missing fc\.bias"):
        load_pretrained(WithHead(), saved(tmp_path / "w.pt", state), "own")
    head = {"fc.weight": torch.ones(5, 3), "fc.bias": torch.ones(5)}
    network = WithHead()
    load_pretrained(network, saved(tmp_path / "w.pt", state | head), "own")
    assert torch.equal(network.fc.weight, head["fc.weight"])


def test_load_pretrained_backbone_of_an_amem_main(state, tmp_path):
    tensors = {f"backbone.{key}": value for key, value in state.items()} | {"similarity.bias": torch.zeros(1)}
    model = {"normalisation": {"mean": HARA_2020.mean, "std": HARA_2020.std}}
    path = checkpoint.save(tmp_path / "m.safetensors", "amem-main", tensors, Provenance("train-amem", {}), model=model)
    network = Network()
    load_pretrained(network, path, "own")
    assert (network.pretrained, network.normalisation) == (f"loaded {path} as amem", HARA_2020)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(BadData, match="damaged"):
        load_pretrained(network, path, "own")
    checkpoint.save(path, "amem-main", tensors, Provenance("train-amem", {}), model={})
    with pytest.raises(BadData, match="normalisation"):
        load_pretrained(network, path, "own")
    checkpoint.save(path, "amem-tae", tensors, Provenance("train-tae", {}))
    with pytest.raises(BadData, match="an amem checkpoint of kind amem-tae"):
        load_pretrained(network, path, "own")


def test_load_pretrained_network_of_an_amem_arm(state, tmp_path):
    tensors = {f"backbone.network.{key}": value for key, value in state.items()} | {"heads.bias": torch.zeros(1)}
    path = checkpoint.save(tmp_path / "arm.safetensors", "amem-arm", tensors, Provenance("train-arm", {}), model={})
    network = Network()
    load_pretrained(network, path, "own")
    assert (network.pretrained, network.normalisation) == (f"loaded {path} as amem", IMAGENET)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())


# -- files of other projects -------------------------------------------------------------------------------------------


def resnet50():
    """The tensors of torchvision's ResNet-50 without its head, with the shapes alone."""
    with torch.device("meta"):
        state = torchvision.models.resnet50().state_dict()
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def under(prefix, tensors):
    return {prefix + key: value for key, value in tensors.items()}


def beside(*names):
    return dict.fromkeys(names, torch.zeros(1))


def notes(prefix="", left_out=(), not_opened=()):
    titles = {"prefix removed": [prefix], "left out": left_out, "not opened": not_opened}
    return tuple(f"{title}: {', '.join(names)}" for title, names in titles.items() if any(names))


NUMBERS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
BNNECK = [f"bottleneck.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
NL = "backbone.NL_2.0"
FILES = {  # project: prefix, keys of other parts, names of these parts
    "torchvision": ("", ["fc.weight", "fc.bias"], "fc"),
    "torchreid": ("", ["classifier.weight", "classifier.bias"], "classifier"),
    "torchreid, DataParallel": ("module.", ["module.classifier.weight"], "module.classifier"),
    "torchreid, fc512": ("", ["fc.0.weight", "fc.1.running_mean", "classifier.bias"], "fc.0 fc.1 classifier"),
    "fast-reid": (
        "backbone.",
        ["heads.weight", "heads.bottleneck.0.weight", "heads.bottleneck.0.bias", "pixel_mean", "pixel_std"],
        "heads heads.bottleneck.0 pixel_mean pixel_std",
    ),
    "fast-reid, SBS": (
        "backbone.",
        ["heads.bnneck.weight", "heads.pool_layer.p", f"{NL}.g.weight", f"{NL}.W.1.running_var"],
        f"heads.bnneck heads.pool_layer {NL}.g {NL}.W.1",
    ),
    "bag of tricks": ("base.", ["classifier.weight", *BNNECK], "classifier bottleneck"),
    "layumi": ("model.", ["model.fc.weight", "classifier.add_block.0.weight"], "model.fc classifier.add_block.0"),
    "open-reid": ("module.base.", ["module.base.fc.bias", "module.feat_bn.bias"], "module.base.fc module.feat_bn"),
    "torch.compile": ("_orig_mod.module.", [], ""),
    "nested": ("module.basenet.0.", ["module.fc.weight"], "module.fc"),
}


def file_of(tensors):
    return WeightFile(Path("w"), tensors, "PyTorch", False, 0, "")


@pytest.fixture(scope="module", params=["image", "inflated"])
def empty_resnet50(request):
    with torch.device("meta"):
        return image_network("resnet50") if request.param == "image" else InflatedResNet50()


@pytest.mark.parametrize("project", FILES)
def test_weights_for_resnet50_of_other_projects(project, empty_resnet50):
    prefix, others, parts = FILES[project]
    weights = weights_for(empty_resnet50, file_of(under(prefix, resnet50()) | beside(*others)), "resnet50")
    found = {key: value.shape for key, value in weights.tensors.items() if key not in empty_resnet50.head_keys}
    assert found == {key: value.shape for key, value in empty_resnet50.state_dict().items()}
    assert weights.notes == notes(prefix, parts.split())
    assert (prefix + "fc.weight" in others) == ("fc.weight" in weights.tensors)


def test_weights_for_numbered_resnet50(empty_resnet50):
    keys = {key: ".".join((NUMBERS[key.split(".")[0]], *key.split(".")[1:])) for key in resnet50()}
    tensors = {f"base.{keys[key]}": value for key, value in resnet50().items()} | beside("classifier.weight")
    weights = weights_for(empty_resnet50, file_of(tensors), "resnet50")
    found = {key: value.shape for key, value in weights.tensors.items()}
    assert found == {key: value.shape for key, value in empty_resnet50.state_dict().items()}
    assert weights.notes == notes("base.", ["classifier"])


def test_weights_for_reports_unknown_parts_of_the_network(empty_resnet50):
    """Parts within the network, and parts that are no head, are problems: without them its maps differ."""
    tensors = under("backbone.", resnet50()) | beside("backbone.layer1.0.se.weight", "backbone.attention.weight", "x.y")
    weights = weights_for(empty_resnet50, file_of(tensors), "resnet50")
    assert set(weights.tensors) - set(resnet50()) == {"layer1.0.se.weight", "attention.weight"}
    assert weights.notes == notes("backbone.", ["x"])


def test_load_pretrained_reports_prefix_and_other_parts(state, tmp_path):
    others = beside("head.a.weight", "head.a.bias", "head.b", "scale") | {"net.fc.bias": torch.ones(7)}
    path = saved(tmp_path / "w.pt", {"model": under("net.", state) | others, "args": argparse.Namespace()})
    network = nn.Sequential(nn.ReLU(), Network())
    lines = []
    log_pretrained(network, lines.append)
    assert lines == []
    load_pretrained(network[1], path, "own")
    assert all(torch.equal(network[1].state_dict()[key], value) for key, value in state.items())
    log_pretrained(network, lines.append)
    assert lines == [
        f"loaded {path} as the network's own keys; prefix removed: net.; left out: head.a, head, scale, net.fc; "
        "not opened: argparse.Namespace"
    ]
