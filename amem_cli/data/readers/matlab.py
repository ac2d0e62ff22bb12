"""MATLAB 5 files from outside: numbers, texts, cells and structs, and nothing else.

Why not `scipy.io.loadmat`: its C reader trusts the type codes in the file, and one wrong byte there ends the process
with a segmentation fault (scipy 1.17: 4 of 300 files with one or two random bytes). Here every length is compared with
the bytes that are there before anything is read. Format: MathWorks, "MAT-File Format", level 5.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.data.readers.files import MOST_BYTES_OF_METADATA, read_bytes
from amem_cli.errors import BadData, listing

NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, CHAR, DOUBLE = 1, 2, 4, 6
NUMERIC_CLASSES = range(6, 16)
COMPLEX = 0x800
DEEPEST = 8  # cells and structs within each other; PETA.mat has 3
MOST_MATRICES = 100_000  # in one file; PETA.mat has about 130


class _Damaged(Exception):
    """Why a file cannot be read."""


def read_matlab(path: Path, variable: str, what: str) -> Any:
    """One variable: numbers as an array without axes of length 1, text as str, a cell array as a list (column after
    column), a struct as a dict, an array of structs as a list of dicts.

    Raises `InputMissing`, or `BadData` when the file is damaged, of another kind, or lacks the variable.
    """
    content = read_bytes(path, what)
    if content[:10] == b"MATLAB 7.3" or content[:4] == b"\x89HDF":
        raise BadData(what, path, why="it is a MATLAB 7.3 file", remedy="Save it again in MATLAB with -v7")
    if content[126:128] not in (b"IM", b"MI"):
        raise BadData(what, path, why="it is not a MATLAB 5 file")
    reader = _Reader("<" if content[126:128] == b"IM" else ">")
    try:
        names = []
        for matrix in reader.variables(memoryview(content)[128:]):
            names.append(matrix.name)
            if matrix.name == variable:
                return reader.value(matrix)
    except (_Damaged, zlib.error, UnicodeDecodeError) as error:
        raise BadData(what, path, why=f"it is damaged ({error})") from error
    raise BadData(what, path, why=f"it holds no variable {variable}, but {listing(names, 5) or 'none'}")


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A matrix whose header is read: class, flags, axes and name; `parts` gives the elements that follow."""

    kind: int
    flags: int
    shape: tuple[int, ...]
    name: str
    parts: Iterator[tuple[int, memoryview]]


class _Reader:
    """Reads elements (type, bytes) in one byte order, and counts matrices."""

    def __init__(self, order: str):
        self.order = order
        self.count = 0

    def elements(self, content: memoryview) -> Iterator[tuple[int, memoryview]]:
        """The elements in `content`, each with its type code."""
        place = 0
        while len(content) - place >= 8:
            kind, size = struct.unpack_from(f"{self.order}II", content, place)
            start = place + 8
            small = kind >> 16 != 0  # up to four bytes inside the tag itself
            if small:
                kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            if size > (4 if small else len(content) - start):
                raise _Damaged(f"an element of {size} bytes where {len(content) - start} are left")
            yield kind, content[start : start + size]
            place = place + 8 if small else start + size + (0 if kind == COMPRESSED else -size % 8)
        if any(content[place:]):
            raise _Damaged("bytes after the last element")

    def variables(self, content: memoryview) -> Iterator[_Matrix]:
        for kind, body in self.elements(content):
            if kind == COMPRESSED:
                unpacked = zlib.decompressobj()
                inner = unpacked.decompress(body, MOST_BYTES_OF_METADATA)
                if not unpacked.eof:
                    raise _Damaged("a compressed element that is too large or cut off")
                kind, body = next(self.elements(memoryview(inner)), (0, memoryview(b"")))
            if kind != MATRIX:
                raise _Damaged(f"a variable of type {kind}")
            yield self.matrix(body)

    def matrix(self, body: memoryview) -> _Matrix:
        self.count += 1
        if self.count > MOST_MATRICES:
            raise _Damaged(f"more than {MOST_MATRICES} matrices")
        if len(body) == 0:
            return _Matrix(DOUBLE, 0, (0, 0), "", iter(()))  # how MATLAB writes an empty cell
        parts = self.elements(body)
        header = list(islice(parts, 3))
        if [kind for kind, _ in header] != [6, 5, 1] or len(header[0][1]) != 8 or len(header[1][1]) % 4:
            raise _Damaged("a matrix without flags, axes and name")
        flags = struct.unpack(f"{self.order}II", header[0][1])[0]
        shape = tuple(np.frombuffer(header[1][1], f"{self.order}i4").tolist())
        if not 2 <= len(shape) <= 4 or min(shape) < 0 or prod(shape) > MOST_BYTES_OF_METADATA:
            raise _Damaged(f"a matrix of the shape {shape}")
        return _Matrix(flags & 0xFF, flags, shape, bytes(header[2][1]).decode("latin-1"), parts)

    def value(self, matrix: _Matrix, depth: int = 0) -> Any:
        if depth > DEEPEST:
            raise _Damaged(f"cells more than {DEEPEST} deep")
        if matrix.kind in NUMERIC_CLASSES:
            return self.numbers(matrix)
        if matrix.kind == CHAR:
            return self.text(matrix)
        if matrix.kind == CELL:
            return self.values(matrix, prod(matrix.shape), depth)
        if matrix.kind == STRUCT:
            return self.structs(matrix, depth)
        raise _Damaged(f"an array of class {matrix.kind}, which is no number, text, cell or struct")

    def numbers(self, matrix: _Matrix) -> np.ndarray:
        if matrix.flags & COMPLEX:
            raise _Damaged("complex numbers")
        kind, body = next(matrix.parts, (9, memoryview(b"")))
        if kind not in NUMBERS:
            raise _Damaged(f"numbers of type {kind}")
        dtype = np.dtype(self.order + NUMBERS[kind])
        if len(body) != prod(matrix.shape) * dtype.itemsize:
            raise _Damaged(f"{len(body)} bytes for numbers of the shape {matrix.shape}")
        return np.squeeze(np.frombuffer(body, dtype).reshape(matrix.shape, order="F")).astype(dtype.newbyteorder("="))

    def text(self, matrix: _Matrix) -> str:
        kind, body = next(matrix.parts, (16, memoryview(b"")))
        if kind not in TEXTS:
            raise _Damaged(f"a text of type {kind}")
        order = ("-le" if self.order == "<" else "-be") if TEXTS[kind] in ("utf-16", "utf-32") else ""
        return bytes(body).decode(TEXTS[kind] + order)

    def structs(self, matrix: _Matrix, depth: int) -> Any:
        header = list(islice(matrix.parts, 2))
        if [kind for kind, _ in header] != [5, 1] or len(header[0][1]) != 4:
            raise _Damaged("a struct without fields")
        length = struct.unpack(f"{self.order}i", header[0][1])[0]
        names = bytes(header[1][1])
        if not 1 <= length <= 256 or not names or len(names) % length:
            raise _Damaged("a struct without names of its fields")
        fields = [names[at : at + length].split(b"\0")[0].decode("latin-1") for at in range(0, len(names), length)]
        count, width = prod(matrix.shape), len(fields)
        values = self.values(matrix, count * width, depth)
        structs = [dict(zip(fields, values[at * width : (at + 1) * width], strict=True)) for at in range(count)]
        return structs[0] if count == 1 else structs

    def values(self, matrix: _Matrix, count: int, depth: int) -> list[Any]:
        """The matrices that follow in `matrix`, `count` of them, as values."""
        found = []
        for kind, content in matrix.parts:
            if kind != MATRIX:
                raise _Damaged(f"a cell of type {kind}")
            found.append(self.value(self.matrix(content), depth + 1))
        if len(found) != count:
            raise _Damaged(f"{len(found)} cells where {count} should be")
        return found
