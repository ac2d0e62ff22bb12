"""The processor cores that this process may use. Imports nothing heavy."""

import os

from amem_cli.runtime.memory import CGROUP, read_text


def available_cores() -> float:
    """The cores that this process may use: its affinity, or the quota of the container if that is less."""
    quota, _, period = read_text(CGROUP / "cpu.max").partition(" ")  # "QUOTA PERIOD" or "max PERIOD"
    return min(float(affinity()), int(quota) / int(period)) if quota.isdigit() else float(affinity())


def affinity() -> int:
    """The cores that the system may run this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
