"""Provenance of an artifact: the command, its options, its parents and the data it read.

Two artifacts with the same provenance (versions aside) are interchangeable, so a second run reuses the first one's.
"""

import contextlib
import dataclasses
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from amem_cli import __version__
from amem_cli.artifacts.atomic import sha256_file, sha256_lines
from amem_cli.errors import SAME_COMMAND, BadData, InputMissing, OutputExists
from amem_cli.options import COMMANDS

SCHEMA = 1
NOT_COMPARED = {"generated"}  # its people are generated, which the digest of the data implies
_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "h5py")


@dataclass(frozen=True)
class Provenance:
    """`options` are those that affect the result, and `NOT_COMPARED`; `parents` map a role to {"name", "sha256"};
    `data` is the SHA-256 of the data set's listing. The inference `engine` ("openvino 2026.1.0") is recorded like a
    version, not compared: all engines agree to 1e-5. Times and paths are left out: the same run gives the same bytes
    anywhere."""

    command: str
    options: dict[str, Any]
    parents: dict[str, dict[str, str]] = field(default_factory=dict)
    data: str = ""
    engine: str = ""

    def as_json(self) -> dict[str, Any]:
        document = {name: getattr(self, name) for name in ("command", "options", "parents", "data")}
        return document | {"versions": versions() | ({"engine": self.engine} if self.engine else {})}

    def fingerprint(self) -> str:
        """A short digest of everything but the versions; part of the name of the folder of unfinished shards."""
        document = {name: value for name, value in self.as_json().items() if name != "versions"}
        return sha256_lines([json.dumps(document, sort_keys=True)])[:16]

    def differences(self, other: dict[str, Any]) -> list[str]:
        """One line for each difference from the provenance `other`, which was read from an artifact."""
        known = dataclasses.fields(COMMANDS[self.command]) if self.command in COMMANDS else ()
        no_effect = {field.name for field in known if not field.metadata["affects_result"]}  # an older version's did
        recorded = {name: value for name, value in other.get("options", {}).items() if name not in no_effect}
        parents = other.get("parents", {})
        theirs = {field.name: field.default for field in known} | recorded  # an older version lacks newer options
        compared = {*self.options, *recorded} - NOT_COMPARED
        differences = [
            f"{name}: {_short(theirs.get(name))} there, {_short(self.options.get(name))} now"
            for name in sorted(compared)
            if self.options.get(name) != theirs.get(name)
        ]
        for role in sorted({*self.parents, *parents}):
            if self.parents.get(role, {}).get("sha256") != parents.get(role, {}).get("sha256"):
                differences.append(f"another {role}")
        if self.data != other.get("data", ""):
            differences.append("other data (files or times were added, removed, renamed or replaced)")
        if self.command != other.get("command"):
            differences.append(f"made by {other.get('command')}")
        return differences

    def check_same(self, kind: str, path: Path, other: dict[str, Any]) -> None:
        """Raise `OutputExists` with every difference from `other`, the provenance in `path`."""
        if differences := self.differences(other):
            why = f"made with other options or inputs ({'; '.join(differences)})"
            remedy = "Use another --workspace, the same options, or --force to overwrite it"
            recorded = other.get("options", {}).get("precision")
            found = re.fullmatch(r"auto \((.+)\)", other.get("parents", {}).get("weights", {}).get("name", ""))
            if recorded and [line.partition(":")[0] for line in differences] == ["precision"]:  # of another machine
                remedy = f"Give --precision {recorded} to continue with it. {remedy}"
            if differences == ["another weights"] and found and found[1] != "arm.safetensors":  # the recogniser is new
                remedy = f"It started from {found[1]}: --weights imagenet or kinetics continues it. {remedy}"
            raise OutputExists(kind, path, why=why, remedy=remedy)


def parent(path: Path) -> dict[str, str]:
    """The entry of a file in `Provenance.parents`."""
    return {"name": Path(path).name, "sha256": sha256_file(path)}


def identities(*paths: Path | None) -> dict[Path, tuple[int, ...]]:
    """What changes of each file when it is replaced, for `require_same`; of one that does not exist it is empty."""
    found: dict[Path, tuple[int, ...]] = dict.fromkeys(filter(None, paths), ())
    for path in found:
        with contextlib.suppress(OSError):  # whoever loads it raises the error
            status = os.stat(path)
            found[path] = (status.st_size, status.st_mtime_ns)
    return found


def require_same(before: dict[Path, tuple[int, ...]]) -> None:
    """Raise `BadData` for a file that was replaced since its `identities` were taken: the one that was loaded and the
    one in `Provenance.parents` can differ."""
    for path in before:
        if identities(path)[path] != before[path]:
            raise BadData("input", path, why="it was replaced while this run read it", remedy=SAME_COMMAND)


def weights_parent(weights: str, path: Path | None) -> dict[str, dict[str, str]]:
    """The parents' entry of `--weights`, in `path`; by name as in "imagenet (mobilenet_v2-b0353104.pth)". Empty without
    weights; raises `InputMissing` without the file."""
    if path is None:
        return {}
    if not path.is_file():
        raise InputMissing("--weights", path, why="not found")
    entry = parent(path)
    return {"weights": entry if Path(weights) == path else entry | {"name": f"{weights} ({path.name})"}}


def versions() -> dict[str, str]:
    """The versions that can change a result."""
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {"amem": __version__, "python": platform.python_version()} | packages


def head_of(kind: str) -> dict[str, Any]:
    """The first entries of every artifact."""
    return {"kind": kind, "schema": SCHEMA, "created_by": f"amem {__version__}"}


def kind_error(head: Mapping[str, Any], kind: str) -> str:
    """The reason why this version cannot read a file with this `head` as an artifact of `kind`, or an empty string."""
    if head.get("kind") != kind:
        return f"is of kind {head.get('kind')}, not {kind}"
    if head.get("schema") != SCHEMA:
        return f"is from another version of amem (schema {head.get('schema')}); this version reads schema {SCHEMA}"
    return ""


def parse_json_object(text: str | bytes, kind: str, path: Path) -> dict[str, Any]:
    """Parse a JSON object from the file `path`; raises `BadData`."""
    try:
        document = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:  # not JSON; not text; nested too deeply
        raise BadData(kind, path, why=f"its description is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise BadData(kind, path, why="its description is not a JSON object")
    return document


class _Recorded(msgspec.Struct):
    """The entries of a recorded provenance, whose types readers depend on."""

    options: dict[str, Any] = {}
    parents: dict[str, dict[str, Any]] = {}


def check_provenance(document: Any, kind: str, path: Path) -> dict[str, Any]:
    """The provenance from the file `path`, a dict or its JSON text; `BadData` when its entries have other types."""
    document = parse_json_object(document, kind, path) if isinstance(document, str | bytes) else document
    try:
        msgspec.convert(document, _Recorded)
    except msgspec.ValidationError as error:
        raise BadData(kind, path, why=f"its provenance is malformed ({error})") from error
    return document


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
