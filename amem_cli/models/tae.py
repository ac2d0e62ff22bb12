"""The texture auto-encoder TAE (section MEM, Fig. 3): encoder, decoder and discriminator.

Images are (B, 3, H, W), float in [0, 1]. The texture f_tex is (B, C, H/16, W/16); with the paper's ResNet-18 C is
512, and it is non-negative.
"""

import math

import torch
from torch import Tensor, nn

from amem_cli.models.config import TaeConfig
from amem_cli.models.image_networks import ImageMaps, MiddleMaps, PatchMaps


def set_batch_norm_mode(module: nn.Module, *, training: bool) -> None:
    """Training or eval mode of every batch norm in `module`; eval mode uses and keeps the running statistics."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm):
            layer.train(training)


class TextureEncoder(nn.Module):
    """Images -> texture: ResNet-18 with last stride 1 (D), MobileNetV2 up to its last maps of H/16 x W/16 (D), or
    `PatchMaps` (D).

    `texture_mean` and `texture_std` (C,) are statistics of the training images' textures. They are measured after
    the TAE's training; MEM uses them as the scale of its textures.
    """

    texture_mean: Tensor
    texture_std: Tensor

    def __init__(self, name: str = "resnet18", weights: str = ""):
        super().__init__()
        self.non_negative = name != "patches"
        match name:
            case "patches":
                self.maps: PatchMaps | ImageMaps = PatchMaps()
            case "mobilenet_v2":
                self.maps = MiddleMaps(weights)
            case _:
                self.maps = ImageMaps(name, weights)
        self.channels = self.maps.out_channels
        self.register_buffer("texture_mean", torch.zeros(self.channels))
        self.register_buffer("texture_std", torch.ones(self.channels))

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images)


class FrozenTextureEncoder(TextureEncoder):
    """The encoder as MEM uses it: weights are never updated, BN is always in eval mode. Gradients flow through it to
    the images."""

    def __init__(self, name: str = "resnet18") -> None:
        super().__init__(name)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenTextureEncoder":
        return super().train(False)


class TextureDecoder(nn.Module):
    """Four blocks of 3x3 stride-2 transposed convolution, BN and ReLU: texture -> images. The last block has a sigmoid
    in the place of the ReLU. 512 `channels` are those of ResNet-18."""

    def __init__(self, channels: int = 512) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 256), (256, 128), (128, 64), (64, 3)):
            layers.append(nn.ConvTranspose2d(inputs, outputs, 3, 2, padding=1, output_padding=1, bias=False))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1], nn.Sigmoid())

    def forward(self, texture: Tensor) -> Tensor:
        return self.layers(texture)


class TAE(nn.Module):
    """Encoder and decoder: images (B, 3, H, W) -> reconstructed images of the same shape. `weights` are ImageNet
    weights of the encoder: a file, "imagenet", or "" for none."""

    def __init__(self, encoder: str = "resnet18", weights: str = ""):
        super().__init__()
        self.encoder = TextureEncoder(encoder, weights)
        self.decoder = TextureDecoder(self.encoder.channels)

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))


def mem_parts(config: TaeConfig) -> tuple[FrozenTextureEncoder, TextureDecoder]:
    """The TAE's frozen encoder and its decoder, as MEM uses them; untrained."""
    encoder = FrozenTextureEncoder(config.encoder)
    return encoder, TextureDecoder(encoder.channels)


class Discriminator(nn.Module):
    """The discriminator of DCGAN (Radford et al. 2016): images (B, 3, H, W) -> logits (B,) of "real".

    4x4 stride-2 convolutions with BN (except the first) and LeakyReLU 0.2, until the shorter side is 4 or less (five
    for 256 x 128: 64 ... 1024 channels); then one convolution over the remaining map.
    """

    def __init__(self, height: int, width: int):
        super().__init__()
        halvings = max(1, math.ceil(math.log2(min(height, width) / 4)))
        layers: list[nn.Module] = []
        inputs = 3
        for level in range(halvings):
            outputs = min(64 << level, 1024)
            layers.append(nn.Conv2d(inputs, outputs, 4, 2, padding=1, bias=level == 0))
            layers += [] if level == 0 else [nn.BatchNorm2d(outputs)]
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            inputs = outputs
        rest = (height >> halvings, width >> halvings)
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, rest))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                nn.init.normal_(module.weight, mean=float(isinstance(module, nn.BatchNorm2d)), std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images * 2 - 1).flatten()  # DCGAN's range is [-1, 1]
