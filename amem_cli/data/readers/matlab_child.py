"""Program of `read_matlab`'s child process: writes one variable of the MATLAB file on standard input as JSON.

It imports nothing of the package. A failure is one line on standard error and exit code 1.

Usage: matlab_child.py VARIABLE MOST_BYTES_OF_MEMORY
"""

import contextlib
import io
import json
import sys

from scipy.io import loadmat, whosmat


def main(variable: str, most: int) -> None:
    content = sys.stdin.buffer.read()
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no `resource`, macOS no such limit
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    variables = loadmat(io.BytesIO(content), variable_names=[variable], simplify_cells=True)
    if variable not in variables:
        names = ", ".join(name for name, _, _ in whosmat(io.BytesIO(content))[:5])
        raise ValueError(f"no variable {variable} in it, but {names or 'none'}")
    sys.stdout.write(json.dumps(variables[variable], default=lambda value: value.tolist()))


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except Exception as error:  # SciPy raises many kinds for damaged files
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
