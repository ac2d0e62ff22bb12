"""The inference engine: one function turns a trained network into a fast callable on uint8 batches."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from amem_cli.data.transforms import as_pixels

Engine = Callable[[Tensor], Tensor]  # uint8 batch on the host -> float32 outputs on the host


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "fp32" or "bf16"; auto is bf16 on CUDA and fp32 on a CPU."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return precision


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which networks run at "fp32" or "bf16"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def prepare(network: nn.Module, device: torch.device, precision: str) -> Engine:
    """A function from a uint8 batch on the host, (B, H, W, 3) or (B, T, H, W, 3), to float32 outputs on the host.

    `network` takes pixels in [0, 1], (B, 3, H, W) or (B, 3, T, H, W); it is moved to `device` and put in eval mode.
    """
    network = network.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        with autocast(precision, device):
            return network(as_pixels(images, device)).float().cpu()

    return run
