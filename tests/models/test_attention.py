"""Class-activation maps of f_s against Grad-CAM."""

import pytest
import torch

from amem_cli.models.amem import build_main_model
from amem_cli.models.attention import activation_maps
from amem_cli.models.config import model_config
from amem_cli.options import TrainAmemOptions


@pytest.mark.usefixtures("tiny_backbone")  # with I3D's first weights the bias is all of f_s
@pytest.mark.parametrize(
    ("modules", "names"),
    [("amem", ["f_B", "f_A", "f_M"]), ("aem", ["f_B", "f_A"]), ("mem", ["f_B", "f_M"]), ("after-enhancement", ["f_B"])],
)
@pytest.mark.parametrize("neck", ["none", "bn"])  # with it the test compares f_s after the batch norm
def test_activation_maps_are_gradient_weighted_and_add_up(modules: str, names: list[str], neck: str) -> None:
    torch.manual_seed(1)
    options = TrainAmemOptions(modules=modules, image_size="32x32", branch="conv2d", neck=neck)
    model = build_main_model(model_config(options, 4)).eval()
    if neck == "bn":
        for buffer in (model.neck.running_mean, model.neck.running_var):
            buffer.copy_(torch.rand(len(buffer)) * buffer.abs().mean().clamp(min=0.01))
    clip = torch.rand(2, 3, 8, 32, 32)
    found = activation_maps(model, clip)
    assert list(found.features) == list(found.shares) == names
    assert min(share.abs().min() for share in found.shares.values()) > (0.05 if neck == "none" else 0.001)
    torch.testing.assert_close(sum(found.shares.values()) + found.bias_share, torch.ones(2))
    torch.testing.assert_close(found.backbone_over_time.mean(dim=1), found.features["f_B"])
    with torch.no_grad():
        maps = model.feature_maps(clip)
    feature = maps.backbone_feature.clone().requires_grad_()
    similarity = model.neck(model.similarity_feature(maps._replace(backbone_feature=feature)))
    (gradient,) = torch.autograd.grad(similarity.square().sum() / 2, feature)
    weights = gradient.sum(dim=(2, 3))  # of the pooled map: every place has a share of 1 / (H W)
    grad_cam = torch.einsum("bchw,bc->bhw", maps.backbone_feature, weights) / similarity.square().sum(1)[:, None, None]
    torch.testing.assert_close(found.features["f_B"], grad_cam.detach())
    torch.testing.assert_close(found.shares["f_B"], grad_cam.mean(dim=(1, 2)).detach())
