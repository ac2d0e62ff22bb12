"""3D-ResNet-50 against an independent functional rendering of the published network."""

import pytest
import torch
import torch.nn.functional as F
from originals import assert_equal_maps, conv, norm, random_clip, random_state

from amem_cli.models.resnet3d import Bottleneck, ResNet3D50


def published_block(x, state, name, stride):
    y = F.relu(norm(conv(x, state, f"{name}conv1"), state, f"{name}bn1"))
    y = F.relu(norm(conv(y, state, f"{name}conv2", stride), state, f"{name}bn2"))
    y = norm(conv(y, state, f"{name}conv3"), state, f"{name}bn3")
    if f"{name}downsample.0.weight" in state:
        x = norm(conv(x, state, f"{name}downsample.0", stride), state, f"{name}downsample.1")
    return F.relu(x + y)


def published_maps(clip, state, strides):
    x = F.max_pool3d(F.relu(norm(conv(clip, state, "conv1", (1, 2, 2)), state, "bn1")), 3, 2, 1)
    for stage, (blocks, stride) in enumerate(zip((3, 4, 6, 3), strides, strict=True), start=1):
        for block in range(blocks):
            x = published_block(x, state, f"layer{stage}.{block}.", stride if block == 0 else 1)
    return x


@pytest.mark.parametrize(("width", "stride"), [(2, (1, 1, 1)), (3, (1, 1, 1)), (2, (1, 2, 2))])
@torch.no_grad()
def test_bottleneck_equals_the_published_one(width, stride):
    block = Bottleneck(8, width, stride).eval()
    assert (block.downsample is None) == (width == 2 and stride == (1, 1, 1))
    state = random_state(block)
    block.load_state_dict(state, strict=False)
    x = random_clip(2, 8, 3, 5, 4)
    assert_equal_maps(block(x.clone()), published_block(x, state, "", stride))


@pytest.mark.parametrize(("strides", "size"), [("stock", (3, 6, 3)), ("reid", (12, 12, 6))])
def test_resnet3d50_strides(strides, size):
    with torch.device("meta"):
        assert ResNet3D50(strides)(torch.empty(1, 3, 48, 192, 96)).shape == (1, 2048, *size)


def test_resnet3d50_initialisation_by_outputs():
    torch.manual_seed(0)
    block = ResNet3D50().layer2[0]
    assert block.conv1.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)  # 256 channels to 128
    assert block.conv2.weight.std().item() == pytest.approx((2 / (27 * 128)) ** 0.5, rel=0.02)


@pytest.mark.slow
@torch.no_grad()
def test_resnet3d50_equals_the_published_network():
    clip = random_clip(1, 3, 16, 47, 64)
    for strides, published in (("stock", (1, 2, 2, 2)), ("reid", (1, 2, (1, 2, 2), 1))):
        net = ResNet3D50(strides).eval()
        assert sum(parameter.numel() for parameter in net.parameters()) == 46_198_976
        state = random_state(net)
        net.load_state_dict(state, strict=False)
        assert_equal_maps(net(clip), published_maps(clip, state, published))
