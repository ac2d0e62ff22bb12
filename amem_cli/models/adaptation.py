"""A trained network for one camera: batch norm with the statistics of that camera's images."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

PRIOR = 16  # clips that the statistics of the training count as


def adapted_to_camera(network: nn.Module, clips: Tensor) -> nn.Module:
    """A copy of `network` in eval mode whose batch norms have the statistics of `clips` (B, 3, T, H, W) of one camera.

    Light and colours of a camera shift the maps of every layer; normalised by their own statistics, the maps of all
    cameras have one scale (Zhuang et al., "Camera-Based Batch Normalization", ECCV 2020, who also train so). No
    identities are used. Mean and variance are those of the training and those of the clips, weighted `PRIOR` to B
    (Schneider et al., NeurIPS 2020), so that a camera with few people changes little. One pass sets all layers: each
    measures its maps after the layers before it were adapted.
    """
    adapted = copy.deepcopy(network).eval()
    measure = _measuring(len(clips) / (PRIOR + len(clips)))
    layers = [layer for layer in adapted.modules() if isinstance(layer, _BatchNorm)]
    hooks = [layer.register_forward_pre_hook(measure) for layer in layers]
    with torch.no_grad():
        adapted(clips)
    for hook in hooks:
        hook.remove()
    return adapted


def _measuring(share: float) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that moves the statistics of a batch norm towards those of its input by `share`."""

    def measure(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        maps = inputs[0].to(layer.running_mean.dtype)
        variance, mean = torch.var_mean(maps, dim=[0, *range(2, maps.ndim)], correction=0)
        layer.running_mean.lerp_(mean, share)
        layer.running_var.lerp_(variance, share)

    return measure
