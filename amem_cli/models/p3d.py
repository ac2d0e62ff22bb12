"""P3D-199, the backbone P3D of Table 4.

Source: Qiu, Yao, Mei, "Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks", ICCV 2017. Modules
are named as in the common PyTorch port, whose weights load.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from amem_cli.models.pooling import MaxPool3d
from amem_cli.weights.normalisation import IMAGENET


class PseudoBlock(nn.Module):
    """P3D residual block: (B, C, T, H, W) -> (B, 4 width, T, H/stride, W/stride). Between two 1x1x1 convolutions are S
    (1x3x3) and T (3x1x1), joined by `kind` (Figure 3): "A" T(S(x)), "B" S(x) + T(x), "C" S(x) + T(S(x))."""

    def __init__(self, in_channels: int, width: int, kind: str, stride: int = 1):
        super().__init__()
        strides = (1, stride, stride)
        self.kind = kind
        self.conv1 = nn.Conv3d(in_channels, width, 1, strides, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.bn3 = nn.BatchNorm3d(width)
        self.conv4 = nn.Conv3d(width, 4 * width, 1, bias=False)
        self.bn4 = nn.BatchNorm3d(4 * width)
        self.downsample = None
        if stride > 1 or in_channels != 4 * width:
            projection = nn.Conv3d(in_channels, 4 * width, 1, strides, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm3d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        space = F.relu(self.bn2(self.conv2(x)))
        time = F.relu(self.bn3(self.conv3(x if self.kind == "B" else space)))
        x = time if self.kind == "A" else space + time
        return F.relu(self.bn4(self.conv4(x)) + shortcut)


class PlaneBlock(nn.Module):
    """Residual block of the last stage, which is 2-D: (N, C, H, W) -> (N, 4 width, H/stride, W/stride)."""

    def __init__(self, in_channels: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv_normal = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn_normal = nn.BatchNorm2d(width)
        self.conv4 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride > 1 or in_channels != 4 * width:
            projection = nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn_normal(self.conv_normal(x)))
        return F.relu(self.bn4(self.conv4(x)) + shortcut)


class P3D199(nn.Module):
    """P3D-199 up to its last block: a clip (B, 3, T, H, W) -> `backbone_maps` (B, 2048, T', H', W').

    strides="stock" is the published network: T/16, H/32, W/32 (T >= 16). strides="reid" halves time only twice and
    omits the last halving of space: 2048 x 2 x 16 x 8 from 3 x 8 x 256 x 128 (T >= 4). The 2-D stage runs on each of
    the T' positions in time; the port, written for T' = 1, would mix time and channels.
    """

    out_channels = 2048
    normalisation = IMAGENET
    head_keys = ("fc.weight", "fc.bias")

    def __init__(self, strides: Literal["reid", "stock"] = "reid"):
        super().__init__()
        self.conv1_custom = nn.Conv3d(3, 64, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = MaxPool3d((2, 3, 3), stride=2, padding=(0, 1, 1))
        self.halve_time = MaxPool3d((2, 1, 1))
        self.halvings = 3 if strides == "stock" else 1
        self.layer1 = _pseudo_stage(64, 64, blocks=3, stride=1, before=0)
        self.layer2 = _pseudo_stage(256, 128, blocks=8, stride=2, before=3)
        self.layer3 = _pseudo_stage(512, 256, blocks=36, stride=2, before=11)
        first = PlaneBlock(1024, 512, 2 if strides == "stock" else 1)
        self.layer4 = nn.Sequential(first, PlaneBlock(2048, 512), PlaneBlock(2048, 512))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1_custom(clip))))  # (B, 64, T/2, H/4, W/4)
        for number, stage in enumerate((self.layer1, self.layer2, self.layer3)):
            x = stage(x)
            if number < self.halvings:
                x = self.halve_time(x)
        frames = x.transpose(1, 2).flatten(0, 1)  # (B, 1024, T', H/16, W/16) -> (B T', 1024, H/16, W/16)
        return self.layer4(frames).unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def _pseudo_stage(in_channels: int, width: int, blocks: int, stride: int, before: int) -> nn.Sequential:
    """Blocks of kind A, B, C in turn, counted over the network; `before` is the number of earlier blocks."""
    first, *others = ("ABC"[(before + block) % 3] for block in range(blocks))
    stage = [PseudoBlock(in_channels, width, first, stride), *(PseudoBlock(4 * width, width, kind) for kind in others)]
    return nn.Sequential(*stage)
