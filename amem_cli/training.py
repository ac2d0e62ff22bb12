"""What the three training loops share, and no more: learning rate, running means, stopping, saving and resuming.

The loops themselves are written out in `stages/`.
"""

import contextlib
import signal
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.artifacts.workspace import append_metrics, keep_metrics
from amem_cli.distributed import Processes
from amem_cli.errors import BadData, Interrupted
from amem_cli.options import TrainingOptions
from amem_cli.progress import Progress

if TYPE_CHECKING:
    import torch


def learning_rate(options: TrainingOptions, epoch: int, step: int) -> float:
    """The rate at `epoch` and global `step` (both from 0): multiplied by `lr_factor` every `lr_step` epochs (paper),
    rising linearly over the first `warmup_steps` (D)."""
    rate = options.learning_rate * options.lr_factor ** (epoch // options.lr_step)
    return rate * min(1.0, (step + 1) / options.warmup_steps) if options.warmup_steps else rate


def set_learning_rate(optimizer: "torch.optim.Optimizer", rate: float) -> None:
    """The same rate for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Means:
    """Running means of named values since the last `take`."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, values: "dict[str, torch.Tensor | float]") -> None:
        self._count += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def take(self) -> dict[str, float]:
        means = {name: value / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means


def check_finite(terms: "dict[str, torch.Tensor]", step: int) -> None:
    """Raise `BadData` naming the term and step when a loss is NaN or infinite; saved states stay as they are."""
    bad = [name for name, value in terms.items() if not value.isfinite()]
    if bad:
        why = f"{', '.join(bad)} is not finite"
        remedy = "The last saved state is kept; lower --learning-rate or use --precision fp32, with --resume never"
        raise BadData("loss at step", str(step), why=why, remedy=remedy)


class Run:
    """One training run: its modules and optimisers, where it stands, when it saves, when it stops.

    Use as a context around the loop. SIGINT, SIGTERM and `--time-limit` let the step finish, save the state and raise
    `Interrupted`; a second signal stops at once.
    """

    def __init__(
        self,
        folder: Path,
        options: TrainingOptions,
        provenance: Provenance,
        processes: Processes,
        progress: Progress,
        modules: "dict[str, torch.nn.Module]",
        optimizers: "dict[str, torch.optim.Optimizer]",
    ):
        self.folder, self.options, self.provenance = folder, options, provenance
        self.processes, self.progress = processes, progress
        self.modules, self.optimizers = modules, optimizers
        self.epoch = self.step_in_epoch = self.step = 0
        self._signal = 0
        self._handlers: dict[int, Any] = {}
        self._began = self._saved = time.monotonic()
        self._resume()
        if processes.first:
            keep_metrics(folder / "metrics.jsonl", self.step)
        self._board: Any = None
        if options.tensorboard and processes.first:
            from torch.utils.tensorboard import SummaryWriter

            # steps that a resumed run takes again replace those that the interrupted one wrote
            self._board = SummaryWriter(folder / "tensorboard", purge_step=self.step, flush_secs=10)

    def _resume(self) -> None:
        if self.options.resume == "never":
            if self.processes.first:
                checkpoint.remove_states(self.folder)
            self.processes.wait()
            return
        if self.options.resume == "auto":
            state = checkpoint.newest_state(self.folder, self.progress.warn)
        else:
            state = checkpoint.load(Path(self.options.resume), "amem-state")
        if state is None:
            return
        if not self.options.force:
            self.provenance.check_same("unfinished training", state.path, state.description["provenance"])
        elif self.provenance.differences(state.description["provenance"]):
            return
        position = checkpoint.load_state(state, self.modules, self.optimizers)
        self.epoch, self.step_in_epoch, self.step = position["epoch"], position["step_in_epoch"], position["step"]
        self.progress.say(f"continuing after step {self.step} ({state.path.name})")

    def __enter__(self) -> "Run":
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread: signals are the caller's business
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._board is not None:
            self._board.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            raise KeyboardInterrupt
        self._signal = number

    def step_done(self, last_in_epoch: bool) -> None:
        """Count one step; save or stop when it is time."""
        self.step += 1
        self.step_in_epoch += 1
        if last_in_epoch:
            self.epoch, self.step_in_epoch = self.epoch + 1, 0
        if self.epoch == self.options.epochs:  # type: ignore[attr-defined]
            return
        limit = self.options.time_limit_seconds
        overtime = limit is not None and time.monotonic() - self._began > limit
        if self.processes.any(bool(self._signal) or overtime):
            self.save()
            why = f"stopped after step {self.step}, which is saved"
            raise Interrupted(self._signal or signal.SIGTERM, why=why, remedy="Run the same command again to continue")
        if self.processes.any(time.monotonic() - self._saved > self.options.save_seconds):
            self.save()

    def save(self) -> None:
        """Save the state of this moment (the first process does)."""
        if self.processes.first:
            position = {"epoch": self.epoch, "step_in_epoch": self.step_in_epoch}
            checkpoint.save_state(self.folder, self.step, self.modules, self.optimizers, self.provenance, position)
        self.processes.wait()
        self._saved = time.monotonic()

    def log(self, record: dict[str, Any]) -> None:
        """One line of metrics.jsonl, with the place and the time."""
        if self.processes.first:
            place = {"step": self.step, "epoch": self.epoch, "seconds": round(time.monotonic() - self._began, 3)}
            append_metrics(self.folder / "metrics.jsonl", place | record)
            if self._board is not None:
                for name, value in record.items():
                    for part, scalar in value.items() if isinstance(value, dict) else (("", value),):
                        self._board.add_scalar(f"{name}/{part}" if part else name, scalar, self.step)

    def finished(self) -> None:
        """The artifact is written: the states have served."""
        if self.processes.first:
            checkpoint.remove_states(self.folder)
