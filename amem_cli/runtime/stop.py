"""Stopping a training: signals and `--time-limit` let the current step finish; then the state is saved."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from amem_cli.errors import SAME_COMMAND, Interrupted, Terminated
from amem_cli.options import Schedule, parse_duration
from amem_cli.runtime.distributed import Processes

REPEATED = 1.0  # seconds: a queue and a script's trap, or a terminal and `timeout`, send one signal twice
HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)  # the terminal was closed; Windows has no such signal


class StopRequest:
    """A context around a training loop that handles signals and the time limit, which counts from `began`, else now.

    A second signal, or one during `interruptible` work, raises KeyboardInterrupt or `Terminated` at once. The same
    signal again within `REPEATED` seconds is no second one.
    """

    def __init__(self, options: Schedule, processes: Processes, began: float | None = None):
        self._limit_text, self._limit = options.time_limit, parse_duration(options.time_limit)
        self._processes = processes
        self._mark = time.monotonic()
        self._began = self._mark if began is None else began
        self._slowest: dict[str, float] = {"step": 0.0, "save": 0.0, "validation": 0.0}
        self._signal, self._signalled, self._interruptible = 0, 0.0, False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        ignored = signal.getsignal(HANGUP) is signal.SIG_IGN  # by nohup
        for number in {signal.SIGINT, signal.SIGTERM, signal.SIGTERM if ignored else HANGUP}:
            with contextlib.suppress(ValueError):  # only the main thread can handle signals
                self._handlers[number] = signal.signal(number, self._on_signal)
        self._mark = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now, meant = time.monotonic(), signal.SIGTERM if number == HANGUP else number
        repeated = self._signal == meant and now - self._signalled < REPEATED
        again = (self._signal and not repeated) or self._interruptible
        self._signal, self._signalled = meant, now if not repeated else self._signalled
        if again:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def measure(self, work: str) -> None:
        """Record the duration of `work` (step, save or validation) since the last call."""
        now = time.monotonic()
        self._slowest[work] = max(self._slowest[work], now - self._mark)
        self._mark = now

    def requested(self, *, validation_next: bool = False, at_end: bool = False) -> bool:
        """True in every process if one got a signal, or, unless `at_end`, if the next step would exceed the limit."""
        ahead = self._slowest["step"] + self._slowest["save"] + self._slowest["validation"] * validation_next
        late = not at_end and self._limit is not None and time.monotonic() - self._began + ahead > self._limit
        return self._processes.any(bool(self._signal) or late)

    def interrupted(self, step: int) -> Interrupted:
        """The error that ends the run after `step`, whose state is saved."""
        cause = "a signal" if self._signal else f"--time-limit {self._limit_text}"
        why = f"stopped by {cause} after step {step}; the state is saved"
        return Interrupted(self._signal or signal.SIGTERM, why=why, remedy=SAME_COMMAND)

    @contextlib.contextmanager
    def interruptible(self, step: int) -> Iterator[None]:
        """A signal interrupts the work inside, e.g. a validation, at once; the state of `step` is already saved."""
        self._interruptible = True
        try:
            if self._signal:
                raise Terminated
            yield
            self._processes.barrier()  # the others wait for the one that validates: not a part of their next step
        except (KeyboardInterrupt, Terminated):
            raise self.interrupted(step) from None
        finally:
            self._interruptible = False
        self.measure("validation")
