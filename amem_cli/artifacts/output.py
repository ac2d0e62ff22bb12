"""The output of a stage: one writer at a time, reuse, refusal to overwrite; and the provenance inside any artifact."""

import contextlib
import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from amem_cli.artifacts import atomic
from amem_cli.artifacts.provenance import Provenance, check_provenance, parse_json_object
from amem_cli.errors import AmemError, DiskError, Locked
from amem_cli.options import Options

PREVIOUS = "previous"  # the folder for files of a finished training while its successor runs
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class StageResult:
    """The result of a stage: its artifact, whether it existed already (`reused`), and figures for the summary."""

    stage: str
    artifact: Path
    reused: bool
    metrics: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"artifact": str(self.artifact), "sha256": atomic.sha256_file(self.artifact)}


@dataclass(frozen=True)
class OutputSlot:
    """The place of an artifact, locked by this run. `unreadable` are the lines about images that this run leaves
    out."""

    kind: str
    path: Path
    options: Options
    is_main: bool = True
    unreadable: list[str] = field(default_factory=list)

    @property
    def unreadable_list(self) -> Path:
        """The file next to the artifact that has the lines `unreadable`; without any there is no such file."""
        return self.path.with_suffix(".unreadable.txt")

    def is_current(self, provenance: Provenance, images: Iterable[Path], warn: Callable[[str], None]) -> bool:
        """True if the artifact exists with this provenance, so that the stage has nothing to do. False with `--resume
        never`, and with `--force` but for finished splits of `--split all`. Then this run will write it, and the main
        process the list of unreadable images. Warns if some of its `images` were replaced since. Raises `OutputExists`
        with every difference from another provenance, and `BadData` if the artifact is damaged."""
        if self._is_there(provenance, images, warn):
            return True
        self.list_unreadable()
        if self.unreadable:
            warn(f"unreadable images are listed in {self.unreadable_list}")
        return False

    def list_unreadable(self) -> None:
        """Write the list of unreadable images, or remove that of an earlier run, in the main process."""
        if self.is_main and self.unreadable:
            atomic.write_text(self.unreadable_list, "".join(f"{line}\n" for line in self.unreadable))
        elif self.is_main:
            with contextlib.suppress(OSError):  # there is none; or the artifact cannot be written, either
                self.unreadable_list.unlink()

    def _is_there(self, provenance: Provenance, images: Iterable[Path], warn: Callable[[str], None]) -> bool:
        if not self.path.is_file() or (self.options.force and not self._is_forced_already(provenance)):
            return False
        verify(self.path, self.kind, "Use --force to make it again")
        provenance.check_same(self.kind, self.path, read_provenance(self.path))
        if self.options.resume == "never":
            return False
        if self.options.force:
            warn(f"--force: {self.path} is finished with these options and kept. To make it again: --resume never")
        if newer := newer_images(images, self.path):
            warn(f"{newer}. If their content changed, make it again (--force, for all splits --resume never)")
        aside = self.path.parent / PREVIOUS
        if aside.is_dir() and aside.stat().st_mtime > self.path.stat().st_mtime:
            warn(
                f"best weights, samples and metrics of {self.path} are in {aside}; those next to it are of a later run"
            )
        if self.options.resume != "auto":  # the path of a state, which is kept
            warn(f"--resume {self.options.resume} has no effect: {self.path} is complete. --force trains again from it")
            return True
        with contextlib.suppress(OSError):  # of a disk that is read-only
            self._sweep(provenance)
        return True

    def _is_forced_already(self, provenance: Provenance) -> bool:
        """True for a split of `--split all --force` that is finished: the command that an interrupted one names would
        else begin with the first split again, every time."""
        return (
            getattr(self.options, "split", "") == "all"
            and is_complete(self.path)
            and not provenance.differences(read_provenance(self.path))
        )

    def _sweep(self, provenance: Provenance) -> None:
        """Remove the shards and states that a run left which was killed after it had written the artifact."""
        for parts in self.path.parent.glob(f".{self.path.name}.parts/{provenance.fingerprint()}-*"):
            shutil.rmtree(parts, ignore_errors=True)
            with contextlib.suppress(OSError):  # those of other options are in it
                parts.parent.rmdir()
        for state in self.path.parent.glob("state-*.safetensors") if self.path.suffix == ".safetensors" else ():
            with contextlib.suppress(AmemError):
                if not provenance.differences(read_provenance(state)):
                    state.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(output: Path, *, owner: bool = True) -> Iterator[None]:
    """Hold the lock on the file `output` inside the context, if `owner`; the system releases it if the process dies.

    Temporary files of crashed writers are removed. Raises `Locked` with the holder if another run has the lock, and,
    unless `output` exists, `DiskError` if the disk cannot be written to.
    """
    if not owner:
        yield
        return
    name = atomic.lock_path(output)
    lock, holder = filelock.FileLock(name, timeout=0), name.with_suffix(".holder")
    try:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            atomic.sweep_temporaries(output)
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        except filelock.Timeout as error:
            who = "unknown"
            with contextlib.suppress(OSError):
                who = holder.read_text()[:200]
            why = f"another run is writing it ({who})"
            raise Locked("output", output, why=why, remedy="Wait for it, or use another --workspace") from error
        except OSError as error:
            if not output.is_file() or error.errno not in NOT_WRITABLE:  # an artifact can be read, and reused
                raise atomic.disk_error(output, error, "output") from error
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # the lock must be released
                holder.unlink()
            lock.release()


@contextlib.contextmanager
def output_slot(kind: str, path: Path, options: Options, *, is_main: bool = True) -> Iterator[OutputSlot]:
    """Lock `path` for this run while the context is open; the main process holds the lock for the others. Raises as
    `locked`."""
    if path.is_dir():  # the replacing at the end would fail
        raise DiskError(kind, path, why="a folder is in its place", remedy="Move it away")
    with locked(path, owner=is_main):
        yield OutputSlot(kind, path, options, is_main)


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance inside any artifact: safetensors, HDF5 or JSON."""
    from amem_cli.artifacts import checkpoint

    if path.suffix == ".safetensors":
        return checkpoint.read_description(path)["provenance"]
    if path.suffix == ".h5":
        from amem_cli.artifacts import hdf5

        return check_provenance(hdf5.read_attributes(path, "file").get("provenance", "{}"), "file", path)
    document = parse_json_object(atomic.read_bytes(path, "result"), "result", path)
    return check_provenance(document.get("provenance", {}), "result", path)


def newer_images(images: Iterable[Path], artifact: Path) -> str:
    """What to say about images that are newer than the artifact made from them, as in a copy; empty without any."""
    made, newer = artifact.stat().st_mtime, 0
    for image in images:
        with contextlib.suppress(OSError):
            newer += os.stat(image).st_mtime > made
    same = "names and sizes are the same, as in a copy of the data set"
    return f"{artifact} is older than {newer} of its images, but {same}" if newer else ""


def verify(path: Path, kind: str = "artifact", remedy: str = "") -> None:
    """Compare an artifact with its checksum. Raises `BadData` if it is damaged."""
    if path.suffix != ".h5":
        atomic.read_checked(path, kind, remedy=remedy)
        return
    from amem_cli.artifacts import hdf5

    with hdf5.opened(path, kind, remedy=remedy):
        pass


def is_complete(path: Path) -> bool:
    """True if the artifact exists and matches its checksum."""
    try:
        verify(path)
    except AmemError:
        return False
    return True
