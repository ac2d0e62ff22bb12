"""Pooling of parts; max pooling with an ordered gradient: equal to torch's, with one byte a window."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode

from amem_cli.models.backbones import build_backbone
from amem_cli.models.branches import build_branch
from amem_cli.models.pooling import OrderedMaxPool, pool_parts
from amem_cli.options import BACKBONES

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "rows", [[(0, 4)], [(0, 2), (2, 4)], [(0, 1), (1, 2), (2, 3), (3, 4)], [(0, 2), (1, 3), (2, 4)]]
)
def test_pool_parts_from_the_top(rows: list[tuple[int, int]]) -> None:
    maps = torch.arange(2 * 3 * 4 * 2, dtype=torch.float32).view(2, 3, 4, 2)
    expected = torch.stack([maps[:, :, first:end].mean((2, 3)) for first, end in rows], dim=1).flatten(0, 1)
    torch.testing.assert_close(pool_parts(maps, len(rows)), expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
        ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
        ((2, 1, 1), (2, 1, 1), (0, 0, 0)),
        ((2, 3, 3), (2, 2, 2), (0, 1, 1)),
        ((1, 1, 1), (2, 2, 2), (0, 0, 0)),
    ],
)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_ordered_max_pool_is_max_pool3d(kernel: Any, stride: Any, padding: Any, ceil_mode: bool, layout: Any) -> None:
    torch.manual_seed(0)
    maps = torch.randint(-2, 3, (2, 3, 5, 8, 7)).double().contiguous(memory_format=layout)  # with equal maxima
    found = []
    for pool in (OrderedMaxPool.apply, lambda *given: F.max_pool3d(*given[:4], ceil_mode=given[4])):
        x = maps.clone().requires_grad_()
        y = pool(x, kernel, stride, padding, ceil_mode)
        (y * torch.arange(y.numel()).reshape(y.shape)).sum().backward()
        found.append((y.detach(), x.grad))
    for one, other in zip(*found, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_ordered_max_pool_keeps_one_byte_a_window() -> None:
    x = torch.rand(1, 2, 4, 6, 6, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = OrderedMaxPool.apply(x, (3, 3, 3), (1, 1, 1), (1, 1, 1), False)
    assert [(one.dtype, one.numel()) for one in kept] == [(torch.uint8, y.numel())]


def test_ordered_max_pool_adds_bfloat16_in_float32() -> None:
    """The largest element is in 27 windows: after 16, bfloat16 would lose each of the 26 gradients of 1/32."""
    x = torch.zeros(1, 1, 3, 3, 3, dtype=torch.bfloat16)
    x[0, 0, 1, 1, 1] = 1
    x.requires_grad_()
    y = OrderedMaxPool.apply(x, (3, 3, 3), (1, 1, 1), (1, 1, 1), False)
    weights = torch.full_like(y, 0.03125)
    weights[0, 0, 2, 2, 2] = 16  # added first
    y.backward(weights)
    assert x.grad is not None
    assert x.grad[0, 0, 1, 1, 1] == torch.tensor(16 + 26 * 0.03125).bfloat16() != 16


def gradients_of(tensor: Tensor) -> set[str]:
    """The names of all steps of the backward pass."""
    names, waiting = set(), [tensor.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is not None and step not in names:
            names.add(step)
            waiting += [earlier for earlier, _ in step.next_functions]
    return {step.name() for step in names}


@pytest.mark.parametrize("name", BACKBONES)
def test_no_network_has_the_gradient_of_max_pool3d_on_cuda(name: str) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        net = build_backbone(name)
        maps = build_branch("inception", net.out_channels)(net(torch.empty(1, 3, 8, 64, 64)))
    names = gradients_of(maps)
    assert "ConvolutionBackward0" in names
    assert "OrderedMaxPoolBackward" in names
    assert not [name for name in names if "MaxPool3D" in name]
