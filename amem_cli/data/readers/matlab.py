"""MATLAB and HDF5 files from outside, read in a child process with a time limit and a memory limit.

`scipy.io.loadmat` trusts the type codes in a file, and one wrong byte can end the process with a segmentation fault
(SciPy 1.17: 4 of 300 files with one or two random bytes).
"""

import functools
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.data.readers.files import read_bytes
from amem_cli.errors import BadData

CHILD = Path(__file__).with_name("matlab_child.py")
MOST_SECONDS = 120
MOST_MEMORY = 2 * 2**30
MOST_ARRAY_BYTES = 4 * 2**30
BYTES_PER_SECOND = 8_000_000


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
    return json.loads(_child(content, variable, MOST_MEMORY, MOST_SECONDS))


def read_arrays(path: Path, what: str = "features") -> dict[str, np.ndarray]:
    """The numbers and texts of a MATLAB (4, 5 or 7.3) or plain HDF5 file by their names, others left out.

    The data sets of an HDF5 file that are vectors of one length become the rows of `features`, their names `names`.
    Raises as `read_matlab`.
    """
    content = read_bytes(path, what, min(MOST_ARRAY_BYTES, path.stat().st_size))
    memory, seconds = MOST_MEMORY + 6 * len(content), MOST_SECONDS + len(content) // BYTES_PER_SECOND
    try:
        with np.load(io.BytesIO(_child(content, "", memory, seconds)), allow_pickle=False) as arrays:
            return dict(arrays)
    except ValueError as error:
        raise BadData(what, path, why=f"not a readable MATLAB or HDF5 file ({error})") from error


def _child(content: bytes, variable: str, memory: int, seconds: int) -> bytes:
    command = [sys.executable, "-P", "-W", "ignore", str(CHILD), variable, str(memory)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each thread would reserve memory
    try:
        child = subprocess.run(command, input=content, capture_output=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"not read within {seconds} seconds") from error
    if child.returncode:
        lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ValueError(lines[-1] if lines else f"SciPy ended with exit code {child.returncode}")
    return child.stdout
