"""Read weight files from any source: PyTorch, safetensors, .npz. Nothing in a file is executed."""

import argparse
import codecs
import hashlib
import io
import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.atomic import read_bytes
from amem_cli.errors import BadData, listing
from amem_cli.weights.normalisation import IMAGENET, Normalisation

DOWNLOAD_AGAIN = "Download it again and compare its size with the source's"
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")
MAX_UNPACKED_BYTES, MAX_COMPRESSION = 1 << 30, 10  # an archive above both is refused before it is unpacked
MAX_HASHED_ITEMS_PER_BYTE = 10  # in ordinary pickles it is below 1

_NETWORK_PREFIX = {"amem-main": "backbone.", "amem-arm": "backbone.network."}
_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_ALLOWED_GLOBALS = {  # tensors, and the plain values that training checkpoints store next to them
    "collections OrderedDict",
    *(f"torch._utils {name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")),
    *(f"{module} {kind}Storage" for module in ("torch", "torch.cuda") for kind in _STORAGES),
    "torch Size",
    "torch device",
    "argparse Namespace",
    "numpy dtype",
    *(f"numpy.{core}.multiarray scalar" for core in ("core", "_core")),
    "_codecs encode",
}
_numpy_scalar = np.float64(0).__reduce__()[0]
_SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),
    *((_numpy_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file under the file's own keys.

    `module_prefix`: every key began with `module.`, which is removed. `normalisation` is set only by checkpoints of
    amem.
    """

    path: Path
    tensors: dict[str, Tensor]
    container: str
    module_prefix: bool
    bytes: int
    sha256: str
    normalisation: Normalisation | None = None


def read_weight_file(path: Path) -> WeightFile:
    """Read the state dict of a file, from the top level or from a training checkpoint.

    Raises `InputMissing` without the file, `BadData` if it is not a weight file, is damaged or needs code execution.
    """
    content = read_bytes(path, "weights", remedy="Give the path of a weight file with --weights FILE")
    if not content:
        raise _refused(path, "the file is empty")
    _refuse_text(path, content)
    normalisation = None
    try:
        if content.startswith(b"PK"):
            loaded, container = _read_zip(path, content)
        elif content[8:9] == b"{":
            loaded, container, normalisation = _read_safetensors(path, content)
        else:
            stream = io.BytesIO(content)
            for _ in range(5):  # magic number, protocol, system, state dict, storage keys
                _check_pickle(path, stream)
            loaded, container = _load_torch(content), "PyTorch (before 1.6)"
    except BadData:
        raise
    except Exception as error:  # torch, NumPy, zipfile and zlib raise many kinds for damaged files
        advice = "weights_only" in str(error)  # torch's message recommends an unsafe load
        detail = "" if advice else f" ({type(error).__name__}: {error})"
        raise _refused(path, f"the file is damaged or not a weight file{detail:.200}") from error
    tensors = _state_dict(path, loaded)
    module_prefix = all(key.startswith("module.") for key in tensors)
    for prefix in ("_orig_mod.", "module.") * 2:  # torch.compile and DataParallel, in any order
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    digest = hashlib.sha256(content).hexdigest()
    return WeightFile(path, tensors, container, module_prefix, len(content), digest, normalisation)


def _refused(path: Path, why: str, remedy: str = DOWNLOAD_AGAIN) -> BadData:
    return BadData("weights", path, why=why, remedy=remedy)


def _refuse_text(path: Path, content: bytes) -> None:
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(content[:80])
    except UnicodeDecodeError:
        return
    if "\0" not in text:
        remedy = "A web page or a Git LFS pointer may have been saved in its place: download the weight file itself"
        raise _refused(path, f"it is a text file that begins {text.strip()[:50]!r}", remedy)


def _read_zip(path: Path, content: bytes) -> tuple[object, str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > max(MAX_UNPACKED_BYTES, MAX_COMPRESSION * len(content)):
            raise _refused(path, f"it would unpack to {unpacked / 2**30:.0f} GiB")
        if damaged := archive.testzip():
            raise _refused(path, f"the file is damaged: {damaged} does not match its checksum")
        if any(member.filename.endswith(".npy") for member in members):
            return _load_npz(content), "NumPy .npz"
        pickles = [member for member in members if member.filename.lower().endswith("data.pkl")]
        if not pickles:
            why = f"no weights in this zip archive, which holds {listing(archive.namelist(), most=3) or 'no files'}"
            raise _refused(path, why, "Unpack it and give the weight file inside")
        for member in pickles:
            _check_pickle(path, io.BytesIO(archive.read(member)))
    return _load_torch(content), "PyTorch"


def _check_pickle(path: Path, stream: BinaryIO) -> None:
    """Scan the next pickle of `stream` without executing it, and reject code and hash bombs.

    A hash bomb is a dictionary key of tuples nested so that hashing it takes exponential time, which cannot be
    interrupted. The stack holds, for each value, the number of items that hashing it visits.
    """
    stack: list[int] = []
    below_marks: list[list[int]] = []
    memo: dict[int, int] = {}
    visited = 0
    opcodes: Iterator[tuple[pickletools.OpcodeInfo, Any, Any]] = pickletools.genops(stream)
    for opcode, argument, position in opcodes:
        if opcode.name == "PROTO" and argument != 2:
            why = f"it was saved with pickle protocol {argument}, which cannot be opened safely"
            raise _refused(path, why, "Save it again with torch.save and its default protocol")
        if opcode.name == "GLOBAL" and argument not in _ALLOWED_GLOBALS:
            why = f"it holds more than tensors: opening it would execute {argument.replace(' ', '.')}"
            raise _refused(path, why, "If you trust its source, load it there and save only its state_dict()")
        if opcode.name == "MARK":
            below_marks.append(stack)
            stack = []
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        else:
            items: list[int] = []
            taken = len(opcode.stack_before)
            if pickletools.markobject in opcode.stack_before:
                items, stack = stack, below_marks.pop()
                taken = opcode.stack_before.index(pickletools.markobject)
            items += [stack.pop() for _ in range(taken)]
            visited += sum(items)
            if visited > MAX_HASHED_ITEMS_PER_BYTE * (position + 1):
                raise _refused(path, "its dictionary keys would need unbounded time to read", "Do not use this file")
            stack += [1 + sum(items) if "TUPLE" in opcode.name else 1] * len(opcode.stack_after)


def _load_torch(content: bytes) -> object:
    with warnings.catch_warnings(), torch.serialization.safe_globals(_SAFE_GLOBALS):
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _load_npz(content: bytes) -> dict[str, Tensor]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="))) for name, array in arrays.items()}


def _read_safetensors(path: Path, content: bytes) -> tuple[object, str, Normalisation | None]:
    try:
        kind = checkpoint.read_description(path).get("kind")
    except BadData:  # not written by amem
        return load_safetensors(content), "safetensors", None
    if kind not in _NETWORK_PREFIX:
        remedy = "Give an amem-main.safetensors, an amem-arm.safetensors or a network trained elsewhere"
        raise _refused(path, f"it is an amem checkpoint of kind {kind}, whose backbone cannot be used", remedy)
    saved = checkpoint.load(path, kind, remedy=DOWNLOAD_AGAIN)
    with checkpoint.described_by(saved):
        model = saved.description["model"]
        normalisation = IMAGENET if kind == "amem-arm" else msgspec.convert(model["normalisation"], Normalisation)
    prefix = _NETWORK_PREFIX[kind]
    tensors = {key.removeprefix(prefix): value for key, value in saved.tensors.items() if key.startswith(prefix)}
    return tensors, f"network of an {kind}", normalisation


def _state_dict(path: Path, loaded: object) -> dict[str, Tensor]:
    remedy = "Save only the network's state_dict() with torch.save"
    tensors = _find_tensors(loaded, depth=2)
    if tensors is None:
        holds = f"keys {listing(map(str, loaded), most=5)}" if isinstance(loaded, dict) else type(loaded).__name__
        raise _refused(path, f"no state dict in it, only {holds:.200}", remedy)
    if others := [str(key) for key, value in tensors.items() if not _is_weight(key, value)]:
        raise _refused(
            path, f"its state dict holds more than dense tensors with plain names: {listing(others)}", remedy
        )
    return dict(tensors)


def _find_tensors(loaded: object, depth: int) -> dict | None:
    """The innermost dictionary with tensors under up to `depth` of `WRAPPERS`, or None."""
    if not isinstance(loaded, dict):
        return None
    inner = (_find_tensors(loaded.get(key), depth - 1) for key in WRAPPERS if depth)
    here = loaded if any(isinstance(value, Tensor) for value in loaded.values()) else None
    return next((found for found in inner if found is not None), here)


def _is_weight(key: object, value: object) -> bool:
    if not (isinstance(key, str) and key.isprintable() and isinstance(value, Tensor)):
        return False
    # strides of 0 and storages larger than their data would need unbounded memory
    return value.numel() * value.element_size() <= min(value.untyped_storage().nbytes(), MAX_UNPACKED_BYTES)
