"""Reads files of other programs in a child process, since C libraries can crash or hang on damaged ones."""

import contextlib
import importlib
import os
import subprocess
import sys

SECONDS, BYTES_PER_SECOND = 60.0, 8e6  # time limit, longer for large files
MEMORY, MEMORY_PER_BYTE = 4 << 30, 6  # memory limit, plus this times the file's size


def call_in_child(function: str, *arguments: str, size: int, content: bytes = b"") -> bytes:
    """The standard output of `function` ("module:name"), which reads a file of `size` bytes, in a child process with
    `content` on its standard input. Raises `ValueError` with the reason when it fails, or exceeds the limits."""
    seconds, memory = SECONDS + size / BYTES_PER_SECOND, str(MEMORY + MEMORY_PER_BYTE * size)
    command = [sys.executable, "-P", "-W", "ignore", "-m", __name__, function, memory, *arguments]
    # each thread of OpenBLAS would reserve memory
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=environment, input=content, timeout=seconds, capture_output=True)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"not read within {seconds:.0f} s: the file is damaged") from error
    if done.returncode < 0:
        raise ValueError(f"the library that reads it crashed (signal {-done.returncode}): the file is damaged")
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ValueError(lines[-1] if lines else f"exit code {done.returncode}")
    return done.stdout


def main(function: str, memory: str, *arguments: str) -> None:
    """The child process: call the function; a failure is one line on standard error and exit code 1."""
    module, _, name = function.partition(":")
    try:
        called = getattr(importlib.import_module(module), name)
        with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no `resource`, macOS no such limit
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
        called(*arguments)
    except Exception as error:  # the libraries raise many kinds for damaged files
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
