"""Image networks up to their last maps, with last stride 1: ResNet and MobileNetV2, in the ARM and in the TAE."""

from typing import Any

import torch
from torch import Tensor, nn

from amem_cli.weights.loading import load_pretrained
from amem_cli.weights.normalisation import IMAGENET

OUT_CHANNELS = {"resnet18": 512, "resnet50": 2048, "mobilenet_v2": 1280}


class ImageMaps(nn.Module):
    """An image network without pooling and classifier: images (B, 3, H, W) -> maps (B, C, H/16, W/16), >= 0. Images are
    float in [0, 1]; ImageNet's normalisation is applied here. `weights`: a file, "imagenet", or "" for none."""

    mean: Tensor  # buffers: made in each forward pass on CUDA, they would make it wait for the device
    std: Tensor

    def __init__(self, name: str, weights: str = ""):
        super().__init__()
        self.network: Any = image_network(name, weights)
        self.out_channels = OUT_CHANNELS[name]
        for statistic in ("mean", "std"):
            values = torch.tensor(getattr(self.network.normalisation, statistic)).view(1, 3, 1, 1)
            self.register_buffer(statistic, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        net = self.network
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if hasattr(net, "features"):
            return net.features(x)
        return net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x))))))))


class MiddleMaps(ImageMaps):
    """MobileNetV2 up to the last maps of H/16 x W/16 at its own strides: (B, 3, H, W) -> (B, 576, H/16, W/16), >= 0.
    These are the expanded maps of its 14th block, which SSDLite uses too (Sandler et al., CVPR 2018)."""

    def __init__(self, weights: str = ""):
        super().__init__("mobilenet_v2", weights)
        features = self.network.features
        expansion = features[14].conv[0]
        self.out_channels = expansion[0].out_channels
        self.network.features = nn.Sequential(*features[:14], expansion)


class PatchMaps(nn.Sequential):
    """A linear map of each patch of 16 x 16 pixels, as in a vision transformer (Dosovitskiy et al., ICLR 2021), and BN:
    images (B, 3, H, W) -> maps (B, 256, H/16, W/16) of either sign. There are no pretrained weights."""

    out_channels = 256

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, self.out_channels, 16, 16, bias=False), nn.BatchNorm2d(self.out_channels))


def image_network(name: str, weights: str = "") -> Any:
    """torchvision's resnet18, resnet50 or mobilenet_v2 with an identity as classifier: (B, 3, H, W) -> (B, C).

    With last stride 1: the last maps are H/16 x W/16, not H/32 x W/32. `weights` and errors as in `load_pretrained`.
    """
    import torchvision

    network = getattr(torchvision.models, name)()
    remove_last_stride(network)
    head = "classifier.1" if name == "mobilenet_v2" else "fc"
    setattr(network, head.removesuffix(".1"), nn.Identity())
    network.head_keys = (f"{head}.weight", f"{head}.bias")
    network.normalisation = IMAGENET
    load_pretrained(network, weights, name)
    return network


def remove_last_stride(network: Any) -> None:
    """Stride 1 in the last stage of torchvision's ResNet or MobileNetV2, which would halve the maps once more."""
    stage = network.layer4[0] if hasattr(network, "layer4") else network.features[14]
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
