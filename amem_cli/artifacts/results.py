"""The result of an evaluation as JSON: every rate, with every convention that it depends on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amem_cli.artifacts import atomic
from amem_cli.artifacts.provenance import CREATED_BY, SCHEMA, Provenance, kind_error, parse_json_object
from amem_cli.errors import BadData

KIND = "amem-results"


def write(path: Path, result: dict[str, Any], provenance: Provenance) -> Path:
    """Write a result with a checksum; `stages/evaluate.py` defines its fields."""
    head = {"kind": KIND, "schema": SCHEMA, "created_by": CREATED_BY}
    tail = {"provenance": provenance.as_json(), "checksum": atomic.CHECKSUM_BLANK.decode()}
    text = json.dumps(head | result | tail, indent=1, allow_nan=False)
    return atomic.write_bytes(path, atomic.fill_checksum(text.encode()))


def read(path: Path, *, remedy: str = "Run: amem evaluate") -> dict[str, Any]:
    """Read a result; raises `InputMissing`, or `BadData` for a damaged file and for another kind of file."""
    content = atomic.read_checked(path, "result", remedy=remedy)
    document = parse_json_object(content.decode("utf-8", "replace"), "result", path)
    why = kind_error(document, KIND)
    if not why and not (isinstance(document.get("protocol"), str) and isinstance(document.get("choices"), dict)):
        why = "'protocol' or 'choices' is missing or of another type"
    if why:
        raise BadData("result", path, why=why, remedy=remedy)
    return document


def queries_of(result: Mapping[str, Any]) -> str:
    """The number of queries that the rates are over: those with a match, and all if they are more.

    >>> queries_of({"queries": 80, "valid_queries": 11}), queries_of({"splits": [{"queries": 8}, {"queries": 9}]})
    ('11 queries with a match, of 80', '8 to 9 queries')
    """
    rows = result.get("splits") or [result]

    def number(name: str) -> str:
        counts = [row.get(name, row.get("queries", 0)) for row in rows]
        return " to ".join(str(count) for count in sorted({min(counts), max(counts)}))

    every, valid = number("queries"), number("valid_queries")
    return f"{every} queries" if every == valid else f"{valid} queries with a match, of {every}"
