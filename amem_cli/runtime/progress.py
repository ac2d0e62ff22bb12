"""Progress of long loops on standard error: a bar on a terminal, plain lines in a pipe or a batch job."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from amem_cli.errors import printable

Work = TypeVar("Work")
Item = TypeVar("Item")
PLAIN_SECONDS = 10.0  # between plain lines
BAR_WIDTH = 8


@dataclass
class Loop:
    """One running loop. Call `advance` after each step, with its losses."""

    progress: "Progress"
    title: str
    total: int
    done: int
    unit: str
    bar: Any = None  # a rich Progress, on a terminal, with this loop's `task`
    task: Any = None
    waited: float | None = None  # seconds of waiting for data; None for a loop that does not measure them

    def __post_init__(self) -> None:
        self._done_before = self.done
        self._start = self._last_line = time.monotonic()

    def fetch(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the time until each has arrived counts as waiting for data."""
        self.waited, iterator = self.waited or 0.0, iter(items)
        while True:
            began = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.waited += time.monotonic() - began
            yield item

    def show(self, done: int, total: int) -> None:
        """Set the position of a loop that counts its own steps."""
        self.total = total
        self.advance(done - self.done)

    def advance(self, amount: int = 1, **terms: float) -> None:
        """Count `amount` units. `terms` are losses by name; "total" is shown first."""
        self.done += amount
        now = time.monotonic()
        if self.bar is not None:
            room = self.bar.console.width - max(len(task.description) for task in self.bar.tasks) - BAR_WIDTH - 2
            self.bar.update(self.task, total=self.total, completed=self.done, text=self._text(now, terms, room))
        elif now - self._last_line >= PLAIN_SECONDS or self.done == self.total:
            self._last_line = now
            self.progress.log(f"{self.title}: {self._text(now, terms)}")

    def _text(self, now: float, terms: dict[str, float], room: int | None = None) -> str:
        """Position, rate, time left, total loss, share of time spent waiting for data, other losses, cut to `room`."""
        elapsed = max(now - self._start, 1e-9)
        rate = (self.done - self._done_before) / elapsed
        left = _duration((max(self.total, self.done) - self.done) / rate) if rate else "?"
        text = f"{self.done}/{self.total}"
        parts = [f"{rate:.{1 if rate >= 1 else 2}f} {self.unit}/s", f"{left} left"]
        parts += [f"total {terms['total']:.4g}"] if "total" in terms else []
        parts += [f"waits {100 * self.waited / elapsed:.0f} %"] if self.waited is not None else []
        parts += [f"{name} {value:.4g}" for name, value in terms.items() if name != "total"]
        for part in parts:
            if room is not None and len(text) + 2 + len(part) > room:
                break
            text += f", {part}"
        return text


@dataclass
class Progress:
    """Reports what a stage does. `quiet` prints warnings only. `began`, by `time.monotonic`, is the command's start."""

    quiet: bool = False
    warnings: list[str] = field(default_factory=list)
    all_warnings: list[str] = field(default_factory=list)  # warnings, also those that had been given before
    began: float = field(default_factory=time.monotonic)
    _bar: Any = None  # the rich Progress of the loops that run, on a terminal

    @contextlib.contextmanager
    def loop(self, title: str, total: int, *, done: int = 0, unit: str = "steps") -> Iterator[Loop]:
        """A loop of `total` units, of which `done` were done by an earlier run."""
        if self.quiet or not sys.stderr.isatty():
            yield Loop(self, title, total, done, unit)
            return
        with self._bars() as bar:
            task = bar.add_task(title, total=total, completed=done, text=f"{done}/{total}")
            try:
                yield Loop(self, title, total, done, unit, bar, task)
            finally:
                if len(bar.tasks) > 1:  # the loop that runs alone stays on the screen
                    bar.remove_task(task)

    @contextlib.contextmanager
    def _bars(self) -> Iterator[Any]:
        """The bars on the terminal: a validation is a loop within that of a training, with a bar below it."""
        if self._bar is not None:
            yield self._bar
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        title = TextColumn("{task.description}", markup=False)
        text = TextColumn("{task.fields[text]}", markup=False)
        self._bar = Bar(title, BarColumn(BAR_WIDTH), text, console=Console(stderr=True))
        try:
            with self._bar:
                yield self._bar
        finally:
            self._bar = None

    def repeated(self, works: Sequence[Work], what: str) -> Iterator[Work]:
        """The works, one after the other; after each, log the time left if the others take as long."""
        began = time.monotonic()
        for done, work in enumerate(works):
            if done:
                left = _duration((time.monotonic() - began) / done * (len(works) - done))
                self.log(f"{done} of {len(works)} {what}, about {left} left")
            yield work

    def log(self, text: str) -> None:
        """Print a line, unless quiet."""
        if not self.quiet:
            self._print(printable(text))

    def warn(self, text: str) -> None:
        """Print a warning once, even when quiet, and keep it for the summary."""
        text = printable(text)
        self.all_warnings.append(text)
        if text not in self.warnings:
            self.warnings.append(text)
            self._print(f"warning: {text}")

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a closed terminal or pipe is no reason to lose work
            if self._bar is not None:
                self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)


class Silent(Progress):
    """Prints nothing: for tests, for use from Python, and for all processes but the main one."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def _print(self, text: str) -> None:
        pass


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
