"""Settings of the process that make networks run faster on a CPU. `amem` makes them before it imports torch.

glibc returns freed memory to the system at once and takes blocks above 32 MB from the system each time. Every batch
then waits until the system has mapped and zeroed hundreds of megabytes. `docs/PERFORMANCE.md` has timings with both.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
ALLOCATOR_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPIN_COUNT = "10000"  # a short time; GNU OpenMP's default is 300,000


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next batch, until the process ends. True if it does.

    The memory of the process then stays at its peak. Needs glibc (Linux). AMEM_KEEP_FREED_MEMORY=0 turns it off, and
    it is off when the environment configures the allocator in another way.
    """
    configured = any(name.startswith(ALLOCATOR_VARIABLES) for name in os.environ)
    if configured or os.environ.get("AMEM_KEEP_FREED_MEMORY") == "0" or sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def let_idle_threads_sleep() -> None:
    """Let OpenMP threads sleep after a short wait, unless the environment says how they wait; before torch is imported.

    Threads that spin keep other programs on the same cores from running. Sleeping at once costs a tenth of the speed.
    """
    if not any(name in os.environ for name in WAITING_VARIABLES):
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT=SPIN_COUNT)
