"""Max pooling of clips whose gradient is the same in each run on CUDA, where torch's own in 3-D adds in any order."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sizes = tuple[int, ...]  # along T, H, W


class MaxPool3d(nn.MaxPool3d):
    """`nn.MaxPool3d`, without dilation and indices: (B, C, T, H, W) -> (B, C, T', H', W')."""

    def forward(self, x: Tensor) -> Tensor:
        if not in_two_steps(x):
            return super().forward(x)
        return max_pool_in_two_steps(
            x, _triple(self.kernel_size), _triple(self.stride), _triple(self.padding), self.ceil_mode
        )


def in_two_steps(x: Tensor) -> bool:
    """True where max pooling of `x` needs a gradient that is the same in each run."""
    return x.is_cuda and torch.is_grad_enabled()


def max_pool_in_two_steps(x: Tensor, kernel: Sizes, stride: Sizes, padding: Sizes, ceil_mode: bool) -> Tensor:
    """The values of `F.max_pool3d` by 2-D operators, first over time and then over space: (B, C, T, H, W) ->
    (B, C, T', H', W'). Where several elements of a window are the largest, another one can get the gradient."""
    if kernel[0] > 1 or stride[0] > 1:
        pixels = F.max_pool2d(x.flatten(3), (kernel[0], 1), (stride[0], 1), (padding[0], 0), ceil_mode=ceil_mode)
        x = pixels.unflatten(3, x.shape[3:])
    frames = F.max_pool2d(x.transpose(1, 2).flatten(0, 1), kernel[1:], stride[1:], padding[1:], ceil_mode=ceil_mode)
    return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def replace_max_pooling(network: nn.Module) -> None:
    """Put a `MaxPool3d` in the place of each of torch's own in `network`."""
    for name, layer in list(network.named_modules()):
        if type(layer) is nn.MaxPool3d:
            network.set_submodule(
                name, MaxPool3d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
            )


def _triple(value: Any) -> Sizes:
    return (value, value, value) if isinstance(value, int) else value
