"""Inject a fault into any step of an atomic write: an error of the disk, or the death of the process.

A *step* is a call that can fail: creating the temporary file, each write, each fsync, closing, renaming.
"""

import builtins
import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from amem_cli.artifacts import atomic

KILL = "kill"
DEAD = 137  # the exit code that a shell reports for kill -9


class Steps:
    """The names of the steps so far; `fired` after the fault was injected."""

    def __init__(self, at: int | None, fault: int | str | None):
        self.seen: list[str] = []
        self.at, self.fault, self.fired = at, fault, False

    def step(self, name: str, halfway: Callable[[], object] = lambda: None) -> None:
        """Count a step. If it is step `at`: do `halfway`, what an interrupted step leaves, then fail."""
        self.seen.append(name)
        if self.at == len(self.seen) - 1:
            self.fired = True
            halfway()
            if self.fault == KILL:
                os._exit(DEAD)
            raise OSError(self.fault, os.strerror(self.fault))


class _File(io.FileIO):
    """A new file whose writes and close are steps."""

    def __init__(self, path: Path, steps: Steps):
        super().__init__(path, "x")
        self.steps = steps

    def write(self, content):
        self.steps.step("write", lambda: super(_File, self).write(memoryview(content)[: len(content) // 2]))
        return super().write(content)

    def __exit__(self, kind, error, trace):
        self.close()
        if error is None:
            self.steps.step("close")


@contextlib.contextmanager
def hit(at: int | None, fault: int | str | None) -> Iterator[Steps]:
    """Count the steps of the code inside; step `at` (from 0; None: none) fails with `fault` (an errno, or KILL)."""
    steps = Steps(at, fault)

    def counted(name: str, real: Callable) -> Callable:
        return lambda *arguments: (steps.step(name), real(*arguments))[1]

    def opened(path: Path, mode: str = "r", **named: Any) -> object:
        if mode != "xb":
            return builtins.open(path, mode, **named)
        steps.step("open")
        return _File(path, steps)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(atomic, "open", opened, create=True))
        for name in ("fsync", "replace"):
            stack.enter_context(mock.patch.object(os, name, counted(name, getattr(os, name))))
        yield steps


def in_child(action: Callable[[], object]) -> int:
    """Run `action` in a forked child; its exit code: 0 when it returned, 1 when it raised, 137 when it was killed."""
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


def flip_bit(path: Path, at: int = -2, bit: int = 3) -> None:
    """Flip one bit of byte `at` of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)
