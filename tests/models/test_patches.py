"""The start of a TAE of patches: moments, components, and a decoder that rebuilds images without training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from amem_cli.models.patches import RAMPS, _logit_from_ramps, patch_moments, start_from_patches
from amem_cli.models.tae import TAE

pytestmark = pytest.mark.usefixtures("one_thread")


def smooth_images(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.rand(count, 3, 8, 6, generator=draw), (64, 48), mode="bilinear", align_corners=False)


def started(images: Tensor) -> TAE:
    torch.manual_seed(0)
    tae = TAE("patches").eval()
    start_from_patches(tae, patch_moments(images.split(16)))
    return tae


def test_patch_moments_equal_those_of_all_patches() -> None:
    images = smooth_images(5, 0).double()
    patches = []
    for image in images.numpy():
        for top in range(0, 64, 16):
            patches += [image[:, top : top + 16, left : left + 16].reshape(-1) for left in range(0, 48, 16)]
    every = np.stack(patches)
    mean, second = patch_moments(images.float().split(2))
    np.testing.assert_allclose(mean, every.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(second, every.T @ every / len(every), rtol=1e-5)


@torch.no_grad()
def test_start_from_patches_reconstructs_other_images() -> None:
    tae, other = started(smooth_images(60, 0)), smooth_images(10, 1)
    assert (tae(other) - other).abs().max() < 0.03
    assert F.mse_loss(tae(other), other) < 1e-4
    textures = tae.encoder(smooth_images(60, 0)).double()
    torch.testing.assert_close(textures[:, :40].std(dim=(0, 2, 3)), torch.ones(40).double(), atol=0.05, rtol=0)


def test_start_from_patches_components_have_a_fixed_sign() -> None:
    """An eigenvector has two signs, and libraries differ in which one they return."""
    components = started(smooth_images(60, 0)).state_dict()["encoder.maps.0.weight"].flatten(1)
    assert (components.amax(dim=1) == components.abs().amax(dim=1)).all()
    torch.testing.assert_close(components @ components.T, torch.eye(256), atol=1e-5, rtol=0)


@torch.no_grad()
def test_start_from_patches_of_one_colour() -> None:
    """Components that do not vary must not amplify noise."""
    tae = started(torch.full((4, 3, 32, 32), 0.6))
    changed = torch.full((1, 3, 32, 32), 0.6) + 0.001 * torch.randn(1, 3, 32, 32)
    assert (tae(changed) - 0.6).abs().max() < 0.03


def test_start_from_patches_leaves_every_weight_to_training() -> None:
    tae, images = started(smooth_images(20, 0)), smooth_images(4, 1)
    before = {name: value.clone() for name, value in tae.named_parameters()}
    adam = torch.optim.Adam(tae.parameters(), lr=1e-3)
    for _ in range(3):
        adam.zero_grad()
        F.mse_loss(tae(images), images).backward()
        adam.step()
    still = [name for name, value in tae.named_parameters() if torch.equal(value, before[name])]
    assert still == []


def test_logit_from_ramps() -> None:
    slopes, constant = _logit_from_ramps()
    pixels = torch.linspace(0, 1, 256)
    logits = (pixels[:, None] - torch.tensor(RAMPS)).relu() @ slopes + constant
    assert (logits.sigmoid() - pixels).abs().max() < 0.025
