"""Backbones by name: `build_backbone("i3d")` turns a clip into `backbone_maps`.

To add one, write an `nn.Module` that maps a clip (B, 3, T, H, W) to (B, C, T', H', W') with the attributes
`out_channels` (C), `normalisation` (the input it expects) and `head_keys` (keys of a classification head in its weight
files, () if none), and add it to `BACKBONES` in `options.py`. If its maps are those of every second frame alone, set
`skips_frames` (see `MainModel.views`). `--motion-maps middle` also needs `first_half` and `second_half`, between which
the maps are (B, `middle_channels`, ceil(T/2), H/8, W/8), and an entry in `MIDDLE_MAPS`.
Weight files with its own keys then load; other keys need a function in `weights/key_mappings.py`, and weights by name
an entry in `weights/names.py`.
"""

import importlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from amem_cli.errors import require_known
from amem_cli.options import BACKBONES
from amem_cli.weights.loading import load_pretrained
from amem_cli.weights.normalisation import Normalisation


def build_backbone(
    name: str, *, strides: Literal["reid", "stock"] = "reid", weights: str | Path | None = None
) -> nn.Module:
    """The backbone `name`: (B, 3, T, H, W) in the range of its weights -> `backbone_maps` (B, C, T', H', W').

    strides="reid" gives 16 x 8 maps from 256 x 128, "stock" is the published network; weights fit both. `weights` is a
    file, "imagenet", "kinetics" (see `weight_file`) or None. The network has `out_channels` (C) and the `normalisation`
    of its input (see `normalise`).

    Raises `UsageError` for an unknown name, strides or weights, `InputMissing` without the file, `BadData` if the file
    is damaged or does not fit.
    """
    require_known("--backbone", [name], BACKBONES)
    require_known("strides", [strides], ("reid", "stock"))
    network: Any = backbone_class(name)(strides=strides)
    load_pretrained(network, weights, name)
    return network


def backbone_class(name: str) -> Any:
    """The class of a backbone. torchvision, whose import is slow, is imported only for its own networks."""
    module, _, cls = BACKBONES[name].partition(":")
    return getattr(importlib.import_module(module), cls)


def normalise(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    """Pixels (B, 3, ..., H, W), float in [0, 1] -> (pixels - mean) / std; keeps dtype, device and memory format."""
    shape = (1, 3) + (1,) * (pixels.dim() - 2)
    mean = torch.tensor(normalisation.mean, dtype=pixels.dtype, device=pixels.device).view(shape)
    std = torch.tensor(normalisation.std, dtype=pixels.dtype, device=pixels.device).view(shape)
    return (pixels - mean) / std
