"""Inflated image networks: the maps of single frames, the gradient of the depthwise convolution."""

import pytest
import torch
from torch import nn

from amem_cli.models.backbones import build_backbone, normalise
from amem_cli.models.image_networks import ImageMaps
from amem_cli.models.inflated import DepthwiseConv3d


@pytest.mark.parametrize("name", ["mobilenet_v2", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_inflated_maps_equal_those_of_single_frames(name, tmp_path):
    torch.manual_seed(0)
    image_model = ImageMaps(name).eval()
    for module in image_model.modules():
        if isinstance(module, nn.BatchNorm2d):  # other values than 0 and 1
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    path = tmp_path / "image.pth"
    torch.save(image_model.network.state_dict(), path)
    backbone = build_backbone(name, weights=path).eval()
    clip = torch.rand(2, 3, 7, 64, 32)
    with torch.no_grad():
        maps = backbone(normalise(clip, backbone.normalisation))
        single = image_model(clip[:, :, ::2].transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 4)).transpose(1, 2)
    assert maps.shape == (2, backbone.out_channels, 4, 4, 2)
    close = {"rtol": 1e-5, "atol": 1e-5 * single.abs().max().item()}
    torch.testing.assert_close(maps, single, **close)
    torch.testing.assert_close(backbone(normalise(clip, backbone.normalisation)), maps, **close)  # as in training


def test_inflated_middle_slice_and_zeros():
    torch.manual_seed(0)
    backbone = build_backbone("mobilenet_v2")
    first = backbone.features[0][0]
    assert first.weight.shape == (32, 3, 3, 3, 3)
    assert first.stride == (2, 2, 2)
    assert first.weight[:, :, 0].abs().max() > 0  # without weights all slices are random
    assert first.weight.std().item() == pytest.approx((2 / (32 * 27)) ** 0.5, rel=0.1)  # He et al. 2015, by fan-out
    layers = [layer for layer in backbone.modules() if isinstance(layer, nn.Conv3d)]
    assert {layer.kernel_size for layer in layers} == {(3, 3, 3), (1, 1, 1)}
    depthwise = [layer for layer in layers if layer.groups > 1]
    assert {layer.stride for layer in depthwise} == {(1, 1, 1), (1, 2, 2)}
    assert depthwise == [layer for layer in layers if isinstance(layer, DepthwiseConv3d)]


def test_inflated_weights_are_zero_beside_the_middle(tmp_path):
    path = tmp_path / "image.pth"
    torch.save(ImageMaps("mobilenet_v2").network.state_dict(), path)
    backbone = build_backbone("mobilenet_v2", weights=path)
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] == 3:
            assert layer.weight[:, :, 1].abs().max() > 0
            assert not layer.weight[:, :, [0, 2]].any()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_depthwise_convolution_equals_the_3d_operator(frames, stride, monkeypatch):
    torch.manual_seed(0)
    shape = {"stride": (1, stride, stride), "padding": 1, "groups": 6, "bias": False}
    ours, theirs = DepthwiseConv3d(6, 6, 3, **shape).double(), nn.Conv3d(6, 6, 3, **shape).double()
    theirs.load_state_dict(ours.state_dict())
    gradients = []
    for layer in (ours, theirs):
        clip = torch.linspace(-1, 1, 2 * 6 * frames * 20, dtype=torch.double).sin().view(2, 6, frames, 5, 4)
        clip.requires_grad_()
        maps = layer(clip)
        (maps * torch.arange(maps.numel()).view_as(maps).cos()).sum().backward()
        gradients.append((maps, clip.grad, layer.weight.grad))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    monkeypatch.setattr(torch.nn.functional, "conv2d", None)  # without gradients the 3-D operator itself
    with torch.no_grad():
        assert torch.equal(ours(clip), theirs(clip))
