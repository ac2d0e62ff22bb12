"""Reads a MATLAB file from standard input and writes one variable as `.npz` to standard output.

`read_matlab` runs this file in a process of its own, because `scipy.io.loadmat` can crash on damaged files. It imports
nothing of the package. A failure is one line on standard error and exit code 1.

Usage: matlab_child.py VARIABLE MOST_BYTES_OF_MEMORY
"""

import contextlib
import io
import sys
import warnings
from typing import Any

import numpy as np
from scipy.io import loadmat, whosmat

DEEPEST = 8  # structs and cells in each other; PETA.mat has 3
MOST_ARRAYS = 100_000


def limit_memory(most: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no `resource`, macOS no such limit
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def flatten(value: Any, key: str, arrays: dict[str, np.ndarray], depth: int = 0) -> None:
    """Add the numbers and texts in `value` to `arrays`; fields and cells (from 0) continue the key after a dot."""
    if depth > DEEPEST or len(arrays) > MOST_ARRAYS:
        raise ValueError("too many or too deeply nested structs and cells")
    array = np.asarray(value) if not isinstance(value, list | dict) else None
    if isinstance(value, dict):
        for field, content in value.items():
            flatten(content, f"{key}.{field}", arrays, depth + 1)
    elif array is not None and array.dtype.kind in "biufU":
        arrays[key] = array
    elif array is not None and array.dtype != object:
        raise ValueError(f"{key} holds {array.dtype}, which is neither number nor text")
    else:
        cells = list(value if array is None else array.ravel())
        if cells and all(isinstance(cell, str) for cell in cells):
            arrays[key] = np.array(cells)
            return
        for place, cell in enumerate(cells):
            flatten(cell, f"{key}.{place}", arrays, depth + 1)


def main() -> None:
    variable, most = sys.argv[1], int(sys.argv[2])
    content = sys.stdin.buffer.read()
    limit_memory(most)
    warnings.simplefilter("ignore")
    found = loadmat(io.BytesIO(content), variable_names=[variable], simplify_cells=True)
    if variable not in found:
        names = ", ".join(name for name, _, _ in whosmat(io.BytesIO(content))[:5])
        raise ValueError(f"no variable {variable} in it, but {names or 'none'}")
    arrays: dict[str, np.ndarray] = {}
    flatten(found[variable], variable, arrays)
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    sys.stdout.buffer.write(packed.getvalue())


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # SciPy raises many kinds for damaged files
        sys.exit(" ".join(str(error).split())[:200] or type(error).__name__)
