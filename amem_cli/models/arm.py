"""The attribute recognition model ARM (section AEM, Fig. 2): ResNet and one head per attribute group."""

import torch
from torch import Tensor, nn

from amem_cli.attributes import GROUP_SIZES
from amem_cli.models.image_networks import ImageMaps
from amem_cli.models.pooling import pool_parts

GROUP_FEATURE = 256  # size of a_m


class AttributeHeads(nn.Module):
    """One head per attribute group m: global average pooling -> FC = a_m (256) -> FC = N_m logits. Maps (B, C, H, W) ->
    logits (B, A), group after group. A sigmoid gives probabilities."""

    def __init__(self, in_channels: int, group_sizes: tuple[int, ...] = GROUP_SIZES):
        super().__init__()
        self.group_features = nn.ModuleList(nn.Linear(in_channels, GROUP_FEATURE) for _ in group_sizes)
        self.classifiers = nn.ModuleList(nn.Linear(GROUP_FEATURE, size) for size in group_sizes)

    def forward(self, maps: Tensor) -> Tensor:
        pooled = maps.mean(dim=(2, 3))  # (B, C, H, W) -> (B, C)
        heads = zip(self.group_features, self.classifiers, strict=True)
        return torch.cat([classify(feature(pooled)) for feature, classify in heads], dim=1)


class ARM(nn.Module):
    """ResNet-50 (P) or another image network with last stride 1, and six attribute heads. Images (B, 3, H, W) in [0, 1]
    -> logits (B, A). `weights` are ImageNet weights of the network: a file, "imagenet", or "" for none."""

    def __init__(self, backbone: str, group_sizes: tuple[int, ...] = GROUP_SIZES, weights: str = ""):
        super().__init__()
        self.backbone = ImageMaps(backbone, weights)
        self.heads = AttributeHeads(self.backbone.out_channels, group_sizes)

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(self.backbone(images))


class FrameFeatures(nn.Module):
    """The ARM's image network as a model of tracklets, without a training for identity (D).

    Clips (B, 3, T, H, W) in [0, 1] -> (B, C): its pooled maps, averaged over the frames and their mirror images. If
    `parts` is set, the maps are pooled in horizontal parts: (B, parts * C), from the top.
    """

    parts = 1

    def __init__(self, arm: ARM):
        super().__init__()
        self.backbone = arm.backbone

    def forward(self, clip: Tensor) -> Tensor:
        frames = torch.cat((clip, clip.flip(-1)), dim=2).transpose(1, 2)  # (B, 2T, 3, H, W)
        pooled = pool_parts(self.backbone(frames.flatten(0, 1)), self.parts)  # (B * 2T * parts, C)
        by_frame = pooled.unflatten(0, (frames.shape[0], frames.shape[1], self.parts))
        return by_frame.mean(dim=1).flatten(1)
