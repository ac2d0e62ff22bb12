"""One process or several under torchrun, the same code: who am I, on which device, which part of the work is mine."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amem_cli.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Processes:
    """This process among `world`: its `rank` and its `device`."""

    rank: int
    world: int
    device: "torch.device"

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """This process's items, every world-th: nothing padded, nothing twice."""
        return items[self.rank :: self.world]

    def require_equal_shares(self, flag: str, count: int, least: int = 1) -> None:
        """Raise `UsageError` unless `count` things of a batch give every process the same number, at least `least`."""
        if count % self.world or count // self.world < least:
            why = f"{count} cannot be shared among {self.world} processes with {least} or more each"
            raise UsageError(flag, why=why, remedy=f"Use a multiple of {self.world}, at least {least * self.world}")

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            import torch.distributed

            torch.distributed.barrier()

    def average_gradients(self, parameters: "Sequence[torch.nn.Parameter]") -> None:
        """Replace every gradient by its mean over the processes, in one message."""
        if self.world == 1:
            return
        import torch
        import torch.distributed

        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Whether any process raised its flag; every process gets the same answer."""
        if self.world == 1:
            return flag
        import torch
        import torch.distributed

        value = torch.tensor(int(flag), device=self.device)
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
        return bool(value.item())


@contextlib.contextmanager
def process_group(device: str = "auto") -> Iterator[Processes]:
    """The process group of this run: one process, or those that torchrun started (nccl on CUDA, gloo on a CPU).

    `device`: auto, cpu, cuda or cuda:N. Raises `UsageError` when CUDA is asked for and there is none.
    """
    import torch

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("--device", device, why="there is no CUDA device", remedy="Use --device cpu or auto")
    if device == "auto":
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    elif device == "cuda":
        device = f"cuda:{local}"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        if chosen.index >= torch.cuda.device_count():
            why = f"there are {torch.cuda.device_count()} CUDA devices"
            raise UsageError("--device", device, why=why, remedy="Use a lower number")
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Processes(0, 1, chosen)
        return
    import torch.distributed

    torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, chosen)
    finally:
        torch.distributed.destroy_process_group()
