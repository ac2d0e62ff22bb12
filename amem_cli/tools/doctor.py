"""`amem doctor`: what this machine has for `amem`, and for each problem its remedy. Imports nothing heavy.

Torch is imported for the devices alone; data sets are looked for, not counted (that is `amem data check`).
"""

import contextlib
import locale
import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from amem_cli import __version__
from amem_cli.errors import AmemError, BadData, DiskError, InputMissing

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "h5py", "pillow", "safetensors", "matplotlib", "typer", "rich")
OPTIONAL = {
    "tensorboard": "--tensorboard writes curves for it",
    "openvino": "inference on Intel processors",
}
WRITTEN = 32 * 2**20  # bytes of the measured write
SLOW_WRITE = 20.0  # MB/s: below it saving a training state takes most of a minute
LITTLE_DISK = 5e9  # bytes: a training run at the paper's size keeps two states of about 1 GB
LITTLE_MEMORY = 4e9
LITTLE_SHARED_MEMORY = 1e9

State = Literal["ok", "note", "problem", "impossible"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor: "note" is something to know, "problem" hampers, "impossible" keeps `amem` from working.

    `value` are the figures behind `found`, for scripts; every finding that is not "ok" has a `remedy`.
    """

    topic: str
    found: str
    state: State = "ok"
    remedy: str = ""
    value: Any = None
    exit_code: int = 0


def examine(data_root: Path, workspace: Path) -> list[Finding]:
    """Everything that the doctor looks at, in the order in which it is shown."""
    return [
        *versions(),
        *devices(),
        processors(),
        memory(),
        *shared_memory(),
        *disk(workspace),
        *optional_parts(),
        *data_sets(data_root),
        *terminal(),
    ]


def exit_code(findings: list[Finding]) -> int:
    """0, or that of the first finding that makes work impossible."""
    return next((finding.exit_code for finding in findings if finding.state == "impossible"), 0)


def versions() -> list[Finding]:
    """Python, amem and the packages it needs."""
    found = [
        Finding("python", f"{platform.python_version()} ({platform.platform()})", value=platform.python_version()),
        Finding("amem", __version__, value=__version__),
    ]
    for name in PACKAGES:
        version = _version(name)
        if version is None:
            remedy = f"python -m pip install {name}"
            found.append(Finding(name, "not installed", "impossible", remedy, exit_code=InputMissing.exit_code))
        else:
            found.append(Finding(name, version, value=version))
    return found


def devices() -> list[Finding]:
    """The CPU, and each CUDA device with its memory (bytes)."""
    if _version("torch") is None:
        return []
    try:
        import torch
    except Exception as error:  # a broken installation fails in many ways
        why = (str(error).splitlines() or [""])[0] or type(error).__name__
        remedy = "python -m pip install --force-reinstall torch torchvision"
        code = InputMissing.exit_code
        return [Finding("device", f"torch cannot be imported ({why})", "impossible", remedy, exit_code=code)]
    if not torch.cuda.is_available():
        if not shutil.which("nvidia-smi"):
            return [Finding("device", "cpu (no CUDA device)", value=["cpu"])]
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        remedy = "Run nvidia-smi; install the torch build that fits the driver: https://pytorch.org/get-started/locally"
        return [Finding("device", f"cpu: a driver is there, but this torch ({built}) uses none", "problem", remedy)]
    found = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        value = {"device": f"cuda:{number}", "name": properties.name, "memory": properties.total_memory}
        found.append(Finding("device", f"cuda:{number} {properties.name}, {_gb(properties.total_memory)}", value=value))
    return found


def processors() -> Finding:
    """The cores that this process may use (affinity and cgroup), and the threads that libraries will start."""
    cores = available_cores()
    told = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(told) if told.isdigit() else _affinity()  # OpenMP knows nothing of a cgroup's quota
    value = {"machine": os.cpu_count(), "available": cores, "threads": threads}
    found = f"{cores:g} of {os.cpu_count()} cores, threads: {threads}" + (" (OMP_NUM_THREADS)" if told else "")
    if threads > cores + 0.999:
        remedy = f"export OMP_NUM_THREADS={max(1, int(cores))}: more threads than cores make everything slower"
        return Finding("processors", found, "problem", remedy, value)
    return Finding("processors", found, value=value)


def memory() -> Finding:
    """Memory of the machine or of the cgroup, in bytes, and how much of it is free."""
    total, free = total_memory(), free_memory()
    if total is None:
        return Finding("memory", "unknown on this system")
    value = {"total": total, "free": free}
    found = _gb(total) + (f", {_gb(free)} free" if free is not None else "")
    if (free if free is not None else total) < LITTLE_MEMORY:
        remedy = "Close other programs, or use --preset small, a smaller --batch-size and --workers 0"
        return Finding("memory", found, "problem", remedy, value)
    return Finding("memory", found, value=value)


def shared_memory(folder: Path = Path("/dev/shm")) -> list[Finding]:
    """The shared memory through which loader processes hand over images; containers have little of it."""
    if not folder.is_dir():
        return []
    total = shutil.disk_usage(folder).total
    if total < LITTLE_SHARED_MEMORY:
        remedy = "Use --workers 0, or start the container with --shm-size 8g"
        return [Finding("shared memory", _gb(total), "problem", remedy, total)]
    return [Finding("shared memory", _gb(total), value=total)]


def disk(workspace: Path) -> list[Finding]:
    """Free space, and the speed of a write that reaches the disk, where the workspace is or would be."""
    place = workspace.absolute()
    while not place.exists():
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
        speed = write_speed(place if place.is_dir() else place.parent)
        if not place.is_dir():
            raise NotADirectoryError(20, "Not a directory")
    except OSError as error:
        why = f"{place} cannot be written to ({(error.strerror or str(error)).lower()})"
        remedy = "Choose another --workspace (or AMEM_WORKSPACE), or free some space"
        return [Finding("workspace", why, "impossible", remedy, exit_code=DiskError.exit_code)]
    remedy = "Free some space, or choose another --workspace"
    low = free < LITTLE_DISK
    space = Finding("free disk", _gb(free), "problem" if low else "ok", remedy if low else "", free)
    slow = speed < SLOW_WRITE
    remedy = "Choose a --workspace on a local disk, or a longer --save-seconds" if slow else ""
    rate = Finding("write speed", f"{speed:.0f} MB/s, with fsync", "problem" if slow else "ok", remedy, speed)
    found = f"{workspace} ({'is there' if workspace.exists() else 'is made when needed'})"
    return [Finding("workspace", found, value=str(workspace)), space, rate]


def write_speed(folder: Path) -> float:
    """MB/s of a write of 32 MiB that reaches the disk; the file is gone afterwards. Raises `OSError`."""
    block = os.urandom(2**20)  # nothing that a file system could compress
    with tempfile.TemporaryFile(dir=folder, prefix=".amem-doctor-") as file:
        began = time.perf_counter()
        for _ in range(WRITTEN // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return WRITTEN / 1e6 / max(time.perf_counter() - began, 1e-9)


def optional_parts() -> list[Finding]:
    """Packages that add something and may be missing."""
    found = []
    for name, use in OPTIONAL.items():
        version = _version(name)
        if version is None:
            found.append(Finding(name, f"not installed ({use})", "note", f"python -m pip install {name}"))
        else:
            found.append(Finding(name, version, value=version))
    return found


def data_sets(data_root: Path) -> list[Finding]:
    """Whether each shipped data set's folder is there and looks like its layout."""
    try:
        from amem_cli.data.datasets import READERS, existing_folder
        from amem_cli.data.manifest import SHIPPED, load_manifest
    except ImportError:  # told under the versions
        return []
    found = []
    for name in SHIPPED:
        manifest = load_manifest(name)
        try:
            folder = existing_folder(manifest, data_root)
            if READERS[manifest.layout].find(folder) is None:
                why, remedy = f"{folder} does not look like {manifest.title}", f"Run: amem data check {name}"
                found.append(Finding(f"data set {name}", why, "problem", remedy))
                continue
        except InputMissing:
            found.append(Finding(f"data set {name}", f"not in {data_root}", "note", f"Ask {manifest.request}"))
        except (AmemError, OSError) as error:
            why = error.why if isinstance(error, BadData) else str(error)
            found.append(Finding(f"data set {name}", why, "problem", f"Run: amem data check {name}"))
        else:
            found.append(Finding(f"data set {name}", f"in {folder}", value=str(folder)))
    if not any(finding.value for finding in found):
        remedy = "Use --data-root (or AMEM_DATA); or generate people: amem data walkers walkers"
        found.append(Finding("data sets", f"none in {data_root}", "note", f"{remedy}, then --data-root walkers"))
    return found


def terminal() -> list[Finding]:
    """The encoding of text and file names, and the width of the terminal."""
    text = (getattr(sys.stdout, "encoding", None) or "none").lower()
    names = sys.getfilesystemencoding().lower()
    width = shutil.get_terminal_size().columns
    kind = f"terminal of {width} columns" if sys.stdout.isatty() else f"no terminal (lines of {width} columns)"
    colour = ", without colour (NO_COLOR)" if os.environ.get("NO_COLOR") else ""
    language = locale.setlocale(locale.LC_CTYPE)
    value = {"stdout": text, "file_names": names, "locale": language, "columns": width, "tty": sys.stdout.isatty()}
    found = f"output {text}, file names {names}, locale {language}"
    if {text, names} - {"utf-8", "utf8"}:
        remedy = "export PYTHONUTF8=1 (or LC_ALL=C.UTF-8), so that names with accents can be written"
        return [Finding("text", found, "problem", remedy, value), Finding("terminal", kind + colour)]
    return [Finding("text", found, value=value), Finding("terminal", kind + colour, value=width)]


# -- limits ------------------------------------------------------------------------------------------------------------


def available_cores(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """The cores that this process may use: the smaller of its affinity and its cgroup's quota."""
    quotas = [float(_affinity())]
    for text in _cgroup_values("cpu.max", cgroups, own):  # version 2: "QUOTA PERIOD" or "max PERIOD"
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            quotas.append(int(quota) / int(period))
    quota, period = (_read(cgroups / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))  # version 1
    if quota.isdigit() and period.isdigit():
        quotas.append(int(quota) / int(period))
    return min(quotas)


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes of memory that this process may use: the machine's, or its cgroup's limit; None where nothing tells."""
    limits = [int(text) for text in _cgroup_values("memory.max", cgroups, own) if text.isdigit()]
    version_1 = _read(cgroups / "memory" / "memory.limit_in_bytes")
    limits += [int(version_1)] if version_1.isdigit() else []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=None)


def free_memory(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes of memory that are free on the machine and within the cgroup's limit; None where nothing tells."""
    free = []
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    for most, used in zip(
        _cgroup_values("memory.max", cgroups, own), _cgroup_values("memory.current", cgroups, own), strict=True
    ):
        if most.isdigit() and used.isdigit():
            free.append(int(most) - int(used))
    return min(free, default=None)


def _cgroup_values(name: str, cgroups: Path, own: Path) -> list[str]:
    """The values of a cgroup file (version 2) in this process's group and in all groups above it."""
    lines = (line.split(":", 2) for line in _read(own).splitlines())
    path = next((parts[2] for parts in lines if len(parts) == 3 and parts[:2] == ["0", ""]), "/")
    groups = [cgroups / path.strip("/")] if ".." not in path else [cgroups]  # outside of this container's view
    while groups[-1] != cgroups and cgroups in groups[-1].parents:
        groups.append(groups[-1].parent)
    return [_read(group / name) for group in groups]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f} GB"
