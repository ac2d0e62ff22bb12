"""One writer for each output: a file lock."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from amem_cli.artifacts import atomic
from amem_cli.errors import Locked

NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def locked(output: Path, *, owner: bool = True) -> Iterator[None]:
    """Hold the lock on the file `output` inside the context; the system releases it if the process dies.

    Temporary files of crashed writers next to the output are removed. Without `owner` nothing is locked. Raises
    `Locked` with the holder if another run has the lock, and `DiskError` if the disk is full or cannot be written to,
    unless `output` exists.
    """
    if not owner:
        yield
        return
    name = atomic.lock_path(output)
    lock, holder = filelock.FileLock(name, timeout=0), name.with_suffix(".holder")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        atomic.sweep_temporaries(output)
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    except filelock.Timeout as error:
        who = "unknown"
        with contextlib.suppress(OSError):
            who = holder.read_text()[:200]
        why = f"another run is writing it ({who})"
        raise Locked("output", output, why=why, remedy="Wait for it, or use another --workspace") from error
    except OSError as error:
        if not output.is_file() or error.errno not in NOT_WRITABLE:  # an artifact can be read, and reused
            lock.release()
            raise atomic.disk_error(output, error, "output") from error
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # the lock must be released
                holder.unlink()
            lock.release()
