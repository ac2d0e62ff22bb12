"""Activation checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).

A block stores only its input for the backward pass and computes its maps again there: less memory, about a third more
time, bitwise the same gradients and weights.
"""

import contextlib

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

SINGLE_LAYERS = (nn.modules.conv._ConvNd, _BatchNorm, nn.ReLU)  # they store little more than their input


def recompute_activations(*blocks: nn.Module) -> None:
    """Make each of `blocks` recompute its activations, also in later copies of it. Keys of weights do not change."""
    for block in blocks:
        kind = type(block)
        block.__class__ = type(f"Recomputed{kind.__name__}", (_Recomputed, kind), {})


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a backbone to recompute: its children, with each Sequential replaced by its children."""
    blocks: list[nn.Module] = []
    for child in network.children():
        if type(child) is nn.Sequential:
            blocks += blocks_of(child)
        elif not isinstance(child, SINGLE_LAYERS):
            blocks.append(child)
    return blocks


class _Recomputed(nn.Module):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return super().forward(*inputs)
        contexts = contextlib.nullcontext(), _FrozenStatistics(self)  # of the forward pass and of the recomputation
        return checkpoint(super().forward, *inputs, use_reentrant=False, context_fn=lambda: contexts)


class _FrozenStatistics:
    """A reentrant context in which batch norm normalises as in training but does not update its running statistics."""

    def __init__(self, block: nn.Module):
        self.norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]

    def __enter__(self) -> None:
        self.before = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            count = norm.num_batches_tracked  # SyncBatchNorm refuses None
            norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, batches) in zip(self.norms, self.before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
