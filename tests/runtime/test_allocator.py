"""The allocator's setting, tested in child processes, because it is permanent for a process."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc on Linux only")

# page faults of the second of two rounds that allocate, write and free 64 MB
PROGRAM = """
import resource, sys
from amem_cli.runtime.allocator import keep_freed_memory
if sys.argv[1] == "set":
    print(keep_freed_memory())
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def use():
    piece = libc.malloc(64 << 20)
    ctypes.memset(piece, 1, 64 << 20)
    libc.free(piece)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(argument: str, **environment: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "GLIBC", "LD_"))}
    command = [sys.executable, "-c", PROGRAM, argument]
    return subprocess.run(command, env=clean | environment, check=True, capture_output=True, text=True).stdout.split()


def test_keep_freed_memory_page_faults() -> None:
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    was_set, faults = run("set")
    if was_set == "False":
        pytest.skip("the C library is not glibc")
    assert int(faults) < pages / 20
    assert int(run("leave")[0]) > 10 * int(faults)  # because the memory was returned to the system


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_keep_freed_memory_user_settings(name: str) -> None:
    assert run("set", **{name: "65536" if name.startswith("MALLOC") else "glibc.malloc.check=0"})[0] == "False"


def test_keep_freed_memory_in_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    from amem_cli import __main__
    from amem_cli.runtime import allocator

    calls = []
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: calls.append("set"))
    monkeypatch.setattr("amem_cli.cli.app.run", lambda arguments: 0)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit):
        __main__.main()
    assert calls == ["set"]
