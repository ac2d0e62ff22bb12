"""The baseline of the benchmarks: the same networks in plain eager PyTorch.

As in the common PyTorch port of I3D: SAME padding by a padded copy before every convolution and pooling, convolution,
BN and ReLU one by one, maps in channels-first format.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amem_cli.models.i3d import MaxPoolSame, Unit3D, same_padding
from amem_cli.runtime.engine import autocast

CPU = torch.device("cpu")


class BaselineUnit(nn.Module):
    """`Unit3D` of the port."""

    def __init__(self, unit: Unit3D):
        super().__init__()
        self.conv3d, self.bn = unit.conv3d, unit.bn

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(padded(x, self.conv3d.kernel_size, self.conv3d.stride))))


class BaselinePool(nn.Module):
    """`MaxPoolSame` of the port; the zeros of the padding never win after a ReLU."""

    def __init__(self, pool: MaxPoolSame):
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.pool.kernel, self.pool.stride
        return F.max_pool3d(padded(x, kernel, stride, self.pool.valid), kernel, stride)


def padded(x: Tensor, kernel: Any, stride: Any, valid: Any = (False, False, False)) -> Tensor:
    """A copy of a map with SAME padding, except along the axes that are `valid`."""
    before, extra = same_padding(x.shape[2:], kernel, stride)
    sides = [(0, 0) if skip else (b, b + e) for b, e, skip in zip(before, extra, valid, strict=True)]
    return F.pad(x, [side for pair in reversed(sides) for side in pair])


def as_baseline(network: nn.Module) -> nn.Module:
    """`network` with its I3D modules replaced, in place; the weights stay."""
    for name, child in network.named_children():
        if isinstance(child, Unit3D):
            setattr(network, name, BaselineUnit(child))
        elif isinstance(child, MaxPoolSame):
            setattr(network, name, BaselinePool(child))
        else:
            as_baseline(child)
    return network


class ChannelsFirst(torch.overrides.TorchFunctionMode):
    """Ignores requests for the channels-last format."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(args[0]) if function is Tensor.contiguous else function(*args, **(kwargs or {}))


def baseline_engine(network: nn.Module, precision: str) -> Callable[[Tensor], Tensor]:
    """The baseline of `prepare`: uint8 (B, [T,] H, W, 3) -> float32."""
    network = as_baseline(network).eval()

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        with ChannelsFirst(), autocast(precision, CPU):
            return network((images.movedim(-1, 1).float() / 255).contiguous()).float()

    return run
