"""The state of a training between two steps. Random numbers need none: each is keyed by (seed, epoch, index)."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import torch

from amem_cli.artifacts import atomic, checkpoint
from amem_cli.artifacts.metrics_log import keep_metrics, keep_samples
from amem_cli.artifacts.output import PREVIOUS
from amem_cli.artifacts.provenance import Provenance, versions
from amem_cli.errors import DiskError, listing
from amem_cli.options import Schedule
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Progress

Chosen = TypeVar("Chosen", bound=Schedule, covariant=True)


@dataclass(frozen=True)
class Run(Generic[Chosen]):
    """One training. Its networks are not wrapped in DistributedDataParallel; the wrapped ones share the parameters."""

    folder: Path
    options: Chosen
    provenance: Provenance
    processes: Processes
    progress: Progress
    networks: dict[str, torch.nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"


@dataclass
class TrainState:
    """Position and figures of a training; `step` counts optimiser steps over all epochs, about `total` of them."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    total: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # the last logged means
    best: dict[str, Any] = field(default_factory=dict)  # the best validation: metric, value, step, epoch, figures
    sums: dict[str, float] = field(default_factory=dict)  # of losses since the last log, in this process
    count: int = 0  # steps in `sums`
    saved: float = field(default_factory=time.monotonic)  # time of the last save

    def epochs(self, steps_in_epoch: int) -> float:
        """The position in epochs, such as 1.5."""
        return self.epoch + self.step_in_epoch / steps_in_epoch

    def advance(self, last_in_epoch: bool) -> None:
        """Count one step."""
        self.step += 1
        self.step_in_epoch += 1
        if last_in_epoch:
            self.epoch, self.step_in_epoch = self.epoch + 1, 0


def load_state(run: Run, best_file: Path, steps_in: Callable[[int], int]) -> TrainState:
    """The state to start from: the newest undamaged one, that of `--resume PATH`, or a new one. `steps_in(epoch)` is
    the number of steps in an epoch.

    Networks and optimisers get the saved values. Raises `OutputExists` if the saved state is of other options or
    inputs. Prepares the folder: checks free space, sets the files of a finished training aside, removes log lines and
    sample pictures of later steps, and `best_file` (the best validated weights) if the state has no best validation.
    """
    if run.processes.is_main:
        # two states and the one being written, of weights and Adam's two moments, less those that will be replaced
        weights = [tensor for network in run.networks.values() for tensor in network.state_dict().values()]
        there = sum(path.lstat().st_size for path in checkpoint.states(run.folder))
        atomic.require_free_space(run.folder, 9 * sum(tensor.nbytes for tensor in weights) - there)
    state = _restore(run, steps_in) or TrainState()
    if len(steps := set(run.processes.gather(state.step))) > 1:
        why = f"the processes read those of the steps {listing(map(str, sorted(steps)))}"
        raise DiskError("training states", run.folder, why=why, remedy="Every host must read the same folder")
    if state.best and not best_file.is_file():
        run.progress.warn(f"{best_file} is missing: the best weights are selected from the validations after this step")
        state.best = {}
    if run.processes.is_main:
        if state.step == 0:
            set_aside(run.folder)
        if not state.best:
            best_file.unlink(missing_ok=True)
        keep_metrics(run.metrics_file, state.step)
        keep_samples(run.folder, state.step)
    return state


def _restore(run: Run, steps_in: Callable[[int], int]) -> TrainState | None:
    use = partial(_use, run, steps_in)
    if run.options.resume == "never":
        if run.processes.is_main:
            checkpoint.remove_states(run.folder)
        run.processes.barrier()
        return None
    if run.options.resume == "auto":
        return checkpoint.newest_state(run.folder, run.progress.warn, use)
    return use(checkpoint.load(Path(run.options.resume), "amem-state"))


def _use(run: Run, steps_in: Callable[[int], int], saved: checkpoint.Checkpoint) -> TrainState | None:
    """The state in a file; networks and optimisers get its values last. None for other options with `--force`."""
    recorded = saved.description["provenance"]
    if not run.options.force:
        run.provenance.check_same("unfinished training", saved.path, recorded)
    elif differences := run.provenance.differences(recorded):
        run.progress.warn(f"{saved.path} has other options or inputs ({'; '.join(differences)}): starting again")
        return None
    with checkpoint.described_by(saved):
        position = saved.description["position"]
        means = position["means_of_processes"]
        own = means[run.processes.rank if len(means) == run.processes.world_size else 0]
        names = ("epoch", "step_in_epoch", "step", "metrics", "best")
        state = msgspec.convert({name: position[name] for name in names} | own, TrainState)
        steps = steps_in(state.epoch) if state.epoch < run.options.epochs else 1
        if not 0 <= state.epoch <= run.options.epochs or state.step_in_epoch not in range(steps):
            raise ValueError(f"no step {state.step_in_epoch} in epoch {state.epoch}")
        checkpoint.load_state(saved, run.networks, run.optimizers)
        changed = [f"{name} {position['machine'].get(name)} -> {now}" for name, now in _machine(run).items()
                   if position["machine"].get(name) != now]  # fmt: skip
        if changed:
            what = "the result can differ in the last digits from an uninterrupted run"
            run.progress.warn(f"{what} ({', '.join(changed)})")
        run.progress.log(f"resuming after step {state.step} ({saved.path.name})")
        return state


def save_state(run: Run, state: TrainState) -> None:
    """Save state, networks and optimisers, in the main process only; the last two states are kept."""
    means = run.processes.gather({"sums": state.sums, "count": state.count})
    if run.processes.is_main:
        position = {name: getattr(state, name) for name in ("epoch", "step_in_epoch", "total", "metrics", "best")}
        position |= {"means_of_processes": means, "machine": _machine(run)}
        checkpoint.save_state(run.folder, state.step, run.networks, run.optimizers, run.provenance, position)
    run.processes.barrier()
    state.saved = time.monotonic()


def remove_states(run: Run) -> None:
    """Delete the saved states of a finished training, and the files of the one that it replaces."""
    if run.processes.is_main:
        checkpoint.remove_states(run.folder)
        shutil.rmtree(run.folder / PREVIOUS, ignore_errors=True)


def set_aside(folder: Path) -> None:
    """Move best weights, samples and metrics of a finished training into `previous`, unless that is there already."""
    finished = any((folder / f"{model}.safetensors").is_file() for model in ("arm", "tae", "amem"))
    if finished and not (folder / PREVIOUS).exists():
        (folder / PREVIOUS).mkdir()
        for path in (*folder.glob("*-best.safetensors"), folder / "metrics.jsonl", folder / "samples"):
            if path.exists():
                path.rename(folder / PREVIOUS / path.name)


def _machine(run: Run) -> dict[str, Any]:
    """The properties of the machine that determine the order of floating point sums."""
    device = run.processes.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    machine = {"device": name, "threads": torch.get_num_threads(), "processes": run.processes.world_size}
    return machine | {key: value for key, value in versions().items() if key in ("torch", "numpy", "pillow")}
