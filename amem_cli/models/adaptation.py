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
    number of clips (Schneider et al., NeurIPS 2020), so that a camera with few people changes little. A layer measures
    the maps of a batch after the layers before it were adapted to that batch; each layer must be used once. Layers
    without running statistics stay as they are.
    """
    adapted = copy.deepcopy(network).eval()
    clips = sum(map(len, batches))
    layers = [layer for layer in adapted.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    measured = [_Statistics(layer, clips) for layer in layers]
    hooks = [one.layer.register_forward_pre_hook(one.measure) for one in measured]
    with torch.no_grad():
        for batch in batches:
            for one in measured:
                one.weight = len(batch) / clips
            adapted(batch)
        for one in measured:
            one.set_pooled()
    for hook in hooks:
        hook.remove()
    return adapted


class _Statistics:
    """Mean and variance of a batch norm: those of the training, and sums over the batches, each times its `weight`."""

    def __init__(self, layer: Any, clips: int):
        self.layer, self.share, self.weight = layer, clips / (PRIOR + clips), 0.0
        self.mean, self.variance = layer.running_mean.clone(), layer.running_var.clone()
        self.difference = torch.zeros_like(self.mean)  # of the means; sums of squares of raw means would lose digits
        self.square = torch.zeros_like(self.mean)

    def measure(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Before the layer works: measure its input, and normalise that by its own statistics."""
        (maps,) = inputs
        mean, variance = self.mean.clone(), self.variance.clone()
        if maps.numel() > len(mean):  # a single value has no variance
            F.batch_norm(maps, mean, variance, training=True, momentum=1.0)
        difference = mean - self.mean
        self.difference += self.weight * difference
        self.square += self.weight * (variance + difference**2)
        self.set(mean, variance)

    def set_pooled(self) -> None:
        """Give the layer the statistics of all batches together."""
        self.set(self.mean + self.difference, self.square - self.difference**2)

    def set(self, mean: Tensor, variance: Tensor) -> None:
        """Give the layer these statistics, mixed with those of the training."""
        self.layer.running_mean.copy_(self.mean.lerp(mean, self.share))
        self.layer.running_var.copy_(self.variance.lerp(variance, self.share))
