"""Faults at every step of a write: which steps there are is found by watching one good run, then each is hit in turn.

A *step* is one call that can fail on a disk: making the temporary, each write, fchmod, fsync (of the file and of its
folder), closing, the rename. `hit` replaces step `at` by a fault: an error number, after half of the bytes of a write
have reached the disk, or death of the process.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

KILL = "kill"
DEAD = 137  # what a shell reports for kill -9


class Steps:
    """The steps seen so far, by name; `fired` once the fault was injected."""

    def __init__(self, at: int | None, fault: int | str | None):
        self.seen: list[str] = []
        self.at, self.fault = at, fault
        self.fired = False

    def step(self, name: str, halfway: Callable[[], object] = lambda: None) -> None:
        """Count a step, and inject the fault when it is the one; `halfway` does what a torn step leaves behind."""
        self.seen.append(name)
        if self.at != len(self.seen) - 1:
            return
        self.fired = True
        halfway()
        if self.fault == KILL:
            os._exit(DEAD)
        raise OSError(self.fault, os.strerror(self.fault))


class _File:
    """A binary file whose writes and close are steps."""

    def __init__(self, file, steps: Steps):
        self._file, self._steps = file, steps

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            self._steps.step("close", self._file.close)
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, content):
        def half():
            self._file.write(memoryview(content)[: len(content) // 2])
            self._file.flush()

        self._steps.step("write", half)
        return self._file.write(content)


@contextlib.contextmanager
def hit(at: int | None, fault: int | str | None) -> Iterator[Steps]:
    """Count the steps of what runs inside; step `at` (from 0; None: none) becomes `fault` (an errno, or KILL)."""
    steps = Steps(at, fault)
    real_fdopen = os.fdopen

    def counted(name: str, real: Callable) -> Callable:
        def call(*arguments, **named):
            steps.step(name)
            return real(*arguments, **named)

        return call

    with contextlib.ExitStack() as stack:
        for module, name in ((tempfile, "mkstemp"), (os, "fchmod"), (os, "fsync"), (os, "replace")):
            stack.enter_context(mock.patch.object(module, name, counted(name, getattr(module, name))))
        stack.enter_context(
            mock.patch.object(os, "fdopen", lambda *a, **k: _File(real_fdopen(*a, **k), steps)),
        )
        yield steps


def steps_of(action: Callable[[], object]) -> list[str]:
    """The names of the steps that `action` takes when nothing fails."""
    with hit(None, None) as steps:
        action()
    return steps.seen


def in_child(action: Callable[[], object]) -> int:
    """Run `action` in a forked child; its exit code, 0 when it returned, 1 when it raised, 137 when it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def temporaries(folder: Path) -> list[Path]:
    """Every temporary file under `folder`."""
    return sorted(folder.rglob("*.amem-tmp"))
