"""ResNets for images up to Conv5_x, with last stride 1: ResNet-50 in the ARM, ResNet-18 in the TAE."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amem_cli.errors import UsageError
from amem_cli.weights.loading import fetch, load_pretrained
from amem_cli.weights.normalisation import IMAGENET


class ResNetMaps(nn.Module):
    """torchvision's ResNet without pooling and classifier: images (B, 3, H, W) -> maps (B, C, H/16, W/16), >= 0.

    Images are float in [0, 1]; ImageNet's normalisation is applied here. `weights`: a file, "imagenet", or "" for none.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, depth: int, weights: str = ""):
        super().__init__()
        self.network: Any = imagenet_resnet(depth, weights or None, last_stride=1)
        self.out_channels: int = self.network.layer4[-1].bn2.num_features * (4 if depth == 50 else 1)
        normalisation = self.network.normalisation
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        net = self.network
        x = (images - self.mean) / self.std
        x = net.maxpool(net.relu(net.bn1(net.conv1(x.contiguous(memory_format=torch.channels_last)))))
        return net.layer4(net.layer3(net.layer2(net.layer1(x))))


def imagenet_resnet(depth: int, weights: str | Path | None = None, *, last_stride: int = 2) -> Any:
    """torchvision's ResNet-18 or -50 with an identity as `fc`: (B, 3, H, W) -> (B, 512 or 2048).

    `weights`: a file, "imagenet" (torchvision's IMAGENET1K_V1) or None. `last_stride=1` makes the maps of `layer4`
    H/16 x W/16 instead of H/32 x W/32. Raises `UsageError` for another depth, otherwise as `load_pretrained`.
    """
    if depth not in (18, 50):
        raise UsageError("ResNet", why=f"depth {depth} not found", remedy="Choose 18 or 50")
    import torchvision

    models = torchvision.models
    builder, enum = {
        18: (models.resnet18, models.ResNet18_Weights),
        50: (models.resnet50, models.ResNet50_Weights),
    }[depth]
    network = builder(weights=None)
    network.fc = nn.Identity()
    first = network.layer4[0]
    strided = first.conv1 if depth == 18 else first.conv2
    strided.stride = first.downsample[0].stride = (last_stride, last_stride)
    network.head_keys = ("fc.weight", "fc.bias")
    network.normalisation = IMAGENET
    if weights is not None:
        path = fetch(enum.IMAGENET1K_V1.url) if weights == "imagenet" else weights
        load_pretrained(network, path, f"resnet{depth}")
    return network
