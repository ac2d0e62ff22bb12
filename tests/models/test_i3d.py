"""I3D against an independent functional rendering of the original network, fed from the same weight files."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from amem_cli.models.backbones import build_backbone
from amem_cli.models.i3d import I3D, InceptionBlock, MaxPoolSame, Unit3D, pointwise_convolution, same_padding

# ---- the original, from its publication: channels of each block, and TensorFlow's padding written out -------------

MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def unit_shapes() -> dict[str, tuple[int, int, int]]:
    """Unit -> (in, out, kernel width), in the original's order."""
    units = {"Conv3d_1a_7x7": (3, 64, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (64, 192, 3)}
    for block, (c, b0, b1a, b1b, b2a, b2b, b3b) in MIXED.items():
        name = f"Mixed_{block}"
        units |= {f"{name}.b0": (c, b0, 1), f"{name}.b1a": (c, b1a, 1), f"{name}.b1b": (b1a, b1b, 3)}
        units |= {f"{name}.b2a": (c, b2a, 1), f"{name}.b2b": (b2a, b2b, 3), f"{name}.b3b": (c, b3b, 1)}
    return units


def random_original(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights and BN statistics under the original PyTorch names, with the head, without counters."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, (c_in, c_out, width) in unit_shapes().items():
        scale = math.sqrt(2 / (c_in * width**3))
        state[f"{name}.conv3d.weight"] = scale * torch.randn(c_out, c_in, width, width, width, generator=draw)
        state[f"{name}.bn.weight"] = torch.ones(c_out)  # TensorFlow's BN has none
        state[f"{name}.bn.bias"] = 0.1 * torch.randn(c_out, generator=draw)
        state[f"{name}.bn.running_mean"] = 0.1 * torch.randn(c_out, generator=draw)
        state[f"{name}.bn.running_var"] = 0.5 + torch.rand(c_out, generator=draw)
    state["logits.conv3d.weight"] = torch.randn(400, 1024, 1, 1, 1, generator=draw) / 32
    state["logits.conv3d.bias"] = torch.randn(400, generator=draw)
    return state


def padded(x: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    pads: list[int] = []
    for size, width, step in zip(x.shape[2:], kernel, stride, strict=True):
        remainder = size % step
        total = max(width - (remainder or step), 0)
        pads = [total // 2, total - total // 2, *pads]
    return F.pad(x, pads)


def original_unit(x, state, name, stride=1):
    weight = state[f"{name}.conv3d.weight"]
    x = F.conv3d(padded(x, weight.shape[2:], (stride,) * 3), weight, stride=stride)
    mean, var = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
    return F.relu(F.batch_norm(x, mean, var, state[f"{name}.bn.weight"], state[f"{name}.bn.bias"], eps=1e-3))


def original_pool(x, kernel, stride):
    return F.max_pool3d(padded(x, kernel, stride), kernel, stride)


def original_maps(clip, state):
    x = original_unit(clip, state, "Conv3d_1a_7x7", stride=2)
    x = original_pool(x, (1, 3, 3), (1, 2, 2))
    x = original_unit(original_unit(x, state, "Conv3d_2b_1x1"), state, "Conv3d_2c_3x3")
    x = original_pool(x, (1, 3, 3), (1, 2, 2))
    for block in MIXED:
        if block == "4b":
            x = original_pool(x, (3, 3, 3), (2, 2, 2))
        if block == "5b":
            x = original_pool(x, (2, 2, 2), (2, 2, 2))
        chains = (["b0"], ["b1a", "b1b"], ["b2a", "b2b"], ["pool", "b3b"])
        outputs = []
        for chain in chains:
            y = x
            for part in chain:
                pool = part == "pool"
                y = original_pool(y, (3, 3, 3), (1, 1, 1)) if pool else original_unit(y, state, f"Mixed_{block}.{part}")
            outputs.append(y)
        x = torch.cat(outputs, 1)
    return x


def original_logits(maps, state):
    pooled = F.avg_pool3d(maps, (2, 7, 7), stride=1)
    return F.conv3d(pooled, state["logits.conv3d.weight"], state["logits.conv3d.bias"])


# ---- the same weights in the files people have --------------------------------------------------------------------


def as_branch_port(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    parts = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1"}
    parts |= {"b2a": "branch_2.0", "b2b": "branch_2.1", "b3b": "branch_3.1"}
    renamed = {}
    for key, value in state.items():
        pieces = key.split(".")
        pieces[0] = "conv3d_0c_1x1" if pieces[0] == "logits" else pieces[0][0].lower() + pieces[0][1:]
        pieces = ["batch3d" if piece == "bn" else parts.get(piece, piece) for piece in pieces]
        renamed[".".join(pieces)] = value
    return renamed


def as_tensorflow(state: dict[str, torch.Tensor], suffix: str = "") -> dict[str, np.ndarray]:
    variables = {}
    for key, value in state.items():
        unit, kind = key.rsplit(".", 2)[0], ".".join(key.rsplit(".", 2)[1:])
        if "." in unit:
            block, part = unit.split(".")
            third = "Conv3d_0a_3x3" if (block, part) == ("Mixed_5b", "b2b") else "Conv3d_0b_3x3"
            scope = {"b0": "Branch_0/Conv3d_0a_1x1", "b1a": "Branch_1/Conv3d_0a_1x1", "b1b": "Branch_1/Conv3d_0b_3x3"}
            scope |= {"b2a": "Branch_2/Conv3d_0a_1x1", "b2b": f"Branch_2/{third}", "b3b": "Branch_3/Conv3d_0b_1x1"}
            unit = f"{block}/{scope[part]}"
        unit = "Logits/Conv3d_0c_1x1" if unit == "logits" else unit
        array = value.numpy()
        if kind == "conv3d.weight":
            name, array = "conv_3d/w", array.transpose(2, 3, 4, 1, 0)
        elif kind == "conv3d.bias":
            name = "conv_3d/b"
        elif kind == "bn.weight":
            continue
        else:
            kinds = {"bn.bias": "beta", "bn.running_mean": "moving_mean", "bn.running_var": "moving_variance"}
            name, array = f"batch_norm/{kinds[kind]}", array.reshape(1, 1, 1, 1, -1)
        variables[f"RGB/inception_i3d/{unit}/{name}{suffix}"] = array
    return variables


@pytest.fixture(scope="module")
def state():
    return random_original()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def files(folder, state):
    """Each dialect once; parameters of the first differ in gamma, which TensorFlow does not have."""
    counters = {f"{name}.bn.num_batches_tracked": torch.tensor(7) for name in unit_shapes()}
    headless = {key: value for key, value in state.items() if not key.startswith("logits")}
    torch.save(state, folder / "rgb_imagenet.pt")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in (headless | counters).items()}}, folder / "n.pt"
    )
    torch.save(as_branch_port(state | counters), folder / "model_rgb.pth")
    np.savez(folder / "variables.npz", **as_tensorflow(state))
    np.savez(folder / "suffixed.npz", **as_tensorflow(headless, ":0"))
    save_file(state, folder / "rgb.safetensors")
    return {path.name: path for path in sorted(folder.iterdir())}


FILES = ("rgb_imagenet.pt", "n.pt", "model_rgb.pth", "variables.npz", "suffixed.npz", "rgb.safetensors")


def largest_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / max(1.0, theirs.abs().max().item())).item()


def test_the_original_has_287_keys_and_this_many_parameters(state):
    assert len(state) == 287
    assert len(unit_shapes()) == 57
    counted = [v.numel() for k, v in state.items() if "running" not in k and not k.startswith("logits")]
    assert sum(counted) == 12_287_264
    assert sum(p.numel() for p in I3D().parameters()) == 12_287_264
    ours = [key for key in I3D().state_dict() if not key.endswith("num_batches_tracked")]
    assert ours == [key for key in state if not key.startswith("logits")]


@pytest.mark.parametrize("name", FILES)
def test_every_dialect_gives_the_original_output(name, files, state):
    net = build_backbone("i3d", strides="stock", weights=files[name]).eval()
    clip = torch.rand(1, 3, 9, 37, 45, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        assert largest_difference(net(clip), original_maps(clip, state)) < 1e-5
    assert net.pretrained.head_classes == (None if name in ("n.pt", "suffixed.npz") else 400)
    assert not net.pretrained.head_loaded


def test_gamma_is_loaded(folder, state):
    changed = state | {key: value * 1.5 for key, value in state.items() if key.endswith("bn.weight")}
    torch.save(as_branch_port(changed), folder / "gamma.pth")
    clip = torch.rand(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        net = build_backbone("i3d", strides="stock", weights=folder / "gamma.pth").eval()
        ours, theirs = net(clip), original_maps(clip, changed)
    assert largest_difference(ours, theirs) < 1e-5
    assert largest_difference(original_maps(clip, state), theirs) > 0.01


SIZES = [(8, 112, 112), (8, 64, 32), (5, 33, 47), (16, 31, 63), (11, 70, 41)]
LARGE = [(8, 256, 128), (10, 113, 225), (16, 256, 128)]


@pytest.mark.parametrize("size", [*SIZES, *(pytest.param(size, marks=pytest.mark.slow) for size in LARGE)], ids=str)
def test_stock_strides_equal_the_original_at_every_size(size, files, state):
    net = build_backbone("i3d", strides="stock", weights=files["rgb_imagenet.pt"]).eval()
    clip = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        ours, theirs = net(clip), original_maps(clip, state)
    assert ours.shape[2:] == (math.ceil(size[0] / 8), math.ceil(size[1] / 32), math.ceil(size[2] / 32))
    assert theirs.abs().max() > 0.1  # else the comparison says nothing
    assert largest_difference(ours, theirs) < 1e-5


def test_the_head_gives_the_original_logits(files, state):
    net = build_backbone("i3d", strides="stock", weights=files["variables.npz"], head=True).eval()
    assert net.pretrained.head_loaded
    maps = torch.rand(2, 1024, 3, 7, 8, generator=torch.Generator().manual_seed(3))
    net.backbone_maps = lambda clip: maps
    with torch.no_grad():
        ours = net(torch.zeros(2, 3, 17, 224, 256))
        theirs = original_logits(maps, state)  # (2, 400, 2, 1, 2): a row of logits at each position
    assert largest_difference(ours, theirs.mean(dim=(2, 3, 4))) < 1e-5


@pytest.mark.slow
def test_the_whole_network_gives_the_original_logits(files, state):
    net = build_backbone("i3d", strides="stock", weights=files["rgb_imagenet.pt"], head=True).eval()
    clip = torch.rand(1, 3, 16, 224, 224, generator=torch.Generator().manual_seed(4)) * 2 - 1
    with torch.no_grad():
        ours, theirs = net(clip), original_logits(original_maps(clip, state), state)
    assert theirs.shape == (1, 400, 1, 1, 1)
    assert largest_difference(ours, theirs.flatten(1)) < 1e-5


# ---- our own strides, padding and speed-ups ------------------------------------------------------------------------


def test_strides_of_the_paper():
    net = I3D("reid").eval()
    assert {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in I3D("stock").state_dict().items()
    }
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 8, 256, 128)).shape == (1, 1024, 3, 16, 8)
        assert net(torch.zeros(1, 3, 7, 65, 31)).shape == (1, 1024, 3, 5, 2)
        assert net(torch.zeros(1, 3, 3, 16, 16)).shape == (1, 1024, 1, 1, 1)
    with pytest.raises(ValueError, match="stok"):
        I3D("stok")


def test_reid_strides_share_everything_before_the_fourth_pooling(files):
    stock = build_backbone("i3d", strides="stock", weights=files["rgb_imagenet.pt"]).eval()
    reid = build_backbone("i3d", weights=files["rgb_imagenet.pt"]).eval()
    maps = torch.rand(1, 480, 4, 8, 6)
    dense, sparse = reid.MaxPool3d_4a_3x3(maps), stock.MaxPool3d_4a_3x3(maps)
    assert dense.shape == (1, 480, 4, 4, 3)
    assert torch.equal(dense[:, :, 1::2], sparse)  # windows t-1..t+1 of frames 1, 3 are stride 2's 0..2 padded (0, 1)


@given(sizes=st.tuples(*[st.integers(1, 40)] * 3), kernel=st.sampled_from([1, 2, 3, 7]), stride=st.sampled_from([1, 2]))
def test_same_padding_is_tensorflows(sizes, kernel, stride):
    if kernel < stride:
        return
    before, extra = same_padding(sizes, (kernel,) * 3, (stride,) * 3)
    for size, front, more in zip(sizes, before, extra, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        assert (front, front + more) == (total // 2, total - total // 2)
        assert (size + 2 * front + more - kernel) // stride + 1 == math.ceil(size / stride)


POOLINGS = [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 2, 2))]
POOLINGS += [((3, 3, 3), (1, 1, 1)), ((2, 2, 2), (1, 1, 1))]


@pytest.mark.parametrize(("kernel", "stride"), POOLINGS)
@pytest.mark.parametrize("size", [(4, 6, 8), (5, 7, 9), (3, 8, 5), (1, 1, 2)])
def test_pooling_pads_with_what_never_wins(kernel, stride, size):
    x = -torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(5)) - 1
    ours = MaxPoolSame(kernel, stride)(x)
    theirs = F.max_pool3d(padded(x + 10, kernel, stride), kernel, stride) - 10
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_pooling_stays_in_bf16_under_autocast():
    x = torch.rand(1, 4, 4, 6, 6).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert MaxPoolSame((3, 3, 3), (1, 1, 1))(x).dtype == torch.bfloat16


def test_pooling_without_padding_in_time():
    x = torch.arange(2 * 2 * 3 * 4, dtype=torch.float32).view(1, 2, 2, 3, 4)
    pooled = MaxPoolSame((2, 2, 2), (1, 1, 1), valid=(True, False, False))(x)
    assert pooled.shape == (1, 2, 1, 3, 4)
    assert pooled[0, 0, 0, 0, 0] == x[0, 0, :, :2, :2].max()
    assert pooled[0, 0, 0, 2, 3] == x[0, 0, 1, 2, 3]  # the window hangs over the edge


def test_pointwise_convolution_is_one_and_keeps_channels_last():
    x = torch.randn(3, 5, 2, 4, 6).contiguous(memory_format=torch.channels_last_3d)
    weight, bias = torch.randn(7, 5, 1, 1, 1), torch.randn(7)
    for clip in (x, x.contiguous()):
        assert torch.allclose(pointwise_convolution(clip, weight, bias), F.conv3d(clip, weight, bias), atol=1e-5)
    assert pointwise_convolution(x, weight).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(("kernel", "parameters"), [((3, 3, 3), 2_929_120), ((1, 3, 3), 1_491_424)])
def test_a_branch_block(kernel, parameters):
    block = InceptionBlock(1024, (384, 192, 384, 48, 128, 128), kernel)
    assert sum(p.numel() for p in block.parameters()) == parameters
    assert block.out_channels == 1024
    with torch.no_grad():
        assert block(torch.rand(2, 1024, 3, 4, 2)).shape == (2, 1024, 3, 4, 2)


def test_batch_norm_has_tensorflows_epsilon():
    assert {m.eps for m in I3D().modules() if isinstance(m, torch.nn.BatchNorm3d)} == {1e-3}
    assert Unit3D(2, 3).conv3d.bias is None


def test_gradients_reach_every_parameter_and_the_clip():
    torch.manual_seed(0)
    net = I3D().train()
    clip = torch.rand(2, 3, 8, 32, 32, requires_grad=True)
    net(clip).square().mean().backward()
    assert clip.grad.abs().sum() > 0
    for name, parameter in net.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_gradients_equal_those_of_the_original(files, state):
    net = build_backbone("i3d", strides="stock", weights=files["rgb_imagenet.pt"]).eval().double()
    twin = {key: value.double().requires_grad_("running" not in key) for key, value in state.items()}
    clip = torch.rand(1, 3, 6, 23, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    net(clip).square().mean().backward()
    original_maps(clip, twin).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert torch.allclose(parameter.grad, twin[name].grad, rtol=1e-6, atol=1e-12), name
