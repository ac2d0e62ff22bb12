"""torchvision's video networks without heads: S3D, R3D-18, MC3-18, R(2+1)D-18. Its weight files load unchanged."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torchvision
from torch import Tensor, nn

from amem_cli.models.i3d import MaxPoolSame
from amem_cli.models.pooling import replace_max_pooling
from amem_cli.weights.normalisation import TORCHVISION_KINETICS


class S3D(nn.Module):
    """S3D (Xie et al., ECCV 2018): a clip (B, 3, T, H, W) -> `backbone_maps` (B, 1024, T', H', W'). strides="stock" is
    torchvision's: T/8, H/32, W/32. strides="reid" is as in `I3D`: 1024 x 3 x 16 x 8 from 3 x 8 x 256 x 128."""

    out_channels = 1024
    normalisation = TORCHVISION_KINETICS
    head_keys = ("classifier.1.weight", "classifier.1.bias")

    def __init__(self, strides: Literal["reid", "stock"] = "reid"):
        super().__init__()
        self.features = torchvision.models.video.s3d(weights=None).features
        if strides == "reid":  # the two poolings that halve time
            self.features[7].stride = (1, 2, 2)
            self.features[13] = MaxPoolSame((2, 2, 2), (1, 1, 1), valid=(True, False, False))
        replace_max_pooling(self.features)

    def forward(self, clip: Tensor) -> Tensor:
        return self.features(clip)


class VideoResNet18(nn.Module):
    """R3D-18, MC3-18 and R(2+1)D-18 (Tran et al., CVPR 2018): (B, 3, T, H, W) -> (B, 512, T', H/16, W/16).

    Their own strides give 16 x 8 from 256 x 128. strides="stock": T' = ceil(T/8). strides="reid" omits the last halving
    of time: T' = ceil(T/4). MC3-18 keeps T' = T with both.
    """

    out_channels = 512
    normalisation = TORCHVISION_KINETICS
    head_keys = ("fc.weight", "fc.bias")

    def __init__(self, build: Callable[..., Any], strides: Literal["reid", "stock"] = "reid"):
        super().__init__()
        network = build(weights=None)
        self.stem, self.layer1, self.layer2 = network.stem, network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        if strides == "reid":
            for module in self.layer4.modules():
                if isinstance(module, nn.Conv3d):
                    module.stride = (1, *module.stride[1:])

    def forward(self, clip: Tensor) -> Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(clip)))))


R3D18 = partial(VideoResNet18, torchvision.models.video.r3d_18)  # 3-D convolutions only
MC3_18 = partial(VideoResNet18, torchvision.models.video.mc3_18)  # in the first blocks, 2-D ones in the others
R2Plus1D18 = partial(VideoResNet18, torchvision.models.video.r2plus1d_18)  # convolutions over space, then time
