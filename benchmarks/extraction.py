"""Features and attribute labels: each engine and the baseline, on random weights and frames.

"baseline" is plain eager PyTorch (`baseline.py`); "baseline+allocator" has the allocator as amem sets it; the others
are `--engine eager|torch|openvino`, the last if it is installed. All take the same uint8 batch on the host.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from baseline import CPU, baseline_engine
from timing import Method, take_turns
from torch import Tensor, nn

from amem_cli.attributes import GROUP_SIZES
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.models.config import model_config
from amem_cli.options import TrainAmemOptions
from amem_cli.runtime.engine import prepare

CONVOLUTION_FLOP = 2 * 32 * 256 * 32 * 32 * 256 * 9
BASELINES = ("baseline", "baseline+allocator")
# how the network is built, items per batch, frames per clip, GFLOP per item of 256 x 128 (multiply-adds count twice)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, tuple[int, ...], float]] = {
    "i3d": (lambda: build_main_model(model_config(TrainAmemOptions(), 625)), 8, (8,), 24.5),
    "resnet50": (lambda: ARM("resnet50", GROUP_SIZES), 16, (), 7.8),
}


def build(network: str) -> nn.Module:
    """One of `NETWORKS` with random weights and BN statistics."""
    torch.manual_seed(0)
    built = NETWORKS[network][0]()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return built


def make(network: str, method: str, precision: str, images: Tensor) -> Callable[[], None]:
    built = build(network)
    engine = baseline_engine(built, precision) if method in BASELINES else prepare(built, CPU, precision, method)

    def work() -> None:
        engine(images)

    return work


def make_convolution(precision: str) -> Callable[[], None]:
    """The ceiling: one convolution of `CONVOLUTION_FLOP`."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(32, 256, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def work() -> None:
        F.conv2d(x, weight, padding=1)

    return work


def run(network: str, runs: int) -> dict[str, Any]:
    """`items` per batch, and for each method `wall` and `cpu` seconds.

    `of_ceiling` is the wall clock of one large convolution with the same FLOP, as a fraction of the method's.
    """
    _, items, frames, gflop = NETWORKS[network]
    torch.manual_seed(0)
    images = torch.randint(256, (items, *frames, 256, 128, 3), dtype=torch.uint8)
    engines = ["eager", "torch"] + ["openvino"] * (importlib.util.find_spec("openvino") is not None)
    methods = {
        f"{name} {precision}": Method(make, (network, name, precision, images), allocator=name != "baseline")
        for precision in ("fp32", "bf16")
        for name in (*BASELINES, *engines)
    }
    ceilings = {precision: Method(make_convolution, (precision,)) for precision in ("fp32", "bf16")}
    found = take_turns(methods | ceilings, runs, torch.get_num_threads())
    work = items * gflop * 1e9 / CONVOLUTION_FLOP
    rows = {}
    for name in methods:
        wall, cpu = found[name].medians
        rows[name] = {"wall": wall, "cpu": cpu, "of_ceiling": work * found[name.split()[1]].medians[0] / wall}
    return {"items": items, "shape": list(images.shape[1:]), "runs": runs, "methods": rows}
