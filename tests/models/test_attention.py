"""Class-activation maps of f_s against Grad-CAM."""

import pytest
import torch

from amem_cli.models.amem import build_main_model
from amem_cli.models.attention import activation_maps
from amem_cli.models.config import ModelConfig


@pytest.mark.parametrize("fused", [True, False])
def test_activation_maps_are_gradient_weighted_and_add_up(fused: bool) -> None:
    torch.manual_seed(1)
    config = ModelConfig(
        image_size="32x32", backbone="i3d", branch="conv2d", branch_kernel="3x3x3", appearance=fused, motion=fused,
        fused=fused, modules="amem", clip_frames=8, predict_frames=3, people=4,
    )  # fmt: skip
    model = build_main_model(config).eval()
    clip = torch.rand(2, 3, 8, 32, 32)
    found = activation_maps(model, clip)
    assert list(found.features) == (["f_B", "f_A", "f_M"] if fused else ["f_B"])
    total = sum(found.shares.values()) + found.bias_share
    torch.testing.assert_close(total, torch.ones(2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.backbone_over_time.mean(dim=1), found.features["f_B"], rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        maps = model.feature_maps(clip)
    feature = maps.backbone_feature.clone().requires_grad_()
    similarity = model.similarity_feature(maps._replace(backbone_feature=feature))
    (gradient,) = torch.autograd.grad(similarity.square().sum() / 2, feature)
    weights = gradient.sum(dim=(2, 3))  # of the pooled map: every place has a share of 1 / (H W)
    grad_cam = torch.einsum("bchw,bc->bhw", maps.backbone_feature, weights) / similarity.square().sum(1)[:, None, None]
    torch.testing.assert_close(found.features["f_B"], grad_cam.detach(), rtol=1e-3, atol=1e-5)
