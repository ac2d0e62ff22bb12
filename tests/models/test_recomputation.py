"""Activation checkpointing: the same numbers bit by bit, batch norm's statistics updated once, less kept."""

import copy

import pytest
import torch
from torch import Tensor, nn

from amem_cli.models.backbones import build_backbone
from amem_cli.models.recomputation import blocks_of, recompute_activations
from amem_cli.options import BACKBONES

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Conv2d(3 if not level else 4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        for level in range(3)
    ]
    return nn.Sequential(*blocks)


def trained(net: nn.Module, images: Tensor, steps: int = 3) -> nn.Module:
    adam = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(steps):
        adam.zero_grad()
        net(images).square().mean().backward()
        adam.step()
    return net


def kept_bytes(net: nn.Module, images: Tensor) -> int:
    """Bytes of the maps that the backward pass keeps."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net(images)
    assert output.requires_grad
    return sum(kept.values())


def test_weights_and_statistics_are_the_same_bit_by_bit() -> None:
    images = torch.randn(4, 3, 8, 8)
    plain, recomputed = network(), network()
    recompute_activations(*recomputed)
    trained(plain, images)
    trained(recomputed, images)
    assert list(plain.state_dict()) == list(recomputed.state_dict())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, recomputed.state_dict()[name]), name
    assert plain[0][1].num_batches_tracked == 3
    assert all(norm.momentum == 0.1 for norm in recomputed.modules() if isinstance(norm, nn.BatchNorm2d))


def test_the_inputs_of_the_blocks_alone_are_kept() -> None:
    images = torch.randn(4, 3, 8, 8)
    net = network()
    assert kept_bytes(net, images) > 6 * 4 * 4 * 8 * 8 * 4  # two maps of four channels a block
    recompute_activations(*net)
    wanted = 4 * 8 * 8 * 4 * (3 + 4 + 4)
    assert wanted <= kept_bytes(net, images) < wanted + 1000


def test_several_gradients_of_one_graph() -> None:
    """`gradient_norms` asks for each term's gradient before the backward pass."""
    images = torch.randn(4, 3, 8, 8, requires_grad=True)
    gradients = []
    for recomputes in (False, True):
        net = network()
        if recomputes:
            recompute_activations(*net)
        maps = net(images)
        first = torch.autograd.grad(maps.sum(), images, retain_graph=True)[0]
        second = torch.autograd.grad(maps.square().mean(), images)[0]
        gradients.append((first, second, net[0][1].running_mean.clone()))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_a_copy_recomputes_with_its_own_weights() -> None:
    net = network()
    recompute_activations(*net)
    judged = copy.deepcopy(net).eval()
    with torch.no_grad():
        judged[0][0].weight.zero_()
        judged[0][0].bias.zero_()
        images = torch.randn(2, 3, 8, 8)
        assert not torch.equal(judged(images), net.eval()(images))
        assert torch.equal(judged(images), judged(images * 2))
    assert isinstance(judged[0], nn.Sequential)


def test_the_blocks_of_i3d() -> None:
    with torch.device("meta"):
        net = build_backbone("i3d")
    assert blocks_of(net) == list(net.children())
    assert len(blocks_of(net)) == 16


@pytest.mark.parametrize(
    "name", [name if name in ("i3d", "mc3_18") else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]
)
def test_every_backbone_is_the_same_with_less_kept(name: str) -> None:
    clip = torch.rand(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    found = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        net = build_backbone(name).train()
        if recomputes:
            recompute_activations(*blocks_of(net))
        kept = kept_bytes(net, clip)
        net(clip).square().mean().backward()
        gradients = [parameter.grad for parameter in net.parameters()]
        found.append((kept, [*gradients, *net.buffers()]))
    (all_maps, plain), (few_maps, recomputed) = found
    assert few_maps < all_maps / 1.9
    assert all(torch.equal(one, other) for one, other in zip(plain, recomputed, strict=True))
