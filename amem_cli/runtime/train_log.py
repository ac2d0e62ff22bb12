"""The log of a training (metrics.jsonl, trackers, validations, sample pictures), and the end of each step."""

import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torchvision.utils import make_grid, save_image

from amem_cli.artifacts import atomic
from amem_cli.artifacts.metrics_log import append_metrics, recorded_seconds
from amem_cli.artifacts.paths import sample_path
from amem_cli.runtime.schedule import validation_due
from amem_cli.runtime.stop import StopRequest
from amem_cli.runtime.trackers import Tracker, open_trackers
from amem_cli.runtime.train_state import Run, TrainState, save_state


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
        """Write the means since the last call, over all processes, which all call this."""
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
        """Log the figures of a validation. True if `figures[metric]` is the best so far."""
        self.write({"validation": figures})
        value, best = figures[metric], self.state.best.get("value")
        if best is not None and (value >= best if lower_is_better else value <= best):
            return False
        position = {"step": self.state.step, "epoch": self.state.epoch}
        self.state.best = {"metric": metric, "value": value} | position | {"figures": figures}
        self.run.progress.log(f"best validation so far: {metric} {value:.4f} after step {self.state.step}")
        return True

    def sample(self, rows: Sequence[torch.Tensor]) -> None:
        """Save a sample picture of the validation, `samples/step-000123.png`: one row of images per tensor.

        `rows` are (N, 3, H, W) float in [0, 1], all of the same N, H, W; call it in the main process.
        """
        grid = make_grid(torch.cat([images.detach().float().clamp(0, 1).cpu() for images in rows]), nrow=len(rows[0]))
        content = io.BytesIO()
        save_image(grid, content, format="PNG")
        atomic.write_bytes(sample_path(self.run.folder, self.state.step), content.getvalue())
        self._to_trackers(lambda tracker: tracker.picture("validation", grid, self.state.step))


def finish_step(run: Run, state: TrainState, log: TrainLog, stop: StopRequest, *, last_in_epoch: bool) -> None:
    """Count the step; write the log every `log_steps`; save every `save_seconds`, before a validation and at the end.

    Raises `Interrupted` after saving after a signal, or if the next step would exceed the time limit.
    """
    options = run.options
    at_end = last_in_epoch and state.epoch + 1 == options.epochs
    if (state.step + 1) % options.log_steps == 0 or at_end:
        log.write_means()
    state.advance(last_in_epoch)
    stop.measure("step")
    validation_next = validation_due(options, state)
    stopping = not at_end and stop.requested(validation_next=validation_next)
    overdue = time.monotonic() - state.saved > options.save_seconds
    if at_end or stopping or validation_next or run.processes.any(overdue):
        save_state(run, state)
        stop.measure("save")
    if stopping:
        raise stop.interrupted(state.step)
