"""A network with the steps before and after it inside: what `amem export` hands to other programs."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from amem_cli.models.branches import MiddleBranch

INPUT, OUTPUTS = "frames", {"amem-main": ("feature", "norm"), "amem-arm": ("probabilities",)}


class FromFrames(nn.Module):
    """uint8 RGB frames of any size -> what the stages compute from them; `size` is (H, W) of the network.

    `kind` "amem-main": clips (B, T, H, W, 3) -> f_s / ||f_s|| (B, 512) and ||f_s|| (B, 1). The feature of a tracklet is
    the sum of their products over its clips, normalised. "amem-arm": images (B, H, W, 3) -> probabilities (B, A).
    """

    def __init__(self, network: Any, kind: str, size: tuple[int, int]):
        super().__init__()
        self.network, self.kind, self.size = network, kind, size

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        pixels = frames.movedim(-1, 1).float()  # (B, 3, [T,] H, W)
        pixels = (pixels @ resize_weights(pixels.shape[-1], self.size[1]).T + 0.5).floor()
        pixels = (resize_weights(pixels.shape[-2], self.size[0]) @ pixels + 0.5).floor()
        output = self.network(pixels / 255)
        if self.kind == "amem-arm":
            return (output.sigmoid(),)
        norm = torch.linalg.vector_norm(output, dim=1, keepdim=True)
        return output / norm, norm


def resize_weights(old: int, new: int) -> Tensor:
    """Pillow's bilinear filter from `old` to `new` pixels, float32 (new, old): a triangle around each new pixel.

    Integers up to the division, so that all runtimes agree; `old` may be a symbol.

    >>> resize_weights(4, 2)
    tensor([[0.4286, 0.4286, 0.1429, 0.0000],
            [0.0000, 0.1429, 0.4286, 0.4286]])
    """
    place, centre = (2 * torch.arange(old) + 1) * new, ((2 * torch.arange(new) + 1) * old)[:, None]
    reach = 2 * torch.full((), old).clamp(min=new)
    weights = (reach - (place - centre).abs()).clamp(min=0).float()
    return weights / weights.sum(dim=1, keepdim=True)


def trace(network: FromFrames, frames: int) -> tuple[torch.export.ExportedProgram, int | None]:
    """`network` as a program of torch.export for any batch and frame size, and the fewest frames of its clips: so many
    that the backbone makes two maps in time of them. Where it makes one of T frames, and with a motion branch on middle
    maps, all clips must have T (second value: None). `frames` is T of training, 0 for images."""
    dim = torch.export.Dim
    sizes = [dim("batch"), dim("height", min=2), dim("width", min=2), dim.STATIC]
    example, fewest = torch.zeros((2, 48, 40, 3), dtype=torch.uint8), None
    with torch.no_grad():
        if frames:
            middle = isinstance(getattr(network.network, "motion_branch", None), MiddleBranch)
            backbone, lengths = network.network.backbone, range(1, 1 if middle else frames + 1)
            fewest = next((length for length in lengths if _maps_in_time(backbone, length) > 1), None)
            sizes.insert(1, dim("frames", min=fewest) if fewest else dim.STATIC)
            example = example[:, None].repeat(1, max(frames, 2 * (fewest or 0)), 1, 1, 1)
        return torch.export.export(network, (example,), dynamic_shapes=(sizes,)), fewest


def _maps_in_time(backbone: nn.Module, frames: int) -> int:
    with contextlib.suppress(RuntimeError):  # fewer than a pooling needs
        return backbone(torch.zeros(1, 3, frames, 32, 32)).shape[2]
    return 0
