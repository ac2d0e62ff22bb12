"""Attribute recognition: the ARM on images and the same heads on f_A in the AEM (paper, Fig. 2, eq. 1-3)."""

import torch
from torch import Tensor, nn

from amem_cli.models.resnet2d import ResNetMaps

GROUP_FEATURE = 256  # size of a_m


class AttributeHeads(nn.Module):
    """One head per attribute group m: GAP -> FC = a_m (256) -> FC = N_m logits.

    Maps (B, C, H, W) -> logits (B, sum of N_m), group after group; a sigmoid turns them into probabilities.
    """

    def __init__(self, in_channels: int, group_sizes: tuple[int, ...]):
        super().__init__()
        self.group_features = nn.ModuleList(nn.Linear(in_channels, GROUP_FEATURE) for _ in group_sizes)
        self.classifiers = nn.ModuleList(nn.Linear(GROUP_FEATURE, size) for size in group_sizes)

    def forward(self, maps: Tensor) -> Tensor:
        pooled = maps.mean(dim=(2, 3))  # (B, C, H, W) -> (B, C)
        heads = zip(self.group_features, self.classifiers, strict=True)
        return torch.cat([classify(feature(pooled)) for feature, classify in heads], dim=1)


class ARM(nn.Module):
    """The attribute recognition model: ResNet (Conv5_x at stride 1) and six groups of attribute heads.

    Images (B, 3, H, W), float in [0, 1] -> logits (B, A).
    """

    def __init__(self, depth: int, group_sizes: tuple[int, ...], weights: str = ""):
        super().__init__()
        self.backbone = ResNetMaps(depth, weights)
        self.heads = AttributeHeads(self.backbone.out_channels, group_sizes)

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(self.backbone(images))
