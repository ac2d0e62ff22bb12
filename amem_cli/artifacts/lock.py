"""One writer for each output: a file lock."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from amem_cli.artifacts import atomic
from amem_cli.errors import Locked

LEAST_SPACE = 10 << 20  # bytes without which no stage begins; those that write more ask for more


@contextlib.contextmanager
def locked(output: Path, *, owner: bool = True) -> Iterator[None]:
    """Hold the right to write `output` (a file); raise `Locked` naming the holder when another run has it.

    The lock belongs to the process, so one that died holds nothing. Temporaries that crashed writers left beside the
    output are swept, and `DiskError` is raised when the disk is as good as full. Without `owner` (all but the first of
    several processes) nothing is locked.
    """
    if not owner:
        yield
        return
    name = atomic.lock_path(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(name, timeout=0)
        lock.acquire()
    except filelock.Timeout as error:
        holder = _read_holder(name)
        why = f"another run writes it ({holder})"
        raise Locked("output", output, why=why, remedy="Wait for it, or use another --workspace") from error
    except OSError as error:
        raise atomic.disk_error(output, error, "output") from error
    try:
        try:
            name.with_suffix(".holder").write_text(f"process {os.getpid()} on {socket.gethostname()}")
            atomic.sweep_temporaries(output)
            atomic.require_free_space(output.parent, LEAST_SPACE)
        except OSError as error:
            raise atomic.disk_error(output, error, "output") from error
        yield
    finally:
        with contextlib.suppress(OSError):  # only a name in a message; the lock must be released
            name.with_suffix(".holder").unlink()
        lock.release()


def _read_holder(lock: Path) -> str:
    try:
        return lock.with_suffix(".holder").read_text()[:200]
    except OSError:
        return "unknown"
