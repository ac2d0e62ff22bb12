"""Progress: plain lines where there is no terminal, nothing when quiet, warnings always."""

import io
import sys

import pytest

from amem_cli.runtime import progress
from amem_cli.runtime.progress import Progress, Silent


@pytest.fixture
def clock(monkeypatch):
    """A clock that is advanced by hand."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_loop_plain_lines(capsys, clock):
    with Progress().loop("train-arm", 100, unit="steps") as loop:
        for _ in range(100):
            clock.now += 0.5
            loop.data_arrived()
            clock.now += 0.5
            loop.advance(loss=0.125, epoch=3)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 10
    assert lines[0] == "train-arm: 10/100 steps, 1.0/s, 1m30s left, 50 % waiting for data  loss 0.125 epoch 3"
    assert lines[-1].startswith("train-arm: 100/100 steps, 1.0/s, 0m00s left")
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_loop_rate_after_resume(capsys, clock):
    with Progress().loop("label-videos", 7300, done=7200) as loop:
        clock.now += 100
        loop.advance(99)
    assert "7299/7300 steps, 1.0/s, 0m01s left" in capsys.readouterr().err


def test_loop_show(capsys, clock):
    with Progress().loop("walkers", 1, unit="images") as loop:
        clock.now += 20
        loop.show(5, 7205)
    assert "walkers: 5/7205 images, 0.2/s, 8h00m left" in capsys.readouterr().err


def test_loop_no_estimate_before_the_first_unit(capsys, clock):
    with Progress().loop("x", 10) as loop:
        clock.now += 20
        loop.advance(0)
    assert "? left" in capsys.readouterr().err


def test_progress_quiet(capsys, clock):
    report = Progress(quiet=True)
    report.log("hello")
    with report.loop("x", 1) as loop:
        clock.now += 20
        loop.advance()
    report.warn("three images are missing")
    assert capsys.readouterr() == ("", "warning: three images are missing\n")
    assert report.warnings == ["three images are missing"]


def test_silent(capsys, clock):
    report = Silent()
    report.warn("x")
    report.log("y")
    with report.loop("x", 1) as loop:
        clock.now += 20
        loop.advance()
    assert capsys.readouterr() == ("", "")
    assert report.warnings == ["x"]


def test_loop_bar_removed_after_an_error(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    report = Progress()

    def fail_halfway():
        with report.loop("train-tae", 4, unit="steps") as loop:
            loop.advance(2, loss=1.0)
            report.warn("a path [red]/data[/red] as it is")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert "train-tae" in screen.getvalue()
    assert "2/4" in screen.getvalue()
    assert "a path [red]/data[/red] as it is" in screen.getvalue()
    report.log("afterwards")
    assert screen.getvalue().endswith("afterwards\n")
