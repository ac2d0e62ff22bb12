"""Features and attribute labels: each engine, and the code of a peer, on random weights and frames.

"baseline" is piergiaj's I3D (`peers.py`), or eager PyTorch for the image networks; the others are
`--engine eager|torch|openvino`, the last if it is installed. All take and normalise the same uint8 batch on the host.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peers import CPU, eager_engine, peer_i3d, with_peer_modules
from timing import Method, take_turns
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from amem_cli.attributes import GROUP_SIZES
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.models.config import model_config
from amem_cli.options import TrainAmemOptions
from amem_cli.resolve import resolve
from amem_cli.runtime.engine import prepare

CONVOLUTION_FLOP = 2 * 32 * 256 * 32 * 32 * 256 * 9


class Network(NamedTuple):
    """How a network is built, the shape of its batch without colours, and what its baseline is."""

    build: Callable[[], nn.Module]
    batch: tuple[int, ...]
    baseline: str


def main_model(preset: str) -> nn.Module:
    return build_main_model(model_config(resolve(TrainAmemOptions, {"clip_frames": 8}, preset=preset), 625))


NETWORKS = {
    "i3d": Network(lambda: main_model("paper"), (8, 8, 256, 128), "piergiaj's I3D, eager"),
    "small": Network(lambda: main_model("small"), (16, 8, 128, 64), "PyTorch, eager"),
    "resnet50": Network(lambda: ARM("resnet50", GROUP_SIZES), (16, 256, 128), "torchvision's ResNet-50, eager"),
}


def build(network: str) -> nn.Module:
    """One of `NETWORKS` with random weights and BN statistics."""
    torch.manual_seed(0)
    built = NETWORKS[network].build()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return built


def baseline(network: str, precision: str, peers: str) -> Callable[[Tensor], Tensor]:
    """The peer's I3D with our weights, or the image network in eager PyTorch."""
    built = build(network)
    if network == "i3d":
        i3d = peer_i3d(peers)
        assert i3d is not None
        built = with_peer_modules(built, i3d)
    return eager_engine(built, precision)


def make(network: str, method: str, precision: str, images: Tensor, peers: str) -> Callable[[], None]:
    is_baseline = method == "baseline"
    engine = baseline(network, precision, peers) if is_baseline else prepare(build(network), CPU, precision, method)

    def work() -> None:
        engine(images)

    return work


def flop(network: str, images: Tensor) -> int:
    """Floating-point operations of a batch; a multiply-add counts twice."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        build(network).eval()((images.movedim(-1, 1).float() / 255).contiguous())
    return counter.get_total_flops()


def make_convolution(precision: str) -> Callable[[], None]:
    """The ceiling: one convolution of `CONVOLUTION_FLOP`."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(32, 256, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def work() -> None:
        F.conv2d(x, weight, padding=1)

    return work


def run(network: str, runs: int, peers: str) -> dict[str, Any]:
    """`items` per batch, what the `baseline` is, and for each method `wall` and `cpu` seconds.

    `of_ceiling` is the time of one large convolution with the same FLOP, as a fraction of the method's.
    """
    torch.manual_seed(0)
    images = torch.randint(256, (*NETWORKS[network].batch, 3), dtype=torch.uint8)
    engines = ["eager", "torch"] + ["openvino"] * (importlib.util.find_spec("openvino") is not None)
    methods = {
        f"{name} {precision}": Method(make, (network, name, precision, images, peers), allocator=name != "baseline")
        for precision in ("fp32", "bf16")
        for name in ("baseline", *engines)
    }
    ceilings = {precision: Method(make_convolution, (precision,)) for precision in ("fp32", "bf16")}
    found = take_turns(methods | ceilings, runs, torch.get_num_threads())
    work, rows = flop(network, images) / CONVOLUTION_FLOP, {}
    for name in methods:
        wall, cpu = found[name].medians
        rows[name] = {"wall": wall, "cpu": cpu, "of_ceiling": work * found[name.split()[1]].medians[0] / wall}
    return {"items": len(images), "baseline": NETWORKS[network].baseline, "runs": runs, "methods": rows}
