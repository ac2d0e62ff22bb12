"""Settings of the process that make networks run faster on a CPU. `amem` makes them before it imports torch.

glibc returns freed memory to the system at once and takes blocks above 32 MB from the system each time. Every batch
then waits until the system has mapped and zeroed hundreds of megabytes. `docs/PERFORMANCE.md` has timings with both.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
SWITCH = "AMEM_KEEP_FREED_MEMORY"
ALLOCATOR_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPIN_COUNT = "10000"  # a short time; GNU OpenMP's default is 300,000


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next batch, until the process ends. True if it does.

    The memory of the process then stays at its peak. Needs glibc (Linux). AMEM_KEEP_FREED_MEMORY=0 turns it off, and
    it is off when the environment configures the allocator in another way.
    """
    if why_not_kept():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def why_not_kept() -> str:
    """The reason why `keep_freed_memory` changes nothing; empty if it works."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0"
    for name in os.environ:
        if name.startswith(ALLOCATOR_VARIABLES):
            return f"{name} is set"
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"):  # e.g. musl
        return "the C library is not glibc"
    return ""


def let_idle_threads_sleep() -> None:
    """Let OpenMP threads sleep soon after they begin to wait, unless the environment says how they wait.

    When other programs use the same cores, threads that spin keep those that compute from running. GNU OpenMP, which
    torch's Linux wheels contain, spins for a short time first: sleeping at once costs a tenth of the speed on idle
    cores. Call it before torch is imported: OpenMP reads the environment once.
    """
    if not any(name in os.environ for name in WAITING_VARIABLES):
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT=SPIN_COUNT)
