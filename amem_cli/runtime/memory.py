"""The memory of this machine, and refusal of work that cannot fit into it. Imports nothing heavy."""

import contextlib
import os
from pathlib import Path

from amem_cli.errors import UsageError

CGROUP = Path("/sys/fs/cgroup")  # of the container, in version 2


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
