"""Backbones by name: `build_backbone("i3d")` gives the network that turns a clip into `backbone_maps`.

First cut: I3D only.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from amem_cli.errors import UsageError
from amem_cli.models.i3d import I3D
from amem_cli.models.pretrained import Normalisation

__all__ = ["BACKBONES", "Normalisation", "build_backbone", "normalise"]

BACKBONES: dict[str, Callable[..., nn.Module]] = {"i3d": I3D}


def build_backbone(
    name: str, *, strides: Literal["reid", "stock"] = "reid", weights: str | Path | None = None
) -> nn.Module:
    if name not in BACKBONES:
        raise UsageError("--backbone", why=f"there is no {name!r}", remedy=f"Choose one of {', '.join(BACKBONES)}")
    if weights is not None:
        raise UsageError("--weights", why="not built yet")
    return BACKBONES[name](strides=strides)


def normalise(clip: Tensor, normalisation: Normalisation) -> Tensor:
    """Pixels (B, 3, ..., H, W) float in [0, 1] -> the range the weights expect, same shape."""
    shape = (1, 3) + (1,) * (clip.dim() - 2)
    mean = torch.tensor(normalisation.mean, dtype=clip.dtype, device=clip.device).view(shape)
    std = torch.tensor(normalisation.std, dtype=clip.dtype, device=clip.device).view(shape)
    return (clip - mean) / std
