"""Activation checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).

A block keeps its input alone for the backward pass, and its maps are computed again there: less memory for about a
third more time. Weights and their gradients are the same bit by bit.
"""

import contextlib

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

ALONE = (nn.modules.conv._ConvNd, _BatchNorm, nn.ReLU)  # layers that keep little more than their input anyway


def recompute_activations(*blocks: nn.Module) -> None:
    """Let each of `blocks` keep only its inputs for the backward pass, from now on.

    Names of weights and what the blocks return stay as they are; a deep copy of a block recomputes too.
    """
    for block in blocks:
        kind = type(block)
        block.__class__ = type(f"Recomputed{kind.__name__}", (_Recomputed, kind), {})


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The parts of a backbone that are worth recomputing: its children, and in place of a Sequential its own ones."""
    blocks = []
    for child in network.children():
        if isinstance(child, nn.Sequential):
            blocks += blocks_of(child)
        elif not isinstance(child, ALONE):
            blocks.append(child)
    return blocks


class _Recomputed(nn.Module):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return super().forward(*inputs)
        return checkpoint(
            super().forward,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), _StatisticsKept(self)),  # the first time, and in backward
        )


class _StatisticsKept:
    """A context in which batch norm computes as before, but its running statistics and counters do not see the batch a
    second time. It can be entered again: once for every gradient that is asked for."""

    def __init__(self, block: nn.Module):
        self.norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]

    def __enter__(self) -> None:
        self.before = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, batches) in zip(self.norms, self.before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
