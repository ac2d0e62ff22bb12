"""The memory of this machine, and settings of the process that make networks run faster on a CPU.

Imports nothing heavy: the settings are made before torch is imported. `docs/PERFORMANCE.md` and `docs/clusters.md` have
timings.
"""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

from amem_cli.errors import UsageError

CGROUP = Path("/sys/fs/cgroup")  # of the container, in version 2
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
ALLOCATOR_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPIN_COUNT = "10000"  # a short time; GNU OpenMP's default is 300,000


def require_memory(flag: str, value: str | None, needed: int, free: int | None, remedy: str) -> None:
    """Raise `UsageError` if more bytes are `needed` than `free`, before the system kills the process."""
    if free is not None and needed > free:
        why = f"needs at least {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        raise UsageError(flag, value, why=why, remedy=remedy)


def total_memory() -> int | None:
    """Bytes of memory that this process may use, or None if unknown."""
    limits = [int(text) for text in [read_text(CGROUP / "memory.max")] if text.isdigit()]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=None)


def free_memory() -> int | None:
    """Bytes of memory that are free on the machine and in the container, or None if unknown."""
    lines = [line.split() for line in read_text(Path("/proc/meminfo")).splitlines()]
    free = [int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:"]
    most, used = read_text(CGROUP / "memory.max"), read_text(CGROUP / "memory.current")
    pages = [line.split() for line in read_text(CGROUP / "memory.stat").splitlines()]
    cached = sum(int(line[1]) for line in pages if line[0] in ("active_file", "inactive_file"))  # given back on demand
    free += [int(most) - int(used) + cached] if most.isdigit() and used.isdigit() else []
    return min(free, default=None)


def read_text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next batch, until the process ends. True if it does.

    Otherwise glibc (Linux) returns it, and every batch waits until the system has mapped and zeroed hundreds of
    megabytes. AMEM_KEEP_FREED_MEMORY=0 turns it off, and so do the allocator's own variables in the environment.
    """
    configured = any(name.startswith(ALLOCATOR_VARIABLES) for name in os.environ)
    if configured or os.environ.get("AMEM_KEEP_FREED_MEMORY") == "0" or sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def let_idle_threads_sleep() -> None:
    """Let OpenMP threads sleep after a short wait, unless the environment says how they wait: threads that spin keep
    other programs from running; sleeping at once costs a tenth of the speed."""
    if not any(name in os.environ for name in WAITING_VARIABLES):
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT=SPIN_COUNT)
