"""Read weight files from any source: PyTorch, safetensors, .npz, pickled arrays. Nothing in a file is executed.

torch reads tensors with `weights_only=True`. Other objects of a checkpoint become stand-ins, which run nothing.
"""

import codecs
import contextlib
import hashlib
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor
from torch._utils import IMPORT_MAPPING, NAME_MAPPING

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.atomic import CHECKSUM_MARK, read_bytes
from amem_cli.errors import BadData, listing, printable
from amem_cli.weights.names import PACKAGES
from amem_cli.weights.normalisation import IMAGENET, Normalisation

DOWNLOAD_AGAIN = "Download it again and compare its size with the source's"
STATE_DICT_ONLY = "If you trust its source, load it there and save only the network's state_dict() with torch.save"
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")
MAX_UNPACKED_BYTES, MAX_COMPRESSION = 1 << 30, 10  # an archive above both is refused before it is unpacked
MAX_HASHED_ITEMS_PER_BYTE = 10  # in ordinary pickles it is below 1
MAX_STAND_INS = 1000

_PICKLED_ARRAYS = {PACKAGES["kinetics", "i3d"].sha256}  # files of plain pickle that may be opened
_NETWORK_PREFIX = {"amem-main": "backbone.", "amem-arm": "backbone.network."}
_MAKE_OR_FILL = ("REDUCE", "NEWOBJ", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS")  # of the deepest value
_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_OPENED = {  # what torch makes itself: tensors and plain values
    *("collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.complex", "_codecs.encode"),
    *(f"torch._utils.{name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")),
    *(f"{module}.{kind}Storage" for module in ("torch", "torch.cuda") for kind in _STORAGES),
    *(f"torch.{name}" for name in ("Size", "device", *_DTYPES)),
}
_REFUSED = {  # modules: torch refuses the first four, and would run functions of the others
    *("os", "posix", "nt", "sys", "torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse", "torch.storage"),
    *("torch.serialization", "torch.nn.parameter", "torch._utils", "torch._tensor"),
}


class _StandIn(list):
    """Takes the place of a class or function of a checkpoint: keeps its arguments and its state, and runs nothing."""

    args: tuple[object, ...] = ()
    state: object = None
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __new__(cls, *args: object) -> "_StandIn":
        made = super().__new__(cls)
        made.args = args
        return made

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state


class _DictStandIn:
    """A stand-in whose objects get items, as those of a `defaultdict`; torch fills only plain dictionaries."""

    def __new__(cls, *args: object) -> OrderedDict:  # type: ignore[misc]
        return OrderedDict()


class _ArrayUnpickler(pickle.Unpickler):
    """Reads a pickle of NumPy arrays in dictionaries, and refuses to load anything else."""

    def find_class(self, module: str, name: str) -> Any:
        made_by = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module.partition(".")[0] != "numpy" or name not in made_by:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return made_by[name]


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file under the file's own keys.

    `module_prefix`: every key begins with `module.`. `not_opened`: the classes of objects that became stand-ins.
    `normalisation` is set only by checkpoints of amem.
    """

    path: Path
    tensors: dict[str, Tensor]
    container: str
    module_prefix: bool
    bytes: int
    sha256: str
    normalisation: Normalisation | None = None
    not_opened: tuple[str, ...] = ()


def read_weight_file(path: Path) -> WeightFile:
    """Read the state dict of a file, from the top level or from a training checkpoint. Raises `InputMissing` without
    the file, `BadData` if it is not a weight file, is damaged or needs code execution."""
    content = read_bytes(path, "weights", remedy="Give the path of a weight file")
    if not content:
        raise _refused(path, "the file is empty")
    if content.startswith(CHECKSUM_MARK):
        raise _refused(path, "it has features or labels, not weights", "Give a .safetensors file")
    with contextlib.suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(content[:80])
        if "\0" not in text:
            remedy = "A web page or a Git LFS pointer may have been saved in its place: download the weight file itself"
            raise _refused(path, f"it is a text file that begins {text.strip()[:50]!r}", remedy)
    normalisation, digest = None, hashlib.sha256(content).hexdigest()
    stand_ins: dict[str, type] = {}
    try:
        if content.startswith(b"PK"):
            loaded, container = _read_zip(path, content, stand_ins)
        elif digest in _PICKLED_ARRAYS:
            loaded, container = _flat(_ArrayUnpickler(io.BytesIO(content)).load()), "pickled NumPy arrays"
        elif content[8:9] == b"{":
            loaded, container, normalisation = _read_safetensors(path, content)
        else:
            scan_pickles(path, content, stand_ins)
            loaded, container = _load_torch(content, stand_ins), "PyTorch (before 1.6)"
    except BadData:
        raise
    except Exception as error:  # torch, NumPy, zipfile and zlib raise many kinds for damaged files
        advice = "weights_only" in str(error)  # torch's message recommends an unsafe load
        if advice and stand_ins:
            why = f"it holds objects that cannot be opened safely: {listing(sorted(stand_ins), most=5)}"
            raise _refused(path, why, STATE_DICT_ONLY) from error
        detail = "" if advice else f" ({type(error).__name__}: {error})"
        ours = re.search(rb'"kind\\": \\"(amem-\w+)\\"', content)  # in the description of a checkpoint that is cut off
        remedy = checkpoint.KINDS.get(ours[1].decode(), DOWNLOAD_AGAIN) if ours else DOWNLOAD_AGAIN
        raise _refused(path, f"the file is damaged or not a weight file{detail:.200}", remedy) from error
    tensors = _state_dict(path, loaded)
    module_prefix = all(key.startswith("module.") for key in tensors)
    not_opened = tuple(sorted(map(printable, stand_ins)))
    return WeightFile(path, tensors, container, module_prefix, len(content), digest, normalisation, not_opened)


def _refused(path: Path, why: str, remedy: str = DOWNLOAD_AGAIN) -> BadData:
    return BadData("weights", path, why=why, remedy=remedy)


def _read_zip(path: Path, content: bytes, stand_ins: dict[str, type]) -> tuple[object, str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > max(MAX_UNPACKED_BYTES, MAX_COMPRESSION * len(content)):
            raise _refused(path, f"it would unpack to {unpacked / 2**30:.0f} GiB")
        if damaged := archive.testzip():
            raise _refused(path, f"the file is damaged: {damaged} does not match its checksum")
        if any(member.filename.endswith(".npy") for member in members):
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}
            return {name: torch.from_numpy(array) for name, array in native.items()}, "NumPy .npz"
        if not any(member.filename.lower().endswith("data.pkl") for member in members):
            why = f"no weights in this zip archive, which holds {listing(archive.namelist(), most=3) or 'no files'}"
            raise _refused(path, why, "Unpack it and give the weight file inside")
    scan_pickles(path, content, stand_ins)
    return _load_torch(content, stand_ins), "PyTorch"


def scan_pickles(path: Path, content: bytes, stand_ins: dict[str, type]) -> None:
    """Scan a file of `torch.save` without executing it: add its stand-ins, and reject hash bombs."""
    streams = [io.BytesIO(content)] * 5  # magic number, protocol, system, state dict, storage keys
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith("data.pkl")]
            streams = [io.BytesIO(archive.read(name)) for name in names]
    for stream in streams:
        _scan_pickle(path, stream, stand_ins)


def _scan_pickle(path: Path, stream: BinaryIO, stand_ins: dict[str, type]) -> None:
    """Scan the next pickle of `stream` without executing it: add its stand-ins, and reject hash bombs, dictionary keys
    of tuples nested so that hashing them takes exponential time, which cannot be interrupted. The stack holds, for each
    value, the number of items that hashing it visits, and the global that makes it."""
    stack: list[tuple[int, str]] = []
    below_marks: list[list[tuple[int, str]]] = []
    memo: dict[int, tuple[int, str]] = {}
    visited = 0
    opcodes: Iterator[tuple[pickletools.OpcodeInfo, Any, Any]] = pickletools.genops(stream)
    for opcode, argument, position in opcodes:
        if opcode.name == "PROTO" and argument != 2:
            why = f"it was saved with pickle protocol {argument}, which cannot be opened safely"
            raise _refused(path, why, "Save it again with torch.save and its default protocol")
        if opcode.name == "GLOBAL":
            name = _global_name(path, argument)
            if name not in _OPENED:
                stand_ins.setdefault(name, type(name, (_StandIn,), {}))
            stack.append((1, name))
        elif opcode.name == "MARK":
            below_marks.append(stack)
            stack = []
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        else:
            values: list[tuple[int, str]] = []
            taken = len(opcode.stack_before)
            if pickletools.markobject in opcode.stack_before:
                values, stack = stack, below_marks.pop()
                taken = opcode.stack_before.index(pickletools.markobject)
            values += [stack.pop() for _ in range(taken)]
            items = sum(visits for visits, _ in values)
            visited += items
            if visited > MAX_HASHED_ITEMS_PER_BYTE * (position + 1) or len(stand_ins) > MAX_STAND_INS:
                raise _refused(path, "its dictionary keys would need unbounded time to read", "Do not use this file")
            made_by = values[-1][1] if opcode.name in _MAKE_OR_FILL else ""
            if opcode.name in ("SETITEM", "SETITEMS") and made_by in stand_ins:
                stand_ins[made_by] = _DictStandIn
            made = (1 + items if "TUPLE" in opcode.name else 1, made_by)
            stack += [made] * len(opcode.stack_after)


def _global_name(path: Path, argument: str) -> str:
    """The full name of a global, with that of Python 3 for one of Python 2, as torch reads it."""
    module, _, name = argument.partition(" ")
    full = ".".join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)))
    if full not in _OPENED and (full.rpartition(".")[0] in _REFUSED or full == "builtins.bytearray"):
        raise _refused(path, f"it holds more than tensors: opening it would execute {full}", STATE_DICT_ONLY)
    return full


def _load_torch(content: bytes, stand_ins: dict[str, type]) -> object:
    safe: list[Any] = [(stand_in, name) for name, stand_in in stand_ins.items()]
    with warnings.catch_warnings(), torch.serialization.safe_globals(safe):
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _read_safetensors(path: Path, content: bytes) -> tuple[object, str, Normalisation | None]:
    try:
        kind = checkpoint.read_description(path).get("kind")
    except BadData:  # not written by amem
        return load_safetensors(content), "safetensors", None
    if kind not in _NETWORK_PREFIX:
        remedy = "Give an amem-main.safetensors, an amem-arm.safetensors or a network trained elsewhere"
        raise _refused(path, f"it is an amem checkpoint of kind {kind}, whose backbone cannot be used", remedy)
    saved = checkpoint.load(path, kind)
    with checkpoint.described_by(saved):
        model = saved.description["model"]
        normalisation = IMAGENET if kind == "amem-arm" else msgspec.convert(model["normalisation"], Normalisation)
    prefix = _NETWORK_PREFIX[kind]
    tensors = {key.removeprefix(prefix): value for key, value in saved.tensors.items() if key.startswith(prefix)}
    return tensors, f"network of an {kind}", normalisation


def _flat(tree: dict[str, Any], start: str = "") -> dict[str, Tensor]:
    """The arrays of nested dictionaries as tensors, their keys joined by "/"."""
    tensors: dict[str, Tensor] = {}
    for key, value in tree.items():
        tensors |= _flat(value, f"{start}{key}/") if isinstance(value, dict) else {start + key: torch.from_numpy(value)}
    return tensors


def _state_dict(path: Path, loaded: object) -> dict[str, Tensor]:
    tensors = _find_tensors(loaded, depth=2)
    if tensors is None:
        holds = f"keys {listing(map(str, loaded), most=5)}" if isinstance(loaded, dict) else type(loaded).__name__
        raise _refused(path, f"no state dict in it, only {holds:.200}", STATE_DICT_ONLY)
    if others := [str(key) for key, value in tensors.items() if not _is_weight(key, value)]:
        why = f"its state dict holds more than dense tensors with plain names: {listing(others)}"
        raise _refused(path, why, STATE_DICT_ONLY)
    return tensors


def _find_tensors(loaded: object, depth: int) -> dict | None:
    """The innermost dictionary with tensors under up to `depth` of `WRAPPERS`, or None."""
    if not isinstance(loaded, dict):
        return None
    inner = (_find_tensors(loaded.get(key), depth - 1) for key in WRAPPERS if depth)
    values = {key: _from_array(value) for key, value in loaded.items()}
    here = values if any(isinstance(value, Tensor) for value in values.values()) else None
    return next(filter(None, inner), here)


def _from_array(value: object) -> object:
    """The tensor of a NumPy array that was read as a stand-in; any other value is returned as it is."""
    match value:
        case _StandIn(state=Tensor()):  # made before, under another key
            return value.state
        case _StandIn(
            state=(_, tuple(shape), _StandIn(args=(str(kind), *_), state=(_, order, *_)), turned, bytes(data))
        ):
            with contextlib.suppress(TypeError, ValueError):  # text, objects, dates
                array = np.frombuffer(data, np.dtype(f"{order}{kind}"))
                array = array.reshape(shape[::-1]).T if turned else array.reshape(shape)
                value.state = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
                return value.state
    return value


def _is_weight(key: object, value: object) -> bool:
    if not (isinstance(key, str) and key.isprintable() and isinstance(value, Tensor)):
        return False
    # strides of 0 and storages larger than their data would need unbounded memory
    return value.numel() * value.element_size() <= min(value.untyped_storage().nbytes(), MAX_UNPACKED_BYTES)
