"""One writer for each output: a file lock."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from amem_cli.artifacts import atomic
from amem_cli.errors import Locked

LEAST_SPACE = 10 << 20  # bytes of free disk that any stage needs


@contextlib.contextmanager
def locked(output: Path, *, owner: bool = True) -> Iterator[None]:
    """Hold the lock on the file `output` inside the context; the system releases it if the process dies.

    Temporary files of crashed writers next to the output are removed. Without `owner` nothing is locked. Raises
    `Locked` with the holder if another run has the lock, and `DiskError` if the disk is full or cannot be written.
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
        why = f"another run is writing it ({holder})"
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
        with contextlib.suppress(OSError):  # informative only; the lock must be released
            name.with_suffix(".holder").unlink()
        lock.release()


def _read_holder(lock: Path) -> str:
    try:
        return lock.with_suffix(".holder").read_text()[:200]
    except OSError:
        return "unknown"
