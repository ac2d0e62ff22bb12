"""Program of the child process of `read_matlab` and `read_arrays`.

It writes one variable of the MATLAB file on standard input as JSON, or, without a name, the arrays of numbers and texts
of a MATLAB or HDF5 file as .npz. It imports nothing of the package. A failure is one line on standard error and exit
code 1.

Usage: matlab_child.py VARIABLE MOST_BYTES_OF_MEMORY
"""

import contextlib
import io
import json
import sys

import numpy as np
from scipy.io import loadmat, whosmat


def main(variable: str, most: int) -> None:
    content = sys.stdin.buffer.read()
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no `resource`, macOS no such limit
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    if not variable:
        np.savez(sys.stdout.buffer, **arrays(content))  # type: ignore[arg-type]
        return
    variables = loadmat(io.BytesIO(content), variable_names=[variable], simplify_cells=True)
    if variable not in variables:
        names = ", ".join(name for name, _, _ in whosmat(io.BytesIO(content))[:5])
        raise ValueError(f"no variable {variable} in it, but {names or 'none'}")
    sys.stdout.write(json.dumps(variables[variable], default=lambda value: value.tolist()))


def arrays(content: bytes) -> dict[str, np.ndarray]:
    if content[:10] != b"MATLAB 7.3" and content[:4] != b"\x89HDF":
        found = {name: value for name, value in loadmat(io.BytesIO(content)).items() if not name.startswith("__")}
        for name, value in found.items():
            if value.dtype == object and all(one.dtype.kind == "U" and one.size == 1 for one in value.flat):
                found[name] = np.array([one.item() for one in value.flat])  # a cell of texts
        return {name: value for name, value in found.items() if value.dtype.kind in "biufU"}
    import h5py

    with h5py.File(io.BytesIO(content), "r") as file:
        links = {name: file.get(name, getlink=True) for name in file}
        inside = [file[name] for name, link in links.items() if isinstance(link, h5py.HardLink)]
        plain = [one for one in inside if isinstance(one, h5py.Dataset) and not one.external and not one.is_virtual]
        values = {one.name[1:]: one[()] for one in plain if one.dtype.kind in "biuf"}
        if content[:10] == b"MATLAB 7.3":  # it stores a matrix by columns, h5py reads it by rows
            values = {name: value.T for name, value in values.items()}
        for name in values:
            if file[name].attrs.get("MATLAB_class") == b"char":  # rows of character codes
                values[name] = np.array(["".join(map(chr, row)) for row in values[name]])
    shapes = {value.shape for value in values.values()}
    if len(values) > 1 and len(shapes) == 1 and len(shapes.pop()) == 1:
        return {"features": np.stack(list(values.values())), "names": np.array(list(values))}
    return values


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except Exception as error:  # SciPy raises many kinds for damaged files
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
