"""Where an artifact comes from: the command, its options, its parents and the data it read.

Two artifacts of the same provenance (versions apart) are interchangeable, so a rerun keeps the one that is there.
"""

import dataclasses
import json
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from amem_cli import __version__
from amem_cli.artifacts.atomic import sha256_file, sha256_lines
from amem_cli.errors import BadData, InputMissing, OutputExists
from amem_cli.options import COMMANDS

CREATED_BY = f"amem {__version__}"
SCHEMA = 1


def other_schema(found: object) -> str:
    """What is wrong with a file whose `schema` is not ours, for an error's `why`."""
    return f"is laid out as another version of amem does (schema {found}); this version reads schema {SCHEMA} alone"


@dataclass(frozen=True)
class Provenance:
    """`options` are those that decide the result; `parents` map a role to {"name", "sha256"}; `data` is the SHA-256
    of the data set's listing. Times and places are left out: the same run gives the same bytes anywhere.

    `engine` is the inference engine that ran, such as "torch" or "openvino 2026.1.0". Like a version it is recorded but
    never compared, since all engines agree to 1e-5: a rerun with another one keeps what is there, and the file still
    says what made it.
    """

    command: str
    options: dict[str, Any]
    parents: dict[str, dict[str, str]] = field(default_factory=dict)
    data: str = ""
    engine: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "options": self.options,
            "parents": self.parents,
            "data": self.data,
            "versions": versions() | ({"engine": self.engine} if self.engine else {}),
        }

    def fingerprint(self) -> str:
        """A short digest of everything but the versions; names folders of unfinished work."""
        document = {key: value for key, value in self.as_json().items() if key != "versions"}
        return sha256_lines([json.dumps(document, sort_keys=True)])[:16]

    def differences(self, other: dict[str, Any]) -> list[str]:
        """What differs from the provenance found in an artifact, one line for each key; empty when nothing does."""
        # an option younger than the artifact had its default, which keeps the old behaviour
        known = dataclasses.fields(COMMANDS[self.command]) if self.command in COMMANDS else ()
        defaults = {field.name: field.default for field in known}
        theirs = defaults | other.get("options", {})
        found = [
            f"{name}: {_short(theirs.get(name))} there, {_short(self.options.get(name))} now"
            for name in sorted({*self.options, *other.get("options", {})})
            if self.options.get(name) != theirs.get(name)
        ]
        parents = other.get("parents", {})
        for role in sorted({*self.parents, *parents}):
            if self.parents.get(role, {}).get("sha256") != parents.get(role, {}).get("sha256"):
                found.append(f"another {role}")
        if self.data != other.get("data", ""):
            found.append("other data (files were added, removed or renamed)")
        if self.command != other.get("command"):
            found.append(f"made by {other.get('command')}")
        return found

    def check_same(self, kind: str, path: Path, other: dict[str, Any]) -> None:
        """Raise `OutputExists` with every difference when `other` is not this provenance."""
        differences = self.differences(other)
        if differences:
            raise OutputExists(
                kind,
                path,
                why=f"made with other options or inputs ({'; '.join(differences)})",
                remedy="Use another --workspace, the same options, or --force to overwrite it",
            )


def parent(path: Path) -> dict[str, str]:
    """The entry of a file among the parents of an artifact."""
    return {"name": Path(path).name, "sha256": sha256_file(path)}


def weights_parent(weights: str) -> dict[str, dict[str, str]]:
    """The entry of `--weights` among the parents: a file, or weights by name; empty without weights.

    Raises `InputMissing` if there is no such file.
    """
    if not weights:
        return {}
    if weights in ("imagenet", "kinetics"):
        return {"weights": {"name": f"torchvision {weights}", "sha256": ""}}
    if not Path(weights).is_file():
        raise InputMissing("--weights", weights, why="not found")
    return {"weights": parent(Path(weights))}


def versions() -> dict[str, str]:
    """The versions that can change a result."""
    packages = ("torch", "torchvision", "numpy", "pillow", "h5py")
    return {"amem": __version__, "python": platform.python_version()} | {
        name: metadata.version(name) for name in packages
    }


def parse_json_object(text: str | bytes, kind: str, path: Path) -> dict[str, Any]:
    """A JSON object found inside a file, or `BadData`."""
    try:
        document = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:  # no JSON; no text at all; nested without end
        raise BadData(kind, path, why=f"its description is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise BadData(kind, path, why="its description is not a JSON object")
    return document


def check_provenance(document: Any, kind: str, path: Path) -> dict[str, Any]:
    """The provenance found in a file, or `BadData` when it is not made as `Provenance.as_json` makes it."""
    mappings = document if isinstance(document, dict) else {"options": None}
    parents = mappings.get("parents", {})
    entries = [mappings.get("options", {}), parents, *(parents.values() if isinstance(parents, dict) else ())]
    if not all(isinstance(entry, dict) for entry in entries):
        raise BadData(kind, path, why="its provenance is not made of JSON objects (options, parents)")
    return mappings


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
