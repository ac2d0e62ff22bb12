"""The result of an evaluation: every rate with every convention that it depends on."""

import json
from pathlib import Path
from typing import Any

from amem_cli.artifacts import atomic
from amem_cli.artifacts.provenance import CREATED_BY, SCHEMA, Provenance, other_schema, parse_json_object
from amem_cli.errors import BadData

KIND = "amem-results"


def write(path: Path, result: dict[str, Any], provenance: Provenance) -> Path:
    """Write a result as JSON; its fields are those that `stages/evaluate.py` makes."""
    document = {
        "kind": KIND,
        "schema": SCHEMA,
        "created_by": CREATED_BY,
        **result,
        "provenance": provenance.as_json(),
        "checksum": atomic.CHECKSUM_BLANK.decode(),
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    return atomic.write_bytes(path, atomic.fill_checksum(text.encode()))


def read(path: Path, *, remedy: str = "Run: amem evaluate") -> dict[str, Any]:
    """Read and check a result."""
    content = atomic.read_checked(path, "result", remedy=remedy)
    document = parse_json_object(content.decode("utf-8", "replace"), "result", path)
    if document.get("kind") != KIND:
        raise BadData("result", path, why="is not a result of amem evaluate", remedy=remedy)
    if document.get("schema") != SCHEMA:
        raise BadData("result", path, why=other_schema(document.get("schema")), remedy=remedy)
    wanted = {"protocol": str, "choices": dict}
    odd = [name for name, kind in wanted.items() if not isinstance(document.get(name), kind)]
    if odd:
        raise BadData("result", path, why=f"lacks {', '.join(odd)}, or they are of another kind", remedy=remedy)
    return document
