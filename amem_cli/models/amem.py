"""AMEM as a whole (paper, Fig. 1): the main model that stays for inference, and what surrounds it in training."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from amem_cli.models.arm import AttributeHeads
from amem_cli.models.backbones import Normalisation, build_backbone, normalise
from amem_cli.models.branches import BRANCH_CHANNELS, build_branch
from amem_cli.models.mem import MEM, Prediction
from amem_cli.models.recomputation import blocks_of

SIMILARITY_FEATURE = 512  # size of f_s


class FeatureMaps(NamedTuple):
    """The maps of one batch of clips: BF (B, C, T', H, W), f_B (B, C, H, W), f_A and f_M (B, 1024, H, W) or None."""

    backbone_maps: Tensor
    backbone_feature: Tensor
    appearance_feature: Tensor | None
    motion_feature: Tensor | None


class MainModel(nn.Module):
    """The main model of Fig. 1: backbone, two small branches, one fully-connected layer; all that inference needs.

    Clips (B, 3, T, H, W), float in [0, 1] -> `similarity_feature` f_s (B, 512), not yet L2-normalised. Without `fused`
    f_s is made of f_B alone and the branches only serve the training ("baseline after enhancement").
    """

    def __init__(
        self, backbone: nn.Module, appearance_branch: nn.Module | None, motion_branch: nn.Module | None, fused: bool
    ):
        super().__init__()
        self.backbone = backbone
        self.appearance_branch = appearance_branch
        self.motion_branch = motion_branch
        self.fused = fused
        branches = sum(branch is not None for branch in (appearance_branch, motion_branch)) if fused else 0
        self.similarity = nn.Linear(backbone.out_channels + branches * BRANCH_CHANNELS, SIMILARITY_FEATURE)

    def feature_maps(self, clip: Tensor) -> FeatureMaps:
        maps = self.backbone(normalise(clip, self.backbone.normalisation))
        return FeatureMaps(
            backbone_maps=maps,
            backbone_feature=maps.mean(dim=2),  # temporal average pooling
            appearance_feature=self.appearance_branch(maps) if self.appearance_branch is not None else None,
            motion_feature=self.motion_branch(maps) if self.motion_branch is not None else None,
        )

    def similarity_feature(self, maps: FeatureMaps) -> Tensor:
        """f_s (B, 512): the fused map F averaged over space, then the fully-connected layer."""
        fused = [maps.backbone_feature]
        if self.fused:
            fused += [branch for branch in (maps.appearance_feature, maps.motion_feature) if branch is not None]
        # averaging first and then concatenating is the same as pooling F, without building F
        return self.similarity(torch.cat([feature.mean(dim=(2, 3)) for feature in fused], dim=1))

    def forward(self, clip: Tensor) -> Tensor:
        return self.similarity_feature(self.feature_maps(clip))

    def for_inference(self) -> "MainModel":
        """The same model with nothing in it that f_s does not need; weights are shared."""
        if self.fused:
            return self
        bare = MainModel(self.backbone, None, None, fused=False)
        bare.similarity = self.similarity
        return bare


class AmemOutput(NamedTuple):
    """What one batch of clips gives in training; parts of modules that are not there are None or empty."""

    maps: FeatureMaps
    similarity_feature: Tensor  # (B, 512)
    identity_logits: Tensor  # (B, people)
    attribute_logits: Tensor | None  # (B, A)
    predictions: list[Prediction]  # c rounds


class AMEM(nn.Module):
    """The training model: the main model, identity classifier, attribute heads (AEM) and motion enhancement (MEM)."""

    def __init__(
        self,
        main: MainModel,
        people: int,
        attribute_heads: AttributeHeads | None,
        motion_enhancement: MEM | None,
    ):
        super().__init__()
        self.main = main
        self.identity_classifier = nn.Linear(SIMILARITY_FEATURE, people)
        self.attribute_heads = attribute_heads
        self.motion_enhancement = motion_enhancement

    def blocks(self) -> list[nn.Module]:
        """What `recompute_activations` is for: the backbone's blocks, the branches, MEM's networks."""
        parts = [*blocks_of(self.main.backbone), self.main.appearance_branch, self.main.motion_branch]
        if self.motion_enhancement is not None:
            parts += self.motion_enhancement.children()
        return [part for part in parts if part is not None]

    def forward(self, clip: Tensor, start: Tensor, rounds: int) -> AmemOutput:
        """Clips (B, 3, T, H, W) in [0, 1]; MEM starts at frame `start` (B,) int64, zero-based, of each clip."""
        maps = self.main.feature_maps(clip)
        similarity_feature = self.main.similarity_feature(maps)
        predictions = []
        if self.motion_enhancement is not None:
            current = clip[torch.arange(len(clip), device=clip.device), :, start]  # (B, 3, H, W)
            predictions = self.motion_enhancement(current, maps.motion_feature, rounds)
        return AmemOutput(
            maps=maps,
            similarity_feature=similarity_feature,
            identity_logits=self.identity_classifier(similarity_feature),
            attribute_logits=self.attribute_heads(maps.appearance_feature) if self.attribute_heads else None,
            predictions=predictions,
        )


def build_main_model(described: dict[str, Any], weights: str = "") -> MainModel:
    """The main model from its description in a checkpoint (or from options): the one place that wires it.

    `described`: backbone, branch, branch_kernel, appearance (bool), motion (bool), fused (bool) and, in a checkpoint,
    normalisation ({"mean", "std"}: the input that its weights were trained with). `weights` is a file of Kinetics
    weights for the backbone, or "kinetics"; they bring a normalisation of their own.
    """
    backbone = build_backbone(described["backbone"], weights=weights or None)
    if "normalisation" in described:
        mean, std = (tuple(described["normalisation"][name]) for name in ("mean", "std"))
        backbone.normalisation = Normalisation(mean, std)
    design = (described["branch"], backbone.out_channels, described["branch_kernel"])
    appearance = build_branch(*design) if described["appearance"] else None
    motion = build_branch(*design) if described["motion"] else None
    return MainModel(backbone, appearance, motion, described["fused"])
