"""3D-ResNet-50, the backbone R3D of Table 4, with projection shortcuts (type B).

Source: Hara, Kataoka, Satoh, "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?", CVPR 2018.
Modules are named as in the authors' code, so that `resnet-50-kinetics.pth` loads.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from amem_cli.models.i3d import Size3
from amem_cli.models.pooling import MaxPool3d
from amem_cli.weights.normalisation import HARA_2018


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3 (with the stride), 1x1x1 to 4 x `width`: (B, C, T, H, W) -> (B, 4 width, T/s, H/s, W/s)."""

    def __init__(self, in_channels: int, width: int, stride: Size3 = (1, 1, 1)):
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv3d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels)
        self.downsample = None
        if in_channels != out_channels or stride != (1, 1, 1):
            projection = nn.Conv3d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm3d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


class ResNet3D50(nn.Module):
    """3D-ResNet-50 up to its last block: a clip (B, 3, T, H, W) -> `backbone_maps` (B, 2048, T', H', W').

    strides="stock" is the published network: ceil(T/16), ceil(H/32), ceil(W/32). strides="reid" halves time only twice
    and omits the last halving of space: 2048 x 2 x 16 x 8 from 3 x 8 x 256 x 128.
    """

    out_channels = 2048
    normalisation = HARA_2018
    head_keys = ("fc.weight", "fc.bias")

    def __init__(self, strides: Literal["reid", "stock"] = "reid"):
        super().__init__()
        reid = strides == "reid"
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = MaxPool3d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, blocks=3, stride=(1, 1, 1))
        self.layer2 = _stage(256, 128, blocks=4, stride=(2, 2, 2))
        self.layer3 = _stage(512, 256, blocks=6, stride=(1, 2, 2) if reid else (2, 2, 2))
        self.layer4 = _stage(1024, 512, blocks=3, stride=(1, 1, 1) if reid else (2, 2, 2))
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(clip)), inplace=True))  # (B, 64, T/2, H/4, W/4)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 2048, T', H', W')


def _stage(in_channels: int, width: int, blocks: int, stride: Size3) -> nn.Sequential:
    first = Bottleneck(in_channels, width, stride)
    return nn.Sequential(first, *(Bottleneck(4 * width, width) for _ in range(blocks - 1)))
