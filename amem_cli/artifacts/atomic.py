"""The one way to write a file: it is there whole, or the old one still is.

Bytes are made in memory, written to a temporary file beside the target, flushed to the disk, renamed over the target,
and the folder is flushed. A *sealed* file also carries a SHA-256 of its own content, so that one flipped bit is found
when the file is read (safetensors and HDF5 notice few of them).
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from amem_cli.artifacts.regular_file import NotRegular, open_regular
from amem_cli.errors import BadData, DiskError, InputMissing

CHECKSUM_MARK = b"amem-seal-sha256:"
CHECKSUM_BLANK = CHECKSUM_MARK + b"0" * 64  # a format writes this once into itself; `seal` fills it in
TEMPORARY_SUFFIX = ".amem-tmp"


def write_bytes(path: Path, content: bytes) -> Path:
    """Write `content` to `path` so that a crash at any point leaves the old file or the new one.

    The file's mode follows the umask. Raises `DiskError` when the disk is full, read-only or broken.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                Path(temporary).unlink()
    return path


def write_text(path: Path, text: str) -> Path:
    """`write_bytes` for UTF-8 text."""
    return write_bytes(path, text.encode("utf-8"))


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut (a no-op where the system has none)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_path(output: Path) -> Path:
    """The lock file of an output; it stays there, held or not."""
    return output.parent / f".{output.name}.lock"


def sweep_temporaries(output: Path) -> int:
    """Remove what crashed writers left beside `output`; call it only while holding the lock on `output`.

    Temporaries of a neighbour that has a lock of its own are left alone: its run may be writing at this moment.
    """
    stale = []
    for path in sorted(output.parent.glob(f".*{TEMPORARY_SUFFIX}")):
        target = output.with_name(path.name[1 : -len(TEMPORARY_SUFFIX)].rpartition(".")[0])
        if target.name == output.name or not lock_path(target).exists():
            stale.append(path)
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


def require_free_space(folder: Path, needed: int) -> None:
    """Raise `DiskError` now when the disk of `folder` has fewer than `needed` bytes left, not hours later."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DiskError(
            "disk of",
            folder,
            why=f"{free / 1e9:.2f} GB free, this run needs about {needed / 1e9:.2f} GB",
            remedy="Free some space or choose another --workspace",
        )


def fill_checksum(content: bytes) -> bytes:
    """Fill the one blank seal in `content` with the SHA-256 of `content` as it is with the seal blank."""
    if len(re.findall(re.escape(CHECKSUM_MARK) + b"[0-9a-f]{64}", content)) != 1 or CHECKSUM_BLANK not in content:
        raise ValueError("a sealed format holds CHECKSUM_BLANK exactly once")
    return content.replace(CHECKSUM_BLANK, CHECKSUM_MARK + hashlib.sha256(content).hexdigest().encode())


def read_checked(path: Path, kind: str, *, required: bool = True, remedy: str = "") -> bytes:
    """The content of a sealed file, after comparing it with its seal.

    Without `required` a file that carries no seal (one from another program) is accepted as it is; one whose first
    bytes are a seal with a damaged mark is not. Raises `InputMissing`, or `BadData` when the content does not match
    the seal.
    """
    content = read_bytes(path, kind, remedy=remedy)
    found = re.search(re.escape(CHECKSUM_MARK) + b"[0-9a-f]{64}", content)
    if found is None:
        if (
            required
            or content.startswith(CHECKSUM_MARK)
            or re.fullmatch(b"[0-9a-f]{64}", content[len(CHECKSUM_MARK) : len(CHECKSUM_BLANK)])
        ):
            raise BadData(kind, path, why="it carries no amem seal, so it is damaged or not ours", remedy=remedy)
        return content
    start, end = found.span()
    digest = hashlib.sha256(content[:start])
    digest.update(CHECKSUM_BLANK)
    digest.update(memoryview(content)[end:])
    if digest.hexdigest().encode() != content[start + len(CHECKSUM_MARK) : end]:
        raise BadData(kind, path, why="its content does not match its own SHA-256: the file is damaged", remedy=remedy)
    return content


def read_bytes(path: Path, kind: str, *, remedy: str = "") -> bytes:
    """The content of a file; `InputMissing` when it is not there, `DiskError` when it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read()
    except NotRegular as error:
        raise BadData(kind, path, why=str(error), remedy=remedy) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputMissing(kind, path, why="not found", remedy=remedy) from error
    except IsADirectoryError as error:
        raise BadData(kind, path, why="this is a folder, not a file", remedy=remedy) from error
    except OSError as error:
        raise disk_error(Path(path), error) from error


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_lines(lines: Iterable[str]) -> str:
    """The SHA-256 of lines of text, each ended by a newline."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def disk_error(path: Path, error: OSError, what: str = "file") -> DiskError:
    """`error` of the system at `path` as one line with its remedy."""
    remedies = {
        errno.ENOSPC: "Free some space and run the same command again: what was finished is kept",
        errno.EDQUOT: "Your quota is used up: free some space and run the same command again",
        errno.EACCES: "Check the folder's permissions or choose another --workspace",
        errno.ENOTDIR: "A file stands where a folder should be: move it, or choose another --workspace",
        errno.EROFS: "Choose a --workspace on a disk that can be written",
    }
    why = (error.strerror or str(error)).lower()
    return DiskError(what, path, why=why, remedy=remedies.get(error.errno or 0, "Check the disk"))
