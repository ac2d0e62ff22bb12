"""The C library's allocator, told to keep what is freed: on a CPU each batch takes the same large pieces as the last.

glibc maps pieces above 32 MB one by one and gives freed memory back at once, and the system then maps and zeroes
hundreds of megabytes anew in every batch. `docs/PERFORMANCE.md` has the usual way with and without that.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
OWN_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # of a user, which stand


def keep_freed_memory() -> bool:
    """Take large pieces from the heap and give none of it back before the process ends; whether that was to be had.

    For processes that are ours alone. Only glibc can be told (Linux), and settings in the environment stand.
    """
    if sys.platform != "linux" or any(name.startswith(OWN_SETTINGS) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
