"""I3D, the backbone of AMEM: Inception-v1 inflated to three dimensions.

Source: Carreira & Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017. Modules are named as in the common PyTorch
port, so that its Kinetics weights load unchanged.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amem_cli.models import pooling
from amem_cli.weights.normalisation import PLUS_MINUS_ONE

Size3 = tuple[int, int, int]


def same_padding(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """TensorFlow's SAME padding of (T, H, W), for ceil(size / stride) outputs: elements before, and extra ones after.

    No kernel is smaller than its stride. T may be a symbol of torch.export.

    >>> same_padding((8, 113, 4), (7, 7, 3), (2, 2, 1))
    ((2, 3, 1), (1, 0, 0))
    """
    axes = zip(sizes, kernel, stride, strict=True)
    totals = [((size - 1) // step) * step + width - size for size, width, step in axes]
    return tuple(total // 2 for total in totals), tuple(total - 2 * (total // 2) for total in totals)


def _pad_after(x: Tensor, extra: Sequence[int], value: float) -> Tensor:
    t, h, w = extra
    return F.pad(x, (0, w, 0, h, 0, t), value=value) if any(extra) else x


class MaxPoolSame(nn.Module):
    """3-D max-pooling with SAME padding by -inf: (B, C, T, H, W) -> (B, C, ceil(T/s), ceil(H/s), ceil(W/s)). Axes whose
    `valid` is set are not padded: floor((T - kernel) / stride) + 1. No kernel is smaller than its stride."""

    def __init__(self, kernel: Size3, stride: Size3, valid: tuple[bool, bool, bool] = (False, False, False)):
        super().__init__()
        self.kernel, self.stride, self.valid = kernel, stride, valid

    def forward(self, x: Tensor) -> Tensor:
        before, extra = same_padding(x.shape[2:], self.kernel, self.stride)
        before = tuple(0 if valid else size for size, valid in zip(before, self.valid, strict=True))
        extra = tuple(0 if valid else size for size, valid in zip(extra, self.valid, strict=True))
        # where the stride is above 1, ceil_mode covers the extra element without a copy
        in_pooling = all(step > 1 for e, step in zip(extra, self.stride, strict=True) if e) and not any(self.valid)
        if not in_pooling:
            x = _pad_after(x, extra, -torch.inf)
        if pooling.needs_order(x):
            return pooling.OrderedMaxPool.apply(x, self.kernel, self.stride, before, in_pooling)
        # without return_indices, autocast on a CPU converts bf16 maps to fp32
        return F.max_pool3d(x, self.kernel, self.stride, before, ceil_mode=in_pooling, return_indices=True)[0]


class Unit3D(nn.Module):
    """Convolution without bias, BN (eps 1e-3), ReLU: (B, C_in, T, H, W) -> (B, C_out, ceil(T/s), ceil(H/s), ceil(W/s)).
    SAME padding for every input size. BN momentum is 0.1; it is not stored with weights, and ports use 0.01 or 0.1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Size3 = (1, 1, 1), stride: Size3 = (1, 1, 1)):
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv3d
        if conv.kernel_size == (1, 1, 1):
            x = pointwise_convolution(x, conv.weight, conv.bias)
        else:
            before, extra = same_padding(x.shape[2:], conv.kernel_size, conv.stride)
            # oneDNN's weight gradient writes out of bounds if T is shorter than the kernel and padded by F.conv3d
            short = torch.is_grad_enabled() and x.shape[2] < conv.kernel_size[0]
            if short or conv.stride[0] > 1:  # the padding depends on T here, which is a symbol in torch.export
                x = F.pad(x, (0, extra[2], 0, extra[1], before[0], before[0] + extra[0]))
                before = (0, *before[1:])
            else:
                x = _pad_after(x, extra, 0.0)
            x = F.conv3d(x, conv.weight, conv.bias, conv.stride, before)
        return F.relu(self.bn(x), inplace=True)


def pointwise_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1x1 convolution: (B, C_in, T, H, W), (C_out, C_in, 1, 1, 1) -> (B, C_out, T, H, W), as a 2-D one over all
    frames: on a CPU torch's 3-D one returns channels-first, and every pooling after it is many times slower."""
    frames = x.transpose(1, 2).flatten(0, 1)  # (B T, C_in, H, W)
    return F.conv2d(frames, weight[..., 0], bias).unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class InceptionBlock(nn.Module):
    """One 3-D Inception block (Table 2): (B, in_channels, T, H, W) -> (B, out_channels, T, H, W).

    `channels` of b0; b1a -> b1b; b2a -> b2b; max-pooling -> b3b, concatenated in this order. `kernel` of b1b and b2b.
    """

    def __init__(self, in_channels: int, channels: tuple[int, int, int, int, int, int], kernel: Size3 = (3, 3, 3)):
        super().__init__()
        c0, c1a, c1b, c2a, c2b, c3b = channels
        self.b0 = Unit3D(in_channels, c0)
        self.b1a = Unit3D(in_channels, c1a)
        self.b1b = Unit3D(c1a, c1b, kernel)
        self.b2a = Unit3D(in_channels, c2a)
        self.b2b = Unit3D(c2a, c2b, kernel)
        self.b3a = MaxPoolSame((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(in_channels, c3b)
        self.out_channels = c0 + c1b + c2b + c3b

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))), dim=1)


class I3D(nn.Module):
    """I3D up to Mixed_5c: a clip (B, 3, T, H, W), float in [-1, 1] -> `backbone_maps` (B, 1024, T', H', W').

    strides="reid" (the paper's BF): T' = ceil(T/2) - 1 (T >= 3), H' = ceil(H/16), W' = ceil(W/16), thus 1024 x 3 x 16 x
    8 from 3 x 8 x 256 x 128. MaxPool3d_4a keeps T, MaxPool3d_5a is 2x2x2 at stride 1, padded in space only.
    strides="stock": the published network, ceil(T/8), ceil(H/32), ceil(W/32). Weights fit both.
    """

    out_channels, middle_channels = 1024, 480
    normalisation = PLUS_MINUS_ONE
    head_keys = ("logits.conv3d.weight", "logits.conv3d.bias")

    def __init__(self, strides: Literal["reid", "stock"] = "reid"):
        super().__init__()
        reid = strides == "reid"
        self.Conv3d_1a_7x7 = Unit3D(3, 64, (7, 7, 7), (2, 2, 2))
        self.MaxPool3d_2a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, (3, 3, 3))
        self.MaxPool3d_3a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.Mixed_3b = InceptionBlock(192, (64, 96, 128, 16, 32, 32))
        self.Mixed_3c = InceptionBlock(256, (128, 128, 192, 32, 96, 64))
        self.MaxPool3d_4a_3x3 = MaxPoolSame((3, 3, 3), (1, 2, 2) if reid else (2, 2, 2))
        self.Mixed_4b = InceptionBlock(480, (192, 96, 208, 16, 48, 64))
        self.Mixed_4c = InceptionBlock(512, (160, 112, 224, 24, 64, 64))
        self.Mixed_4d = InceptionBlock(512, (128, 128, 256, 24, 64, 64))
        self.Mixed_4e = InceptionBlock(512, (112, 144, 288, 32, 64, 64))
        self.Mixed_4f = InceptionBlock(528, (256, 160, 320, 32, 128, 128))
        self.MaxPool3d_5a_2x2 = (
            MaxPoolSame((2, 2, 2), (1, 1, 1), valid=(True, False, False)) if reid else MaxPoolSame((2, 2, 2), (2, 2, 2))
        )
        self.Mixed_5b = InceptionBlock(832, (256, 160, 320, 32, 128, 128))
        self.Mixed_5c = InceptionBlock(832, (384, 192, 384, 48, 128, 128))

    def forward(self, clip: Tensor) -> Tensor:
        return self.second_half(self.first_half(clip))

    def first_half(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> the middle maps, (B, 480, T/2, H/8, W/8)."""
        x = clip.contiguous(memory_format=torch.channels_last_3d)
        x = self.MaxPool3d_2a_3x3(self.Conv3d_1a_7x7(x))  # (B, 64, T/2, H/4, W/4)
        x = self.MaxPool3d_3a_3x3(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)))  # (B, 192, T/2, H/8, W/8)
        return self.Mixed_3c(self.Mixed_3b(x))

    def second_half(self, middle_maps: Tensor) -> Tensor:
        x = self.MaxPool3d_4a_3x3(middle_maps)  # (B, 480, T/2 or T/4, H/16, W/16)
        x = self.Mixed_4f(self.Mixed_4e(self.Mixed_4d(self.Mixed_4c(self.Mixed_4b(x)))))  # (B, 832, ..)
        return self.Mixed_5c(self.Mixed_5b(self.MaxPool3d_5a_2x2(x)))  # (B, 1024, T', H', W')
