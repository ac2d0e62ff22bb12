"""HDF5 tables: built and written in memory, checked against their checksum before the HDF5 library reads them.

The library can crash or hang on a damaged file, so a child process first reads those that have no checksum.
"""

import contextlib
import hashlib
import io
import json
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from amem_cli.artifacts import atomic
from amem_cli.artifacts.child import call_in_child
from amem_cli.artifacts.provenance import Provenance, check_provenance, head_of, kind_error
from amem_cli.errors import BadData, listing, out_of_memory

Columns = dict[str, tuple[str, int]]  # name -> (dtype: "str" or NumPy's name, number of axes)
Wanted = tuple[str, Columns, Columns, str]  # kind ("": any), columns, optional columns, path to map or ""

PEOPLE: Columns = {"person_id": ("int64", 1)}  # optional: tracks without identities have none
LARGEST_FILE = 8 << 30
LARGEST_RATIO = 1100  # limit of a column's bytes relative to its bytes in the file; deflate reaches 1032
USER_BLOCK = 512  # HDF5's user block, which holds the checksum


class Malformed(ValueError):
    """A valid HDF5 file without the expected table."""


def write(path: Path, kind: str, rows: Any, columns: Columns, provenance: Provenance, **attributes: Any) -> Path:
    """Write the attributes of `rows` that `columns` names (arrays of length N, lists of N str) with a checksum. Raises
    `BadData` for strings that UTF-8 cannot encode, e.g. some file names."""
    document = json.dumps(provenance.as_json(), sort_keys=True)
    head = head_of(kind) | {"dataset": rows.dataset, "provenance": document}
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        for name, value in (head | attributes).items():
            file.attrs[name] = value
        for name, (dtype, _) in columns.items():
            values = getattr(rows, name)
            if dtype != "str":
                file.create_dataset(name, data=np.asarray(values, dtype))
                continue
            if odd := [repr(v) for v in values if v.encode("utf-8", "replace").decode() != v]:
                raise BadData(kind, path, why=f"'{name}' must be Unicode ({listing(odd)})", remedy="Rename the files")
            file.create_dataset(name, data=values, dtype=h5py.string_dtype("utf-8"))
    with buffer.getbuffer() as content:  # in place: a copy takes as much memory as all features
        content[:USER_BLOCK] = atomic.CHECKSUM_BLANK.ljust(USER_BLOCK, b"\0")
        filled = atomic.CHECKSUM_MARK + hashlib.sha256(content).hexdigest().encode()
        content[: len(filled)] = filled
        return atomic.write_bytes(path, content)


def read(
    path: Path, kind: str, columns: Columns, *, remedy: str = "", optional: Columns | None = None, mapped: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The attributes of a table, with `provenance` parsed, and its columns; those of `optional` may be missing.

    With `mapped`, float32 columns (rows, D) are memory maps, unchecked, unless compressed or of another type.
    Raises `InputMissing`, or `BadData` for damage, another kind or schema, and columns that are missing, of another
    type, of unequal length, not finite, or stored in another file.
    """
    wanted = (kind, columns, optional or {}, str(path) if mapped else "")
    with opened(path, f"{kind} file", wanted, remedy=remedy, largest=None if mapped else LARGEST_FILE) as file:
        attributes, values = _parse(file, *wanted)
    attributes["provenance"] = check_provenance(attributes.get("provenance", "{}"), kind, path)
    return attributes, values


def read_attributes(path: Path, kind: str) -> dict[str, Any]:
    """The attributes of any HDF5 file; `kind` names it in errors."""
    with opened(path, kind) as file:
        return _parse(file, "", {}, {}, "")[0]


@contextlib.contextmanager
def opened(
    path: Path, kind: str, wanted: Wanted = ("", {}, {}, ""), *, remedy: str = "", largest: int | None = LARGEST_FILE
) -> Iterator[h5py.File]:
    """A file, verified by its checksum or else by reading `wanted` in a child process. Any error is `BadData`."""
    with atomic.open_input(path, kind, remedy=remedy) as source:
        size = os.fstat(source.fileno()).st_size
        if not size:
            raise BadData(kind, path, why="it is empty", remedy=remedy)
        if largest is not None and size > largest:
            raise BadData(kind, path, why=f"larger than {largest >> 30} GiB", remedy=remedy)
        start = source.read(USER_BLOCK + 8)
        # our files have both the mark and a signature after the user block; damage may leave one of them
        if start.startswith(atomic.CHECKSUM_MARK) or start[USER_BLOCK:] == b"\x89HDF\r\n\x1a\n":
            with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as content:
                atomic.verify_checksum(content, kind, path, remedy=remedy)  # type: ignore[arg-type]
        else:
            try:
                call_in_child(f"{__name__}:parse_in_child", str(path), json.dumps(wanted), size=size)
            except ValueError as error:
                raise BadData(kind, path, why=str(error), remedy=remedy) from error
        try:
            with h5py.File(source, "r") as file:
                yield file
        except Exception as error:
            if out_of_memory(error):
                raise
            raise BadData(kind, path, why=_reason(error), remedy=remedy) from error


def parse_in_child(path: str, wanted: str) -> None:
    """The child process of `opened`: parse the file, or exit with the reason."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            _parse(file, *json.loads(wanted))
    except Exception as error:
        sys.exit(_reason(error))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, Malformed) else f"not a readable HDF5 file ({error or type(error).__name__})"


# -- parsing -----------------------------------------------------------------------------------------------------------


def _parse(
    file: h5py.File, kind: str, columns: Columns, optional: Columns, mapped: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes and columns. Raises `Malformed`, or for damage nearly any exception of h5py."""
    attributes = {name: _text(value) for name, value in file.attrs.items()}
    missing = [name for name in ("kind", "schema", "dataset", "created_by") if name not in attributes]
    why = f"lacks the attributes {', '.join(missing)}" if missing else kind_error(attributes, kind)
    if kind and why:
        raise Malformed(why)
    present = columns | {name: spec for name, spec in optional.items() if name in file}
    values = {name: _column(file, name, *spec, mapped) for name, spec in present.items()}
    lengths = {name: len(column) for name, column in values.items()}
    if len(set(lengths.values())) > 1:
        raise Malformed(f"columns of unequal length ({lengths})")
    return attributes, values


def _column(file: h5py.File, name: str, dtype: str, axes: int, mapped: str) -> Any:
    """The values of a column that is stored in this file."""
    link = file.get(name, getlink=True)
    if link is None:
        raise Malformed(f"has no column '{name}'")
    # the link first: looking at the target of an external link would open another file
    plain = isinstance(link, h5py.HardLink) and isinstance(column := file[name], h5py.Dataset)
    if not plain or column.is_virtual or column.external:
        raise Malformed(f"'{name}' is not a plain data set in this file")
    if column.ndim != axes:
        raise Malformed(f"'{name}' has {column.ndim} axes, not {axes}")
    plain = axes == 2 and column.dtype == np.float32 and column.size and not column.chunks
    if mapped and plain and (offset := column.id.get_offset()) is not None:
        return np.memmap(mapped, np.float32, "r", offset, column.shape)
    if dtype == "str":
        if h5py.check_string_dtype(column.dtype) is None:
            raise Malformed(f"'{name}' holds {column.dtype}, not strings")
        _check_size(column, name)
        return list(column.asstr("utf-8")[()])
    # other programs write other types (no bool, other widths): any type whose values fit is accepted
    if column.dtype.kind not in ("biuf" if np.dtype(dtype).kind == "f" else "biu"):
        raise Malformed(f"'{name}' holds {column.dtype}, not {dtype}")
    _check_size(column, name)
    stored = column[()]
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinity, which is an error below
        values = np.ascontiguousarray(stored.astype(dtype))
    if values.dtype.kind != "f" and not np.array_equal(values, stored):
        raise Malformed(f"'{name}' holds values that do not fit {dtype}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        rows = np.unique(np.nonzero(~np.isfinite(values))[0])
        raise Malformed(f"'{name}' has NaN or infinity in rows {listing(map(str, rows))}")
    return values


def _check_size(column: h5py.Dataset, name: str) -> None:
    """Raise `Malformed` before memory is allocated for more values than the file can hold."""
    stored = column.id.get_storage_size() * (LARGEST_RATIO if column.chunks else 1)
    if column.nbytes > stored or column.size * 8 > LARGEST_FILE:
        raise Malformed(f"'{name}' claims {column.shape} values, more than the file holds")


def _text(value: Any) -> Any:
    """An attribute with bytes decoded: h5py returns strings of fixed length, from other programs, as bytes."""
    return np.char.decode(value, "utf-8")[()] if np.asarray(value).dtype.kind == "S" else value
