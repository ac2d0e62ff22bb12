"""AMEM (Fig. 1): the main model, which inference keeps, and the modules around it in training."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from amem_cli.models.aem import AEM
from amem_cli.models.backbones import build_backbone, normalise
from amem_cli.models.branches import BRANCH_CHANNELS, MiddleBranch, build_branch
from amem_cli.models.config import ModelConfig, TaeConfig
from amem_cli.models.mem import MEM, Prediction
from amem_cli.models.pooling import pool_parts
from amem_cli.models.recomputation import blocks_of
from amem_cli.models.tae import FrozenTextureEncoder, TextureDecoder, mem_parts
from amem_cli.weights.normalisation import IMAGENET

SIMILARITY_FEATURE = 512  # size of f_s


class FeatureMaps(NamedTuple):
    """Feature maps of a batch of clips: BF (B, C, T', H, W), f_B (B, C, H, W), f_A and f_M (B, 1024, H, W) or None."""

    backbone_maps: Tensor
    backbone_feature: Tensor
    appearance_feature: Tensor | None
    motion_feature: Tensor | None


class MainModel(nn.Module):
    """The main model of Fig. 1: backbone, appearance and motion branch, one fully-connected layer.

    Clips (B, 3, T, H, W), float in [0, 1] -> f_s (B, 512), not L2-normalised. Without `fused`, f_s uses f_B alone
    ("baseline after enhancement"). With `neck` (D) the test uses batch-normalised f_s, as the identity classifier does
    in training (Luo et al., "Bag of Tricks", CVPRW 2019). f_s of the test is the mean over the `views` of a clip, with
    `mirror` (D) one of them mirrored. If `parts` is set (D), the test gives f_s of horizontal parts, (B, parts * 512),
    from the top: the same layers after average pooling of each stripe (Sun et al., "Beyond Part Models", ECCV 2018, who
    train a layer for each). Before the neck their mean is f_s where the parts are equal.
    """

    backbone: Any  # (B, 3, T, H, W) -> (B, C, T', H', W'), with out_channels and normalisation
    parts = 1

    def __init__(
        self, backbone: nn.Module, appearance_branch: nn.Module | None, motion_branch: nn.Module | None, fused: bool,
        neck: bool = False, mirror: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.appearance_branch = appearance_branch
        self.motion_branch = motion_branch
        self.fused, self.mirror = fused, mirror
        branches = sum(branch is not None for branch in (appearance_branch, motion_branch)) if fused else 0
        self.similarity = nn.Linear(self.backbone.out_channels + branches * BRANCH_CHANNELS, SIMILARITY_FEATURE)
        self.neck = nn.BatchNorm1d(SIMILARITY_FEATURE) if neck else nn.Identity()
        if neck:
            self.neck.bias.requires_grad_(False)  # so that f_s keeps 0 as its centre

    def train(self, mode: bool = True) -> "MainModel":
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()  # frozen: the BN statistics, too
        return self

    def feature_maps(self, clip: Tensor) -> FeatureMaps:
        pixels = normalise(clip, self.backbone.normalisation)
        if isinstance(self.motion_branch, MiddleBranch):
            motion_maps = self.backbone.first_half(pixels)
            maps = self.backbone.second_half(motion_maps)
        else:
            motion_maps = maps = self.backbone(pixels)
        return FeatureMaps(
            backbone_maps=maps,
            backbone_feature=maps.mean(dim=2),  # temporal average pooling
            appearance_feature=self.appearance_branch(maps) if self.appearance_branch is not None else None,
            motion_feature=self.motion_branch(motion_maps) if self.motion_branch is not None else None,
        )

    def similarity_feature(self, maps: FeatureMaps, parts: int = 1) -> Tensor:
        """f_s (B, 512): global average pooling of the fused map F, then the fully-connected layer; (B * parts, 512) of
        horizontal parts."""
        fused = [maps.backbone_feature]
        if self.fused:
            fused += [branch for branch in (maps.appearance_feature, maps.motion_feature) if branch is not None]
        # pooling before concatenation gives the same values without building F
        return self.similarity(torch.cat([pool_parts(feature, parts) for feature in fused], dim=1))

    def forward(self, clip: Tensor) -> Tensor:
        views = self.views(clip)
        feature = self.neck(self.similarity_feature(self.feature_maps(torch.cat(views)), self.parts))
        if self.parts > 1:
            feature = feature.unflatten(0, (-1, self.parts)).flatten(1)  # (B * parts, 512) -> (B, parts * 512)
        return feature.unflatten(0, (len(views), -1)).mean(dim=0)

    @property
    def skips_frames(self) -> bool:
        """Whether the maps are those of every second frame alone."""
        return getattr(self.backbone, "skips_frames", False)

    def views(self, clip: Tensor) -> list[Tensor]:
        """The clips that the test averages over: the clip, and with `mirror` its mirror image. A backbone that makes
        maps of every second frame alone would not see the others: for it the second clip is one frame later. So all
        frames are seen, with `mirror` every second one mirrored; of an odd number the last but one counts twice."""
        other = clip
        if self.skips_frames:
            other = torch.cat((clip[:, :, 1:], clip[:, :, -2:][:, :, :1]), dim=2)  # the end is reflected
        if self.mirror:
            other = other.flip(-1)
        return [clip] if other is clip else [clip, other]

    def for_inference(self) -> "MainModel":
        """This model without the parts that f_s does not use, with the same weight tensors."""
        if self.fused:
            return self
        bare = MainModel(self.backbone, None, None, fused=False, mirror=self.mirror)
        bare.similarity, bare.neck, bare.parts = self.similarity, self.neck, self.parts
        return bare


def erase(clip: Tensor, rectangles: Tensor) -> Tensor:
    """A copy of clips (B, 3, T, H, W) with a rectangle (top, left, bottom, right) of each at the mean of ImageNet, at
    the same place in all frames."""
    clip = clip.clone()
    colour = clip.new_tensor(IMAGENET.mean).view(3, 1, 1, 1)
    for frames, (top, left, bottom, right) in zip(clip, rectangles.tolist(), strict=True):
        frames[:, :, top:bottom, left:right] = colour
    return clip


class AmemOutput(NamedTuple):
    """The output for a batch of clips; None or empty for modules that the model lacks."""

    maps: FeatureMaps
    similarity_feature: Tensor  # (B, 512)
    identity_logits: Tensor  # (B, people)
    attribute_logits: Tensor | None  # (B, A)
    predictions: list[Prediction]  # c rounds


class AMEM(nn.Module):
    """The training model: main model, identity classifier, AEM and MEM."""

    def __init__(self, main: MainModel, people: int, aem: AEM | None, mem: MEM | None):
        super().__init__()
        self.main = main
        self.identity_classifier = nn.Linear(SIMILARITY_FEATURE, people)
        self.aem = aem
        self.mem = mem

    def forward(self, clip: Tensor, start: Tensor, rounds: int, erased: Tensor | None = None) -> AmemOutput:
        """Clips (B, 3, T, H, W) in [0, 1]; MEM starts at frame `start` (B,) int64, zero-based, of each clip.

        The pixels `erased` (B, 4) (see `erase`) are hidden from the backbone; MEM's frames keep them, as in the TAE's
        training.
        """
        maps = self.main.feature_maps(clip if erased is None else erase(clip, erased))
        similarity_feature = self.main.similarity_feature(maps)
        predictions: list[Prediction] = []
        if self.mem is not None:
            assert maps.motion_feature is not None
            current = clip[torch.arange(len(clip), device=clip.device), :, start]  # (B, 3, H, W)
            predictions = self.mem(current, maps.motion_feature, rounds)
        return AmemOutput(
            maps=maps,
            similarity_feature=similarity_feature,
            identity_logits=self.identity_classifier(self.main.neck(similarity_feature)),
            attribute_logits=self.aem(maps.appearance_feature) if self.aem is not None else None,
            predictions=predictions,
        )

    def blocks(self) -> list[nn.Module]:
        """The modules that activation checkpointing recomputes: blocks of the backbone, branches, networks of MEM."""
        parts = [*blocks_of(self.main.backbone), self.main.appearance_branch, self.main.motion_branch]
        if self.mem is not None:
            parts += self.mem.children()
        return [part for part in parts if part is not None]


def build_main_model(config: ModelConfig, weights: str = "") -> MainModel:
    """The main model of a configuration. `weights` are the backbone's: a file, "imagenet" or "kinetics". They bring
    their own input normalisation; without them that of the configuration is used, if it has one."""
    backbone: Any = build_backbone(config.backbone, weights=weights or None)
    if config.normalisation is not None and not weights:
        backbone.normalisation = config.normalisation
    design = (config.branch, backbone.out_channels, config.branch_kernel)
    appearance = build_branch(*design) if config.appearance else None
    motion: nn.Module | None = None
    if config.motion and config.motion_maps == "middle":
        motion = MiddleBranch(backbone.middle_channels, times=-(-config.clip_frames // 2))
    elif config.motion:
        motion = build_branch(*design)
    return MainModel(backbone, appearance, motion, config.fused, config.neck, config.mirror)


def build_amem(
    config: ModelConfig,
    weights: str = "",
    tae: tuple[FrozenTextureEncoder, TextureDecoder] | None = None,
    embedding_start: Literal["copy", "statistics", "random"] = "random",
) -> AMEM:
    """The training model of a configuration; `weights` as in `build_main_model`. `tae` are MEM's encoder and decoder,
    by default untrained; `embedding_start` as in `MEM`."""
    main = build_main_model(config, weights)
    aem = AEM(BRANCH_CHANNELS) if config.appearance else None
    mem = None
    if config.motion:
        encoder, decoder = tae or mem_parts(config.tae or TaeConfig(image_size=config.image_size))
        mem = MEM(BRANCH_CHANNELS, encoder, decoder, embedding_start)
    return AMEM(main, config.people, aem, mem)
