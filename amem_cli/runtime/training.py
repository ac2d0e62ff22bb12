"""What the three training loops share, and no more: learning rate, running means, stopping, saving and resuming.

The loops themselves are written out in `stages/`.
"""

import contextlib
import io
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from amem_cli.artifacts import atomic, checkpoint
from amem_cli.artifacts.metrics_log import append_metrics, keep_metrics, keep_samples, recorded_seconds
from amem_cli.artifacts.paths import sample_path
from amem_cli.artifacts.provenance import Provenance, versions
from amem_cli.errors import BadData, Interrupted, Terminated
from amem_cli.options import TrainingOptions
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Progress

if TYPE_CHECKING:
    import torch
    from PIL import Image


def learning_rate(options: TrainingOptions, epoch: int, step: int) -> float:
    """The rate at `epoch` and global `step` (both from 0): multiplied by `lr_factor` every `lr_step` epochs (paper),
    rising linearly over the first `warmup_steps` (D)."""
    rate = options.learning_rate * options.lr_factor ** (epoch // options.lr_step)
    return rate * min(1.0, (step + 1) / options.warmup_steps) if options.warmup_steps else rate


def set_learning_rate(optimizer: "torch.optim.Optimizer", rate: float) -> None:
    """This rate for all parameters, times the `factor` of a group that has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)


def batches_of_steps(batches: int, accumulate: int) -> list[int]:
    """How many of an epoch's `batches` each step of the optimiser takes: `accumulate`, the last one what is left.

    >>> batches_of_steps(7, 3)
    [3, 3, 1]
    """
    return [min(accumulate, batches - first) for first in range(0, batches, accumulate)]


def as_numbers(terms: "dict[str, torch.Tensor]") -> dict[str, float]:
    """Scalar tensors as numbers on the host, in one transfer: the host waits for the device once, not for each."""
    import torch

    return dict(zip(terms, torch.stack([value.detach().float() for value in terms.values()]).tolist(), strict=True))


class Means:
    """Running means of named values since the last `take`."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, values: dict[str, float]) -> None:
        self._count += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def take(self) -> dict[str, float]:
        means = {name: value / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means

    def average(self, processes: Processes) -> None:
        """Replace the sums by their means over the processes, which all call this."""
        everybody = processes.gather(self._sums)
        self._sums = {name: sum(sums[name] for sums in everybody) / processes.world_size for name in self._sums}

    def as_json(self) -> dict[str, Any]:
        return {"sums": self._sums, "count": self._count}

    def restore(self, saved: dict[str, Any]) -> None:
        self._sums, self._count = dict(saved["sums"]), saved["count"]


def check_finite(terms: dict[str, float], step: int) -> None:
    """Raise `BadData` naming the term and step when a loss is NaN or infinite; saved states stay as they are."""
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if bad:
        why = f"{', '.join(bad)} is not finite"
        remedy = "The last saved state is kept; lower --learning-rate or use --precision fp32, with --resume never"
        raise BadData("loss at step", str(step), why=why, remedy=remedy)


class Run:
    """One training run: its modules and optimisers, where it stands, when it saves, when it stops.

    Use as a context around the loop. SIGINT, SIGTERM and `--time-limit` let the step finish, save the state and raise
    `Interrupted`; a second signal stops at once. A look at held-out people is broken off: the state is saved before it.
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
        best_file: Path | None = None,
    ):
        """`best_file` is where the stage keeps the `best` weights of `--validate`; one of an abandoned run goes."""
        self.folder, self.options, self.provenance = folder, options, provenance
        self.processes, self.progress = processes, progress
        self.modules, self.optimizers = modules, optimizers
        self.epoch = self.step_in_epoch = self.step = 0
        self.metrics: dict[str, float] = {}  # the last means that were logged
        self.best: dict[str, Any] = {}  # the best validation so far: metric, value, step, epoch, figures
        self._means = Means()
        self._slowest_step = self._slowest_look = self._save_seconds = 0.0
        self._signal, self._looking = 0, False
        self._handlers: dict[int, Any] = {}
        self._began = self._saved = self._stepped = time.monotonic()
        if processes.is_main:
            atomic.require_free_space(folder, 3 * _state_bytes(modules))  # two states and the one being written
        self._resume()
        if best_file is not None:
            self._check_best(best_file)
        if processes.is_main:
            keep_metrics(folder / "metrics.jsonl", self.step)
            keep_samples(folder, self.step)
        self._seconds_before = recorded_seconds(folder / "metrics.jsonl")  # of the runs that this one continues
        self._board: Any = None
        if options.tensorboard and processes.is_main:
            from torch.utils.tensorboard import SummaryWriter

            # steps that a resumed run takes again replace those that the interrupted one wrote
            self._board = SummaryWriter(folder / "tensorboard", purge_step=self.step, flush_secs=10)

    def _resume(self) -> None:
        if self.options.resume == "never":
            if self.processes.is_main:
                checkpoint.remove_states(self.folder)
            self.processes.barrier()
            return
        if self.options.resume == "auto":
            state = checkpoint.newest_state(self.folder, self.progress.warn)
        else:
            state = checkpoint.load(Path(self.options.resume), "amem-state")
        if state is None:
            return
        if not self.options.force:
            self.provenance.check_same("unfinished training", state.path, state.description["provenance"])
        elif differences := self.provenance.differences(state.description["provenance"]):
            self.progress.warn(f"{state.path} is of other options or inputs ({'; '.join(differences)}): starting anew")
            return
        position = checkpoint.load_state(state, self.modules, self.optimizers)
        self.epoch, self.step_in_epoch, self.step = position["epoch"], position["step_in_epoch"], position["step"]
        self.metrics = position["metrics"]
        self.best = position.get("best", {})
        # sums of each process; a state of an earlier version or of another number of them has those of the first
        means = position.get("means_of_processes", [])
        of_this = means[self.processes.rank] if len(means) == self.processes.world_size else None
        self._means.restore(of_this or position["means"])
        if differences := self._machine_differences(position["machine"]):
            self.progress.warn(f"the result will not be bit by bit that of an uninterrupted run: {differences}")
        self.progress.log(f"continuing after step {self.step} ({state.path.name})")

    def _check_best(self, best_file: Path) -> None:
        if not self.best and self.processes.is_main:
            best_file.unlink(missing_ok=True)
        elif self.best and not best_file.is_file():
            self.progress.warn(f"{best_file} is gone: the best weights are looked for anew from here")
            self.best = {}

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
        at_once = self._signal or self._looking
        self._signal = number
        if at_once:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def goes_on(self, look: Callable[[], None]) -> bool:
        """Whether there is an epoch to come. `look` is called before, where `--validate` wants a look at the held-out
        training people after the epoch that ended here; one that was broken off is taken again by a resumed run."""
        if self._look_is_due():
            began = time.monotonic()
            self._looking = True
            try:
                if self._signal:
                    raise Terminated
                look()
            except (KeyboardInterrupt, Terminated):
                raise self._stopped("a signal") from None
            finally:
                self._looking = False
            self._stepped = time.monotonic()
            self._slowest_look = max(self._slowest_look, self._stepped - began)
        return self.epoch < self.options.epochs  # type: ignore[attr-defined]

    def _look_is_due(self) -> bool:
        options = self.options
        if not options.validate or self.step_in_epoch or not self.epoch:
            return False
        return self.epoch % options.validate_epochs == 0 or self.epoch == options.epochs  # type: ignore[attr-defined]

    def _stopped(self, by: str) -> Interrupted:
        command = f"amem {self.provenance.command}"
        why = f"stopped by {by} after step {self.step}, which is saved"
        remedy = f"Run the same {command} command again to continue"
        return Interrupted(self._signal or signal.SIGTERM, why=why, remedy=remedy)

    def step_done(self, last_in_epoch: bool) -> None:
        """Count one step; save or stop when it is time."""
        self.step += 1
        self.step_in_epoch += 1
        if last_in_epoch:
            self.epoch, self.step_in_epoch = self.epoch + 1, 0
        now = time.monotonic()
        self._slowest_step = max(self._slowest_step, now - self._stepped)
        if self.epoch == self.options.epochs:  # type: ignore[attr-defined]
            self.save()
            return
        look_is_due, limit = self._look_is_due(), self.options.time_limit_seconds
        to_come = self._slowest_step + (self._slowest_look if look_is_due else 0) + self._save_seconds
        overtime = limit is not None and now - self._began + to_come > limit
        stop = self.processes.any(bool(self._signal) or overtime)
        if stop or look_is_due or self.processes.any(now - self._saved > self.options.save_seconds):
            self.save()
        if stop:
            raise self._stopped("a signal" if self._signal else f"--time-limit {self.options.time_limit}")
        self._stepped = time.monotonic()

    def save(self) -> None:
        """Save the state of this moment (the first process does)."""
        began = time.monotonic()
        means = self.processes.gather(self._means.as_json())
        if self.processes.is_main:
            position = {
                "epoch": self.epoch,
                "step_in_epoch": self.step_in_epoch,
                "metrics": self.metrics,
                "best": self.best,
                "means": means[0],
                "means_of_processes": means,
                "machine": self._machine(),
            }
            checkpoint.save_state(self.folder, self.step, self.modules, self.optimizers, self.provenance, position)
        self.processes.barrier()
        self._saved = time.monotonic()
        self._save_seconds = self._saved - began

    def _machine(self) -> dict[str, Any]:
        """What decides the order of sums: with another one a resumed run is right, but not the same bit by bit."""
        import torch

        device = self.processes.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        return {"device": name, "threads": torch.get_num_threads(), "processes": self.processes.world_size} | {
            key: value for key, value in versions().items() if key in ("torch", "numpy", "pillow")
        }

    def _machine_differences(self, before: dict[str, Any]) -> str:
        now = self._machine()
        return ", ".join(
            f"{key} {before.get(key)} before, {now[key]} now" for key in now if now[key] != before.get(key)
        )

    def add(self, terms: dict[str, float]) -> None:
        """Add the terms of one batch to the means that the next line of metrics.jsonl tells."""
        self._means.add(terms)

    def log_means(self) -> None:
        """One line of metrics.jsonl: the means since the last one, over all processes (which all call this)."""
        self._means.average(self.processes)
        self.metrics = self._means.take()
        self.log(self.metrics)

    def log(self, record: dict[str, Any]) -> None:
        """One line of metrics.jsonl, with the place and the time."""
        if self.processes.is_main:
            seconds = round(self._seconds_before + time.monotonic() - self._began, 3)
            place = {"step": self.step, "epoch": self.epoch, "seconds": seconds}
            append_metrics(self.folder / "metrics.jsonl", place | record)
            if self._board is not None:
                for name, value in record.items():
                    for part, scalar in value.items() if isinstance(value, dict) else (("", value),):
                        self._board.add_scalar(f"{name}/{part}" if part else name, scalar, self.step)

    def validated(self, metric: str, figures: dict[str, float], *, lower_is_better: bool = False) -> bool:
        """Log the figures of a look; whether `figures[metric]` is the best so far, so that `best` is written."""
        self.log({"validation": figures})
        value, best = figures[metric], self.best.get("value")
        if best is not None and (value >= best if lower_is_better else value <= best):
            return False
        self.best = {"metric": metric, "value": value, "step": self.step, "epoch": self.epoch} | {"figures": figures}
        self.progress.log(f"best {metric} on held-out training people so far: {value:.4f} after step {self.step}")
        return True

    def keep_sample(self, picture: "Image.Image") -> None:
        """Write what the model makes of held-out people as `samples/step-000123.png`, and for TensorBoard; call it in
        the first process."""
        content = io.BytesIO()
        picture.save(content, format="PNG")
        atomic.write_bytes(sample_path(self.folder, self.step), content.getvalue())
        if self._board is not None:
            import numpy as np

            self._board.add_image("held-out people", np.asarray(picture), self.step, dataformats="HWC")

    def finished(self) -> None:
        """The artifact is written: the states have served."""
        if self.processes.is_main:
            checkpoint.remove_states(self.folder)


def _state_bytes(modules: "dict[str, torch.nn.Module]") -> int:
    """About what a saved state takes: the weights and Adam's two moments of each."""
    return 3 * sum(tensor.nbytes for module in modules.values() for tensor in module.state_dict().values())
