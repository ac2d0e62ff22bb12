"""After any failure the old or the new file exists, complete; a reader detects every flipped bit."""

import errno
import os
import resource
import stat
from types import SimpleNamespace

import pytest
from faults import DEAD, KILL, hit, in_child, temporaries
from writers import NEW, OLD, WRITERS, write

from amem_cli.artifacts import atomic, hdf5
from amem_cli.artifacts.output import verify
from amem_cli.data.images import open_image
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData, DiskError, InputMissing
from amem_cli.weights.files import read_weight_file

STEPS = ["open", "write", "fsync", "close", "replace", "fsync"]


@pytest.fixture
def target(tmp_path):
    """(path, its bytes with the old content, with the new content); the file has the old content."""
    path = tmp_path / "folder" / "arm.safetensors"
    write(path, NEW)
    new = path.read_bytes()
    write(path, OLD)
    assert path.read_bytes() != new
    return path, path.read_bytes(), new


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_is_atomic(tmp_path, name):
    with hit(None, None) as steps:
        write(tmp_path / name)
    assert steps.seen == STEPS


@pytest.mark.parametrize("at", range(len(STEPS)))
@pytest.mark.parametrize("fault", [errno.ENOSPC, KILL])
def test_write_fault_at_every_step(target, at, fault):
    path, old, new = target

    def fail():
        with hit(at, fault), pytest.raises(DiskError, match="no space left on device"):
            write(path, NEW)

    assert in_child(fail) == (DEAD if fault == KILL else 0)
    assert path.read_bytes() == (new if at == len(STEPS) - 1 else old)
    assert len(temporaries(path.parent)) == (fault == KILL and 0 < at <= STEPS.index("replace"))
    atomic.sweep_temporaries(path)
    assert temporaries(path.parent) == []


def test_write_first_error_is_reported(tmp_path, monkeypatch):
    def refuse(self, missing_ok=False):
        raise OSError(errno.EIO, "unlink failed")

    monkeypatch.setattr(atomic.Path, "unlink", refuse)
    with hit(1, errno.EROFS), pytest.raises(DiskError, match="read-only"):
        atomic.write_bytes(tmp_path / "new", b"content")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.EIO])
def test_write_where_folders_cannot_be_flushed(tmp_path, monkeypatch, number):
    """Some network file systems refuse it; a failing disk is an error."""
    flush = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EIO:
        with pytest.raises(DiskError):
            atomic.write_text(tmp_path / "x", "new")
    else:
        assert atomic.write_text(tmp_path / "x", "new").read_text() == "new"


def test_write_file_size_limit(tmp_path):
    path = atomic.write_bytes(tmp_path / "file", b"old")

    def write_too_much():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(DiskError, match="too large"):
            atomic.write_bytes(path, b"x" * 100_000)

    assert in_child(write_too_much) == 0
    assert path.read_bytes() == b"old"
    assert temporaries(tmp_path) == []


def test_write_mode_and_folders(tmp_path):
    before = os.umask(0o027)
    try:
        path = atomic.write_text(tmp_path / "new" / "file", "é")
    finally:
        os.umask(before)
    assert path.read_bytes() == "é".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(DiskError, match="move it, or choose another place"):
        atomic.write_text(path / "below", "")


def test_sweep_temporaries_keeps_those_of_locked_outputs(tmp_path):
    mine, other = tmp_path / "mars.h5", tmp_path / "ilids-vid-split0.h5"
    atomic.lock_path(other).touch()
    for name in (
        ".mars.h5.abcd1234",
        ".ilids-vid-split0.h5.abcd1234",
        ".ilids-vid-split0.txt.abcd1234",
        ".prid2011.h5.abcd1234",
        "notes",
    ):
        (tmp_path / (name + atomic.TEMPORARY_SUFFIX)).touch()
        os.utime(tmp_path / (name + atomic.TEMPORARY_SUFFIX), (1, 1))
    atomic.sweep_temporaries(mine)
    theirs = [".ilids-vid-split0.h5.abcd1234.amem-tmp", ".ilids-vid-split0.txt.abcd1234.amem-tmp"]
    assert [path.name for path in temporaries(tmp_path)] == [*theirs, "notes.amem-tmp"]
    dotted = [tmp_path / f".site.{name}.h5.abcd1234{atomic.TEMPORARY_SUFFIX}" for name in "ab"]
    for name, path in zip("ab", dotted, strict=True):
        path.touch()
        atomic.lock_path(tmp_path / f"site.{name}.h5").touch()
    atomic.sweep_temporaries(tmp_path / "site.a.h5")
    assert [path.exists() for path in dotted] == [False, True]
    dotted[1].unlink()
    atomic.sweep_temporaries(other)
    assert [path.name for path in temporaries(tmp_path)] == ["notes.amem-tmp"]
    atomic.sweep_temporaries(tmp_path / "nowhere" / "x")


def test_sweep_temporaries_keeps_those_of_writers_without_a_lock(tmp_path):
    for output, name, kept in (
        ("mars.h5", ".prid2011.h5", True),  # features convert
        ("mars.h5", ".mars.parquet", True),
        ("amem.safetensors", ".amem.onnx", True),
        ("amem.safetensors", ".state-00000003.safetensors", False),
        ("mars.h5", ".mars.h5", False),
    ):
        path = tmp_path / f"{name}.abcd1234{atomic.TEMPORARY_SUFFIX}"
        path.touch()
        atomic.sweep_temporaries(tmp_path / output)
        assert path.exists() == kept
        path.touch()
        os.utime(path, (1, 1))
        atomic.sweep_temporaries(tmp_path / output)
        assert not path.exists()


def test_require_free_space(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5 * 10**8))
    atomic.require_free_space(tmp_path / "not" / "yet" / "there", 5 * 10**8)
    with pytest.raises(DiskError, match=r"500\.0 MB free, this run needs about 600\.0 MB"):
        atomic.require_free_space(tmp_path / "not" / "yet", 6 * 10**8)


def test_disk_error_of_numpy_and_of_a_limit(tmp_path):
    error = atomic.disk_error(tmp_path, OSError("14336 requested and 8160 written"))
    assert (error.why, error.remedy[:15]) == ("no space left on device", "Free some space")
    assert "name of a file" in atomic.disk_error(tmp_path, IsADirectoryError(errno.EISDIR, "Is a directory")).remedy
    assert "ulimit -f" in atomic.disk_error(tmp_path, OSError(errno.EFBIG, "File too large")).remedy


def test_require_writable_full_disk(tmp_path, monkeypatch):
    def full(**named):
        file = open("/dev/full", "wb")  # noqa: SIM115 (the caller closes it)
        return file

    monkeypatch.setattr(atomic.tempfile, "TemporaryFile", full)
    with pytest.raises(DiskError, match="no space left"):
        atomic.require_writable(tmp_path / "x.html")


def test_read_bytes_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    assert atomic.read_bytes(tmp_path / "a", "list", most=4) == b"1234"
    with pytest.raises(BadData, match="larger"):
        atomic.read_bytes(tmp_path / "a", "list", most=3)


def test_read_bytes_missing_or_folder(tmp_path):
    with pytest.raises(InputMissing, match=r"labels .*nowhere: not found\. Run: amem label-videos\."):
        atomic.read_bytes(tmp_path / "nowhere", "labels", remedy="Run: amem label-videos")
    (tmp_path / "file").touch()
    with pytest.raises(InputMissing):
        atomic.read_bytes(tmp_path / "file" / "below", "labels")
    with pytest.raises(BadData, match="a folder, not a file"):
        atomic.read_bytes(tmp_path, "labels")


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert atomic.sha256_file(tmp_path / "abc") == known
    (tmp_path / "lines").write_bytes(b"a\n\xc3\xa9\n")
    assert atomic.sha256_lines(["a", "é"]) == atomic.sha256_file(tmp_path / "lines")


def test_fill_checksum_once(tmp_path):
    content = b"before " + atomic.CHECKSUM_BLANK + b" after"
    filled = atomic.fill_checksum(content)
    assert atomic.read_checked(atomic.write_bytes(tmp_path / "x", filled), "thing") == filled
    for bad in (b"none", content * 2, filled):
        with pytest.raises(ValueError, match="exactly once"):
            atomic.fill_checksum(bad)


def test_checksum_mark_of_published_files():
    filled = atomic.fill_checksum(b'{"checksum": "' + atomic.CHECKSUM_BLANK + b'"}')
    assert filled.startswith(b'{"checksum": "amem-seal-sha256:')
    atomic.verify_checksum(filled, "result", "x")


@pytest.mark.parametrize("name", ["features.h5", "result.json"])
def test_verify_flipped_bits(tmp_path, monkeypatch, name):
    write(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    monkeypatch.setattr(hdf5, "call_in_child", lambda *_, **__: b"")  # flipped: not a file of another program
    verify(tmp_path / name)
    for at in range(0, len(content), 13):
        flipped = content[at] ^ 1 << at % 8
        (tmp_path / name).write_bytes(content[:at] + bytes([flipped]) + content[at + 1 :])
        with pytest.raises(BadData):
            verify(tmp_path / name)


@pytest.mark.parametrize("name", WRITERS)
def test_read_truncated(tmp_path, name):
    path = tmp_path / name
    write(path)
    good = path.read_bytes()
    for length in (len(good) - 1, len(good) // 2, 100):
        path.write_bytes(good[:length])
        with pytest.raises(BadData):
            verify(path)


def test_require_writable(tmp_path):
    (tmp_path / ".page.html.0a.amem-tmp").touch()
    (tmp_path / ".other.html.0a.amem-tmp").touch()
    atomic.require_writable(tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == [".other.html.0a.amem-tmp"]
    for place in (tmp_path, tmp_path / ".other.html.0a.amem-tmp" / "page.html"):
        with pytest.raises(DiskError):
            atomic.require_writable(place)


# -- inputs ------------------------------------------------------------------------------------------------------------

MAKE = {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero")}
READERS = {
    "x.jpg": open_image,
    "x.txt": lambda path: atomic.read_bytes(path, "thing"),
    "x.pt": read_weight_file,
    "x.toml": lambda path: load_manifest(str(path)),
}


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("name", READERS)
def test_readers_refuse_pipes_and_devices(make, name, tmp_path):
    MAKE[make](tmp_path / name)
    with pytest.raises(BadData, match="not a regular file"):
        READERS[name](tmp_path / name)


def test_open_regular(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")
    with atomic.open_regular(tmp_path / "b") as file:
        assert file.read() == b"content"
    with pytest.raises(IsADirectoryError):
        atomic.open_regular(tmp_path)


def test_input_error_names_the_folder_that_may_not_be_entered(tmp_path, monkeypatch):
    path = tmp_path / "closed" / "inner" / "x.h5"
    path.parent.mkdir(parents=True)
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    assert str(atomic.input_error(path, denied, "features")) == (
        f"features {path}: permission denied. Check its permissions."
    )
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path))
    assert str(atomic.input_error(path, denied)) == (
        f"folder {tmp_path / 'closed'}: permission denied. Check its permissions."
    )
    broken = OSError(errno.EIO, os.strerror(errno.EIO))
    assert str(atomic.input_error(path, broken)).startswith(f"file {path}: input/output error. Check the disk")
