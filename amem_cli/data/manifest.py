"""What a data set should be: layout, protocol, counts, citation, read from `data_manifests/*.toml` or the user's own.

`amem_cli.data.datasets` reads the data set itself.
"""

import importlib
import math
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from amem_cli.artifacts.regular_file import NotRegular, open_regular
from amem_cli.data.readers.splits import read_split_file
from amem_cli.errors import BadData, InputMissing, UsageError, did_you_mean, listing

SHIPPED = ("mars", "ilids-vid", "prid2011", "market1501", "peta")
KINDS: dict[str, Literal["video", "images", "attributes"]] = {
    "mars": "video",
    "ilids-vid": "video",
    "prid2011": "video",
    "folder": "video",
    "market1501": "images",
    "peta": "attributes",
}
PROTOCOL_KINDS = ("single-split", "cross-camera-splits")
MOST_MANIFEST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a video data set is divided and tested.

    `name` is what `amem evaluate --protocol` calls it. "single-split": the data set's one official split;
    "cross-camera-splits": several over people, of `file` or of the data set's own file, otherwise drawn:
    `train_fraction` of the people train, with `seed`.
    """

    name: str
    kind: str
    splits: int = 10
    train_fraction: float = 0.5
    seed: int = 0
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A data set by its manifest; `counts` and `notes` (why a count may surprise) have the same keys.

    `root` is a folder's name below the data root, or an absolute path. `sha256` maps metadata files to their hash,
    `path` is the TOML file, `shipped` tells our own from the user's.
    """

    name: str
    title: str
    kind: Literal["video", "images", "attributes"]
    layout: str
    root: str
    path: Path
    shipped: bool
    protocol: Protocol | None = None
    counts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    citation: str = ""
    licence: str = ""
    request: str = ""

    def folder(self, data_root: str | Path) -> Path:
        """Where the data set lies; an own manifest's absolute root wins over `data_root`."""
        return Path(data_root) / self.root


def load_manifest(name_or_path: str | Path) -> Manifest:
    """The manifest shipped as `name_or_path`, or the user's own at that path (it ends in `.toml` or has a `/`).

    Raises `UsageError` for a mistyped name and for unknown keys, with what was probably meant; `InputMissing` for a
    file that is not there; `BadData` for one that is no manifest.
    """
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text or "\\" in text:
        return _parse(Path(text), shipped=False)
    if text not in SHIPPED:
        remedy = f"{did_you_mean(text, SHIPPED)}Known are {', '.join(SHIPPED)}, or the path of your own .toml"
        raise UsageError("data set", text, why="there is none of this name", remedy=remedy)
    return _parse(_manifest_folder() / f"{text}.toml", shipped=True)


def manifest_of_protocol(name_or_path: str | Path) -> Manifest:
    """The manifest whose protocol has this name (`mars`, `ilids-10split`, `prid-10split`), or the user's own.

    Raises `UsageError` for a mistyped name, and as `load_manifest`.
    """
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text or "\\" in text:
        manifest = load_manifest(text)
        require_kind(manifest, "video")
        return manifest
    manifests = [load_manifest(name) for name in SHIPPED]
    by_protocol = {manifest.protocol.name: manifest for manifest in manifests if manifest.protocol}
    if text not in by_protocol:
        remedy = f"{did_you_mean(text, by_protocol)}Known are {', '.join(by_protocol)}, or the path of your own .toml"
        raise UsageError("protocol", text, why="there is none of this name", remedy=remedy)
    return by_protocol[text]


def _manifest_folder() -> Path:
    """`amem_cli/data_manifests` in an installed wheel, `data_manifests` beside the package in a source tree."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "data_manifests"
    return inside if inside.is_dir() else package.parent / "data_manifests"


# ---- reading the TOML -----------------------------------------------------------------------------------------------

KEYS: dict[str, type] = {
    "name": str, "title": str, "layout": str, "root": str, "citation": str, "licence": str, "request": str,
    "protocol": dict, "counts": dict, "notes": dict, "sha256": dict,
}  # fmt: skip
PROTOCOL_KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str, "kind": str, "splits": int, "train_fraction": (int, float), "seed": int, "file": str,
}  # fmt: skip


def _parse(path: Path, shipped: bool) -> Manifest:
    content = _toml(path)
    faults = _key_faults(content, KEYS, "")
    protocol = content.get("protocol")
    if isinstance(protocol, dict):
        faults += _key_faults(protocol, PROTOCOL_KEYS, "protocol.")
    if faults:
        raise UsageError("manifest", path, why=listing(faults))

    name, layout = content.get("name"), content.get("layout")
    for key in ("name", "layout"):
        if key not in content:
            faults.append(f"{key} is missing")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        faults.append(f"name {name!r} must be letters, digits, '-', '_' and '.': files are called after it")
    if layout is not None and layout not in KINDS:
        faults.append(f"layout {layout!r} is unknown. {did_you_mean(layout, KINDS)}Known are {', '.join(KINDS)}")
    for table, kind in (("counts", int), ("notes", str), ("sha256", str)):
        values = content.get(table, {})
        faults += [
            f"{table}.{key} is not {_type_name(kind)}" for key, value in values.items() if type(value) is not kind
        ]
    if faults:
        raise UsageError("manifest", path, why=listing(faults))

    own_root = content.get("root")
    try:
        root = name if own_root is None else own_root if shipped else str((path.absolute().parent / own_root).resolve())
    except (OSError, ValueError, RuntimeError) as error:  # a null character, a link to itself, a name too long
        raise UsageError("manifest", path, why=f"root {own_root!r} is no path ({error})") from error
    return Manifest(
        name=name,
        title=content.get("title", name),
        kind=KINDS[layout],
        layout=layout,
        root=root,
        path=path.absolute(),
        shipped=shipped,
        protocol=_protocol(protocol, name, layout, path),
        counts=content.get("counts", {}),
        notes=content.get("notes", {}),
        sha256=content.get("sha256", {}),
        citation=content.get("citation", ""),
        licence=content.get("licence", ""),
        request=content.get("request", ""),
    )


def _protocol(values: dict[str, Any] | None, name: str, layout: str, path: Path) -> Protocol | None:
    if KINDS[layout] != "video":
        if values is not None:
            raise UsageError(
                "manifest", path, why=f"layout {layout} has no tracklets, so there is no [protocol] for it"
            )
        return None
    values = dict(values or {})
    usual = "single-split" if layout == "mars" else "cross-camera-splits"
    protocol = Protocol(
        name=values.get("name", name),
        kind=values.get("kind", usual),
        splits=values.get("splits", 10),
        train_fraction=_fraction(values.get("train_fraction", 0.5)),
        seed=values.get("seed", 0),
        file=(path.absolute().parent / values["file"]) if "file" in values else None,
    )
    faults = []
    if protocol.kind not in PROTOCOL_KINDS:
        meant = did_you_mean(protocol.kind, PROTOCOL_KINDS)
        faults.append(f"protocol.kind {protocol.kind!r} is unknown. {meant}Known are {', '.join(PROTOCOL_KINDS)}")
    elif protocol.kind != usual:
        faults.append(f"protocol.kind of layout {layout} is {usual!r}")
    if layout == "mars" and (given := sorted(set(values) - {"name", "kind"})):
        faults.append(f"protocol.{given[0]} does not go with layout mars, which has one split")
    if protocol.file is not None and layout != "folder":
        faults.append(f"protocol.file does not go with layout {layout}, which finds its own split files")
    if protocol.file is not None and (given := sorted(set(values) & {"splits", "train_fraction", "seed"})):
        faults.append(f"protocol.file already says what protocol.{given[0]} would")
    if not 1 <= protocol.splits <= 1000:
        faults.append(f"protocol.splits is {protocol.splits}, not 1 to 1000")
    if not 0 < protocol.train_fraction < 1:
        faults.append(f"protocol.train_fraction is {protocol.train_fraction}, not between 0 and 1")
    if protocol.seed < 0:
        faults.append(f"protocol.seed is {protocol.seed}, below 0")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", protocol.name):
        faults.append(f"protocol.name {protocol.name!r} must be letters, digits, '-', '_' and '.'")
    if faults:
        raise UsageError("manifest", path, why=listing(faults))
    if protocol.file is not None and protocol.file.is_file():  # the readers say what is wrong when it is not there
        return replace(protocol, splits=len(read_split_file(protocol.file)))
    return protocol


def _fraction(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _toml(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            content = file.read(MOST_MANIFEST_BYTES + 1)
        if len(content) > MOST_MANIFEST_BYTES:
            raise BadData("manifest", path, why="over 1 MiB: this is no manifest")
        return tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n"))
    except NotRegular as error:
        raise BadData("manifest", path, why=str(error)) from error
    except FileNotFoundError as error:
        stem = did_you_mean(path.stem, SHIPPED)
        remedy = f"{stem}Known without a file are {', '.join(SHIPPED)}"
        raise InputMissing("manifest", path, why="not found", remedy=remedy) from error
    except OSError as error:
        raise BadData("manifest", path, why=(error.strerror or str(error)).lower()) from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise BadData("manifest", path, why=f"it is not TOML ({error})") from error


def _key_faults(values: dict[str, Any], known: dict[str, Any], prefix: str) -> list[str]:
    """Unknown keys and values of another type, in words."""
    faults = []
    for key, value in values.items():
        if key not in known:
            faults.append(f"unknown key {prefix}{key}. {did_you_mean(key, known)}".strip())
        elif not isinstance(value, known[key]) or isinstance(value, bool):
            faults.append(f"{prefix}{key} is not {_type_name(known[key])}")
    return faults


def _type_name(kind: Any) -> str:
    return {str: "a text", int: "a whole number", dict: "a table"}.get(kind, "a number")


def require_kind(manifest: Manifest, kind: str) -> None:
    if manifest.kind == kind:
        return
    words = {"video": "tracklets", "images": "single images", "attributes": "images with attributes"}
    fitting = [name for name in SHIPPED if KINDS[name] == kind]
    why = f"it holds {words[manifest.kind]}, and {words[kind]} are needed"
    raise UsageError("data set", manifest.name, why=why, remedy=f"Choose {', '.join(fitting)}, or your own .toml")


_MOVED = {
    "read_videos": "datasets", "read_images": "datasets", "read_attributes": "datasets",
    "existing_folder": "datasets", "count_differences": "counts", "dataset_counts": "counts",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Names that moved to another module; to be deleted when every caller imports them from there."""
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"amem_cli.data.{_MOVED[name]}"), name)
