"""Features and attribute labels: each engine beside the usual eager way, on random weights and frames.

    python benchmarks/extraction.py [--network i3d resnet50] [--precision fp32 bf16] [--batch N] [--runs 5]
                                    [--threads 1] [--size 256x128] [--way NAME ...]

"usual" is the usual eager way: channels-first maps, SAME padding by a padded copy, convolution, BN and ReLU one by one;
bf16 by autocast. "usual+allocator" is the same with the allocator set as `amem` sets it. The others are `--engine
eager|torch|openvino` (the last where it is installed). Every way has a process of its own and takes the same uint8
batch on the host. Runs are interleaved; medians of wall clock and of the process's CPU time are printed,
with the ratio of the latter to the usual way in fp32: on a machine that does other work the wall clock measures that
work. Use one thread there: threads that wait for a core spend CPU time too.
"of ceiling" is the wall clock that their FLOP take in one large convolution, run in turns with the rest.
"""

import argparse
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from interleaved import Way, take_turns

from amem_cli.attributes import GROUP_SIZES
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.models.i3d import MaxPoolSame, Unit3D, same_padding
from amem_cli.runtime.engine import autocast, prepare

CPU = torch.device("cpu")
Engine = Callable[[Tensor], Tensor]


class UsualUnit(nn.Module):
    """`Unit3D` as the common PyTorch port has it."""

    def __init__(self, unit: Unit3D):
        super().__init__()
        self.conv3d, self.bn = unit.conv3d, unit.bn

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(padded(x, self.conv3d.kernel_size, self.conv3d.stride))))


class UsualPool(nn.Module):
    """`MaxPoolSame` as the common PyTorch port has it."""

    def __init__(self, pool: MaxPoolSame):
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(
            padded(x, self.pool.kernel, self.pool.stride, self.pool.valid), self.pool.kernel, self.pool.stride
        )


def padded(x: Tensor, kernel: tuple, stride: tuple, valid: tuple = (False, False, False)) -> Tensor:
    before, extra = same_padding(x.shape[2:], kernel, stride)
    sides = [(0, 0) if v else (b, b + e) for b, e, v in zip(before, extra, valid, strict=True)]
    return F.pad(x, [side for pair in reversed(sides) for side in pair])


def usual(network: nn.Module) -> nn.Module:
    """`network` with its I3D modules replaced by the usual ones; channels-last hints fall away in `usual_way`."""
    for name, child in network.named_children():
        if isinstance(child, Unit3D):
            setattr(network, name, UsualUnit(child))
        elif isinstance(child, MaxPoolSame):
            setattr(network, name, UsualPool(child))
        else:
            usual(child)
    return network


def usual_way(make: Callable[[], nn.Module], precision: str) -> Engine:
    network = usual(make()).eval().requires_grad_(False)

    class ChannelsFirst(torch.overrides.TorchFunctionMode):
        """Takes no notice of the networks' own wish for channels-last maps."""

        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is Tensor.contiguous:
                return function(args[0])
            return function(*args, **(kwargs or {}))

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        with ChannelsFirst(), autocast(precision, CPU):
            return network((images.movedim(-1, 1).float() / 255).contiguous()).float()

    return run


def main_model() -> nn.Module:
    described = {"backbone": "i3d", "branch": "inception", "branch_kernel": "3x3x3"}
    return with_statistics(build_main_model(described | {"appearance": True, "motion": True, "fused": True}))


def arm() -> nn.Module:
    return with_statistics(ARM(50, GROUP_SIZES))


def with_statistics(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return network


def large_convolution(precision: str) -> Callable[[], None]:
    """What nothing here is faster than: a convolution of `CONVOLUTION_FLOP`, alone."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(32, 256, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def work() -> None:
        F.conv2d(x, weight, padding=1)

    return work


# name: how it is made, items a batch, frames a clip, GFLOP an item at 256 x 128 (two for each multiply-add)
CONVOLUTION_FLOP = 2 * 32 * 256 * 32 * 32 * 256 * 9
USUAL = ("usual", "usual+allocator")
NETWORKS = {"i3d": (main_model, 8, (8,), 24.5), "resnet50": (arm, 16, (), 7.8)}


def prepared(network: str, way: str, precision: str, images: Tensor) -> Callable[[], None]:
    """What is timed: `images` once through one of `NETWORKS`."""
    torch.manual_seed(0)
    make = NETWORKS[network][0]
    engine = usual_way(make, precision) if way in USUAL else prepare(make(), CPU, precision, way)

    def work() -> None:
        engine(images)

    return work


def run(
    network: str,
    precisions: Sequence[str] = ("fp32", "bf16"),
    *,
    only: Sequence[str] = (),
    batch: int | None = None,
    runs: int = 5,
    size: tuple[int, int] = (256, 128),
    threads: int | None = None,
) -> dict[str, Any]:
    """Every way of one of `NETWORKS`, interleaved: `items` a run; by way `wall` and `cpu` seconds and `of_ceiling`.

    `only` are names of ways such as "torch fp32"; "usual fp32" always runs.
    """
    _, items, frames, gflop = NETWORKS[network]
    torch.manual_seed(0)
    images = torch.randint(256, (batch or items, *frames, *size, 3), dtype=torch.uint8)
    engines = ["eager", "torch"] + ["openvino"] * (importlib.util.find_spec("openvino") is not None)
    ways = {
        f"{way} {precision}": Way(prepared, (network, way, precision, images), as_in_amem=way != "usual")
        for precision in precisions
        for way in (*USUAL, *engines)
        if not only or f"{way} {precision}" in {*only, "usual fp32"}
    }
    alone = {precision: Way(large_convolution, (precision,)) for precision in precisions}
    found = take_turns(ways | alone, runs, threads or torch.get_num_threads())
    work = len(images) * gflop * 1e9 * size[0] * size[1] / (256 * 128) / CONVOLUTION_FLOP
    rows = {}
    for name in ways:
        wall, cpu = found[name].medians
        best = work * found[name.split()[1]].medians[0]
        rows[name] = {"wall": wall, "cpu": cpu, "of_ceiling": best / wall}
    return {"items": len(images), "shape": list(images.shape[1:]), "runs": runs, "ways": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--way", nargs="+", default=[], help="only these, such as 'torch fp32'; usual fp32 always runs")
    parser.add_argument("--batch", type=int, help="items a batch (8 clips, 16 images)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--size", default="256x128")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    height, width = map(int, options.size.split("x"))
    print(f"torch {torch.__version__}, {options.threads} threads, load {os.getloadavg()[0]:.1f}, {options.runs} runs")
    for name in options.network:
        found = run(
            name,
            options.precision,
            only=options.way,
            batch=options.batch,
            runs=options.runs,
            size=(height, width),
            threads=options.threads,
        )
        usual_seconds = found["ways"][f"usual {options.precision[0]}"]["cpu"]
        print(f"\n{name}, {found['items']} x {tuple(found['shape'])}")
        print(f"{'way':16}{'wall s':>9}{'CPU s':>9}{'items/CPU s':>13}{'ratio':>8}{'of ceiling':>12}")
        for way, row in found["ways"].items():
            figures = f"{found['items'] / row['cpu']:13.2f}{usual_seconds / row['cpu']:8.2f}{row['of_ceiling']:12.0%}"
            print(f"{way:16}{row['wall']:9.2f}{row['cpu']:9.2f}{figures}")


if __name__ == "__main__":
    main()
