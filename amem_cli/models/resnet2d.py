"""Image ResNets up to Conv5_x, the last stage at stride 1: ResNet-50 in the ARM, ResNet-18 in the TAE."""

import torch
from torch import Tensor, nn

from amem_cli.weights.loading import imagenet_resnet


class ResNetMaps(nn.Module):
    """torchvision's ResNet without pooling and classifier, last stride 1 (D).

    Images (B, 3, H, W), float in [0, 1] -> maps (B, out_channels, H/16, W/16), non-negative. The normalisation of
    ImageNet's weights is applied inside. `weights`: a file, "imagenet", or "" for none.
    """

    def __init__(self, depth: int, weights: str = ""):
        super().__init__()
        self.network = imagenet_resnet(depth, weights or None, last_stride=1)
        self.out_channels: int = self.network.layer4[-1].bn2.num_features * (4 if depth == 50 else 1)
        normalisation = self.network.normalisation
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        net = self.network
        x = (images - self.mean) / self.std
        x = net.maxpool(net.relu(net.bn1(net.conv1(x.contiguous(memory_format=torch.channels_last)))))
        return net.layer4(net.layer3(net.layer2(net.layer1(x))))
