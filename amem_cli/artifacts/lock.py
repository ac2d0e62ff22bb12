"""One writer for each output: a file lock."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from amem_cli.artifacts import atomic
from amem_cli.errors import DiskError, Locked

LEAST_SPACE = 10 << 20  # bytes of free disk that any stage needs


@contextlib.contextmanager
def locked(output: Path, *, owner: bool = True) -> Iterator[None]:
    """Hold the lock on the file `output` inside the context; the system releases it if the process dies.

    Temporary files of crashed writers next to the output are removed. Without `owner` nothing is locked. Raises
    `Locked` with the holder if another run has the lock, and `DiskError` if the disk is full, or cannot be written and
    has no `output`.
    """
    if not owner:
        yield
        return
    name = atomic.lock_path(output)
    lock = filelock.FileLock(name, timeout=0)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        holder = "unknown"
        with contextlib.suppress(OSError):
            holder = name.with_suffix(".holder").read_text()[:200]
        why = f"another run is writing it ({holder})"
        raise Locked("output", output, why=why, remedy="Wait for it, or use another --workspace") from error
    except OSError as error:
        # where nothing can be written, an artifact can be read without a lock
        if not output.is_file() or error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise atomic.disk_error(output, error, "output") from error
    try:
        if lock.is_locked:
            _prepare(output, name.with_suffix(".holder"))
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # the lock must be released
                name.with_suffix(".holder").unlink()
            lock.release()


def _prepare(output: Path, holder: Path) -> None:
    """Name the holder and make room; a full disk is an error only if there is no output, which may be reused."""
    try:
        atomic.sweep_temporaries(output)
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        atomic.require_free_space(output.parent, LEAST_SPACE)
    except (OSError, DiskError) as error:
        if not output.is_file():
            raise error if isinstance(error, DiskError) else atomic.disk_error(output, error, "output") from error
