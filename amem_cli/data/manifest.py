"""Data set manifests: layout, protocol, counts, citation, from `data_manifests/*.toml` or the user's file."""

import re
import tomllib
from pathlib import Path
from typing import Literal, get_args

import msgspec
from msgspec import Struct

from amem_cli.artifacts.atomic import read_bytes
from amem_cli.data.readers.folder import LEVELS
from amem_cli.data.readers.splits import Name, Protocol, ProtocolKind, read_split_file
from amem_cli.errors import BadData, UsageError, did_you_mean, printable
from amem_cli.text import decode_text

SHIPPED = ("mars", "ilids-vid", "prid2011", "market1501", "peta")
Kind = Literal["video", "images", "attributes"]
Layout = Literal["mars", "ilids-vid", "prid2011", "folder", "tracks", "images", "market1501", "peta"]
KINDS: dict[Layout, Kind] = {
    "mars": "video", "ilids-vid": "video", "prid2011": "video", "folder": "video", "tracks": "video",
    "images": "images", "market1501": "images", "peta": "attributes",
}  # fmt: skip
CONTENT = {"video": "tracklets", "images": "single images", "attributes": "images with attributes"}
MOST_MANIFEST_BYTES = 2**20


class ManifestFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The TOML file. `notes` explain unexpected counts; `sha256` is of metadata files. `folders` names the levels of
    layout `folder`, such as "person/camera/tracklet"."""

    name: Name
    layout: Layout
    title: str = ""
    root: str = ""
    folders: str = ""
    protocol: Protocol | None = None
    counts: dict[str, int] = {}
    notes: dict[str, str] = {}
    sha256: dict[str, str] = {}
    citation: str = ""
    licence: str = ""
    request: str = ""


class Manifest(ManifestFile, frozen=True, kw_only=True):
    """A data set. `root` is a folder below the data root or an absolute path; `shipped` is false for the user's own."""

    path: Path
    shipped: bool

    @property
    def kind(self) -> Kind:
        return KINDS[self.layout]

    def folder(self, data_root: str | Path) -> Path:
        return Path(data_root) / self.root


def load_manifest(name_or_path: str | Path) -> Manifest:
    """The shipped manifest of that name, or the user's own at that path (which ends in `.toml` or has a `/`). Raises
    `UsageError` for unknown names, keys and values, `InputMissing` for a missing file, `BadData` for others."""
    text = str(name_or_path)
    if text.rstrip("/\\") in SHIPPED:  # the shell completes the name of a folder
        text = text.rstrip("/\\")
    if _is_path(text):
        return _load(Path(text), shipped=False)
    if text not in SHIPPED:
        raise UsageError("data set", text, why="not found", remedy=_available(text, SHIPPED))
    package, file = Path(__file__).resolve().parent.parent, f"data_manifests/{text}.toml"
    inside = package / file  # of an installed wheel; in a source tree they are next to the package
    return _load(inside if inside.is_file() else package.parent / file, shipped=True)


def manifest_of_protocol(name_or_path: str | Path) -> Manifest:
    """The manifest with the protocol of this name (`mars`, `ilids-10split`, `prid-10split`), or the user's own. Raises
    `UsageError` for an unknown name, and as `load_manifest`."""
    text = str(name_or_path)
    if _is_path(text):
        manifest = load_manifest(text)
        require_kind(manifest, "video")
        return manifest
    manifests = [load_manifest(name) for name in SHIPPED]
    by_protocol = {manifest.protocol.name: manifest for manifest in manifests if manifest.protocol}
    if text not in by_protocol:
        of_dataset = next((name for name, manifest in by_protocol.items() if manifest.name == text), text)
        raise UsageError("protocol", text, why="not found", remedy=_available(of_dataset, tuple(by_protocol)))
    return by_protocol[text]


def require_kind(manifest: Manifest, kind: Kind) -> None:
    """Raise `UsageError` unless the data set is of `kind`."""
    if manifest.kind != kind:
        fitting = ", ".join(name for name in SHIPPED if load_manifest(name).kind == kind)
        why = f"it has no {CONTENT[kind]}"
        raise UsageError("data set", manifest.name, why=why, remedy=f"Choose {fitting} or your own .toml")


def protocol_of(manifest: Manifest) -> Protocol:
    """The protocol of a video data set. Raises `UsageError` for a data set without tracklets."""
    if manifest.protocol is None:
        raise UsageError("data set", manifest.name, why="it has no tracklets, so stages 2 and 4 to 6 do not apply")
    return manifest.protocol


def require_people(manifest: Manifest) -> None:
    """Raise `BadData` for tracks without identities."""
    if manifest.layout == "tracks":
        remedy = "Use amem search, link or find, or sort them into <person>/<camera>/<frame>.jpg"
        raise BadData("data set", manifest.name, why="its tracks have no identities", remedy=remedy)


def _is_path(text: str) -> bool:
    return text.endswith(".toml") or "/" in text or "\\" in text


def _available(word: str, names: tuple[str, ...]) -> str:
    return f"{did_you_mean(word, names)}Available: {', '.join(names)}, or the path of your own .toml"


def _load(path: Path, shipped: bool) -> Manifest:
    try:
        content = read_bytes(path, "manifest", remedy=_available(path.stem, SHIPPED), most=MOST_MANIFEST_BYTES)
        file = msgspec.convert(tomllib.loads(decode_text(content)), ManifestFile)
    except msgspec.ValidationError as error:
        raise UsageError("manifest", path, why=_explain(str(error))) from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        remedy = "Save it in UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise BadData("manifest", path, why=f"not TOML ({error})", remedy=remedy) from error
    levels = file.folders.split("/")
    known = set(levels) <= set(LEVELS) and len(set(levels)) == len(levels) > 1 and "person" in levels
    if file.folders and (file.layout != "folder" or not known or set(levels) == {"person", "split"}):
        why = f"folders {file.folders!r} is not for layout folder, or not of {', '.join(LEVELS)}"
        raise UsageError("manifest", path, why=why, remedy='For example: folders = "person/camera/tracklet"')
    root = file.root or file.name
    if file.root and not shipped:
        try:
            root = str((path.absolute().parent / file.root).resolve())
        except (OSError, ValueError, RuntimeError) as error:  # a null character, a link to itself, too long a name
            raise UsageError("manifest", path, why=f"root {file.root!r} is not a path ({error})") from error
    notes = {key: printable(note) for key, note in file.notes.items()}  # they reach the terminal
    completed = msgspec.structs.asdict(file)
    completed |= {"title": printable(file.title) or file.name, "notes": notes, "root": root}
    completed |= {"protocol": _protocol(file, path), "path": path.absolute(), "shipped": shipped}
    return Manifest(**completed)


def _explain(fault: str) -> str:
    """msgspec's message with a suggestion for an unknown key or value."""
    text = re.sub(r" - at `\$\.?(.+)`$", r" in \1", fault).replace("enum ", "").replace("Object", "The file")
    text = re.sub(r"`str` matching regex '.+'", "letters, digits, '.', '-' and '_', a letter or digit first,", text)
    match = re.search(r"(field `|value ')(.+?)[`']", text)
    if match is None or "missing" in text:
        return text
    keys = (Protocol if "$.protocol" in fault else ManifestFile).__struct_fields__
    values = get_args(ProtocolKind if "$.protocol" in fault else Layout)
    known = [word for word in (keys if match[1] == "field `" else values) if word]
    return f"{text}. {did_you_mean(match[2], known)}Known: {', '.join(known)}"


def _protocol(file: ManifestFile, path: Path) -> Protocol | None:
    """The protocol with its defaults and the number of splits in its split file."""
    if KINDS[file.layout] != "video":
        if file.protocol is not None:
            raise UsageError("manifest", path, why=f"layout {file.layout} has no tracklets, so no [protocol]")
        return None
    kind: ProtocolKind = "single-split" if file.layout in ("mars", "tracks") else "cross-camera-splits"
    protocol = file.protocol or Protocol()
    protocol = msgspec.structs.replace(protocol, name=protocol.name or file.name, kind=kind)
    official = kind == "single-split" or "split" in file.folders.split("/")
    drawn = Protocol(protocol.name, kind, file=protocol.file) != protocol
    if file.protocol and file.protocol.kind not in ("", kind):
        raise UsageError("manifest", path, why=f"protocol.kind of layout {file.layout} must be {kind!r}")
    if drawn and (official or protocol.file):
        raise UsageError("manifest", path, why="it sets splits, train_fraction or seed, but the split is fixed")
    if protocol.file is None:
        return msgspec.structs.replace(protocol, splits=1) if official and kind != "single-split" else protocol
    if file.layout != "folder" or official:
        raise UsageError("manifest", path, why="protocol.file is for layout folder without the level split")
    split_file = path.absolute().parent / protocol.file
    # the reader reports a missing file
    splits = len(read_split_file(split_file)) if split_file.is_file() else protocol.splits
    return msgspec.structs.replace(protocol, file=str(split_file), splits=splits)
