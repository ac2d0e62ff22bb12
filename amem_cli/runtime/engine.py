"""Inference engines: `prepare` turns a trained network into a fast function of uint8 batches.

The engines differ in speed only. Their outputs agree with eager float32 to 1e-5 in cosine distance (bf16: 1e-4):

    eager     the network as it was trained, in channels-last format, with autocast for bf16
    torch     batch normalisation folded into the convolutions; in bf16 the maps stay bf16 between layers
    openvino  the network compiled by OpenVINO, CPU only (`python -m pip install "amem[cpu]"`)
"""

import copy
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import TypeVar

import torch
from torch import Tensor, nn

from amem_cli.errors import UsageError, is_installed, require_package
from amem_cli.runtime.folding import fold

CPU = torch.device("cpu")
Module = TypeVar("Module", bound=torch.nn.Module)


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "fp32" or "bf16"; "auto" is bf16 on a GPU that has it, else fp32. Raises `UsageError` for bf16 on one that has
    not."""
    lacking = device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device)[0] < 8
    if precision == "bf16" and lacking:
        raise UsageError("--precision", precision, why="this GPU cannot compute in it", remedy="Use --precision fp32")
    if precision == "auto":
        return "bf16" if device.type == "cuda" and not lacking else "fp32"
    return precision


def resolve_engine(engine: str, device: torch.device, precision: str, *, clips: bool) -> str:
    """ "eager", "torch" or "openvino". "auto" is eager on CUDA; on a CPU it is openvino if installed, otherwise torch.

    For clips in bf16 on a CPU "auto" is torch, which was never slower (`docs/PERFORMANCE.md`). No timing decides, so
    that a rerun uses the same engine. Raises `InputMissing` without OpenVINO, `UsageError` for OpenVINO on CUDA.
    """
    if engine == "auto":
        if device.type == "cuda":
            return "eager"
        return "openvino" if is_installed("openvino") and not (clips and precision == "bf16") else "torch"
    if engine == "openvino":
        if device.type != "cpu":
            why = f"OpenVINO runs on the CPU here, not on {device}"
            raise UsageError("--engine", engine, why=why, remedy="Use --engine auto, or --device cpu")
        require_package("openvino", "--engine")
    return engine


def engine_version(engine: str) -> str:
    """The engine as recorded in provenance: "torch", "eager" or e.g. "openvino 2026.1.0"."""
    return f"openvino {metadata.version('openvino')}" if engine == "openvino" else engine


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16, or none for "fp32"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


class Engine:
    """A network ready to run: uint8 (B, H, W, 3) or (B, T, H, W, 3) -> float32 (B, ...), both on the host.

    When a batch does not fit into GPU memory, the engine warns and halves the batch size, also for later calls:
    `batch_limit`, 0 for no limit. Raises `UsageError` when a single item does not fit.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], warn: Callable[[str], None]):
        self._run, self._warn, self.batch_limit = run, warn, 0

    def __call__(self, images: Tensor) -> Tensor:
        while True:
            size = self.batch_limit or len(images)
            try:
                return torch.cat([self._run(batch) for batch in images.split(size)])
            except torch.OutOfMemoryError as error:
                if size <= 1:
                    why = f"one item of shape {tuple(images.shape[1:])} does not fit into memory ({error})"
                    remedy = "Use a smaller --image-size, --precision bf16 or --device cpu"
                    raise UsageError("--batch-size", why=why, remedy=remedy) from error
            # outside the handler, whose traceback keeps the tensors of the failed batch alive
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.batch_limit = size // 2
            self._warn(f"out of memory with batches of {size}. Continuing with {self.batch_limit}; see --batch-size")


def prepare(
    network: nn.Module, device: torch.device, precision: str, engine: str, warn: Callable[[str], None] = warnings.warn
) -> Engine:
    """A copy of `network` in eval mode as an `Engine` on `device`; `network` itself does not change.

    `network` takes pixels in [0, 1], (B, 3, H, W) or (B, 3, T, H, W). `precision` is "fp32" or "bf16", `engine` a
    result of `resolve_engine`. Raises `UsageError` when engine "torch" cannot trace the network.
    """
    network = copy.deepcopy(network).to(device).eval().requires_grad_(False)
    if engine == "openvino":
        return Engine(_openvino(network, precision), warn)
    if engine == "torch":
        network = fold(network, torch.bfloat16 if precision == "bf16" else torch.float32)
        precision = "fp32"  # no autocast: the folded network casts by itself

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        with autocast(precision, device):
            return network(as_pixels(images, device)).float().cpu()

    return Engine(run, warn)


def _openvino(network: nn.Module, precision: str) -> Callable[[Tensor], Tensor]:
    """`network` compiled by OpenVINO, once for each image or clip size, for any batch size."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled: dict[torch.Size, openvino.CompiledModel] = {}

    def run(images: Tensor) -> Tensor:
        size = images.shape[1:]
        if size not in compiled:
            example = as_pixels(torch.zeros((2, *size), dtype=torch.uint8), CPU)
            batch = ({0: torch.export.Dim("batch")},)
            exported = torch.export.export(network, (example,), dynamic_shapes=batch)
            compiled[size] = core.compile_model(openvino.convert_model(exported), "CPU", settings)
        return torch.from_numpy(compiled[size](as_pixels(images, CPU).contiguous().numpy())[0].copy())

    return run


def as_pixels(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 (B, ..., H, W, 3) on the host -> float32 in [0, 1] (B, 3, ..., H, W) on `device`, channels last in memory.

    (B, H, W, 3) are images, (B, T, H, W, 3) clips. The bytes are copied to the device and converted there.
    """
    return images.to(device, non_blocking=True).movedim(-1, 1).float().div_(255)


def device_of(module: torch.nn.Module) -> torch.device:
    """The device of a module's parameters."""
    return next(module.parameters()).device


def evaluation_copy(module: Module) -> Module:
    """A copy in eval mode, so that evaluation changes neither mode nor BN statistics of a network in training."""
    return copy.deepcopy(module).eval()
