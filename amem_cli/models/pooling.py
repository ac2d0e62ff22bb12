"""Average pooling of horizontal parts, and max pooling of clips whose gradient is the same in each run on CUDA.

Where windows overlap, torch's gradient of `F.max_pool3d` adds in any order there. Here each element adds what it gets
from the windows in their order. Instead of torch's indices of 8 bytes, one byte per window is kept for the backward
pass: which of its elements is the largest.
"""

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Sizes = tuple[int, ...]  # along T, H, W


def pool_parts(maps: Tensor, parts: int) -> Tensor:
    """Average pooling of each of `parts` horizontal stripes, from the top: (B, C, H, W) -> (B * parts, C), the parts of
    one item after another. Stripes overlap where H is no multiple of `parts`; one part is global average pooling."""
    if parts == 1:
        return maps.mean(dim=(2, 3))
    return F.adaptive_avg_pool2d(maps, (parts, 1)).squeeze(3).transpose(1, 2).flatten(0, 1)


class MaxPool3d(nn.MaxPool3d):
    """`nn.MaxPool3d`, without dilation and indices: (B, C, T, H, W) -> (B, C, T', H', W')."""

    def forward(self, x: Tensor) -> Tensor:
        if not needs_order(x):
            return super().forward(x)
        kernel, stride, padding = map(_triple, (self.kernel_size, self.stride, self.padding))
        return OrderedMaxPool.apply(x, kernel, stride, padding, self.ceil_mode)


def needs_order(x: Tensor) -> bool:
    """True where torch's gradient of max pooling would not be the same in each run."""
    return x.is_cuda and torch.is_grad_enabled()


class OrderedMaxPool(torch.autograd.Function):
    """`F.max_pool3d` of (B, C, T, H, W), for windows of at most 256 elements."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Sizes, stride: Sizes, padding: Sizes, ceil_mode: bool) -> Tensor:
        assert math.prod(kernel) <= 256
        maxima, index = F.max_pool3d(x, kernel, stride, padding, ceil_mode=ceil_mode, return_indices=True)
        index, (height, width) = index.int(), x.shape[3:]
        place = torch.zeros_like(index)
        coordinates = (index // (height * width), index // width % height, index % width)
        for axis, coordinate in enumerate(coordinates):
            windows = torch.arange(index.shape[2 + axis], dtype=index.dtype, device=x.device)
            first = windows * stride[axis] - padding[axis]
            shape = [-1 if other == axis else 1 for other in range(3)]
            place = place * kernel[axis] + coordinate - first.view(shape)
        ctx.save_for_backward(place.to(torch.uint8))
        ctx.sizes = x.shape, kernel, stride, padding
        return maxima

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (place,) = ctx.saved_tensors
        shape, kernel, stride, padding = ctx.sizes
        reach = [(out - 1) * step + size for out, step, size in zip(place.shape[2:], stride, kernel, strict=True)]
        padded = [max(end, before + size) for end, before, size in zip(reach, padding, shape[2:], strict=True)]
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        layout = torch.channels_last_3d if gradient.stride(1) == 1 else torch.contiguous_format
        total = torch.empty((*shape[:2], *padded), dtype=dtype, device=gradient.device, memory_format=layout).zero_()
        for number, start in enumerate(itertools.product(*map(range, kernel))):
            steps = [
                slice(first, first + out * step, step)
                for first, out, step in zip(start, place.shape[2:], stride, strict=True)
            ]
            total[:, :, *steps] += gradient.where(place == number, 0)
        inside = [slice(before, before + size) for before, size in zip(padding, shape[2:], strict=True)]
        return total[:, :, *inside].to(gradient.dtype), None, None, None, None


def replace_max_pooling(network: nn.Module) -> None:
    """Put a `MaxPool3d` in the place of each of torch's own in `network`."""
    for name, layer in list(network.named_modules()):
        if type(layer) is nn.MaxPool3d:
            assert layer.dilation == 1
            assert not layer.return_indices
            pool = MaxPool3d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
            network.set_submodule(name, pool)


def _triple(value: Any) -> Sizes:
    return (value, value, value) if isinstance(value, int) else value
