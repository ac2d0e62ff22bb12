"""The appearance and motion branches (Table 2): same structure, own weights; BF (B, C, T', H, W) -> f_A or f_M
(B, 1024, H, W). And a motion branch on maps from the middle of the backbone (D)."""

from typing import Literal

from torch import Tensor, nn

from amem_cli.models.i3d import InceptionBlock, Unit3D

BRANCH_CHANNELS = 1024


class InceptionBranch(nn.Module):
    """One I3D Inception block, then the mean over T' (Table 2). `kernel` is the size of its 3-convolutions: 3x3x3
    follows the text ("3D Inception block"), 1x3x3 the paper's sizes."""

    def __init__(self, in_channels: int, kernel: Literal["3x3x3", "1x3x3"] = "3x3x3"):
        super().__init__()
        size = (3, 3, 3) if kernel == "3x3x3" else (1, 3, 3)
        self.block = InceptionBlock(in_channels, (384, 192, 384, 48, 128, 128), size)

    def forward(self, backbone_maps: Tensor) -> Tensor:
        return self.block(backbone_maps).mean(dim=2)  # (B, 1024, T', H, W) -> (B, 1024, H, W)


class Conv3dBranch(nn.Module):
    """The paper's alternative with one 3-D convolution (section Model Size), then the mean over T'."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.unit = Unit3D(in_channels, BRANCH_CHANNELS, (3, 3, 3))

    def forward(self, backbone_maps: Tensor) -> Tensor:
        return self.unit(backbone_maps).mean(dim=2)


class Conv2dBranch(nn.Module):
    """The paper's alternative with two 2-D convolutions (section Model Size), on the mean over T'."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 512, 3, padding=1, bias=False),
            nn.BatchNorm2d(512, eps=1e-3),
            nn.ReLU(inplace=True),
            nn.Conv2d(512, BRANCH_CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(BRANCH_CHANNELS, eps=1e-3),
            nn.ReLU(inplace=True),
        )

    def forward(self, backbone_maps: Tensor) -> Tensor:
        return self.layers(backbone_maps.mean(dim=2))  # (B, C, H, W) -> (B, 1024, H, W)


class MiddleBranch(nn.Module):
    """A motion branch (D) on maps in the middle of the backbone, (B, C, times, 2H, 2W) -> (B, 1024, H, W): of clips of
    2 * `times` frames, or one less.

    One convolution spans all points in time. A mean over T' does not say when a leg was where, and the last maps of
    an image network hardly say where.
    """

    def __init__(self, in_channels: int, times: int):
        super().__init__()
        self.times = times
        self.layers = nn.Sequential(
            nn.Conv2d(times * in_channels, BRANCH_CHANNELS, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(BRANCH_CHANNELS, eps=1e-3),
            nn.ReLU(inplace=True),
        )

    def forward(self, middle_maps: Tensor) -> Tensor:
        return self.layers(middle_maps.transpose(1, 2).flatten(1, 2))


def build_branch(design: str, in_channels: int, kernel: str = "3x3x3") -> nn.Module:
    """The branch that `--branch` and `--branch-kernel` choose, for a backbone of `in_channels`."""
    if design == "inception":
        return InceptionBranch(in_channels, kernel)  # type: ignore[arg-type]
    return {"conv3d": Conv3dBranch, "conv2d": Conv2dBranch}[design](in_channels)
