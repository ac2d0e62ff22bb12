"""After each optimiser step of a training: log, save, stop."""

import time

from amem_cli.runtime.schedule import validation_due
from amem_cli.runtime.stop import StopRequest
from amem_cli.runtime.train_log import TrainLog
from amem_cli.runtime.train_state import Run, TrainState, save_state


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
