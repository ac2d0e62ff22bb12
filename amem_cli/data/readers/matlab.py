"""MATLAB and HDF5 files of other programs, read in a child process.

`scipy.io.loadmat` trusts the type codes in a file, and one wrong byte can end the process with a segmentation fault
(SciPy 1.17: 4 of 300 files with one or two random bytes).
"""

import functools
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts.atomic import read_bytes
from amem_cli.artifacts.child import call_in_child
from amem_cli.data.readers.files import MOST_BYTES_OF_METADATA
from amem_cli.errors import BadData

MOST_ARRAY_BYTES = 4 * 2**30
UNREAD = np.zeros(0, "V1")  # in place of a struct, a cell or a group


def read_matlab(path: Path, variable: str, what: str) -> Any:
    """One variable of a MATLAB 4 or 5 file: numbers and cells as (nested) lists, texts as str, structs as dicts.

    Axes of length 1 are lost. Raises `InputMissing`, or `BadData` for damage, another kind, no such variable.
    """
    content = read_bytes(path, what, most=MOST_BYTES_OF_METADATA)
    if content[:10] == b"MATLAB 7.3" or content[:4] == b"\x89HDF":
        raise BadData(what, path, why="it is a MATLAB 7.3 file", remedy="Save it again in MATLAB or Octave with -v7")
    try:
        return _read(content, variable)
    except (ValueError, RecursionError) as error:
        raise BadData(what, path, why=f"not a readable MATLAB file ({error})") from error


@functools.lru_cache(maxsize=4)  # a child process needs half a second
def _read(content: bytes, variable: str) -> Any:
    return json.loads(call_in_child(f"{__name__}:write_variable", variable, size=len(content), content=content))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The numbers and texts of a MATLAB (4, 5 or 7.3) or plain HDF5 file by their names; others are `UNREAD`.

    Vectors of one length in an HDF5 file become the rows of `features`, their names `names`. Raises as `read_matlab`.
    """
    content = read_bytes(path, "features", most=min(MOST_ARRAY_BYTES, path.stat().st_size))
    try:
        written = call_in_child(f"{__name__}:write_arrays", size=len(content), content=content)
        with np.load(io.BytesIO(written), allow_pickle=False) as arrays:
            return dict(arrays)
    except ValueError as error:
        raise BadData("features", path, why=f"not a readable MATLAB or HDF5 file ({error})") from error


# -- in the child process ----------------------------------------------------------------------------------------------


def write_variable(name: str) -> None:
    """Write one variable of the MATLAB file on standard input to standard output, as JSON."""
    from scipy.io import loadmat, whosmat

    content = io.BytesIO(sys.stdin.buffer.read())
    variables = loadmat(content, variable_names=[name], simplify_cells=True)
    if name not in variables:
        names = ", ".join(one for one, _, _ in whosmat(content)[:5])
        raise ValueError(f"no variable {name} in it, but {names or 'none'}")
    sys.stdout.write(json.dumps(variables[name], default=lambda value: value.tolist()))


def write_arrays() -> None:
    """Write the arrays of numbers and texts of the MATLAB or HDF5 file on standard input, as .npz."""
    content = sys.stdin.buffer.read()
    hdf5 = content[:10] == b"MATLAB 7.3" or content[:4] == b"\x89HDF"
    arrays = _hdf5_arrays(content) if hdf5 else _matlab_arrays(content)
    np.savez(sys.stdout.buffer, **arrays)  # type: ignore[arg-type]


def _matlab_arrays(content: bytes) -> dict[str, np.ndarray]:
    from scipy.io import loadmat

    found = {name: value for name, value in loadmat(io.BytesIO(content)).items() if not name.startswith("__")}
    for name, value in found.items():
        if value.dtype == object and all(one.dtype.kind == "U" and one.size == 1 for one in value.flat):
            found[name] = np.array([one.item() for one in value.flat])  # a cell of texts
    return {name: value if value.dtype.kind in "biufU" else UNREAD for name, value in found.items()}


def _hdf5_arrays(content: bytes) -> dict[str, np.ndarray]:
    import h5py

    with h5py.File(io.BytesIO(content), "r") as file:
        links = {name: file.get(name, getlink=True) for name in file}
        inside = [file[name] for name, link in links.items() if isinstance(link, h5py.HardLink)]
        plain = [one for one in inside if isinstance(one, h5py.Dataset) and not one.external and not one.is_virtual]
        values = {one.name[1:]: one[()] for one in plain if one.dtype.kind in "biuf"}
        texts = [one for one in plain if h5py.check_string_dtype(one.dtype)]
        values |= {one.name[1:]: np.array(one.asstr()[()], dtype=str) for one in texts}
        if content[:10] == b"MATLAB 7.3":  # it stores a matrix by columns, h5py reads it by rows
            values = {name: value.T for name, value in values.items()}
        for name in values:
            if file[name].attrs.get("MATLAB_class") == b"char":  # rows of character codes
                values[name] = np.array(["".join(map(chr, row)) for row in values[name]])
    # "#refs#" and other names with # are MATLAB's own
    others = {name: UNREAD for name in links if name not in values and not name.startswith("#")}
    shapes = {value.shape for value in values.values()}
    if len(values) > 1 and len(shapes) == 1 and len(shapes.pop()) == 1:
        values = {"features": np.stack(list(values.values())), "names": np.array(list(values))}
    return others | values
