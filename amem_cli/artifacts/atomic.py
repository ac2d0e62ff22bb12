"""Atomic writes: after a crash at any point either the old or the new file exists, complete.

A file may contain a *checksum*, the SHA-256 of its content, because safetensors and HDF5 do not detect a flipped bit.
"""

import contextlib
import csv
import errno
import glob
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from amem_cli.errors import SAME_COMMAND, BadData, DiskError, InputMissing

CHECKSUM_MARK = b"amem-seal-sha256:"
CHECKSUM_BLANK = CHECKSUM_MARK + b"0" * 64  # a writer puts this into its content once; `fill_checksum` replaces it
TEMPORARY_SUFFIX = ".amem-tmp"
OLD = 24 * 3600.0  # seconds
OF_TRAININGS = (".safetensors", ".png")  # of weights and states, and of sample pictures in their own folder
# of a file system that cannot flush folders, or of a folder that may be written to but not read
NOT_FLUSHED = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES)
_CHECKSUM = re.compile(re.escape(CHECKSUM_MARK) + b"[0-9a-f]{64}")
_REMEDIES = {
    errno.ENOSPC: f"Free some space. {SAME_COMMAND}",
    errno.EDQUOT: f"Your quota is used up: free some space. {SAME_COMMAND}",
    errno.EACCES: "Check the folder's permissions or choose another place (--workspace, --out)",
    errno.ENOTDIR: "A file is in the place of a folder: move it, or choose another place (--workspace, --out)",
    errno.EEXIST: "A file is in the place of a folder: move it, or choose another place (--workspace, --out)",
    errno.EISDIR: "It is a folder: give the name of a file",
    errno.EFBIG: "Raise the limit of file sizes (ulimit -f), or choose another disk",
    errno.EROFS: "Choose a place on a disk that can be written (--workspace, --out)",
}


def write_bytes(path: Path, content: bytes | memoryview) -> Path:
    """`write_stream` for bytes."""
    return write_stream(path, lambda file: file.write(content))


def write_stream(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Let `write` fill a temporary file next to `path`, flush it, and rename it to `path`. The mode follows the umask.
    Raises `DiskError` when the disk is full, read-only or broken."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # missing after the rename; else the first error matters
            temporary.unlink()
    return path


def rename(path: Path, other: Path) -> None:
    """Rename a file. Raises `DiskError` where that is not possible."""
    try:
        os.replace(path, other)
    except OSError as error:
        raise disk_error(path, error) from error


def write_text(path: Path, text: str) -> Path:
    """`write_bytes` for UTF-8 text."""
    return write_bytes(path, text.encode("utf-8"))


def csv_text(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table with a head line."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Path:
    return write_text(path, csv_text(columns, rows))


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power failure, where the system can do that."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NOT_FLUSHED:
            raise


def lock_path(output: Path) -> Path:
    """The lock file of an output; it stays on disk after the lock is released."""
    return output.parent / f".{output.name}.lock"


def sweep_temporaries(output: Path) -> None:
    """Remove the temporary files that crashed writers left next to `output`; the caller holds the lock on `output`.

    Those of other files are kept for a day, because commands without a lock (export, features convert, report) may be
    writing them; but only a training writes files like its own. Those of other outputs that have a lock file, and of
    files named after them (mars.h5, mars.log), are always kept."""
    locked = [path.name[1:].removesuffix(".lock") for path in output.parent.glob(".*.lock")]
    others = [f"{Path(name).stem}." for name in locked if name != output.name]
    for path in sorted(output.parent.glob(f".*{TEMPORARY_SUFFIX}")):
        target = output.with_name(path.name[1 : -len(TEMPORARY_SUFFIX)].rpartition(".")[0])
        own = target.name == output.name or target.suffix == output.suffix in OF_TRAININGS
        if own or (not target.name.startswith(tuple(others)) and _is_old(path)):
            path.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    """Whether a file was not written to for a day."""
    try:
        return time.time() - path.stat().st_mtime > OLD
    except FileNotFoundError:  # its writer has finished
        return False


def require_writable(path: Path) -> None:
    """Raise `DiskError` unless a file can be written to `path`; remove what killed writers of it left."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY_SUFFIX}"):
            stale.unlink(missing_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(4096))  # a full disk may have room for an empty file
    except OSError as error:
        raise disk_error(path, error) from error


def require_free_space(folder: Path, needed: int) -> None:
    """Raise `DiskError` when the disk of `folder` has fewer than `needed` bytes left."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        why = f"{free / 1e6:,.1f} MB free, this run needs about {needed / 1e6:,.1f} MB"
        raise DiskError("disk of", folder, why=why, remedy="Free some space or choose another --workspace")


def fill_checksum(content: bytes) -> bytes:
    """Replace the one `CHECKSUM_BLANK` in `content` by the mark and the SHA-256 of `content`."""
    if _CHECKSUM.findall(content) != [CHECKSUM_BLANK]:
        raise ValueError("the content must hold CHECKSUM_BLANK exactly once")
    return content.replace(CHECKSUM_BLANK, CHECKSUM_MARK + hashlib.sha256(content).hexdigest().encode())


def verify_checksum(content: bytes, kind: str, path: Path, *, remedy: str = "") -> None:
    """Raise `BadData` unless `content`, read from `path`, contains a checksum and matches it."""
    match = _CHECKSUM.search(content)
    if match is None:
        raise BadData(kind, path, why="it has no amem checksum: it is damaged or of another program", remedy=remedy)
    start, end = match.span()
    digest = hashlib.sha256(content[:start])
    digest.update(CHECKSUM_BLANK)
    digest.update(memoryview(content)[end:])
    if digest.hexdigest().encode() != content[start + len(CHECKSUM_MARK) : end]:
        raise BadData(kind, path, why="its content does not match its own SHA-256: the file is damaged", remedy=remedy)


def read_checked(path: Path, kind: str, *, remedy: str = "") -> bytes:
    """The content of a file with a checksum; raises like `read_bytes` and `verify_checksum`."""
    content = read_bytes(path, kind, remedy=remedy)
    verify_checksum(content, kind, path, remedy=remedy)
    return content


def read_bytes(path: Path, kind: str, *, remedy: str = "", most: int | None = None) -> bytes:
    """The content of a file; raises as `open_input`, and `BadData` for more than `most` bytes."""
    with open_input(path, kind, remedy=remedy) as file:
        content = file.read() if most is None else file.read(most + 1)
    if most is not None and len(content) > most:
        raise BadData(kind, path, why=f"larger than {most // 2**20} MiB", remedy=remedy)
    return content


def open_input(path: Path, kind: str, *, remedy: str = "") -> BinaryIO:
    """Open a file for reading; `InputMissing` when there is none, `BadData` for no regular file, else `DiskError`."""
    try:
        return open_regular(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputMissing(kind, path, why="not found", remedy=remedy) from error
    except IsADirectoryError as error:
        raise BadData(kind, path, why="this is a folder, not a file", remedy=remedy) from error
    except OSError as error:
        raise input_error(path, error, kind) from error
    except ValueError as error:
        raise BadData(kind, path, why=str(error), remedy=remedy) from error


def open_regular(path: str | Path) -> BinaryIO:
    """Open `path` for reading without blocking: reading a named pipe or a device may not end. Raises `ValueError` for
    one, or for a null character in the path, `IsADirectoryError`, or `OSError` like `open`."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is a pipe, a device or a socket, not a regular file")
    return file


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_lines(lines: Iterable[str]) -> str:
    """The SHA-256 of lines of text, a newline after each."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def disk_error(path: Path, error: OSError, what: str = "file") -> DiskError:
    """An `OSError` at `path` as a `DiskError` with a remedy."""
    if error.errno is None and str(error).endswith("written"):  # by NumPy
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    why = (error.strerror or str(error)).lower()
    return DiskError(what, path, why=why, remedy=_REMEDIES.get(error.errno or 0, "Check the disk"))


def input_error(path: str | Path, error: OSError, what: str = "file") -> DiskError:
    """An `OSError` while `path` was read. A folder above it that may not be entered is named in its place."""
    above = (one for one in reversed(Path(path).parents) if os.path.isdir(one) and not os.access(one, os.X_OK))
    if denied := error.errno == errno.EACCES and next(above, None):
        what, path = "folder", denied
    remedy = "Check its permissions" if error.errno == errno.EACCES else "Check the disk or the folder"
    return DiskError(what, path, why=(error.strerror or str(error)).lower(), remedy=remedy)
