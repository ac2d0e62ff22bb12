"""One process or several under torchrun, the same code: who am I, on which device, which part of the work is mine.

When one of several processes fails or dies, one line says which, why and how to go on, and all of them end at once.
"""

import contextlib
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from amem_cli.errors import AmemError, Interrupted, Terminated, UsageError

if TYPE_CHECKING:
    import torch


LONGEST_WAIT = timedelta(hours=2)  # while one works alone (held-out images, texture statistics)
GRACE_SECONDS = 2.0  # for the cause to arrive
NOTICE_SECONDS = 10.0  # for a process to notice by itself that another one died; torchrun kills it after 30


class _PeerLost(Exception):
    """A message to the other processes failed: one of them is gone."""


@dataclass(frozen=True)
class Processes:
    """This process among `world_size`: its `rank` and its `device`."""

    rank: int
    world_size: int
    device: "torch.device"

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, items: Sequence[Any]) -> Sequence[Any]:
        """This process's items, every world_size-th: nothing padded, nothing twice."""
        return items[self.rank :: self.world_size]

    def require_divisible(self, flag: str, count: int, least: int = 1) -> None:
        """Raise `UsageError` unless `count` things of a batch give every process the same number, at least `least`."""
        if count % self.world_size or count // self.world_size < least:
            why = f"{count} cannot be shared among {self.world_size} processes with {least} or more each"
            raise UsageError(
                flag, why=why, remedy=f"Use a multiple of {self.world_size}, at least {least * self.world_size}"
            )

    def barrier(self) -> None:
        """Return when every process has come here."""
        if self.world_size > 1:
            import torch.distributed

            with _talking():
                torch.distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every process, in their order; every process gets the list."""
        if self.world_size == 1:
            return [value]
        import torch.distributed

        values: list[Any] = [None] * self.world_size
        with _talking():
            torch.distributed.all_gather_object(values, value)
        return values

    def average_gradients(self, parameters: "Sequence[torch.nn.Parameter]") -> None:
        """Replace every gradient by its mean over the processes, in one message.

        In place of DistributedDataParallel: gradients of each optimiser's own parameters are averaged where the loop
        says so, which suits two optimisers that fight and terms whose gradients are measured alone; no wrapper changes
        the names of the weights, the sum is made in one order, and a run with one process is the same code. What is
        lost is that messages do not overlap with the backward pass: some milliseconds a step at 17 million weights.
        """
        if self.world_size == 1:
            return
        import torch
        import torch.distributed

        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with _talking():
            torch.distributed.all_reduce(flat)
        flat /= self.world_size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def share_statistics(self, module: "torch.nn.Module") -> None:
        """Give every process the first one's buffers (batch norm's running statistics), which are those that are saved.

        They play no part in a training step, so this changes nothing but what the processes would infer.
        """
        if self.world_size == 1:
            return
        import torch.distributed

        with _talking():
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, 0)

    def synchronise_batch_norm(self, module: "torch.nn.Module") -> "torch.nn.Module":
        """`module` with batch norm over the images of all processes (`--sync-batchnorm`); itself in one process.

        Raises `UsageError` on a CPU, where torch has no such layer.
        """
        if self.world_size == 1:
            return module
        if self.device.type != "cuda":
            why = "synchronised batch norm needs CUDA devices"
            remedy = "Leave it out, or use one process, whose batch is whole"
            raise UsageError("--sync-batchnorm", why=why, remedy=remedy)
        import torch

        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)

    def any(self, flag: bool) -> bool:
        """Whether any process raised its flag; every process gets the same answer."""
        if self.world_size == 1:
            return flag
        import torch
        import torch.distributed

        value = torch.tensor(int(flag), device=self.device)
        with _talking():
            torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
        return bool(value.item())


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    """Collective calls inside raise `_PeerLost` when another process is gone."""
    try:
        yield
    except RuntimeError as error:  # gloo and nccl have no kinds of their own
        raise _PeerLost(str(error)) from error


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
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(iter(rendezvous("env://", rank, world)))
    fate = _Fate(torch.distributed.PrefixStore("amem", store), rank, world)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    with _sigterm_raises(), fate:
        group = torch.distributed.PrefixStore("group", store)
        with _talking():
            torch.distributed.init_process_group(
                backend, store=group, rank=rank, world_size=world, timeout=LONGEST_WAIT
            )
        yield Processes(rank, world, chosen)
    # after an error the group is left to the end of the process: nccl can wait here for one that died, and the line
    # that says so is yet to be printed
    torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM raises `Terminated` here, so that there is time to say why; training loops have their own handler."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before: Callable | int | None = signal.SIG_DFL
    with contextlib.suppress(ValueError):  # not the main thread: signals are the caller's business
        before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            # after an error it stays ignored: torchrun's own would cut the way out short
            if signal.getsignal(signal.SIGTERM) is terminate:
                signal.signal(signal.SIGTERM, before)


class _Fate:
    """A context for the work of one of several processes: of all that fail together, one tells why.

    The one that fails by itself tells, in its own words and with its rank; where one died without a word, the first
    that notices tells for it. The others end silently with the same exit code.
    """

    def __init__(self, store: Any, rank: int, world: int):
        self.store, self.rank, self.world = store, rank, world
        self.over = threading.Event()

    def __enter__(self) -> None:
        self.store.set(f"process {self.rank}", f"{socket.gethostname()} {os.getpid()}")
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        self.over.set()
        if error is None:
            with contextlib.suppress(RuntimeError):  # the store died with the first process, which was done
                self.store.set(f"done {self.rank}", "")
        if error is None or isinstance(error, SystemExit):
            return
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends everybody when one has failed
        if isinstance(error, _PeerLost | Terminated):
            code, dead = self._look_around()
            if code is None and self._first_to_tell(self.store, code := 128 + signal.SIGTERM):
                raise self._lost(dead, error) from None
            raise SystemExit(code) from None
        code = error.exit_code if isinstance(error, AmemError) else 130 if isinstance(error, KeyboardInterrupt) else 70
        if not self._first_to_tell(self.store, code):
            told, _ = self._look_around()
            raise SystemExit(code if told is None else told) from None
        if isinstance(error, AmemError):
            who = "" if isinstance(error, Interrupted) else f"process {self.rank} of {self.world}: "
            error.args = (f"{who}{error} {_exit_code_in_words(code)}",)

    def _watch(self) -> None:
        """End this process when another one died and the main thread does not notice, as in a wait of nccl's."""
        with contextlib.suppress(RuntimeError):  # the store died with the first process
            store = self.store.clone()  # the main thread may be waiting in the other one
            while not self.over.wait(1.0):
                dead = self._dead(store)
                if not dead or self.over.wait(NOTICE_SECONDS):
                    continue
                code = 128 + signal.SIGTERM
                if self._first_to_tell(store, code):
                    print(f"error: {self._lost(dead, Terminated())}", file=sys.stderr, flush=True)
                os._exit(code)

    def _first_to_tell(self, store: Any, code: int) -> bool:
        try:
            if store.add("told", 1) > 1:
                return False
            store.set("code", str(code))
        except RuntimeError:  # the store died with the first process
            pass
        return True

    def _look_around(self) -> tuple[int | None, list[str]]:
        """The exit code of the process that told why it failed, or None and those that died without a word."""
        end = time.monotonic() + GRACE_SECONDS
        dead: list[str] = []
        with contextlib.suppress(RuntimeError):  # the store died with the first process
            while not dead and time.monotonic() < end:
                dead = self._dead(self.store)
                if self.store.check(["code"]):  # asked last: one that told is dead a moment later
                    return int(self.store.get("code")), []
                time.sleep(0.05)
        return None, dead

    def _dead(self, store: Any) -> list[str]:
        """The processes on this machine that are no more, though they were not done."""
        found = []
        for rank in range(self.world):
            if store.check([f"process {rank}"]) and not store.check([f"done {rank}"]):
                host, process = store.get(f"process {rank}").decode().split()
                if host == socket.gethostname() and not _alive(int(process)):
                    found.append(f"process {rank} of {self.world} ({process} on {host})")
        return found

    def _lost(self, dead: list[str], error: BaseException) -> Interrupted:
        if dead:
            why = f"{' and '.join(dead)} was killed or crashed, so the others stopped; what was saved is kept"
        elif isinstance(error, Terminated):
            why = "SIGTERM; what was saved is kept"
        else:
            lines = str(error).splitlines() or ["no answer"]
            why = f"another process cannot be reached ({lines[0].rstrip('.')}); what was saved is kept"
        remedy = f"Run the same command again to continue: {_command()}"
        error_to_tell = Interrupted(signal.SIGTERM, why=why, remedy=remedy)
        error_to_tell.args = (f"{error_to_tell} {_exit_code_in_words(error_to_tell.exit_code)}",)
        return error_to_tell


def _exit_code_in_words(code: int) -> str:
    """What a script can look for: torchrun has only one exit code for everything."""
    return f"Exit code {code}; torchrun's own is 1."


def _alive(process: int) -> bool:
    """Whether a process of this machine still runs; one that is dead but not waited for does not."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or a system without /proc
        return True


def _command() -> str:
    world = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))
    return f"torchrun --nproc-per-node {world} -m amem_cli {shlex.join(sys.argv[1:])}"
