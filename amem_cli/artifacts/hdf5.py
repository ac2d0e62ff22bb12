"""HDF5 files as bytes: built in memory and written at once, read from memory and distrusted.

h5py writing in place leaves unreadable files behind a kill and can crash on a full disk; a file image cannot.
"""

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from amem_cli.artifacts import atomic
from amem_cli.artifacts.provenance import (
    CREATED_BY,
    SCHEMA,
    Provenance,
    check_provenance,
    other_schema,
    parse_json_object,
)
from amem_cli.errors import BadData, listing

LARGEST_FILE = 8 << 30
LARGEST_RATIO = 1100  # of values to file: deflate reaches 1032, more is a claim and no data
LARGEST_TEXTS, ROWS_AT_ONCE = 1 << 30, 256  # of a column's strings, in characters; rows read together
USER_BLOCK = 512  # bytes before the HDF5 structures, which HDF5 leaves alone: the seal stands there


def write(path: Path, kind: str, dataset: str, columns: dict[str, Any], provenance: Provenance, **attributes) -> Path:
    """Write `columns` (arrays with N rows; sequences of str become UTF-8 strings) and `attributes`, sealed.

    Raises `BadData` for names that are no Unicode text, as file systems allow them.
    """
    for name, values in columns.items():
        odd = [] if isinstance(values, np.ndarray) else [repr(v) for v in values if not _is_unicode(v)]
        if odd:
            raise BadData(kind, path, why=f"'{name}' must be Unicode ({listing(odd)})", remedy="Rename the files")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        file.attrs["kind"] = kind
        file.attrs["schema"] = SCHEMA
        file.attrs["dataset"] = dataset
        file.attrs["created_by"] = CREATED_BY
        file.attrs["provenance"] = json.dumps(provenance.as_json(), sort_keys=True)
        for name, value in attributes.items():
            file.attrs[name] = value
        for name, values in columns.items():
            if isinstance(values, np.ndarray):
                file.create_dataset(name, data=values, track_times=False)
            else:
                file.create_dataset(name, data=list(values), dtype=h5py.string_dtype("utf-8"), track_times=False)
    content = atomic.CHECKSUM_BLANK.ljust(USER_BLOCK, b"\0") + buffer.getbuffer()[USER_BLOCK:]
    return atomic.write_bytes(path, atomic.fill_checksum(content))


def read_checked(path: Path, kind: str, *, remedy: str = "") -> bytes:
    """The content of a file, compared with its seal; one of another program carries none, and leaves no place for it.

    Raises `InputMissing`, or `BadData` when the content does not match the seal, or the seal is gone.
    """
    content = atomic.read_checked(path, kind, required=False, remedy=remedy)
    if content[USER_BLOCK:].startswith(b"\x89HDF\r\n\x1a\n") and not content.startswith(atomic.CHECKSUM_MARK):
        raise BadData(kind, path, why="its seal is gone: the file is damaged", remedy=remedy)
    return content


class Table:
    """An HDF5 file of rows, read from memory and checked: `columns` by name, `attributes`, `provenance`."""

    def __init__(
        self,
        path: Path,
        kind: str,
        wanted: dict[str, tuple[str, int]],
        *,
        remedy: str,
        optional: dict[str, tuple[str, int]] | None = None,
    ):
        """Read `path`; `wanted` maps a column to its dtype ("str" or NumPy's) and number of axes.

        Columns of `optional` may be absent.

        Raises `InputMissing`, or `BadData` for damage, another kind or schema, missing or odd columns, external
        links, unequal lengths, values that are not finite.
        """
        self.path = Path(path)
        self._kind = kind
        if self.path.is_file() and self.path.stat().st_size > LARGEST_FILE:
            raise BadData(kind, path, why=f"larger than {LARGEST_FILE >> 30} GiB")
        content = read_checked(self.path, f"{kind} file", remedy=remedy)
        try:
            with h5py.File(io.BytesIO(content), "r") as file:
                self.attributes: dict[str, Any] = {name: _text(file.attrs[name]) for name in file.attrs}
                self._check_head(remedy)
                there = {name: spec for name, spec in (optional or {}).items() if name in file}
                self.columns = {name: self._column(file, name, *spec) for name, spec in (wanted | there).items()}
        except BadData:
            raise
        except Exception as error:  # h5py raises nearly every kind for damaged files
            raise BadData(kind, path, why=f"not a readable HDF5 file ({error})", remedy=remedy) from error
        lengths = {name: len(values) for name, values in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise BadData(kind, path, why=f"columns of unequal length ({lengths})")
        document = parse_json_object(self.attributes.get("provenance", "{}"), kind, self.path)
        self.provenance = check_provenance(document, kind, self.path)

    @property
    def dataset(self) -> str:
        return str(self.attributes["dataset"])

    def _check_head(self, remedy: str) -> None:
        missing = [name for name in ("kind", "schema", "dataset", "created_by") if name not in self.attributes]
        if missing:
            raise BadData(self._kind, self.path, why=f"lacks the attributes {', '.join(missing)}", remedy=remedy)
        if self.attributes["kind"] != self._kind:
            raise BadData(
                "file", self.path, why=f"is of kind {self.attributes['kind']}, not {self._kind}", remedy=remedy
            )
        if self.attributes["schema"] != SCHEMA:
            raise BadData(self._kind, self.path, why=other_schema(self.attributes["schema"]), remedy=remedy)

    def _column(self, file: h5py.File, name: str, dtype: str, axes: int) -> Any:
        link = file.get(name, getlink=True)
        if link is None:
            raise BadData(self._kind, self.path, why=f"has no column '{name}'")
        if not isinstance(link, h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
            raise BadData(self._kind, self.path, why=f"'{name}' is not a plain data set")
        column = file[name]
        if column.is_virtual or column.external:
            raise BadData(self._kind, self.path, why=f"'{name}' points to another file")
        if column.ndim != axes:
            raise BadData(self._kind, self.path, why=f"'{name}' has {column.ndim} axes, not {axes}")
        if dtype == "str":
            if h5py.check_string_dtype(column.dtype) is None:
                raise BadData(self._kind, self.path, why=f"'{name}' holds {column.dtype}, not strings")
            self._check_claim(column, name, column.dtype)
            return self._strings(column, name)
        # other programs have no bool, or other widths: what fits by value is taken
        if column.dtype.kind not in ("biuf" if np.dtype(dtype).kind == "f" else "biu"):
            raise BadData(self._kind, self.path, why=f"'{name}' holds {column.dtype}, not {dtype}")
        self._check_claim(column, name, np.dtype(dtype))
        found = column[()]
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinity, which is found below
            values = np.ascontiguousarray(found.astype(dtype))
        if values.dtype.kind != "f" and not np.array_equal(values, found):
            raise BadData(self._kind, self.path, why=f"'{name}' holds values that are no {dtype}")
        if values.dtype.kind == "f":
            bad = np.unique(np.nonzero(~np.isfinite(values))[0])
            if len(bad):
                rows = listing(str(row) for row in bad)
                raise BadData(self._kind, self.path, why=f"'{name}' has NaN or infinity in the rows {rows}")
        return values

    def _check_claim(self, column: h5py.Dataset, name: str, wanted: np.dtype) -> None:
        """Raise `BadData` for more values than the file can hold of this column, before any memory is taken."""
        stored = column.id.get_storage_size() * (LARGEST_RATIO if column.chunks else 1)
        width = max(column.dtype.itemsize, wanted.itemsize)
        if column.size * column.dtype.itemsize > stored or column.size * width > LARGEST_FILE:
            raise BadData(self._kind, self.path, why=f"'{name}' claims {column.shape} values, more than the file holds")

    def _strings(self, column: h5py.Dataset, name: str) -> list[str]:
        """The strings, a part at a time: many references to one long string take little in the file."""
        texts: list[str] = []
        length = 0
        for start in range(0, len(column), ROWS_AT_ONCE):
            texts.extend(column.asstr("utf-8")[start : start + ROWS_AT_ONCE])
            length += sum(map(len, texts[start:]))
            if length > LARGEST_TEXTS:
                why = f"the strings of '{name}' are longer than {LARGEST_TEXTS >> 20} MiB"
                raise BadData(self._kind, self.path, why=why)
        return texts


def _text(value: Any) -> Any:
    """An attribute with its strings as str: other programs write strings of fixed length, which arrive as bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray) and value.dtype.kind == "S":
        return np.char.decode(value, "utf-8")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
