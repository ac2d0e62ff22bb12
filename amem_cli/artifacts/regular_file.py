"""Opening files that come from outside: regular ones only. A named pipe or a device would never end."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


class NotRegular(ValueError):
    """What stands at the path is a pipe, a device or a socket."""

    def __init__(self) -> None:
        super().__init__("it is a pipe, a device or a socket, not a regular file")


def open_regular(path: str | Path) -> BinaryIO:
    """`path` opened for reading, without waiting for anybody.

    Raises `NotRegular`, or `OSError` as `open` does, for folders `IsADirectoryError`.
    """
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
