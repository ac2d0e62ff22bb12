"""The inference engines: the network's own outputs on uint8 batches, whatever the engine and the precision."""

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amem_cli.attributes import GROUP_SIZES
from amem_cli.errors import InputMissing, UsageError
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.models.backbones import backbone_names
from amem_cli.runtime.engine import (
    Convolution,
    CubicMaxPool,
    Engine,
    autocast,
    fold,
    prepare,
    resolve_engine,
    resolve_precision,
)

CPU = torch.device("cpu")
WITH_OPENVINO = importlib.util.find_spec("openvino") is not None
without_openvino = pytest.mark.skipif(not WITH_OPENVINO, reason="needs openvino: python -m pip install 'amem[cpu]'")

MODULES = {
    "baseline": {"appearance": False, "motion": False, "fused": False},
    "aem": {"appearance": True, "motion": False, "fused": True},
    "mem": {"appearance": False, "motion": True, "fused": True},
    "amem": {"appearance": True, "motion": True, "fused": True},
    "after-enhancement": {"appearance": True, "motion": True, "fused": False},
}


def cosine_distance(found: Tensor, expected: Tensor) -> float:
    return (1 - F.cosine_similarity(found.double(), expected.double())).max().item()


def smooth_bytes(*shape: int, seed: int = 0) -> Tensor:
    """uint8 (B, [T,] H, W, 3) of large coloured spots: unlike noise, these give every item a different feature."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((shape[0], 3, 2, 4, 3), generator=generator) * 255
    size = shape[1:-1] if len(shape) == 5 else (1, *shape[1:-1])
    images = F.interpolate(coarse, size=size, mode="trilinear", align_corners=True).movedim(1, -1).byte()
    return images if len(shape) == 5 else images[:, 0]


def as_trained(network: nn.Module, images: Tensor) -> nn.Module:
    """`network` in eval mode with BN statistics near those of `images` and random scales and shifts.

    With unrelated statistics the signals vanish and every feature is the same.
    """
    generator = torch.Generator().manual_seed(1)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images.movedim(-1, 1) / 255)
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.3, generator=generator)
            norm.running_mean += norm.running_var.sqrt() * norm.running_mean.clone().normal_(
                0, 0.2, generator=generator
            )
            norm.running_var *= norm.running_var.clone().uniform_(0.7, 1.4, generator=generator)
    return network.eval()


def main_model(images: Tensor, **described: object) -> nn.Module:
    torch.manual_seed(0)
    defaults = {"backbone": "i3d", "branch": "inception", "branch_kernel": "3x3x3"} | MODULES["amem"]
    return as_trained(build_main_model(defaults | described), images)


def plain(network: nn.Module, images: Tensor) -> Tensor:
    """The reference for every engine: eager float32."""
    with torch.no_grad():
        return network.eval()(images.movedim(-1, 1).float() / 255)


def check(network: nn.Module, images: Tensor, engine: str, bf16: float = 1e-4) -> None:
    """Every precision of `engine` agrees with eager float32 on `images`, whose features differ."""
    expected = plain(network, images)
    for precision, most in (("fp32", 1e-5), ("bf16", bf16)):
        found = prepare(network, CPU, precision, engine)(images)
        assert found.dtype == torch.float32
        assert found.shape == expected.shape
        assert cosine_distance(found, expected) <= most, precision
    # similar features have a high cosine in any case: compare the error with the differences between items
    error = (prepare(network, CPU, "fp32", engine)(images) - expected).norm()
    assert error < 1e-3 * (expected - expected.mean(dim=0)).norm()


# -- agreement ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modules", MODULES)
def test_torch_every_set_of_modules(modules: str) -> None:
    clips = smooth_bytes(3, 4, 64, 32, 3)
    check(main_model(clips, **MODULES[modules]), clips, "torch")


@pytest.mark.parametrize(("branch", "kernel"), [("inception", "1x3x3"), ("conv3d", "3x3x3"), ("conv2d", "3x3x3")])
def test_torch_every_branch(branch: str, kernel: str) -> None:
    clips = smooth_bytes(3, 4, 64, 32, 3)
    check(main_model(clips, branch=branch, branch_kernel=kernel), clips, "torch")


@pytest.mark.parametrize("backbone", [name for name in backbone_names() if name != "i3d"])
def test_torch_every_backbone(backbone: str) -> None:
    clips = smooth_bytes(3, 4, 64, 32, 3)
    # bf16 itself, not the engine, is less exact in random residual networks on small maps: autocast is no better
    check(main_model(clips, backbone=backbone), clips, "torch", bf16=4e-4)


@pytest.mark.parametrize("depth", [18, 50])
def test_torch_arm(depth: int) -> None:
    images = smooth_bytes(5, 64, 32, 3)
    torch.manual_seed(0)
    check(as_trained(ARM(depth, GROUP_SIZES), images), images, "torch", bf16=4e-4)


@pytest.mark.parametrize("engine", ["eager", "torch"])
@pytest.mark.parametrize("shape", [(1, 8, 64, 32), (2, 5, 80, 48), (3, 3, 48, 112), (5, 3, 32, 32)])
def test_prepare_odd_batches_and_sizes(engine: str, shape: tuple[int, ...]) -> None:
    clips = smooth_bytes(*shape, 3)
    network = main_model(smooth_bytes(4, *clips.shape[1:], seed=1))
    expected = plain(network, clips)
    assert cosine_distance(prepare(network, CPU, "fp32", engine)(clips), expected) <= 1e-5


def test_engine_any_size_and_batch() -> None:
    network = main_model(smooth_bytes(3, 4, 64, 32, 3))
    engine = prepare(network, CPU, "fp32", "torch")
    for shape in ((2, 4, 64, 32, 3), (1, 8, 48, 80, 3), (7, 4, 64, 32, 3)):
        clips = smooth_bytes(*shape)
        assert cosine_distance(engine(clips), plain(network, clips)) <= 1e-5


@without_openvino
@pytest.mark.slow
@pytest.mark.parametrize("modules", ["baseline", "amem"])
def test_openvino_equals_eager(modules: str) -> None:
    clips = smooth_bytes(3, 4, 64, 32, 3)
    check(main_model(clips, **MODULES[modules]), clips, "openvino")


@without_openvino
@pytest.mark.slow
@pytest.mark.parametrize("backbone", [name for name in backbone_names() if name != "i3d"])
def test_openvino_every_backbone(backbone: str) -> None:
    clips = smooth_bytes(3, 4, 64, 32, 3)
    check(main_model(clips, backbone=backbone, branch="conv2d"), clips, "openvino", bf16=4e-4)


@without_openvino
@pytest.mark.slow
def test_openvino_arm_any_batch() -> None:
    images = smooth_bytes(5, 64, 32, 3)
    torch.manual_seed(0)
    network = as_trained(ARM(50, GROUP_SIZES), images)
    check(network, images, "openvino", bf16=4e-4)
    engine = prepare(network, CPU, "fp32", "openvino")
    for shape in ((1, 64, 32, 3), (7, 64, 32, 3), (3, 48, 80, 3)):
        assert cosine_distance(engine(smooth_bytes(*shape)), plain(network, smooth_bytes(*shape))) <= 1e-5


@pytest.mark.slow
def test_bf16_image_size_of_the_paper() -> None:
    clips = smooth_bytes(2, 8, 256, 128, 3)
    check(main_model(clips), clips, "torch")


# -- what folding does -------------------------------------------------------------------------------------------------


def test_fold_all_batch_norms_and_pointwise_branches() -> None:
    clips = smooth_bytes(2, 4, 32, 32, 3)
    folded = fold(copy.deepcopy(main_model(clips)))
    modules = list(folded.modules())
    assert not [module for module in modules if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d | nn.ReLU)]
    # 3 before the blocks; 9 blocks and both branches of b0+b1a+b2a, b1b, b2b, b3b, but the branches share the first
    assert sum(isinstance(module, Convolution) for module in modules) == 3 + 9 * 4 + 1 + 2 * 3
    assert sum(isinstance(module, CubicMaxPool) for module in modules) == 11


@pytest.mark.parametrize("engine", ["eager", "torch"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_prepare_does_not_change_the_network(engine: str, precision: str) -> None:
    clips = smooth_bytes(2, 4, 32, 32, 3)
    network = main_model(clips).train()
    before = copy.deepcopy(network.state_dict())
    structure = str(network)
    bytes_before = clips.clone()
    prepare(network, CPU, precision, engine)(clips)
    assert str(network) == structure
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    for name, value in network.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name]), name
    assert torch.equal(clips, bytes_before)


def test_prepare_copies_the_weights() -> None:
    clips = smooth_bytes(2, 4, 32, 32, 3)
    network = main_model(clips)
    engine = prepare(network, CPU, "fp32", "torch")
    before = engine(clips)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    assert torch.equal(engine(clips), before)


class Twice(nn.Module):
    """One convolution called twice, with different successors; a BN whose input is not one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.norm(self.conv(x)))
        second = self.conv(first)
        return (self.other(second + first) + second).mean(dim=(2, 3))


def test_fold_convolution_called_or_read_twice() -> None:
    images = smooth_bytes(4, 16, 12, 3)
    torch.manual_seed(0)
    network = as_trained(Twice(), images)
    torch.testing.assert_close(prepare(network, CPU, "fp32", "torch")(images), plain(network, images))


class Depends(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) if x.max() > 0.5 else x.amax(dim=(2, 3))


def test_fold_untraceable_network() -> None:
    images = smooth_bytes(2, 8, 8, 3)
    with pytest.raises(UsageError, match=r"--engine: cannot follow the operations of Depends .*Use --engine eager"):
        prepare(Depends(), CPU, "fp32", "torch")
    torch.testing.assert_close(prepare(Depends(), CPU, "fp32", "eager")(images), plain(Depends(), images))


# -- batches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["eager", "torch"])
def test_engine_rows_independent_of_the_batch(engine: str) -> None:
    clips = smooth_bytes(5, 4, 32, 32, 3)
    network = main_model(clips)
    run = prepare(network, CPU, "fp32", engine)
    torch.testing.assert_close(run(clips), torch.cat([run(clip[None]) for clip in clips]), rtol=1e-3, atol=1e-3)
    assert not run(clips).requires_grad


def test_engine_bytes_independent_of_earlier_batches() -> None:
    clips = smooth_bytes(5, 4, 32, 32, 3)
    network = main_model(clips)
    first, second = (prepare(network, CPU, "fp32", "torch") for _ in range(2))
    first(clips[:1])
    assert torch.equal(first(clips), second(clips))


def small_memory(room: int, seen: list[int]) -> Callable[[Tensor], Tensor]:
    """A network that runs out of memory above `room` items."""

    def run(images: Tensor) -> Tensor:
        seen.append(len(images))
        if len(images) > room:
            raise torch.OutOfMemoryError("no more")
        return images.flatten(1).float().sum(dim=1, keepdim=True)

    return run


def test_engine_out_of_memory_halves_the_batch() -> None:
    images = torch.arange(13 * 3, dtype=torch.uint8).view(13, 1, 1, 3)
    expected = images.flatten(1).float().sum(dim=1, keepdim=True)
    seen: list[int] = []
    warned: list[str] = []
    engine = Engine("torch", small_memory(3, seen), warned.append)
    assert torch.equal(engine(images), expected)
    assert seen == [13, 6, 3, 3, 3, 3, 1]
    assert engine.most == 3
    assert warned == [
        "out of memory at 13 items a step: continuing with 6; see --batch-size",
        "out of memory at 6 items a step: continuing with 3; see --batch-size",
    ]
    seen.clear()
    assert torch.equal(engine(images), expected)
    assert seen == [3, 3, 3, 3, 1]  # later calls start with the smaller batch


def test_engine_out_of_memory_for_one_item() -> None:
    engine = Engine("torch", small_memory(0, []), lambda _: None)
    with pytest.raises(UsageError, match=r"one item of shape \(1, 1, 3\) does not fit"):
        engine(torch.zeros(4, 1, 1, 3, dtype=torch.uint8))


def test_engine_other_errors() -> None:
    def fails(_: Tensor) -> Tensor:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Engine("torch", fails, lambda _: None)(torch.zeros(4, 1, 1, 3, dtype=torch.uint8))


# -- choices -----------------------------------------------------------------------------------------------------------


def test_resolve_engine_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    kinds = [(precision, clips) for precision in ("fp32", "bf16") for clips in (False, True)]

    def resolved(engine: str, device: torch.device) -> list[str]:
        return [resolve_engine(engine, device, precision, clips=clips) for precision, clips in kinds]

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert resolved("auto", CPU) == ["torch"] * 4
    assert resolved("auto", cuda) == ["eager"] * 4
    assert [resolved(engine, CPU) for engine in ("eager", "torch")] == [["eager"] * 4, ["torch"] * 4]
    with pytest.raises(InputMissing, match=r'--engine openvino: .* not installed.*pip install "amem\[cpu\]"'):
        resolved("openvino", CPU)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Path("there"))
    assert resolved("auto", CPU) == ["openvino", "openvino", "openvino", "torch"]  # clips in bf16
    assert resolved("auto", cuda) == ["eager"] * 4
    assert resolved("openvino", CPU) == ["openvino"] * 4
    with pytest.raises(UsageError, match="--engine openvino"):
        resolved("openvino", cuda)


def test_resolve_precision_auto() -> None:
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("auto", torch.device("cuda", 0)) == "bf16"
    for precision in ("fp32", "bf16"):
        assert resolve_precision(precision, CPU) == precision
        assert resolve_precision(precision, torch.device("cuda", 0)) == precision


def test_autocast_fp32() -> None:
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    with autocast("fp32", CPU):
        assert layer(x).dtype == torch.float32
    with autocast("bf16", CPU):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("engine", ["eager", "torch"])
def test_bf16_differs_from_fp32(engine: str) -> None:
    clips = smooth_bytes(2, 4, 32, 32, 3)
    network = main_model(clips)
    exact, rough = (prepare(network, CPU, precision, engine)(clips) for precision in ("fp32", "bf16"))
    assert cosine_distance(rough, exact) > 1e-7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("engine", ["eager", "torch"])
def test_engines_agree_on_cuda(engine: str) -> None:
    clips = smooth_bytes(3, 4, 64, 32, 3)
    network = main_model(clips)
    expected = plain(network, clips)
    for precision, most in (("fp32", 1e-5), ("bf16", 1e-4)):
        assert cosine_distance(prepare(network, torch.device("cuda", 0), precision, engine)(clips), expected) <= most
