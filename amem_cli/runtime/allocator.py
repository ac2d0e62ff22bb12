"""Make the C library's allocator keep freed memory: on a CPU every batch allocates the same large blocks.

glibc maps blocks above 32 MB one by one and returns them to the system when they are freed, so the system maps and
zeroes hundreds of megabytes in every batch. `docs/PERFORMANCE.md` has measurements with and without this setting.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
OWN_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # settings of a user, which are kept


def keep_freed_memory() -> bool:
    """Allocate large blocks on the heap and keep freed memory until the process ends. True if the allocator accepts it.

    Only for amem's own processes and for glibc (Linux); settings in the environment are not overridden.
    """
    if sys.platform != "linux" or any(name.startswith(OWN_SETTINGS) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
