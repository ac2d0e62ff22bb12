"""Open files of unknown origin only if they are regular files: reading a named pipe or a device may not end."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


class NotRegular(ValueError):
    """The path is a pipe, a device or a socket."""

    def __init__(self) -> None:
        super().__init__("it is a pipe, a device or a socket, not a regular file")


def open_regular(path: str | Path) -> BinaryIO:
    """Open `path` for reading without blocking; raises `NotRegular`, `IsADirectoryError`, or `OSError` like `open`."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise NotRegular
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
