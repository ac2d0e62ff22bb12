"""Inference engines: every engine computes what the eager float32 network computes, in both precisions."""

import copy
import importlib.util
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import shortened, small_main_model

from amem_cli.errors import InputMissing, UsageError
from amem_cli.models.arm import ARM, FrameFeatures
from amem_cli.models.i3d import InceptionBlock, MaxPoolSame, Unit3D
from amem_cli.options import BACKBONES
from amem_cli.runtime.engine import Engine, autocast, engine_version, prepare, resolve_engine, resolve_precision
from amem_cli.runtime.folding import CubicMaxPool, Pointwise, fold

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
NORMS = nn.BatchNorm2d | nn.BatchNorm3d
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs openvino: python -m pip install 'amem[cpu]'"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

pytestmark = pytest.mark.usefixtures("one_thread")


class ClipNetwork(nn.Module):
    """The parts of 3-D networks. `twice` and `shared` are called twice; `lonely` reads a map that others read too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = Unit3D(3, 8, (3, 3, 3), (1, 2, 2)), Unit3D(8, 8)
        self.block = InceptionBlock(8, (4, 4, 6, 4, 6, 4))
        ones, valid = (1, 1, 1), (True, False, False)
        kernels = (((3, 3, 3), ones, valid), ((1, 2, 2), ones), ((3, 3, 3), (1, 2, 2)))
        self.pools = nn.Sequential(*(MaxPoolSame(*how) for how in kernels))
        self.narrow = nn.Sequential(nn.Conv3d(20, 8, 1, bias=False), nn.BatchNorm3d(8), nn.ReLU())
        self.grouped = nn.Sequential(nn.Conv3d(8, 8, 1, groups=4), nn.BatchNorm3d(8), nn.ReLU())
        self.strided = nn.Sequential(nn.Conv3d(8, 8, 1, (1, 2, 2)), nn.BatchNorm3d(8), nn.ReLU())
        self.shared, self.norm = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0)), nn.BatchNorm3d(8)
        self.lonely, self.classify = nn.BatchNorm3d(8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(self.pools(self.block(self.twice(self.twice(self.stem(x))))))
        x = self.strided(self.grouped(x))
        first = F.relu(self.norm(self.shared(x)))
        second = self.shared(first)
        return self.classify((self.lonely(second) + second).mean(dim=2).mean(dim=(2, 3)))


class ImageNetwork(nn.Module):
    """An inverted residual block as in MobileNetV2; ends with a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        self.widen = nn.Sequential(nn.Conv2d(6, 12, 1), nn.BatchNorm2d(12), nn.ReLU6(inplace=True))
        depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(12), nn.ReLU6(inplace=True))
        self.narrow = nn.Sequential(nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return (self.narrow(self.depthwise(self.widen(x))) + x).mean(dim=(2, 3))


class LoopOverItems(nn.Module):
    """A network that cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[row].mean(dim=(1, 2)) for row in range(x.shape[0])])


TOYS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "clips": (ClipNetwork, (4, 5, 20, 13, 3)), "images": (ImageNetwork, (4, 14, 9, 3))
}  # fmt: skip


def smooth_images(*shape: int) -> Tensor:
    """uint8 (B, [T,] H, W, 3) of large coloured spots: unlike noise, they give each item its own feature."""
    coarse = torch.rand((shape[0], 3, 2, 4, 3), generator=torch.Generator().manual_seed(0)) * 255
    size = shape[1:-1] if len(shape) == 5 else (1, *shape[1:-1])
    images = F.interpolate(coarse, size=size, mode="trilinear", align_corners=True).movedim(1, -1).byte()
    return images if len(shape) == 5 else images[:, 0]


def as_trained(network: nn.Module, images: Tensor) -> nn.Module:
    """`network` in eval mode with the BN statistics of `images` and random scales and shifts.

    With arbitrary statistics the signal dies out between layers, and every item gets the same feature.
    """
    generator = torch.Generator().manual_seed(1)
    norms = [module for module in network.modules() if isinstance(module, NORMS)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images.movedim(-1, 1) / 255)
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.3, generator=generator)
    return network.eval()


def toy(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    network, shape = TOYS[kind]
    images = smooth_images(*shape)
    return as_trained(network(), images), images


def eager(network: nn.Module, images: Tensor, precision: str = "fp32") -> Tensor:
    """The reference: the network as it is, on channels-first pixels, with PyTorch's autocast for bf16."""
    with torch.no_grad(), autocast(precision, CPU):
        return network((images.movedim(-1, 1).float() / 255).contiguous()).float()


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest cosine distance of two rows."""
    return (1 - F.cosine_similarity(found.double(), expected.double())).max().item()


def check(network: nn.Module, images: Tensor, engine: str) -> None:
    """fp32 agrees with eager fp32; the error of bf16 is at most three times that of PyTorch's autocast.

    The ratio of the two errors is 0.5 to 1.1 for the networks of the package. For toys, whose few features are a small
    sample of rounding errors, it is 0.2 to 11; their limit, 2e-3, is a relative error of 6 %.
    """
    expected = eager(network, images)
    found = prepare(network, CPU, "fp32", engine)(images)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert distance(found, expected) <= 1e-5
    # features with much in common have small cosine distances: compare with the differences between items, too
    assert (found - expected).norm() < 1e-3 * (expected - expected.mean(dim=0)).norm()
    rough = prepare(network, CPU, "bf16", engine)(images)
    assert rough.dtype == torch.float32
    limit = 2e-3 if expected.shape[1] < 10 else 3 * distance(eager(network, images, "bf16"), expected)
    assert 1e-8 < distance(rough, expected) <= limit


@pytest.mark.parametrize("engine", ["eager", "torch"])
@pytest.mark.parametrize("kind", TOYS)
def test_engine_agrees(kind: str, engine: str) -> None:
    network, images = toy(kind)
    check(network, images, engine)
    run = prepare(network, CPU, "fp32", engine)
    other = images[:1, ..., :10, :8, :].repeat_interleave(3, dim=0)  # another size, another number of items
    assert distance(run(other), eager(network, other)) <= 1e-5


def network_of(name: str) -> tuple[nn.Module, Tensor]:
    """The ARM with an image network, or the main model with a backbone; "neck": batch norm on f_s, mirrored clips;
    "parts": the same with two horizontal parts; "arm-clips": the ARM's features of clips, of two parts. All with few
    blocks."""
    torch.manual_seed(0)
    images = smooth_images(3, 64, 32, 3)
    if name == "arm-clips":
        arm = shortened(ARM("mobilenet_v2"), 64, 32)
        as_trained(arm, images)
        of_clips = FrameFeatures(arm)
        of_clips.parts = 2
        return of_clips, smooth_images(3, 4, 64, 32, 3)
    if name.startswith("arm-"):
        return as_trained(shortened(ARM(name.removeprefix("arm-")), 64, 32), images), images
    images = smooth_images(3, 4, 64, 32, 3)
    neck = name in ("neck", "parts")
    how = {"neck": "bn", "mirror": "on", "backbone": "mobilenet_v2"} if neck else {"backbone": name}
    network = as_trained(small_main_model(**how), images)
    network.parts = 2 if name == "parts" else 1
    return network, images


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*BACKBONES, "neck", "parts", "arm-clips", "arm-resnet18", "arm-resnet50", "arm-mobilenet_v2"]
)
def test_torch_agrees_for_every_network(name: str) -> None:
    network, images = network_of(name)
    check(network, images, "torch")
    folded = fold(copy.deepcopy(network), torch.float32)
    assert not [module for module in folded.modules() if isinstance(module, NORMS)]


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize("name", [*TOYS, "i3d", "parts", "arm-clips"])
def test_openvino_agrees(name: str) -> None:
    network, images = toy(name) if name in TOYS else network_of(name)
    check(network, images, "openvino")


@needs_openvino
@pytest.mark.slow
def test_openvino_sizes() -> None:
    network, images = toy("clips")
    run = prepare(network, CPU, "fp32", "openvino")
    for other in (images, images[:1], images.repeat_interleave(2, dim=0), images[..., :10, :8, :]):
        assert distance(run(other), eager(network, other)) <= 1e-5


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["eager", "torch"])
def test_engines_agree_on_cuda(engine: str) -> None:
    network, clips = network_of("i3d")
    expected = eager(network, clips)
    for precision, limit in (("fp32", 1e-5), ("bf16", 1e-4)):
        assert distance(prepare(network, CUDA, precision, engine)(clips), expected) <= limit


# -- folding -----------------------------------------------------------------------------------------------------------


def test_fold_replaces() -> None:
    network, _ = toy("clips")
    kinds = [type(module) for module in fold(network, torch.float32).modules()]
    assert kinds.count(nn.BatchNorm3d) == 1  # `lonely`
    assert kinds.count(Pointwise) == 1
    assert kinds.count(CubicMaxPool) == 1


@pytest.mark.parametrize("kind", TOYS)
def test_fold_bf16_last_layers_in_float32(kind: str) -> None:
    network, images = toy(kind)
    found = prepare(network, CPU, "bf16", "torch")(images)
    assert not torch.equal(found.bfloat16().float(), found)


@pytest.mark.parametrize("shape", [(2, 3, 4, 6, 5), (1, 2, 1, 3, 3)])
def test_cubic_max_pool_is_max_pool3d(shape: tuple[int, ...]) -> None:
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0)) - 3  # a padding of zeros would win
    before = maps.clone()
    assert torch.equal(CubicMaxPool()(maps), F.max_pool3d(maps, 3, 1, 1))
    assert torch.equal(maps, before)


def test_prepare_cannot_trace() -> None:
    images = smooth_images(2, 8, 8, 3)
    with pytest.raises(UsageError, match=r"--engine: cannot follow the operations of LoopOverItems .*--engine eager"):
        prepare(LoopOverItems(), CPU, "fp32", "torch")
    assert torch.equal(prepare(LoopOverItems(), CPU, "fp32", "eager")(images), eager(LoopOverItems(), images))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("engine", ["eager", "torch"])
def test_prepare_copies_the_network(engine: str, precision: str) -> None:
    network, images = toy("clips")
    before, structure = copy.deepcopy(network.train().state_dict()), str(network)
    run = prepare(network, CPU, precision, engine)
    first = run(images)
    assert (str(network), network.training) == (structure, True)
    assert all(parameter.requires_grad for parameter in network.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    assert torch.equal(run(images), first)


# -- out of memory -----------------------------------------------------------------------------------------------------


def small_memory(room: int, sizes: list[int]) -> Callable[[Tensor], Tensor]:
    """Sums of items, of which at most `room` fit into memory."""

    def run(images: Tensor) -> Tensor:
        sizes.append(len(images))
        if len(images) > room:
            raise torch.OutOfMemoryError("no more")
        return images.flatten(1).float().sum(dim=1, keepdim=True)

    return run


def test_out_of_memory_halves_the_batch() -> None:
    images = torch.arange(13 * 3, dtype=torch.uint8).view(13, 1, 1, 3)
    expected = images.flatten(1).float().sum(dim=1, keepdim=True)
    sizes: list[int] = []
    warned: list[str] = []
    engine = Engine(small_memory(3, sizes), warned.append)
    assert torch.equal(engine(images), expected)
    assert sizes == [13, 6, 3, 3, 3, 3, 1]
    assert warned == [f"out of memory with batches of {n}. Continuing with {n // 2}; see --batch-size" for n in (13, 6)]
    sizes.clear()
    assert torch.equal(engine(images), expected)  # the limit stays
    assert torch.equal(engine(images[:2]), expected[:2])
    assert sizes == [3, 3, 3, 3, 1, 2]
    assert engine.batch_limit == 3


def test_out_of_memory_with_one_item() -> None:
    images = torch.zeros(4, 1, 1, 3, dtype=torch.uint8)
    assert len(Engine(small_memory(1, []), lambda _: None)(images)) == 4
    engine = Engine(small_memory(0, []), lambda _: None)
    with pytest.raises(UsageError, match=r"one item of shape \(1, 1, 3\) does not fit"):
        engine(images)


# -- choices -----------------------------------------------------------------------------------------------------------


def test_resolve_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [(precision, clips) for precision in ("fp32", "bf16") for clips in (False, True)]

    def resolved(engine: str, device: torch.device) -> list[str]:
        return [resolve_engine(engine, device, precision, clips=clips) for precision, clips in kinds]

    for spec in (None, SimpleNamespace(origin=None)):  # not there, and a folder of this name
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
        assert resolved("auto", CPU) == ["torch"] * 4
    assert [resolved(engine, CPU) for engine in ("eager", "torch")] == [["eager"] * 4, ["torch"] * 4]
    with pytest.raises(InputMissing, match=r"--engine openvino: not installed.*pip install openvino"):
        resolved("openvino", CPU)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin="there"))
    assert resolved("auto", CPU) == ["openvino", "openvino", "openvino", "torch"]  # clips in bf16
    assert resolved("auto", CUDA) == ["eager"] * 4
    assert resolved("openvino", CPU) == ["openvino"] * 4
    with pytest.raises(UsageError, match="--engine openvino"):
        resolved("openvino", CUDA)


def test_engine_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"2026.1 of {name}")
    assert [engine_version(name) for name in ("torch", "openvino")] == ["torch", "openvino 2026.1 of openvino"]


def test_resolve_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert [resolve_precision("auto", device) for device in (CPU, CUDA)] == ["fp32", "bf16"]
    assert [resolve_precision(name, device) for name in ("fp32", "bf16") for device in (CPU, CUDA)] == [
        "fp32", "fp32", "bf16", "bf16",
    ]  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))  # RTX 20xx
    assert [resolve_precision(name, CUDA) for name in ("auto", "fp32")] == ["fp32", "fp32"]
    with pytest.raises(UsageError, match="--precision bf16: this GPU cannot compute in it"):
        resolve_precision("bf16", CUDA)


def test_autocast() -> None:
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, CPU):
            assert layer(x).dtype == dtype
