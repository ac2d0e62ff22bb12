"""Backbones by name: `build_backbone("i3d")` gives the network that turns a clip into `backbone_maps`.

To add one, write a module that maps a clip (B, 3, T, H, W) to (B, C, T', H', W') with `out_channels` (C),
`normalisation` (what it expects of its input) and `head_keys` (keys of a weight file that belong to a classification
head and may be left out; an empty tuple if none), and add its builder to `BACKBONES`. Weight files in its own names
then load by themselves; another dialect is a function in `dialects.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from amem_cli.errors import UsageError
from amem_cli.models.i3d import I3D, I3DClassifier
from amem_cli.models.normalisation import Normalisation
from amem_cli.models.p3d import P3D199
from amem_cli.models.pretrained import fetch, load_pretrained
from amem_cli.models.resnet3d import ResNet3D50

__all__ = ["BACKBONES", "Normalisation", "backbone_names", "build_backbone", "normalise"]


def _s3d(strides: Literal["reid", "stock"]) -> nn.Module:
    from amem_cli.models.torchvision_video import S3D  # torchvision takes seconds to import

    return S3D(strides)


def _video_resnet(name: str) -> Callable[..., nn.Module]:
    def build(strides: Literal["reid", "stock"]) -> nn.Module:
        from amem_cli.models.torchvision_video import VideoResNet18

        return VideoResNet18(name, strides)

    return build


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "i3d": I3D,
    "r3d": ResNet3D50,
    "p3d": P3D199,
    "s3d": _s3d,
    "r3d_18": _video_resnet("r3d_18"),
    "mc3_18": _video_resnet("mc3_18"),
    "r2plus1d_18": _video_resnet("r2plus1d_18"),
}


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
    `backbone_maps` the maps.

    Raises `UsageError` for a name, strides or weights that do not exist, `InputMissing` without the file, `BadData`
    when the file is damaged or does not fit, with every key that does not.
    """
    if name not in BACKBONES:
        raise UsageError("--backbone", why=f"there is no {name!r}", remedy=f"Choose one of {', '.join(BACKBONES)}")
    if strides not in ("reid", "stock"):
        raise UsageError("strides", why=f"there are no {strides!r}", remedy='Choose "reid" or "stock"')
    if head and name != "i3d":
        raise UsageError("head", why=f"{name} is kept without its classification head", remedy="Only i3d has one")
    network = I3DClassifier(strides=strides) if head else BACKBONES[name](strides=strides)
    network.pretrained = None
    if weights is not None:
        path = _kinetics(name) if weights == "kinetics" else weights
        network.pretrained = load_pretrained(network, path, name)
    return network


def _kinetics(name: str) -> Path:
    import torchvision

    enums = {"s3d": "S3D", "r3d_18": "R3D_18", "mc3_18": "MC3_18", "r2plus1d_18": "R2Plus1D_18"}
    if name not in enums:
        raise UsageError(
            "--weights",
            why=f"torchvision keeps no Kinetics weights of {name}",
            remedy="Give a file with --weights FILE",
        )
    return fetch(getattr(torchvision.models.video, f"{enums[name]}_Weights").KINETICS400_V1.url)


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
