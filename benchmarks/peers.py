"""The code of other projects that the benchmarks run, from a folder with their checkouts.

    git clone https://github.com/piergiaj/pytorch-i3d FOLDER/pytorch-i3d
    git clone https://github.com/KaiyangZhou/deep-person-reid FOLDER/deep-person-reid
    (cd FOLDER/deep-person-reid/torchreid/metrics/rank_cylib && python setup.py build_ext --inplace)  # needs cython

`Peers(folder)` finds what is there; without a checkout its rows are left out, and the page says so.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from amem_cli.models.i3d import MaxPoolSame, Unit3D
from amem_cli.runtime.engine import autocast

CPU = torch.device("cpu")
I3D = "pytorch-i3d"


def peer_i3d(folder: str) -> ModuleType | None:
    """The module of piergiaj's I3D, or None without a checkout."""
    file = Path(folder, I3D, "pytorch_i3d.py")
    if not folder or not file.is_file():
        return None
    return _module("pytorch_i3d", file)


def _module(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def torchreid_rank(folder: str = "") -> Any:
    """torchreid's module of CMC and mAP, from a checkout or as installed. Raises `ImportError` if there is none."""
    checkout = Path(folder, "deep-person-reid")
    if folder and (checkout / "torchreid/metrics/rank.py").is_file():
        for name in ("torchreid", "torchreid.metrics", "torchreid.metrics.rank_cylib"):
            package = ModuleType(name)  # without its __init__, which imports much more than the evaluators need
            package.__path__ = [str(checkout.joinpath(*name.split(".")))]
            sys.modules[name] = package
        return importlib.import_module("torchreid.metrics.rank")
    try:
        return importlib.import_module("torchreid.metrics.rank")
    except ModuleNotFoundError:
        return importlib.import_module("torchreid.reid.metrics.rank")  # the fork in the package index


class _WithoutTemporalPadding(nn.Module):
    """The peer's pooling, without the output that its padding behind the last frame adds."""

    def __init__(self, pool: nn.Module):
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)[:, :, : x.shape[2] - 1]


def with_peer_modules(network: nn.Module, i3d: ModuleType) -> nn.Module:
    """`network` with the convolution units and poolings of its I3D blocks replaced by the peer's, with our weights.

    The strides stay those of re-identification, so both compute the same. Works in place.
    """
    for name, child in network.named_children():
        if isinstance(child, Unit3D):
            conv = child.conv3d
            unit = i3d.Unit3D(conv.in_channels, conv.out_channels, list(conv.kernel_size), conv.stride)
            unit.load_state_dict(child.state_dict())
            setattr(network, name, unit.train(child.training))
        elif isinstance(child, MaxPoolSame):
            pool: nn.Module = i3d.MaxPool3dSamePadding(list(child.kernel), child.stride, padding=0)
            setattr(network, name, _WithoutTemporalPadding(pool) if child.valid[0] else pool)
        else:
            with_peer_modules(child, i3d)
    return network


class ChannelsFirst(torch.overrides.TorchFunctionMode):
    """Ignores requests for the channels-last format."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(args[0]) if function is Tensor.contiguous else function(*args, **(kwargs or {}))


def eager_engine(network: nn.Module, precision: str) -> Callable[[Tensor], Tensor]:
    """`network` in eager PyTorch with channels-first maps: uint8 (B, [T,] H, W, 3) -> float32, as `prepare`."""
    network = network.eval()

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        with ChannelsFirst(), autocast(precision, CPU):
            return network((images.movedim(-1, 1).float() / 255).contiguous()).float()

    return run
