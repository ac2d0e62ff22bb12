"""Image networks inflated to clips, so that they start from ImageNet weights (Carreira & Zisserman, CVPR 2017).

A k x k convolution becomes 3 x k x k, with the image weights in the middle slice and zeros around it; 1x1 convolutions,
pooling and BN act on each frame. So the maps of a clip equal those of the image network on single frames, until
training uses the neighbouring frames. The first convolution has stride 2 in time, as in `I3D`, whose kernel of 7 frames
reads all of them; here every second frame is skipped. A clip (B, 3, T, H, W) gives `backbone_maps`
(B, C, ceil(T/2), H/16, W/16), or H/32 and W/32 with strides="stock".
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from amem_cli.models.image_networks import OUT_CHANNELS, remove_last_stride
from amem_cli.models.pooling import MaxPool3d
from amem_cli.weights.normalisation import IMAGENET


class InflatedMobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al., CVPR 2018), inflated: 1280 channels."""

    out_channels, middle_channels, normalisation, skips_frames = OUT_CHANNELS["mobilenet_v2"], 32, IMAGENET, True
    head_keys = ("classifier.1.weight", "classifier.1.bias")

    def __init__(self, strides: Literal["reid", "stock"] = "reid"):
        super().__init__()
        self.features = _inflate(torchvision.models.mobilenet_v2(), strides).features

    def first_half(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> the middle maps, (B, 32, T/2, H/8, W/8)."""
        for layer in self.features[:7]:
            clip = layer(clip)
        return clip

    def second_half(self, middle_maps: Tensor) -> Tensor:
        for layer in self.features[7:]:
            middle_maps = layer(middle_maps)
        return middle_maps

    def forward(self, clip: Tensor) -> Tensor:
        return self.second_half(self.first_half(clip))


class InflatedResNet50(nn.Module):
    """ResNet-50 (He et al., CVPR 2016), inflated as in AP3D (Gu et al., ECCV 2020): 2048 channels."""

    out_channels, middle_channels, normalisation, skips_frames = OUT_CHANNELS["resnet50"], 512, IMAGENET, True
    head_keys = ("fc.weight", "fc.bias")

    def __init__(self, strides: Literal["reid", "stock"] = "reid"):
        super().__init__()
        network = _inflate(torchvision.models.resnet50(), strides)
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (getattr(network, f"layer{i}") for i in range(1, 5))

    def first_half(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> the middle maps, (B, 512, T/2, H/8, W/8)."""
        return self.layer2(self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(clip))))))

    def second_half(self, middle_maps: Tensor) -> Tensor:
        return self.layer4(self.layer3(middle_maps))

    def forward(self, clip: Tensor) -> Tensor:
        return self.second_half(self.first_half(clip))


class DepthwiseConv3d(nn.Conv3d):
    """A depthwise convolution, padded, with 3 taps and stride 1 in time; in training computed as three 2-D ones.
    PyTorch's gradients of the 3-D operator take a CPU several times as long; the values agree to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or x.is_cuda:
            return super().forward(x)
        frames = x.transpose(1, 2).flatten(0, 1)  # (B, C, T, H, W) -> (B * T, C, H, W)
        frames = frames.contiguous(memory_format=torch.channels_last)  # faster; the layers that follow keep it
        size, stride, padding = (x.shape[0], x.shape[2]), self.stride[1:], self.padding[1:]
        before, centre, after = (
            F.conv2d(frames, tap, stride=stride, padding=padding, groups=self.groups).unflatten(0, size)
            for tap in self.weight.unbind(2)
        )
        later = F.pad(before[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
        earlier = F.pad(after[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
        return (centre + later + earlier).transpose(1, 2)


def _inflate(network: Any, strides: str) -> Any:
    """torchvision's image network with 3-D layers in place of its 2-D ones, under the same names."""
    if strides == "reid":
        remove_last_stride(network)
    first = True
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d):
            network.set_submodule(name, _inflate_convolution(layer, time_stride=2 if first else 1))
            first = False
        elif isinstance(layer, nn.BatchNorm2d):
            network.set_submodule(name, nn.BatchNorm3d(layer.num_features))
        elif isinstance(layer, nn.MaxPool2d):
            network.set_submodule(name, MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)))
    return network


def _inflate_convolution(layer: nn.Conv2d, time_stride: int) -> nn.Conv3d:
    """A random 3-D convolution of the shape that inflated weights fill; initialised as torchvision's 2-D ones."""
    (size, _), (stride, _) = layer.kernel_size, layer.stride
    frames = min(size, 3)
    inflated = (DepthwiseConv3d if layer.groups == layer.out_channels else nn.Conv3d)(
        layer.in_channels,
        layer.out_channels,
        (frames, size, size),
        stride=(time_stride, stride, stride),
        padding=(frames // 2, size // 2, size // 2),
        groups=layer.groups,
        bias=False,
    )
    nn.init.kaiming_normal_(inflated.weight, mode="fan_out")
    return inflated
