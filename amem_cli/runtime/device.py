"""From uint8 on the host to float pixels on the device."""

import torch


def as_pixels(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 (B, ..., H, W, 3) on the host -> float32 in [0, 1] (B, 3, ..., H, W) on `device`, channels last in memory.

    (B, H, W, 3) are images, (B, T, H, W, 3) clips. The bytes travel, the device converts.
    """
    moved = images.to(device, non_blocking=True)
    return moved.movedim(-1, 1).float().div_(255)
