"""Loading weights: every key must fit, and the weights set the input normalisation."""

import pytest
import torch
from torch import nn

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData
from amem_cli.weights.loading import load_pretrained
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
    pretrained = load_pretrained(network, str(path), "own")
    assert (pretrained.path, pretrained.key_mapping, pretrained.head_classes) == (path, "the network's own keys", 7)
    assert network.normalisation == IMAGENET
    assert network.conv.weight.dtype == torch.float32
    assert all(torch.equal(network.state_dict()[key], value.float()) for key, value in stored.items())


def test_load_pretrained_sets_the_normalisation(state, tmp_path):
    network = Network()
    for classes, expected in ((400, HARA_2018), (700, HARA_2020)):
        path = saved(tmp_path / "w.pt", state | {"fc.weight": torch.zeros(classes, 3)})
        assert load_pretrained(network, path, "r3d").normalisation == network.normalisation == expected


def test_load_pretrained_lists_every_misfit(state, tmp_path):
    broken = {key: value for key, value in state.items() if key not in ("bn.weight", "bn.num_batches_tracked")}
    broken |= {"other": torch.zeros(1), "conv.weight": torch.zeros(3, 2, 2, 2), "bn.running_var": -torch.ones(3)}
    broken |= {"conv.bias": torch.full((3,), 1e300, dtype=torch.float64), "bn.bias": torch.zeros(3, dtype=torch.int64)}
    broken |= {"fc.bias": torch.tensor([float("nan")])}
    path = saved(tmp_path / "w.pt", broken)
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
    assert f"amem weights inspect {path}" in caught.value.remedy
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_load_pretrained_needs_the_head_of_a_network_that_has_one(state, tmp_path):
    with pytest.raises(BadData, match=r"missing fc\.weight; missing fc\.bias"):
        load_pretrained(WithHead(), saved(tmp_path / "w.pt", state), "own")
    head = {"fc.weight": torch.ones(5, 3), "fc.bias": torch.ones(5)}
    network = WithHead()
    assert load_pretrained(network, saved(tmp_path / "w.pt", state | head), "own").head_classes == 5
    assert torch.equal(network.fc.weight, head["fc.weight"])


def test_load_pretrained_backbone_of_an_amem_main(state, tmp_path):
    tensors = {f"backbone.{key}": value for key, value in state.items()} | {"similarity.bias": torch.zeros(1)}
    model = {"normalisation": {"mean": HARA_2020.mean, "std": HARA_2020.std}}
    path = checkpoint.save(tmp_path / "m.safetensors", "amem-main", tensors, Provenance("train-amem", {}), model=model)
    network = Network()
    pretrained = load_pretrained(network, path, "own")
    assert (pretrained.key_mapping, network.normalisation) == ("amem", HARA_2020)
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
    pretrained = load_pretrained(network, path, "own")
    assert (pretrained.key_mapping, network.normalisation) == ("amem", IMAGENET)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
