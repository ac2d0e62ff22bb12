"""From uint8 on the host to float pixels on the device."""

import copy
from typing import TypeVar

import torch

Module = TypeVar("Module", bound=torch.nn.Module)


def as_pixels(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 (B, ..., H, W, 3) on the host -> float32 in [0, 1] (B, 3, ..., H, W) on `device`, channels last in memory.

    (B, H, W, 3) are images, (B, T, H, W, 3) clips. The bytes are copied to the device and converted there.
    """
    moved = images.to(device, non_blocking=True)
    return moved.movedim(-1, 1).float().div_(255)


def device_of(module: torch.nn.Module) -> torch.device:
    """The device of a module's parameters."""
    return next(module.parameters()).device


def evaluation_copy(module: Module) -> Module:
    """A copy in eval mode, so that evaluation changes neither mode nor BN statistics of a network in training."""
    return copy.deepcopy(module).eval()
