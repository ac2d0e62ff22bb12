"""Activation checkpointing: bitwise the same training, statistics of BN updated once, less memory."""

import copy

import pytest
import torch
from torch import nn

from amem_cli.models.recomputation import _FrozenStatistics, recompute_activations

pytestmark = pytest.mark.usefixtures("one_thread")


def network():
    torch.manual_seed(0)
    blocks = [(nn.Conv2d(c, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)) for c in (3, 4, 4)]
    return nn.Sequential(*(nn.Sequential(*block) for block in blocks))


def stored_bytes(net, images):
    """Bytes of the activations that the backward pass stores."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    stored = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net(images)
    assert output.requires_grad
    return sum(stored.values())


def test_recompute_activations_trains_bitwise_the_same():
    images = torch.randn(4, 3, 8, 8)
    plain, recomputed = network(), network()
    recompute_activations(*recomputed)
    for net in (plain, recomputed):
        adam = torch.optim.Adam(net.parameters(), lr=0.1)
        for _ in range(3):
            adam.zero_grad()
            net(images).square().mean().backward()
            adam.step()
    assert list(plain.state_dict()) == list(recomputed.state_dict())
    assert all(torch.equal(tensor, recomputed.state_dict()[name]) for name, tensor in plain.state_dict().items())
    assert recomputed[0][1].num_batches_tracked == 3
    assert recomputed[0][1].momentum == 0.1


def test_recompute_activations_stores_only_inputs():
    images, net = torch.randn(4, 3, 8, 8), network()
    assert stored_bytes(net, images) > 6 * 4 * 4 * 8 * 8 * 4  # two maps of four channels per block
    recompute_activations(*net)
    inputs = 4 * 8 * 8 * 4 * (3 + 4 + 4)
    assert inputs <= stored_bytes(net, images) < inputs + 1000


def test_recompute_activations_allows_several_gradients_of_one_graph():
    images = torch.randn(4, 3, 8, 8, requires_grad=True)
    results = []
    for recomputes in (False, True):
        net = network()
        if recomputes:
            recompute_activations(*net)
        maps = net(images)
        (first,) = torch.autograd.grad(maps.sum(), images, retain_graph=True)
        (second,) = torch.autograd.grad(maps.square().mean(), images)
        results.append((first, second, net[0][1].running_mean.clone()))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_recompute_activations_in_a_copy_uses_its_own_weights():
    net = network()
    recompute_activations(*net)
    twin = copy.deepcopy(net).eval()
    for parameter in twin.parameters():
        parameter.data.zero_()
    images = torch.randn(2, 3, 8, 8)
    assert isinstance(twin[0], nn.Sequential)
    assert (twin(images) == 0).all()
    assert (net.eval()(images) != 0).any()


def test_recomputation_leaves_a_counter_to_synchronised_batch_norm():
    """SyncBatchNorm refuses to run without one, and needs a GPU, so that the network itself cannot run here."""
    net = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    norms = [block[1] for block in net]
    with _FrozenStatistics(net):
        for norm in norms:
            assert norm.momentum == 0
            norm.num_batches_tracked.add_(1)  # as its forward pass does
    assert [int(norm.num_batches_tracked) for norm in norms] == [0, 0, 0]
    assert [norm.momentum for norm in norms] == [0.1] * 3
