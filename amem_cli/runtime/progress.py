"""Progress of long loops on standard error: a Rich bar on a terminal, plain lines in a pipe or a batch job."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from amem_cli.errors import printable

PLAIN_SECONDS = 10.0  # seconds between plain lines


class Loop:
    """The progress of one loop; call `advance` after each step."""

    def __init__(self, report: "Progress", title: str, total: int, done: int, unit: str, bar: Any, task: Any):
        self._report, self._title, self._total, self._unit = report, title, total, unit
        self._bar, self._task = bar, task
        self._done, self._first, self._began = done, done, time.monotonic()
        self._printed = self._began
        self.waiting = 0.0
        self._mark = self._began

    def data_arrived(self) -> None:
        """Call when the batch of this step has arrived; the time since the last `advance` counts as waiting."""
        self.waiting += time.monotonic() - self._mark

    def show(self, done: int, total: int) -> None:
        """Show `done` of `total`, for a loop that counts its units itself."""
        self._total = total
        if self._bar is not None:
            self._bar.update(self._task, total=total)
        self.advance(done - self._done)

    def advance(self, amount: int = 1, **terms: float) -> None:
        """`amount` more units are done; `terms` are loss terms by name."""
        self._done += amount
        now = self._mark = time.monotonic()
        detail = " ".join(f"{name} {value:.4g}" for name, value in terms.items())
        elapsed = max(now - self._began, 1e-9)
        waited = f"{100 * self.waiting / elapsed:.0f} % waiting for data"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, detail=f"{detail}  {waited}")
        elif not self._report.quiet and (now - self._printed >= PLAIN_SECONDS or self._done == self._total):
            self._printed = now
            rate = (self._done - self._first) / elapsed
            left = _duration((self._total - self._done) / rate) if rate else "?"
            self._report.log(
                f"{self._title}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s, {left} left, {waited}  {detail}"
            )


class Progress:
    """The progress display and log of a stage. `quiet` keeps warnings only; only the first process prints."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.warnings: list[str] = []
        self._console: Any = None

    @contextlib.contextmanager
    def loop(self, title: str, total: int, *, done: int = 0, unit: str = "steps") -> Iterator[Loop]:
        """A loop of `total` units, of which `done` were done before."""
        if self.quiet or not sys.stderr.isatty():
            yield Loop(self, title, total, done, unit, None, None)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", style="dim"),
        )
        self._console = Console(stderr=True)
        try:
            with Bar(*columns, console=self._console) as bar:
                task = bar.add_task(title, total=total, completed=done, detail="")
                yield Loop(self, title, total, done, unit, bar, task)
        finally:
            self._console = None

    def log(self, text: str) -> None:
        """Print a line, unless quiet."""
        if not self.quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        """A warning: printed once, even when quiet, and kept for the summary."""
        text = printable(text)
        if text not in self.warnings:
            self.warnings.append(text)
            self._print(f"warning: {text}")

    def _print(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


class Silent(Progress):
    """Prints nothing: for tests, for use from Python, and for all processes but the first."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def _print(self, text: str) -> None:
        pass


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
