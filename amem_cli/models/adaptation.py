"""A trained network for one camera: batch norm with the statistics of that camera's images."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

PRIOR = 16  # clips that the statistics of the training count as


def adapted_to_camera(network: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
    """A copy of `network` in eval mode whose batch norms have the statistics of one camera's clips, batches of
    (B, 3, T, H, W).

    Light and colours of a camera shift the maps of every layer; normalised by their own statistics, the maps of all
    cameras have one scale (Zhuang et al., "Camera-Based Batch Normalization", ECCV 2020, who also train so). No
    identities are used. Mean and variance are those of the training and those of the clips, weighted `PRIOR` to the
    number of clips (Schneider et al., NeurIPS 2020), so that a camera with few people changes little. A layer's maps
    are measured after the layers before it were adapted to their batch, and averaged over the batches.
    """
    adapted = copy.deepcopy(network).eval()
    clips = sum(map(len, batches))
    measured = [_Statistics(layer, clips) for layer in adapted.modules() if isinstance(layer, _BatchNorm)]
    hooks = [one.layer.register_forward_pre_hook(one.measure) for one in measured]
    with torch.no_grad():
        for batch in batches:
            for one in measured:
                one.weight = len(batch) / clips
            adapted(batch)
        for one in measured:
            one.set(*one.means)
    for hook in hooks:
        hook.remove()
    return adapted


class _Statistics:
    """Mean and variance of a batch norm: `trained`, and over the batches so far, each by its `weight`."""

    def __init__(self, layer: Any, clips: int):
        self.layer, self.share, self.weight = layer, clips / (PRIOR + clips), 0.0
        self.trained = layer.running_mean.clone(), layer.running_var.clone()
        self.means = torch.zeros_like(layer.running_mean), torch.zeros_like(layer.running_var)

    def measure(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Before the layer works: measure its input, and normalise that by its own statistics."""
        (maps,) = inputs
        mean, variance = map(torch.zeros_like, self.means)
        if maps.numel() == len(mean):  # a single value has no variance
            mean, variance = self.trained
        else:
            F.batch_norm(maps, mean, variance, training=True, momentum=1.0)
        for total, value in zip(self.means, (mean, variance), strict=True):
            total.add_(value, alpha=self.weight)
        self.set(mean, variance)

    def set(self, mean: Tensor, variance: Tensor) -> None:
        """Give the layer these statistics, mixed with those of its training."""
        self.layer.running_mean.copy_(self.trained[0].lerp(mean, self.share))
        self.layer.running_var.copy_(self.trained[1].lerp(variance, self.share))
