"""One process, or several of torchrun, which stops all of them and reports the cause when one fails."""

import contextlib
import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from amem_cli.errors import SAME_COMMAND, BadData, Interrupted, UsageError
from amem_cli.processes import local_rank, local_world_size, world_size

Item = TypeVar("Item")
TIMEOUT = timedelta(hours=2)  # the main process can work alone for a long time: test images, texture statistics


@dataclass(frozen=True)
class Processes:
    """This process: its `rank` among `world_size`, and its `device`."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's items: every world_size-th, without padding or repetition."""
        return items[self.rank :: self.world_size]

    def require_divisible(self, flag: str, count: int, least: int = 1) -> None:
        """Raise `UsageError` unless `count` items of a batch give every process the same number, at least `least`."""
        if count % self.world_size or count // self.world_size < least:
            why = f"cannot be divided among {self.world_size} processes with at least {least} each"
            remedy = f"Use a multiple of {self.world_size}, at least {least * self.world_size}"
            raise UsageError(flag, str(count), why=why, remedy=remedy)

    def require_images(self, count: int, dataset: str) -> None:
        """Raise `BadData` for fewer than two training images, or for a process without one."""
        if count < (least := max(2, self.world_size)):
            why, remedy = f"{count} found, at least {least} are needed", ""
            if self.world_size > 1:
                why, remedy = f"{why} for {self.world_size} processes", "Start fewer processes, or add images"
            raise BadData("training images", dataset, why=why, remedy=remedy)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every process in rank order, in every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """True in every process if `flag` is true in one."""
        return any(self.gather(flag))

    def broadcast_buffers(self, module: torch.nn.Module) -> None:
        """Copy the main process's buffers, e.g. BN's running statistics, to all processes."""
        if self.world_size > 1:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, 0)

    def data_parallel(self, module: Any, *, broadcast_buffers: bool = True) -> Any:
        """`module` in DistributedDataParallel, which averages gradients over the processes; `module` itself in one.

        Set `broadcast_buffers` to false if the module runs forward twice before a backward pass.
        """
        if self.world_size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        how: dict[str, Any] = {} if broadcast_buffers else {"broadcast_buffers": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # its successor does not exist in torch 2.10
            parallel = DistributedDataParallel(module, device_ids=devices, **how)
        # a warning about speed only: torch stores gradients of channels-last 1x1 convolutions in another order
        warnings.filterwarnings("ignore", message="Grad strides do not match")
        return parallel

    def synchronise_batch_norm(self, module: torch.nn.Module) -> torch.nn.Module:
        """`module` with BN over the batches of all processes; unchanged in one. Raises `UsageError` on a CPU."""
        if self.world_size == 1:
            return module
        if self.device.type != "cuda":
            raise UsageError("--sync-batchnorm", why="synchronised BN needs CUDA devices", remedy="Leave it out")
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)


def unwrapped(module: Any) -> Any:
    """The module inside DistributedDataParallel, or `module` itself."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def gradient_sync(module: torch.nn.Module, enabled: bool) -> AbstractContextManager[Any]:
    """Forward and backward inside: average the gradients over the processes only if `enabled` (`no_sync` otherwise)."""
    if enabled or not isinstance(module, DistributedDataParallel):
        return contextlib.nullcontext()
    return module.no_sync()


def choose_device(device: str) -> torch.device:
    """The device for `--device` auto, cpu, cuda or cuda:N; under torchrun each local process has its own GPU.

    Raises `UsageError` if there is no such device, or fewer than local processes.
    """
    local = local_rank()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("--device", device, why="there is no CUDA device", remedy="Use --device cpu or auto")
    chosen = torch.device(f"cuda:{local}" if device == "cuda" else device)
    if chosen.type == "cuda":
        count, local_processes = torch.cuda.device_count(), local_world_size()
        if local_processes > (1 if device != "cuda" else count):
            why = f"{local_processes} processes need a GPU each, and this machine has {count}"
            raise UsageError("--device", device, why=why, remedy=f"Use --device cuda and --nproc-per-node {count}")
        if chosen.index >= count:
            raise UsageError("--device", device, why=f"there are {count} CUDA devices", remedy="Use a lower number")
        torch.cuda.set_device(chosen)
        _make_cuda_reproducible()
    return chosen


def _make_cuda_reproducible() -> None:
    """Let two runs on one kind of GPU give the same bytes, and fp32 mean float32, not TF32 (10 bits of mantissa)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextlib.contextmanager
def process_group(device: str = "auto") -> Iterator[Processes]:
    """The processes of this run: one, or those that torchrun started (nccl on CUDA, gloo on a CPU).

    Raises `UsageError` as `choose_device`, and `Interrupted` when another process ended during communication.
    """
    chosen = choose_device(device)
    count = world_size()
    if count == 1:
        yield Processes(0, 1, chosen)
        return
    _end_with_parent()
    try:
        with _output_to_stderr():
            torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
        yield Processes(torch.distributed.get_rank(), count, chosen)
    except RuntimeError as error:
        of_communication = (torch.distributed.DistError, torch.distributed.DistBackendError)
        if not (isinstance(error, of_communication) or "gloo" in str(error).lower() or "Connection" in str(error)):
            raise
        why = f"another process ended ({str(error).splitlines()[0].rstrip('.')}); saved work is kept"
        raise Interrupted(signal.SIGTERM, why=why, remedy=SAME_COMMAND) from error
    # not after an error: nccl could wait here for a process that has ended
    torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Send the standard output of libraries in C++ to standard error: gloo of torch 2.10 reports its connections."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _end_with_parent() -> None:
    """Get SIGTERM when torchrun dies, also by SIGKILL: otherwise its processes would continue (Linux only)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
