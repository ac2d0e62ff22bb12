"""Progress: one line that fits a terminal, plain lines elsewhere, warnings always."""

import io
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from amem_cli.runtime import progress
from amem_cli.runtime.progress import Progress, Silent


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that moves only when told to."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> io.StringIO:
    """Make standard error a terminal."""
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    return screen


def test_loop_plain_lines(capsys: pytest.CaptureFixture, clock: SimpleNamespace) -> None:
    def slow() -> Iterator[None]:
        for _ in range(95):
            clock.now += 0.75
            yield

    with Progress().loop("train-arm", 95) as loop:
        steps = loop.fetch(slow())
        for _ in range(95):
            next(steps)
            clock.now += 0.25
            loop.advance(loss=0.125, total=3.0)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert (out, len(lines)) == ("", 10)  # every ten seconds, and at the end
    assert lines[0] == "train-arm: 10/95, 1.0 steps/s, 1m25s left, total 3, waits 75 %, loss 0.125"
    assert lines[-1].startswith("train-arm: 95/95, 1.0 steps/s, 0m00s left")


@pytest.mark.parametrize(
    ("total", "before", "done", "text"),
    [
        (7300, 7200, 99, "x: 7299/7300, 5.0 clips/s, 0m00s left\n"),  # the rate is that of this run
        (7205, 0, 1, "x: 1/7205, 0.05 clips/s, 40h01m left\n"),
        (10, 0, 0, "x: 0/10, 0.00 clips/s, ? left\n"),
        (10, 0, 12, "x: 12/10, 0.60 clips/s, 0m00s left\n"),  # an estimated total
    ],
)
def test_loop_rate(
    capsys: pytest.CaptureFixture, clock: SimpleNamespace, total: int, before: int, done: int, text: str
) -> None:
    with Progress().loop("x", total, done=before, unit="clips") as loop:
        clock.now += 20
        loop.advance(done)
    assert capsys.readouterr().err == text


def test_loop_show(capsys: pytest.CaptureFixture, clock: SimpleNamespace) -> None:
    with Progress().loop("walkers", 1, unit="images") as loop:
        for seconds, done in ((5, 2), (20, 5)):
            clock.now = 100.0 + seconds
            loop.show(done, 7205)
    assert capsys.readouterr().err == "walkers: 5/7205, 0.25 images/s, 8h00m left\n"


@pytest.mark.parametrize(("columns", "end"), [(80, ""), (100, ", waits 50 %"), (140, ", waits 50 %, identity 1.745")])
def test_loop_terminal(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, columns: int, end: str) -> None:
    screen = terminal(monkeypatch, columns)
    with Progress().loop("train-amem split 0", 7300, done=5000) as loop:
        next(loop.fetch(clock_after(clock, 50)))
        clock.now += 50
        loop.advance(60, identity=1.745, total=14.5678)
    line = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).splitlines()[-1].rstrip()
    assert line.startswith("train-amem split 0 ")
    assert line.endswith(f" 5060/7300, 0.60 steps/s, 1h02m left, total 14.57{end}")
    assert len(line) <= columns


def clock_after(clock: SimpleNamespace, seconds: float) -> Iterator[None]:
    """One item that takes some seconds."""
    clock.now += seconds
    yield


def test_loop_waits_are_those_for_data_alone(capsys: pytest.CaptureFixture, clock: SimpleNamespace) -> None:
    with Progress().loop("x", 2) as loop:
        steps = loop.fetch(iter("ab"))
        for _ in range(2):
            next(steps)
            loop.advance()
            clock.now += 10  # a validation
    assert capsys.readouterr().err.splitlines()[-1].endswith("waits 0 %")


def test_loop_within_a_loop_has_a_bar_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    report = Progress()
    with report.loop("train-arm", 4) as outer:
        with report.loop("validation", 2) as inner:
            inner.advance()
            outer.bar.refresh()
            assert inner.bar is outer.bar
            assert [task.description for task in outer.bar.tasks] == ["train-arm", "validation"]
            assert [task.completed for task in outer.bar.tasks] == [0, 1]
        outer.advance()
        assert [task.description for task in outer.bar.tasks] == ["train-arm"]
    report.log("afterwards")
    assert screen.getvalue().endswith("afterwards\n")


def test_loop_terminal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    report = Progress()

    def fail_halfway() -> None:
        with report.loop("train-tae", 4) as loop:
            loop.advance(2, loss=1.0)
            report.warn("a path [red]/data[/red] as it is")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert "warning: a path [red]/data[/red] as it is" in screen.getvalue()
    report.log("afterwards")
    assert screen.getvalue().endswith("afterwards\n")


@pytest.mark.parametrize(("report", "printed"), [(Progress(True), "warning: no image\\x1b\n"), (Silent(), "")])
def test_quiet(monkeypatch: pytest.MonkeyPatch, report: Progress, printed: str) -> None:
    screen = terminal(monkeypatch)
    report.log("hello")
    with report.loop("x", 1) as loop:
        loop.advance()
    for _ in range(2):
        report.warn("no image\x1b")
    assert screen.getvalue() == printed
    assert report.warnings == ["no image\\x1b"]


def test_repeated_says_the_time_left(capsys: pytest.CaptureFixture, clock: SimpleNamespace) -> None:
    for _ in Progress().repeated(["a", "b", "c"], "splits"):
        clock.now += 3600.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["1 of 3 splits, about 2h00m left", "2 of 3 splits, about 1h00m left"]
