"""3D-ResNet-50 against an independent functional rendering, loaded from a file as its authors published it."""

import pytest
import torch
import torch.nn.functional as F

from amem_cli.models.backbones import build_backbone
from amem_cli.models.resnet3d import ResNet3D50
from amem_cli.weights.loading import inspect_weights
from amem_cli.weights.normalisation import HARA_2018, HARA_2020


def random_state(classes: int = 400, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def conv(name, c_out, c_in, width):
        scale = (2 / (c_in * width**3)) ** 0.5
        # float16, as a half-size file: loading must widen it without another change
        state[name + ".weight"] = (scale * torch.randn(c_out, c_in, width, width, width, generator=draw)).half()

    def norm(name, c):
        state[name + ".weight"] = (0.5 + torch.rand(c, generator=draw)).half()
        state[name + ".bias"] = (0.1 * torch.randn(c, generator=draw)).half()
        state[name + ".running_mean"] = (0.1 * torch.randn(c, generator=draw)).half()
        state[name + ".running_var"] = (0.5 + torch.rand(c, generator=draw)).half()

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    c_in = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for part, (c_out, c, kernel) in enumerate(
                ((width, c_in, 1), (width, width, 3), (4 * width, width, 1)), start=1
            ):
                conv(f"{name}.conv{part}", c_out, c, kernel)
                norm(f"{name}.bn{part}", c_out)
            if block == 0:
                conv(f"{name}.downsample.0", 4 * width, c_in, 1)
                norm(f"{name}.downsample.1", 4 * width)
            c_in = 4 * width
    state["fc.weight"] = torch.randn(classes, 2048, generator=draw).half()
    state["fc.bias"] = torch.randn(classes, generator=draw).half()
    return state


def published_maps(clip, state):
    state = {key: value.float() for key, value in state.items()}

    def conv(x, name, stride=1):
        weight = state[name + ".weight"]
        return F.conv3d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(x, name):
        names = (f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *(state[key] for key in names))

    x = F.relu(norm(conv(clip, "conv1", (1, 2, 2)), "bn1"))
    x = F.max_pool3d(x, 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            y = F.relu(norm(conv(x, f"{name}.conv1"), f"{name}.bn1"))
            y = F.relu(norm(conv(y, f"{name}.conv2", stride), f"{name}.bn2"))
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = F.relu(x + y)
    return x


def test_the_file_as_published_gives_the_published_output(tmp_path):
    state = random_state()
    assert sum(v.numel() for k, v in state.items() if "running" not in k) == 47_018_576  # 46.2 M without the head
    path = tmp_path / "resnet-50-kinetics.pth"
    torch.save({"epoch": 1, "arch": "resnet-50", "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    net = build_backbone("r3d", strides="stock", weights=path).eval()
    clip = torch.rand(1, 3, 16, 47, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        ours, theirs = net(clip), published_maps(clip, state)
    assert ours.shape == theirs.shape == (1, 2048, 1, 2, 2)
    assert theirs.abs().max() > 0.1
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert net.normalisation == HARA_2018
    assert net.pretrained.head_classes == 400


def test_the_files_of_2020_expect_another_input(tmp_path):
    path = tmp_path / "r3d50_K_200ep.pth"
    torch.save({"state_dict": random_state(classes=700)}, path)
    assert build_backbone("r3d", weights=path).normalisation == HARA_2020


def trained_on(deviation: float, classes: int | None, prefix: str) -> dict[str, torch.Tensor]:
    """Weights whose first BN has seen pixels of this deviation, smooth in space and time as videos are."""
    state = random_state(classes or 1)
    coarse = torch.randn(2, 3, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    clip = F.interpolate(coarse, (16, 48, 48), mode="trilinear")
    clip = clip / clip.std() * deviation
    state["bn1.running_var"] = F.conv3d(clip, state["conv1.weight"].float(), stride=(1, 2, 2)).var(dim=(0, 2, 3, 4))
    if classes is None:
        del state["fc.weight"], state["fc.bias"]
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    ("deviation", "classes", "prefix", "year", "sign"),
    [
        (60.0, None, "", 2018, "by the scale of its first layer"),
        (1.0, None, "", 2020, "by the scale of its first layer"),
        (60.0, 101, "", 2018, "by the scale of its first layer"),  # fine-tuned, `module.` taken off
        (1.0, 101, "", 2020, "by the scale of its first layer"),
        (1.0, 700, "module.", 2020, "by the scale of its first layer"),  # saved through DataParallel
        (60.0, 400, "module.", 2018, "by its 400 classes"),
        (1.0, 700, "", 2020, "by its 700 classes"),
        (60.0, 101, "module.", 2018, "by its names with module."),
        (60.0, None, "module.", 2018, "by its names with module."),
        (1.0, 400, "", 2018, "by its 400 classes, though the scale of its first layer speaks against it"),
    ],
)
def test_which_input_a_file_expects(tmp_path, deviation, classes, prefix, year, sign):
    path = tmp_path / "w.pth"
    torch.save({"state_dict": trained_on(deviation, classes, prefix)}, path)
    report = inspect_weights(path)
    assert report.normalisation == {2018: HARA_2018, 2020: HARA_2020}[year]
    assert report.dialect == f"3D-ResNet of Hara et al., {year}, {sign}"


def test_a_file_that_tells_nothing_of_its_input_is_said_to_be_supposed(tmp_path):
    path = tmp_path / "untrained.pth"
    torch.save(ResNet3D50().state_dict(), path)
    net = build_backbone("r3d", weights=path)
    assert (net.normalisation, net.pretrained.dialect[-35:]) == (HARA_2018, "supposed, nothing in the file tells")


def test_parameters_and_strides():
    net = ResNet3D50().eval()
    assert sum(p.numel() for p in net.parameters()) == 46_198_976
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 8, 64, 32)).shape == (1, 2048, 2, 4, 2)
        assert ResNet3D50("stock").eval()(torch.zeros(1, 3, 8, 64, 32)).shape == (1, 2048, 1, 2, 1)


@pytest.mark.slow
def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    net = ResNet3D50().train()
    net(torch.rand(2, 3, 4, 32, 32)).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())
