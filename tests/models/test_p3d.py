"""P3D-199 against an independent functional rendering of the published network."""

import pytest
import torch
import torch.nn.functional as F
from originals import assert_equal_maps, conv, norm, random_clip, random_state

from amem_cli.models.p3d import P3D199, PlaneBlock, PseudoBlock


def published_block(x, state, name, kind, stride):
    def unit(x, number, stride=1):
        return F.relu(norm(conv(x, state, f"{name}conv{number}", stride), state, f"{name}bn{number}"))

    y = unit(x, 1, stride)
    if kind == "2-D":
        y = unit(y, "_normal")
    elif kind == "A":
        y = unit(unit(y, 2), 3)
    elif kind == "B":
        y = unit(y, 2) + unit(y, 3)
    else:
        space = unit(y, 2)
        y = space + unit(space, 3)
    y = norm(conv(y, state, f"{name}conv4"), state, f"{name}bn4")
    if f"{name}downsample.0.weight" in state:
        x = norm(conv(x, state, f"{name}downsample.0", stride), state, f"{name}downsample.1")
    return F.relu(x + y)


def published_maps(clip, state):
    """(B, 3, 16, H, W) -> (B, 2048, H/32, W/32), as the port runs it."""
    x = F.relu(norm(conv(clip, state, "conv1_custom", (1, 2, 2)), state, "bn1"))
    x = F.max_pool3d(x, (2, 3, 3), 2, (0, 1, 1))
    kinds = iter("ABC" * 16)
    for stage, blocks in enumerate((3, 8, 36), start=1):
        for block in range(blocks):
            stride = (1, 2, 2) if block == 0 and stage > 1 else 1
            x = published_block(x, state, f"layer{stage}.{block}.", next(kinds), stride)
        x = F.max_pool3d(x, (2, 1, 1), (2, 1, 1))
    x = x.squeeze(2)
    for block in range(3):
        x = published_block(x, state, f"layer4.{block}.", "2-D", 2 if block == 0 else 1)
    return x


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("kind", ["A", "B", "C", "2-D"])
@torch.no_grad()
def test_blocks_equal_the_published_ones(kind, project):
    stride = 2 if project else 1
    block = PlaneBlock(8, 2, stride) if kind == "2-D" else PseudoBlock(8, 2, kind, stride)
    state = random_state(block)
    block.eval().load_state_dict(state, strict=False)
    x, strides = random_clip(2, 8, 3, 6, 5), (1, stride, stride)
    x, strides = (x[:, :, 0], stride) if kind == "2-D" else (x, strides)
    assert_equal_maps(block(x), published_block(x, state, "", kind, strides))


@pytest.mark.slow
def test_p3d199_strides_and_initialisation_by_outputs():
    torch.manual_seed(0)
    net = P3D199("stock")
    block, plane = net.layer2[0], net.layer4[0]
    assert block.conv1.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)  # 256 channels to 128
    assert plane.conv1.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)  # 1024 channels to 512
    assert block.conv2.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    net = net.to("meta")
    assert net(torch.empty(1, 3, 48, 192, 96, device="meta")).shape == (1, 2048, 3, 6, 3)
    with torch.device("meta"):
        assert P3D199()(torch.empty(1, 3, 48, 192, 96)).shape == (1, 2048, 12, 12, 6)


@pytest.mark.slow
@torch.no_grad()
def test_p3d199_equals_the_published_network():
    net = P3D199("stock").eval()
    assert len([name for name, _ in net.named_modules() if "conv" in name]) + 1 == 199  # and one fully-connected layer
    assert sum(parameter.numel() for parameter in net.parameters()) == 65_672_640
    state = random_state(net)
    for key in state:
        if key.endswith("bn4.weight"):
            state[key] *= 0.2  # the sum over 50 residual blocks stays in range
    net.load_state_dict(state, strict=False)
    clip = random_clip(1, 3, 16, 47, 64)
    assert_equal_maps(net(clip)[:, :, 0], published_maps(clip, state))
    net = P3D199().eval()  # T' = 2: neither clips nor positions in time are mixed in the 2-D stage
    net.load_state_dict(state, strict=False)
    clips = random_clip(2, 3, 8, 32, 32)
    maps = net(clips)
    assert torch.allclose(maps, torch.cat([net(clip[None]) for clip in clips]), rtol=1e-3, atol=1e-4 * maps.max())
