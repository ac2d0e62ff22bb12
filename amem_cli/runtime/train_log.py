"""The log of a training (metrics.jsonl, trackers, validations, sample pictures), and the end of each step."""

import importlib
import io
import math
import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torchvision.utils import make_grid, save_image

from amem_cli.artifacts import atomic
from amem_cli.artifacts.metrics_log import append_metrics, recorded_seconds
from amem_cli.artifacts.paths import sample_path
from amem_cli.errors import UsageError
from amem_cli.runtime.schedule import validation_due
from amem_cli.runtime.stop import StopRequest
from amem_cli.runtime.train_state import Run, TrainState, save_state


class Tracker(NamedTuple):
    """What a tracker does with figures by name and their step, with a picture, and at the end."""

    write: Callable[[dict[str, float], int], object]
    close: Callable[[], object]
    picture: Callable[[str, Any, int], object] = lambda *_: None


class TrainLog:
    """Writes metrics.jsonl, one JSON object per line, in the main process; use it as a context.

    A line has `step` (from 0), `epoch`, `seconds` (over all runs of this training) and the figures.
    """

    def __init__(self, run: Run, state: TrainState):
        self.run, self.state = run, state
        self._began = time.monotonic() - recorded_seconds(run.metrics_file)
        self._trackers = open_trackers(run, state.step) if run.processes.is_main else {}

    def __enter__(self) -> "TrainLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._to_trackers(lambda tracker: tracker.close())

    def add(self, losses: dict[str, float]) -> None:
        """Add the losses of one step to the means of the next line."""
        self.state.count += 1
        for name, value in losses.items():
            self.state.sums[name] = self.state.sums.get(name, 0.0) + value

    def write_means(self) -> None:
        """Write the means since the last call, over all processes."""
        everywhere = self.run.processes.gather(self.state.sums)
        total = self.state.count * len(everywhere)
        self.state.metrics = {name: sum(sums[name] for sums in everywhere) / total for name in self.state.sums}
        self.state.sums, self.state.count = {}, 0
        self.write(self.state.metrics)

    def write(self, figures: dict[str, Any]) -> None:
        """Write one line; a nested object groups figures, e.g. "validation" or "gradient_norms"."""
        if not self.run.processes.is_main:
            return
        seconds = round(time.monotonic() - self._began, 3)
        position = {"step": self.state.step, "epoch": self.state.epoch, "seconds": seconds}
        append_metrics(self.run.metrics_file, position | figures)
        groups = {name: value if isinstance(value, dict) else {"": value} for name, value in figures.items()}
        flat = {f"{name}/{key}".rstrip("/"): value for name, group in groups.items() for key, value in group.items()}
        self._to_trackers(lambda tracker: tracker.write(flat, self.state.step))

    def _to_trackers(self, call: Callable[[Tracker], object]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:  # a server that is gone does not stop a training
                del self._trackers[name]
                self.run.progress.warn(f"{name} gets no more figures: {error}")

    def validation(self, metric: str, figures: dict[str, float], *, lower_is_better: bool = False) -> bool:
        """Log a validation. True if `figures[metric]` is the best so far."""
        self.write({"validation": figures})
        value, best = figures[metric], self.state.best.get("value")
        if math.isnan(value) or (best is not None and (value >= best if lower_is_better else value <= best)):
            return False
        position = {"step": self.state.step, "epoch": self.state.epoch}
        self.state.best = {"metric": metric, "value": value} | position | {"figures": figures}
        self.run.progress.log(f"best validation so far: {metric} {value:.4f} after step {self.state.step}")
        return True

    def sample(self, rows: Sequence[torch.Tensor]) -> None:
        """Save `samples/step-000123.png`, with `rows` of images (N, 3, H, W) in [0, 1]; in the main process only."""
        grid = make_grid(torch.cat([images.detach().float().clamp(0, 1).cpu() for images in rows]), nrow=len(rows[0]))
        content = io.BytesIO()
        save_image(grid, content, format="PNG")
        atomic.write_bytes(sample_path(self.run.folder, self.state.step), content.getvalue())
        self._to_trackers(lambda tracker: tracker.picture("validation", grid, self.state.step))


def finish_step(run: Run, state: TrainState, log: TrainLog, stop: StopRequest, *, last_in_epoch: bool) -> None:
    """Count the step; write the log every `log_steps`; save every `save_seconds`, before a validation and at the end.

    Raises `Interrupted` after saving after a signal, or if a next step would exceed the time limit.
    """
    options = run.options
    at_end = last_in_epoch and state.epoch + 1 == options.epochs
    if (state.step + 1) % options.log_steps == 0 or at_end:
        log.write_means()
    state.advance(last_in_epoch)
    stop.measure("step")
    validation_next = validation_due(options, state)
    stopping = stop.requested(validation_next=validation_next, at_end=at_end)
    overdue = time.monotonic() - state.saved > options.save_seconds
    if at_end or stopping or validation_next or run.processes.any(overdue):
        save_state(run, state)
        stop.measure("save")
    if stopping:
        raise stop.interrupted(state.step)


# -- trackers: they get the figures of metrics.jsonl; a resumed training continues its run -----------------------------


def open_trackers(run: Run, step: int) -> dict[str, Tracker]:
    """The trackers of `--log-to` and `--tensorboard`, which get figures from `step` on. Raises `UsageError`."""
    opened = {}
    for name in {run.options.log_to, "tensorboard" if run.options.tensorboard else "none"} - {"none"}:
        try:
            opened[name] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}[name](run, step)
        except Exception as error:  # of many kinds: no login, no server, another version
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise UsageError("--log-to", name, why=reason, remedy=f"Set up {name}, or leave the option out") from error
    return opened


def _tensorboard(run: Run, step: int) -> Tracker:
    """Event files in the training's folder, with the sample pictures."""
    from torch.utils.tensorboard import SummaryWriter

    # a resumed run replaces the steps that the interrupted one wrote after its last saved state
    writer: Any = SummaryWriter(run.folder / "tensorboard", purge_step=step, flush_secs=10)
    add = writer.add_scalar
    return Tracker(lambda figures, step: [add(*item, step) for item in figures.items()], writer.close, writer.add_image)


def _wandb(run: Run, step: int) -> Tracker:
    """A run of the project "amem". It stays in the training's folder unless WANDB_MODE is online."""
    wandb: Any = importlib.import_module("wandb")
    started = wandb.init(
        id=_run_id(run, "wandb", step, lambda: uuid.uuid4().hex[:8]), name=_name(run), dir=run.folder, project="amem",
        mode=os.environ.get("WANDB_MODE", "offline"), config=run.options.fingerprint(), resume="allow",
        settings=wandb.Settings(console="off", silent=True),
    )  # fmt: skip
    return Tracker(lambda figures, step: started.log(figures, step=step), started.finish)


def _mlflow(run: Run, step: int) -> Tracker:
    """A run of the experiment "amem" in the store that MLflow is set up for (MLFLOW_TRACKING_URI)."""
    client: Any = importlib.import_module("mlflow").MlflowClient()

    def create() -> str:
        found = client.get_experiment_by_name("amem")
        experiment = found.experiment_id if found else client.create_experiment("amem")
        run_id = client.create_run(experiment, run_name=_name(run)).info.run_id
        for option, value in run.options.fingerprint().items():
            client.log_param(run_id, option, value)
        return run_id

    run_id = _run_id(run, "mlflow", step, create)
    client.update_run(run_id, status="RUNNING")
    return Tracker(
        lambda figures, step: [client.log_metric(run_id, *figure, step=step) for figure in figures.items()],
        lambda: client.set_terminated(run_id),
    )


def _run_id(run: Run, tracker: str, step: int, create: Callable[[], str]) -> str:
    """The id of the tracker's run, kept in a file. A training that starts at step 0 gets a new one."""
    path = run.folder / f"{tracker}-run.txt"
    if step == 0 or not path.is_file():
        atomic.write_text(path, create() + "\n")
    return path.read_text().strip()


def _name(run: Run) -> str:
    return f"{run.provenance.command} {run.folder.name}"
