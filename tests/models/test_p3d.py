"""P3D-199 against an independent functional rendering of the published network, through a weight file."""

import pytest
import torch
import torch.nn.functional as F

from amem_cli.models.backbones import build_backbone
from amem_cli.models.p3d import P3D199, PseudoBlock
from amem_cli.weights.normalisation import IMAGENET


def random_state(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def conv(name, *shape):
        fan_in = torch.Size(shape[1:]).numel()
        state[name + ".weight"] = ((2 / fan_in) ** 0.5 * torch.randn(shape, generator=draw)).half()

    def norm(name, c):
        # branches add up over 50 blocks: a small last scale keeps the sums in range
        scale = 0.2 if name.endswith("bn4") else 1.0
        state[name + ".weight"] = (scale * (0.5 + torch.rand(c, generator=draw))).half()
        state[name + ".bias"] = (0.1 * torch.randn(c, generator=draw)).half()
        state[name + ".running_mean"] = (0.1 * torch.randn(c, generator=draw)).half()
        state[name + ".running_var"] = (0.5 + torch.rand(c, generator=draw)).half()

    conv("conv1_custom", 64, 3, 1, 7, 7)
    norm("bn1", 64)
    c_in = 64
    for stage, (blocks, width) in enumerate(((3, 64), (8, 128), (36, 256), (3, 512)), start=1):
        one = (1, 1) if stage == 4 else (1, 1, 1)
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            conv(f"{name}.conv1", width, c_in, *one)
            norm(f"{name}.bn1", width)
            if stage == 4:
                conv(f"{name}.conv_normal", width, width, 3, 3)
                norm(f"{name}.bn_normal", width)
            else:
                conv(f"{name}.conv2", width, width, 1, 3, 3)
                norm(f"{name}.bn2", width)
                conv(f"{name}.conv3", width, width, 3, 1, 1)
                norm(f"{name}.bn3", width)
            conv(f"{name}.conv4", 4 * width, width, *one)
            norm(f"{name}.bn4", 4 * width)
            if block == 0:
                conv(f"{name}.downsample.0", 4 * width, c_in, *one)
                norm(f"{name}.downsample.1", 4 * width)
            c_in = 4 * width
    conv("fc", 400, 2048)
    state["fc.bias"] = torch.randn(400, generator=draw).half()
    return state


def published_maps(clip, state):
    """(B, 3, 16, H, W) -> (B, 2048, H/32, W/32), as the port runs it."""
    state = {key: value.float() for key, value in state.items()}

    def conv(x, name, stride=1):
        weight = state[name + ".weight"]
        run = F.conv2d if weight.dim() == 4 else F.conv3d
        return run(x, weight, stride=stride, padding=tuple(width // 2 for width in weight.shape[2:]))

    def norm(x, name):
        names = (f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *(state[key] for key in names))

    x = F.relu(norm(conv(clip, "conv1_custom", (1, 2, 2)), "bn1"))
    x = F.max_pool3d(x, (2, 3, 3), 2, (0, 1, 1))
    count = 0
    for stage, blocks in enumerate((3, 8, 36, 3), start=1):
        if stage == 4:
            x = x.squeeze(2)
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 1
            if block == 0 and stage > 1:
                stride = 2 if stage == 4 else (1, 2, 2)
            y = F.relu(norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
            if stage == 4:
                y = F.relu(norm(conv(y, f"{name}.conv_normal"), f"{name}.bn_normal"))
            elif count % 3 == 0:  # A: one after the other
                y = F.relu(norm(conv(y, f"{name}.conv2"), f"{name}.bn2"))
                y = F.relu(norm(conv(y, f"{name}.conv3"), f"{name}.bn3"))
            elif count % 3 == 1:  # B: side by side
                s = F.relu(norm(conv(y, f"{name}.conv2"), f"{name}.bn2"))
                y = s + F.relu(norm(conv(y, f"{name}.conv3"), f"{name}.bn3"))
            else:  # C: one after the other, with a shortcut
                s = F.relu(norm(conv(y, f"{name}.conv2"), f"{name}.bn2"))
                y = s + F.relu(norm(conv(s, f"{name}.conv3"), f"{name}.bn3"))
            y = norm(conv(y, f"{name}.conv4"), f"{name}.bn4")
            if block == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = F.relu(x + y)
            count += 1
        if stage < 4:
            x = F.max_pool3d(x, (2, 1, 1), (2, 1, 1))
    return x


def test_the_file_as_published_gives_the_published_output(tmp_path):
    state = random_state()
    assert sum(v.numel() for k, v in state.items() if "running" not in k) == 66_492_240  # 65.7 M without the head
    path = tmp_path / "p3d_rgb_199.checkpoint.pth.tar"
    torch.save({"epoch": 1, "state_dict": state}, path, _use_new_zipfile_serialization=False)
    net = build_backbone("p3d", strides="stock", weights=path).eval()
    clip = torch.rand(1, 3, 16, 47, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        ours, theirs = net(clip), published_maps(clip, state)
    assert ours.shape == (1, 2048, 1, 2, 2)
    assert theirs.abs().max() > 0.1
    assert (ours[:, :, 0] - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert net.normalisation == IMAGENET


def test_parameters_strides_and_199_layers():
    net = P3D199().eval()
    assert sum(p.numel() for p in net.parameters()) == 65_672_640
    convolutions = [name for name, m in net.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)]
    assert len([name for name in convolutions if "downsample" not in name]) + 1 == 199  # and one fully connected
    kinds = [m.kind for m in net.modules() if isinstance(m, PseudoBlock)]
    assert "".join(kinds) == ("ABC" * 16)[:47]
    with torch.no_grad():
        maps = net(torch.rand(2, 3, 8, 64, 32))
    assert maps.shape == (2, 2048, 2, 4, 2)


def test_time_and_batch_are_not_mixed_in_the_plane_stage():
    torch.manual_seed(0)
    net = P3D199().eval()
    clips = torch.rand(2, 3, 8, 32, 32)
    with torch.no_grad():
        together, apart = net(clips), torch.cat([net(clip[None]) for clip in clips])
    assert torch.allclose(together, apart, rtol=1e-3, atol=1e-4 * apart.abs().max().item())


@pytest.mark.slow
def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    net = P3D199().train()
    net(torch.rand(2, 3, 4, 32, 32)).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())
