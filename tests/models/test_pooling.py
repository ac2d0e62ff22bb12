"""Max pooling in two steps: values and gradients of the 3-D operator, and every network uses it on CUDA."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from amem_cli.models.backbones import build_backbone
from amem_cli.models.branches import build_branch
from amem_cli.models.pooling import max_pool_in_two_steps
from amem_cli.options import BACKBONES

pytestmark = pytest.mark.usefixtures("one_thread")


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
def test_two_steps_are_max_pool3d(kernel: Any, stride: Any, padding: Any, ceil_mode: bool, layout: Any) -> None:
    torch.manual_seed(0)
    maps = torch.rand(2, 3, 5, 8, 7).contiguous(memory_format=layout)
    found = []
    for pool in (max_pool_in_two_steps, lambda *given: F.max_pool3d(*given[:4], ceil_mode=given[4])):
        x = maps.clone().requires_grad_()
        y = pool(x, kernel, stride, padding, ceil_mode)
        (y * torch.arange(y.numel()).reshape(y.shape)).sum().backward()
        found.append((y.detach(), x.grad))
    for one, other in zip(*found, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, atol=0, rtol=0)


class Operators(TorchDispatchMode):
    """Collects the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", BACKBONES)
def test_no_network_needs_the_gradient_of_max_pool3d_on_cuda(name: str) -> None:
    operators = Operators()
    with FakeTensorMode(), torch.device("cuda"), operators:
        net = build_backbone(name)
        maps = net(torch.empty(1, 3, 8, 64, 64))
        assert build_branch("inception", net.out_channels)(maps).requires_grad
    assert "convolution" in operators.names
    assert "max_pool3d_with_indices" not in operators.names
