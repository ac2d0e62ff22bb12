"""Refusal of work that needs more memory than there is; settings of the process, each tried in its own process."""

import os
import platform
import subprocess
import sys

import pytest

from amem_cli.errors import UsageError
from amem_cli.runtime.memory import require_memory

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
# page faults of taking, writing and freeing 64 MB for the second time
PROGRAM = """
import ctypes, resource
from amem_cli.runtime.memory import keep_freed_memory
print(keep_freed_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def use():
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = (64 << 20) // os.sysconf("SC_PAGE_SIZE")


def test_require_memory() -> None:
    require_memory("--x", "1", 10, 10, "Lower it")
    require_memory("--x", "1", 10, None, "Lower it")
    with pytest.raises(UsageError) as raised:
        require_memory("--x", "1", 11_000_000_000, 10_000_000_000, "Lower it")
    assert str(raised.value) == "--x 1: needs at least 11.0 GB of memory, and 10.0 GB are free. Lower it."


def run(program: str, **environment: str) -> list[str]:
    prefixes = ("MALLOC", "GLIBC", "LD_", "AMEM_", "OMP_", "GOMP_", "KMP_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=clean | environment, check=True, capture_output=True, text=True)
    return ended.stdout.splitlines()


@only_linux
def test_keep_freed_memory() -> None:
    kept, faults = run(PROGRAM)
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("the C library is not glibc")
    assert kept == "True"
    assert int(faults) < PAGES / 20


@only_linux
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AMEM_KEEP_FREED_MEMORY", "0"),
        ("MALLOC_MMAP_THRESHOLD_", "65536"),
        ("GLIBC_TUNABLES", "glibc.malloc.check=0"),
    ],
)
def test_keep_freed_memory_off(name: str, value: str) -> None:
    kept, faults = run(PROGRAM, **{name: value})
    assert kept == "False"
    assert int(faults) > PAGES / 2


@pytest.mark.parametrize(
    ("name", "expected"), [("AMEM", "PASSIVE 10000"), ("OMP_WAIT_POLICY", "1 None"), ("KMP_BLOCKTIME", "None None")]
)
def test_let_idle_threads_sleep(name: str, expected: str) -> None:
    program = "from amem_cli.runtime.memory import *; let_idle_threads_sleep()"
    shown = "print(*map(os.environ.get, ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')))"
    assert run(f"{program}; {shown}", **{name: "1"}) == [expected]


def test_commands_make_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from amem_cli import __main__
    from amem_cli.runtime import memory

    calls = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: calls.append("memory"))
    monkeypatch.setattr(memory, "let_idle_threads_sleep", lambda: calls.append("threads"))
    monkeypatch.setattr("amem_cli.cli.app.run", lambda arguments: calls.append("run") or 0)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit):
        __main__.main()
    assert sorted(calls[:2]) == ["memory", "threads"]
    assert calls[2] == "run"


def test_the_settings_are_made_before_torch_is_loaded() -> None:
    assert run("import sys, amem_cli.__main__; print('torch' in sys.modules)") == ["False"]
