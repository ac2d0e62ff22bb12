"""The lock of an output, and the paths of a workspace."""

import contextlib
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
from faults import temporaries

from amem_cli.artifacts import output as lock
from amem_cli.artifacts import paths
from amem_cli.errors import DiskError, Locked

HOLDER = """
import sys, time
from pathlib import Path
from amem_cli.artifacts.output import locked
with locked(Path(sys.argv[1])):
    print("holding", flush=True)
    time.sleep(60)
"""


def test_paths_are_those_of_the_contract():
    place = paths.Workspace(Path("w"))
    found = [place.arm, place.tae, place.labels("mars"), place.amem("mars", None), place.amem_main("ilids-vid", 3)]
    found += [place.features("mars", None), place.features("ilids-vid", 0), place.results("ilids-10split")]
    assert [path.as_posix() for path in found] == [
        "w/arm/arm.safetensors",
        "w/tae/tae.safetensors",
        "w/labels/mars.h5",
        "w/amem/mars/amem.safetensors",
        "w/amem/ilids-vid-split3/amem-main.safetensors",
        "w/features/mars.h5",
        "w/features/ilids-vid-split0.h5",
        "w/results/ilids-10split.json",
    ]


def test_locked_by_another_process(tmp_path):
    output = tmp_path / "features" / "mars.h5"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, output], stdout=subprocess.PIPE, text=True)
    with process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout.readline() == "holding\n"
        with pytest.raises(Locked, match=rf"another run is writing it \(process {process.pid} on "):
            with lock.locked(output):
                pytest.fail("locked twice")
        with lock.locked(output.with_name("other.h5")), lock.locked(output, owner=False):
            pass
    output.with_name(".mars.h5.abcd1234.amem-tmp").touch()
    with lock.locked(output):
        assert temporaries(output.parent) == []
        assert f"process {os.getpid()} on " in output.with_name(".mars.h5.holder").read_text()


def test_locked_is_free_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="inside"), lock.locked(tmp_path / "x.h5"):
            raise RuntimeError("inside")
    assert [path.name for path in tmp_path.iterdir()] == [".x.h5.lock"]


def test_locked_mode_follows_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with lock.locked(tmp_path / "x.h5"):
            modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert len(modes) == 1
    assert not modes.pop() & 0o027


def full(self, text):
    self.touch()
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_locked_disk_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError), lock.locked(tmp_path / "file" / "x.h5"):
        pass
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DiskError, match="no space left"), lock.locked(tmp_path / "x.h5"):
        pytest.fail("went on")
    assert not list(tmp_path.glob("*.holder"))
    monkeypatch.undo()
    with lock.locked(tmp_path / "x.h5"):
        pass


def test_locked_where_nothing_can_be_written(tmp_path, monkeypatch):
    def refused(self, *arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(filelock.FileLock, "acquire", refused)
    (tmp_path / ".x.h5.holder").touch()  # of a run that holds the lock
    with pytest.raises(DiskError, match="read-only"), lock.locked(tmp_path / "x.h5"):
        pytest.fail("went on")
    (tmp_path / "x.h5").touch()
    with lock.locked(tmp_path / "x.h5"):  # an artifact can be reused
        pass
    assert (tmp_path / ".x.h5.holder").exists()


def test_locked_full_disk_with_an_artifact(tmp_path, monkeypatch):
    (tmp_path / "x.h5").touch()
    monkeypatch.setattr(Path, "write_text", full)
    with lock.locked(tmp_path / "x.h5"), pytest.raises(Locked), lock.locked(tmp_path / "x.h5"):
        pass
    with pytest.raises(DiskError, match="no space left"), lock.locked(tmp_path / "y.h5"):
        pass
