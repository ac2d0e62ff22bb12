"""A TAE of patches starts from the principal components of its images (D).

The textures are the 256 principal components of a patch of 16 x 16 pixels. The decoder is that of the paper, and its
blocks start by dividing a patch into quarters: the first computes the pixels of the four quarters from the components,
the others copy quarters of quarters. The last block has a sigmoid, so it needs the logit of each pixel: a sum of ramps,
which are the ReLUs of the third block. The batch norms start as identities. Such a TAE reconstructs images before it is
trained. It is trained with batch norm frozen, because statistics of a few patches would change the components.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from amem_cli.models.tae import TAE

SIDE = 16  # of a patch, pixels
RAMPS = (0.0, 0.06, 0.2, 0.8, 0.94)  # where the ramps start, with which the logit is off by least
SMALLEST_STD = 1e-3  # of a component, so that one that hardly varies is not all noise


class PatchMoments(NamedTuple):
    """Mean (768,) and second moments (768, 768) of all patches of some images, float64; the elements of a patch are in
    the order channel, y, x."""

    mean: Tensor
    second: Tensor


def patch_moments(batches: Iterable[Tensor]) -> PatchMoments:
    """The moments over all batches of images (B, 3, H, W), float in [0, 1]."""
    size = 3 * SIDE * SIDE
    total, second, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64), 0
    for images in batches:
        patches = F.unfold(images, SIDE, stride=SIDE).transpose(1, 2).flatten(0, 1)  # (patches, 768)
        total += patches.sum(dim=0, dtype=torch.float64).cpu()
        second += (patches.T @ patches).double().cpu()
        count += len(patches)
    return PatchMoments(total / count, second / count)


@torch.no_grad()
def start_from_patches(tae: TAE, moments: PatchMoments) -> None:
    """Set the weights of an untrained TAE of patches so that it reconstructs images with these moments."""
    convolution, norm = cast(Any, tae.encoder.maps)
    components = convolution.out_channels
    values, vectors = torch.linalg.eigh(moments.second)
    vectors = vectors.flip(1)[:, :components]  # the largest first, (768, 256)
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()  # one of two signs
    mean = vectors.T @ moments.mean
    std = (values.flip(0)[:components] - mean.square()).clamp(min=SMALLEST_STD**2).sqrt()
    convolution.weight.copy_(vectors.T.reshape_as(convolution.weight))
    _make_identity(norm, shift=mean / std)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(std.square() - norm.eps)

    slopes, constant = _logit_from_ramps()
    ramps = len(RAMPS)
    pixels_of = (vectors * std).T  # of each component, (256, 768)
    quarters = [
        _quarters(pixels_of, 8),
        _quarters(torch.eye(3 * 8 * 8), 4),
        _quarters(torch.eye(3 * 4 * 4), 2).repeat_interleave(ramps, dim=1),
        _quarters(torch.eye(3 * 2 * 2).repeat_interleave(ramps, dim=0) * slopes.repeat(3 * 2 * 2)[:, None], 1),
    ]
    shifts = [0.0, 0.0, -torch.tensor(RAMPS).repeat(3 * 2 * 2), constant]
    for block, (kernel, shift) in enumerate(zip(quarters, shifts, strict=True)):
        inputs, outputs = kernel.shape[:2]
        transposed, norm, _ = cast(Any, tae.decoder.layers[3 * block : 3 * block + 3])
        transposed.weight[inputs:, :outputs] = 0  # the other channels have no effect yet
        transposed.weight[:inputs, :outputs] = kernel
        _make_identity(norm)
        norm.bias[:outputs] = shift


def _make_identity(norm: Any, shift: Tensor | float = 0.0) -> None:
    norm.weight.fill_(1)
    norm.bias.copy_(torch.as_tensor(shift))
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)


def _quarters(pixels_of: Tensor, side: int) -> Tensor:
    """The kernel (N, 3 side^2, 3, 3) of a transposed convolution of stride 2 and padding 1 that divides a square.

    Each of its N input channels stands for the pixels `pixels_of` (N, 3 (2 side)^2) of the square. The output channels
    are the pixels of its quarters."""
    squares = pixels_of.reshape(-1, 3, 2, side, 2, side)
    kernel = torch.zeros(len(squares), 3 * side * side, 3, 3)
    for down in (0, 1):
        for right in (0, 1):  # the output at (2i + down, 2j + right) gets input (i, j) times this tap
            kernel[:, :, 1 + down, 1 + right] = squares[:, :, down, :, right].flatten(1)
    return kernel


def _logit_from_ramps() -> tuple[Tensor, float]:
    """Slopes and constant with which slopes . relu(p - RAMPS) + constant is nearest to the logit of p, weighted by the
    slope of the sigmoid there."""
    pixels = torch.linspace(0, 1, 401, dtype=torch.float64)
    inside = pixels.clamp(0.015, 0.985)
    ramps = (pixels[:, None] - torch.tensor(RAMPS)).relu()
    weight = (inside * (1 - inside))[:, None]
    terms = torch.cat((ramps, torch.ones(len(pixels), 1)), dim=1)
    solution = torch.linalg.lstsq(terms * weight, inside.logit()[:, None] * weight).solution[:, 0]
    return solution[:-1].float(), solution[-1].item()
