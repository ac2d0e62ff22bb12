"""The schedule of a training: learning rate, batches per step, validation; and the losses of a step."""

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from amem_cli.errors import BadData, counted
from amem_cli.options import Schedule, flag_of
from amem_cli.processes import local_world_size
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.engine import resolve_precision
from amem_cli.runtime.memory import free_memory, require_memory
from amem_cli.runtime.progress import Progress

if TYPE_CHECKING:
    from amem_cli.runtime.train_state import TrainState


def learning_rate(options: Schedule, epochs: float, step: int) -> float:
    """The learning rate after `epochs`, such as 1.5, and global `step` (from 0), with a linear warm-up over
    `warmup_steps` (D).

    "step": x `lr_factor` every `lr_step` epochs (P). "cosine": (1 + cos(pi * epochs / --epochs)) / 2 (D; Loshchilov &
    Hutter, ICLR 2017).
    """
    if options.lr_schedule == "cosine":
        rate = options.learning_rate * (1 + math.cos(math.pi * epochs / options.epochs)) / 2
    else:
        rate = options.learning_rate * options.lr_factor ** (int(epochs) // options.lr_step)
    return rate * min(1.0, (step + 1) / options.warmup_steps) if options.warmup_steps else rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all parameter groups; a group with a `factor` gets rate x factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)


def batches_per_step(batches: int, accumulate: int) -> list[int]:
    """The number of batches in each optimiser step of an epoch; the last step gets the rest.

    >>> batches_per_step(7, 3)
    [3, 3, 1]
    """
    return [min(accumulate, batches - first) for first in range(0, batches, accumulate)]


def validation_due(options: Schedule, state: "TrainState") -> bool:
    """True if the epoch that just ended is followed by a validation."""
    if not options.validate or state.step_in_epoch or not state.epoch:
        return False
    return state.epoch % options.validate_epochs == 0 or state.epoch == options.epochs


def mean_losses(batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Scalar losses of the batches of a step, averaged, as numbers; one transfer from the device for all. Raises
    `BadData` with those that are NaN or infinite; the saved state is kept."""
    rows = torch.stack([torch.stack(list(losses.values())) for losses in batches])
    means = dict(zip(batches[0], rows.mean(dim=0).tolist(), strict=True))
    if bad := [name for name, value in means.items() if not math.isfinite(value)]:
        remedy = "Lower --learning-rate or use --precision fp32, with --resume never. The last saved state is kept"
        raise BadData("loss", why=f"{', '.join(bad)} is not finite", remedy=remedy)
    return means


def saved_bytes(network: nn.Module, forward: Callable[[Any, torch.Tensor], Any], *shape: int) -> int:
    """The bytes that autograd keeps of `forward(network, pixels)` in float32 for the backward pass, by a run without
    values. `pixels` have this shape; parameters do not count."""
    empty = copy.deepcopy(network).to("meta")
    parameters = {each.untyped_storage()._cdata for each in empty.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held until the end, so that each has its own key

    def keep(tensor: torch.Tensor) -> None:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(empty, torch.empty(shape, device="meta"))
    return sum(storage.nbytes() for key, storage in kept.items() if key not in parameters)


def require_batch_memory(
    options: Any,
    factors: tuple[str, ...],
    processes: Processes,
    network: nn.Module,
    precision: str,
    forward: Callable[[Any, torch.Tensor], Any] = nn.Module.__call__,
) -> None:
    """Raise `UsageError` on a CPU for batches, of the product of the options `factors`, whose activations do not fit.
    On CUDA the first step says so."""
    if processes.device.type == "cuda":
        return
    clips = hasattr(options, "clip_frames")
    two = (2, 3, *([options.clip_frames] if clips else []), *options.height_width)
    items = math.prod(getattr(options, name) for name in factors) // processes.world_size
    needed = items * saved_bytes(network, forward, *two) // (4 if precision == "bf16" else 2)
    needed *= local_world_size()  # the processes of a machine share its memory
    flag = "clip_frames" if clips else factors[0]
    remedy = "Lower it" + f", {flag_of(factors[0])}" * clips + " or --image-size; --accumulate adds batches up"
    require_memory(flag_of(flag), str(getattr(options, flag)), needed, free_memory(), remedy)


def log_batch_size(
    options: Any, factors: tuple[str, ...], unit: str, steps: list[int], processes: Processes, progress: Progress
) -> None:
    """Log the batch size over all processes, the batches in each of the `steps` of the first epoch (`--accumulate` adds
    them up), and the default precision on CUDA."""
    total, most = math.prod(getattr(options, name) for name in factors), max(steps)
    line = f"batch: {total} {unit}"
    if processes.world_size > 1:
        line += f", {total // processes.world_size} on each of {processes.world_size} processes"
    line += f"; first epoch: {counted(sum(steps), 'batches')}"
    if options.accumulate > 1:
        line += f" in {counted(len(steps), 'optimiser steps')} of {most}, {most * total} {unit}"
        line += f" (the last: {steps[-1]})" if steps[-1] < most else ""
    progress.log(line)
    if options.precision == "auto" and resolve_precision("auto", processes.device) == "bf16":
        progress.log("precision: bf16, distances and losses in float32; --precision fp32 turns it off")
