"""Backbones by name: `build_backbone("i3d")` gives the network that turns a clip into `backbone_maps`.

To add one, write a module with a class that maps a clip (B, 3, T, H, W) to (B, C, T', H', W') and has `out_channels`
(C), `normalisation` (what it expects of its input) and `head_keys` (keys of a weight file that belong to a
classification head and may be left out; an empty tuple if none), and name it in `BACKBONES` of `options.py`. Weight
files in its own names then load by themselves; another dialect is a function in `dialects.py`. `kinetics`, if it has
one, is the name of torchvision's weights enum for `--weights kinetics`.
"""

import importlib
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from amem_cli.errors import UsageError
from amem_cli.models.i3d import I3DClassifier
from amem_cli.options import BACKBONES
from amem_cli.weights.loading import fetch, load_pretrained
from amem_cli.weights.normalisation import Normalisation

__all__ = ["Normalisation", "backbone_class", "backbone_names", "build_backbone", "normalise"]


def build_backbone(
    name: str,
    *,
    strides: Literal["reid", "stock"] = "reid",
    weights: str | Path | None = None,
    head: bool = False,
) -> nn.Module:
    """The backbone `name`: (B, 3, T, H, W) float in the weights' own range -> `backbone_maps` (B, C, T', H', W').

    strides="reid" gives 16 x 8 maps from 256 x 128 (I3D: 1024 x 3 x 16 x 8 from 8 frames), "stock" is the published
    network; the weights are the same. `weights` is a file in one of the dialects of `dialects.py`, or "kinetics"
    for the official ones of torchvision's networks, or None for random ones.

    The network has `out_channels` (C), `normalisation` (a `Normalisation`: how to bring pixels in [0, 1] into its
    weights' range; see `normalise`) and `pretrained` (a `Pretrained` with the file's dialect and SHA-256, or None).

    With `head=True` (I3D only, to check weights) the network returns Kinetics logits (B, 400) instead, and its method
    `backbone_maps` the maps. Maps smaller than the head's window of 2 x 7 x 7, which the original cannot take, are
    averaged over what there is of it (see `I3DClassifier`).

    Raises `UsageError` for a name, strides or weights that do not exist, `InputMissing` without the file, `BadData`
    when the file is damaged or does not fit, with every key that does not.
    """
    if name not in BACKBONES:
        raise UsageError("--backbone", why=f"there is no {name!r}", remedy=f"Choose one of {', '.join(BACKBONES)}")
    if strides not in ("reid", "stock"):
        raise UsageError("strides", why=f"there are no {strides!r}", remedy='Choose "reid" or "stock"')
    if head and name != "i3d":
        raise UsageError("head", why=f"{name} is kept without its classification head", remedy="Only i3d has one")
    network = (I3DClassifier if head else backbone_class(name))(strides=strides)
    network.pretrained = None
    if weights:
        path = _kinetics(name) if weights == "kinetics" else weights
        network.pretrained = load_pretrained(network, path, name)
    return network


def backbone_class(name: str) -> type[nn.Module]:
    """The class behind a name of `BACKBONES`; torchvision, which takes seconds to import, only where it is needed."""
    module, _, cls = BACKBONES[name].partition(":")
    return getattr(importlib.import_module(module), cls)


def _kinetics(name: str) -> Path:
    enum = getattr(backbone_class(name), "kinetics", None)
    if enum is None:
        raise UsageError(
            "--weights",
            why=f"torchvision keeps no Kinetics weights of {name}",
            remedy="Give a file with --weights FILE",
        )
    import torchvision

    return fetch(getattr(torchvision.models.video, enum).KINETICS400_V1.url)


def normalise(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    """Pixels (B, 3, ..., H, W), float in [0, 1] -> the weights' own range, (pixels - mean) / std, same shape.

    Keeps dtype, device and memory format; gradients flow.
    """
    shape = (1, 3) + (1,) * (pixels.dim() - 2)
    mean = torch.tensor(normalisation.mean, dtype=pixels.dtype, device=pixels.device).view(shape)
    std = torch.tensor(normalisation.std, dtype=pixels.dtype, device=pixels.device).view(shape)
    return (pixels - mean) / std


def backbone_names() -> tuple[str, ...]:
    """All names `build_backbone` knows."""
    return tuple(BACKBONES)
