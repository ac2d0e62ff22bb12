"""I3D against an independent functional rendering of the original network, with the same weights."""

import pytest
import torch
import torch.nn.functional as F
from originals import assert_equal_maps, norm, random_clip, random_state

from amem_cli.errors import InputMissing
from amem_cli.models.backbones import build_backbone
from amem_cli.models.i3d import I3D, MaxPoolSame, Unit3D, pointwise_convolution
from amem_cli.weights.names import weight_file

BLOCKS = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")


def padded(x, kernel, stride):
    """TensorFlow's SAME padding with zeros."""
    pads: list[int] = []
    for size, width, step in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(width - (size % step or step), 0)
        pads = [total // 2, total - total // 2, *pads]
    return F.pad(x, pads)


def original_unit(x, state, name, stride=1):
    weight = state[f"{name}.conv3d.weight"]
    x = F.conv3d(padded(x, weight.shape[2:], (stride,) * 3), weight, stride=stride)
    return F.relu(norm(x, state, f"{name}.bn", eps=1e-3))


def original_pool(x, kernel, stride):
    return F.max_pool3d(padded(x, kernel, stride), kernel, stride)


def original_maps(clip, state, strides="stock"):
    x = original_unit(clip, state, "Conv3d_1a_7x7", stride=2)
    x = original_pool(x, (1, 3, 3), (1, 2, 2))
    x = original_unit(original_unit(x, state, "Conv3d_2b_1x1"), state, "Conv3d_2c_3x3")
    x = original_pool(x, (1, 3, 3), (1, 2, 2))
    for block in BLOCKS:
        if block == "4b":
            x = original_pool(x, (3, 3, 3), (2, 2, 2) if strides == "stock" else (1, 2, 2))
        if block == "5b" and strides == "stock":
            x = original_pool(x, (2, 2, 2), (2, 2, 2))
        elif block == "5b":
            x = F.max_pool3d(F.pad(x, (0, 1, 0, 1)), 2, 1)
        outputs = []
        for chain in (["b0"], ["b1a", "b1b"], ["b2a", "b2b"], ["pool", "b3b"]):
            y = x
            for step in chain:
                name = f"Mixed_{block}.{step}"
                y = original_pool(y, (3, 3, 3), (1, 1, 1)) if step == "pool" else original_unit(y, state, name)
            outputs.append(y)
        x = torch.cat(outputs, 1)
    return x


@pytest.fixture(scope="module")
def state():
    with torch.device("meta"):
        network = I3D()
    return random_state(network)


def loaded(network, state):
    network.load_state_dict({key: state[key] for key in network.state_dict() if key in state}, strict=False)
    return network.eval()


@pytest.mark.parametrize("strides", ["stock", "reid"])
@pytest.mark.parametrize("size", [(5, 33, 47), (9, 37, 40), (8, 64, 32)])
@torch.no_grad()
def test_i3d_equals_the_original(size, strides, state):
    net = loaded(I3D(strides), state)
    assert sum(parameter.numel() for parameter in net.parameters()) == 12_287_264
    clip = random_clip(1, 3, *size)
    assert_equal_maps(net(clip), original_maps(clip, state, strides))


@pytest.mark.slow
def test_i3d_gradients_equal_those_of_the_original(state):
    net = loaded(I3D("stock"), state).double()
    twin = {key: value.double().requires_grad_("running" not in key) for key, value in state.items()}
    clip = random_clip(1, 3, 6, 23, 32).double()
    net(clip).square().mean().backward()
    original_maps(clip, twin).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert torch.allclose(parameter.grad, twin[name].grad, rtol=1e-6, atol=1e-12), name


def test_i3d_shortest_clip():
    with torch.device("meta"):
        assert I3D().eval()(torch.empty(1, 3, 3, 16, 16)).shape == (1, 1024, 1, 1, 1)


# -- padding and pooling -----------------------------------------------------------------------------------------------


STRIDES = {(1, 3, 3): [(1, 2, 2)], (3, 3, 3): [(1, 1, 1), (1, 2, 2), (2, 2, 2)], (2, 2, 2): [(1, 1, 1), (2, 2, 2)]}


@pytest.mark.parametrize(("kernel", "stride"), [(kernel, stride) for kernel in STRIDES for stride in STRIDES[kernel]])
def test_max_pool_same(kernel, stride):
    for size in ((4, 6, 8), (5, 7, 9), (3, 8, 5), (1, 1, 2)):
        x = -1 - random_clip(2, 3, *size).abs()  # negative, so that zeros would win
        ours = MaxPoolSame(kernel, stride)(x)
        assert torch.allclose(ours, original_pool(x + 10, kernel, stride) - 10, atol=1e-5)


def test_bf16_and_memory_format_are_kept():
    x = torch.rand(3, 5, 2, 4, 6).contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert MaxPoolSame((3, 3, 3), (1, 1, 1))(x.bfloat16()).dtype == torch.bfloat16
    weight, bias = torch.randn(7, 5, 1, 1, 1), torch.randn(7)
    for clip in (x, x.contiguous()):
        assert torch.allclose(pointwise_convolution(clip, weight, bias), F.conv3d(clip, weight, bias), atol=1e-5)
    assert Unit3D(5, 7).eval()(x).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(("frames", "stride", "padding"), [(2, 1, 0), (3, 1, 1), (4, 2, 0)])
def test_unit3d_short_clips_are_padded_before_the_convolution(frames, stride, padding, monkeypatch):
    """oneDNN's weight gradient writes out of bounds if the convolution pads a clip shorter than its kernel."""
    used = []
    convolution = F.conv3d
    monkeypatch.setattr(F, "conv3d", lambda *given: used.append(given[4][0]) or convolution(*given))
    unit, clip = Unit3D(2, 3, (3, 3, 3), (stride, 1, 1)), random_clip(1, 2, frames, 4, 4)
    unit(clip)
    with torch.no_grad():
        unit(clip)
    assert used == [padding, padding if stride > 1 else 1]


def kinetics_weights():
    """The published weights if their package is installed; a test skips without it."""
    try:
        return weight_file("kinetics", "i3d")
    except InputMissing as error:
        pytest.skip(str(error))


@torch.no_grad()
def test_i3d_kinetics_weights_give_the_maps_of_the_original():
    network = build_backbone("i3d", strides="stock", weights=kinetics_weights()).eval()
    axes = [torch.arange(float(size)) for size in (8, 64, 64)]
    t, h, w = torch.meshgrid(*axes, indexing="ij")
    clip = torch.stack([torch.cos(0.37 * t + 0.11 * h * channel + 0.05 * w) for channel in (1, 2, 3)])[None]
    maps = network(clip)
    # values of the package's own code
    assert maps.shape == (1, 1024, 1, 2, 2)
    torch.testing.assert_close(maps.mean(), torch.tensor(1.5212736), rtol=1e-4, atol=0)
    best = maps[0, :, 0, 0, 0].topk(4)
    assert best.indices.tolist() == [465, 881, 554, 464]
    torch.testing.assert_close(best.values, torch.tensor([8.617167, 8.427675, 7.7731714, 6.6041946]), rtol=1e-4, atol=0)
