"""MATLAB files from outside, read by SciPy in a child process with a time limit and a memory limit.

`scipy.io.loadmat` trusts the type codes in a file, and one wrong byte can end the process with a segmentation fault
(SciPy 1.17: 4 of 300 files with one or two random bytes).
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from amem_cli.data.readers.files import read_bytes
from amem_cli.errors import BadData

CHILD = Path(__file__).with_name("matlab_child.py")
MOST_SECONDS = 120
MOST_MEMORY = 2 * 2**30


def read_matlab(path: Path, variable: str, what: str) -> Any:
    """One variable of a MATLAB 4 or 5 file: numbers and cells as (nested) lists, texts as str, structs as dicts.

    Axes of length 1 are lost. Raises `InputMissing`, or `BadData` when the file is damaged, of another kind, or lacks
    the variable.
    """
    content = read_bytes(path, what)
    if content[:10] == b"MATLAB 7.3" or content[:4] == b"\x89HDF":
        raise BadData(what, path, why="it is a MATLAB 7.3 file", remedy="Save it again in MATLAB with -v7")
    try:
        return _read(content, variable)
    except (ValueError, RecursionError) as error:
        raise BadData(what, path, why=f"not a readable MATLAB file ({error})") from error


@functools.lru_cache(maxsize=4)
def _read(content: bytes, variable: str) -> Any:
    """The child's answer; `ValueError` if it fails. Cached, because a child process needs half a second."""
    command = [sys.executable, "-P", "-W", "ignore", str(CHILD), variable, str(MOST_MEMORY)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each thread would reserve memory
    try:
        child = subprocess.run(command, input=content, capture_output=True, timeout=MOST_SECONDS, env=environment)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"not read within {MOST_SECONDS} seconds") from error
    if child.returncode:
        lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ValueError(lines[-1] if lines else f"SciPy ended with exit code {child.returncode}")
    return json.loads(child.stdout)
