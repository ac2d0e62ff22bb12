"""From the bytes of a weight file to tensors, without running anything in it."""

import argparse
import codecs
import hashlib
import io
import math
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.atomic import read_bytes
from amem_cli.errors import BadData, listing
from amem_cli.weights.normalisation import Normalisation


@dataclass(frozen=True)
class WeightFile:
    """A file's tensors under the names it has for them, without `module.` where all names began so; `normalisation`
    where it says itself what input they expect, as our own do."""

    tensors: dict[str, Tensor]
    container: str
    module_prefix: bool
    bytes: int
    sha256: str
    normalisation: Normalisation | None = None


_AGAIN = "Download it again and compare its size with the source's"
_NOT_WEIGHTS = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself", "Run `git lfs pull` where it is from"),
    (b"\x1f\x8b", "it is compressed by gzip", "Unpack it first"),
    (b"\x89HDF\r\n", "it is an HDF5 file, as Keras writes it", "Take the PyTorch or TensorFlow weights"),
    (b"Rar!", "it is a RAR archive", "Unpack it first"),
    (b"7z\xbc\xaf", "it is a 7-Zip archive", "Unpack it first"),
)
# what checkpoints of trainings have beside the weights, plain values all of them: NumPy figures, the command line
_BESIDE_WEIGHTS = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
]
_OF_STATE_DICTS = ("torch.", "collections.OrderedDict")  # what pickles of them name
MOST_BYTES, MOST_RATIO = 1 << 30, 10  # of an unpacked archive: weights are packed little, if at all
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")


def read_weight_file(path: Path) -> WeightFile:
    """The tensors of a file: PyTorch, safetensors or .npz, at the top or in a training checkpoint.

    Raises `InputMissing` without the file, `BadData` when it is no weight file, is damaged, or would run code when
    opened.
    """
    content = read_bytes(path, "weights", remedy="Give the path of a weight file with --weights FILE")
    _reject_what_is_no_weight_file(path, content)
    if content[:4] == b"PK\x03\x04":
        members = _checked_members(path, content)
        if any(name.endswith(".npy") for name in members):
            loaded, container = _load_npz(path, content), "NumPy .npz"
        elif any("/code/" in name for name in members):
            raise _code_needed(path, "a TorchScript program")
        elif not any(name.endswith("data.pkl") for name in members):
            why = f"it is a zip archive that holds {listing(members, most=3)}"
            raise BadData("weights", path, why=why, remedy="Unpack it first")
        else:
            loaded, container = _load_torch(path, content), "PyTorch"
    elif content[8:9] == b"{":
        if ours := _our_own(path, content):
            return ours
        try:
            loaded, container = load_safetensors(content), "safetensors"
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:  # KeyError: an unknown type
            raise BadData("weights", path, why=f"safetensors, but damaged ({error})", remedy=_AGAIN) from error
    else:
        loaded, container = _load_torch(path, content), "PyTorch (before 1.6)"
    tensors = _unwrapped(path, loaded)
    prefixed = all(key.startswith("module.") for key in tensors)
    for prefix in ("_orig_mod.", "module.") * 2:  # of torch.compile and DataParallel, once or twice
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return WeightFile(
        tensors,
        container,
        prefixed,
        len(content),
        hashlib.sha256(content).hexdigest(),
    )


def _reject_what_is_no_weight_file(path: Path, content: bytes) -> None:
    if not content.strip(b"\0"):
        why = "it is empty" if not content else f"all its {len(content)} bytes are zero"
        raise BadData("weights", path, why=why, remedy=_AGAIN)
    for mark, why, remedy in _NOT_WEIGHTS:
        if content.removeprefix(codecs.BOM_UTF8).startswith(mark):
            raise BadData("weights", path, why=why, remedy=remedy)
    if content[257:262] == b"ustar":
        raise BadData("weights", path, why="it is a tar archive", remedy="Unpack it first")
    text = _text_at_the_start(content)
    if text is not None and text.lstrip().startswith("<"):
        raise BadData(
            "weights",
            path,
            why="it is a web page, often a login or download page saved under this name",
            remedy="Open the link in a browser, or use the direct address of the file",
        )
    if text is not None:
        shown = next(iter(text.strip()[:60].splitlines()), "")
        raise BadData("weights", path, why=f"it is a text file that begins {shown!r}", remedy=_AGAIN)


def _our_own(path: Path, content: bytes) -> WeightFile | None:
    """The backbone of an `amem-main`, to train on from it; None for anybody else's file."""
    try:
        kind = checkpoint.read_description(path).get("kind")
    except BadData:
        return None
    if kind != "amem-main":
        remedy = "--weights takes networks trained elsewhere, and the backbone of an amem-main.safetensors"
        raise BadData("weights", path, why=f"it is a checkpoint of amem itself, of kind {kind}", remedy=remedy)
    saved = checkpoint.load(path, kind, remedy=_AGAIN)
    with checkpoint.described_by(saved):
        found = saved.description["model"]["normalisation"]
        normalisation = Normalisation(*(tuple(map(float, found[name])) for name in ("mean", "std")))
    prefix = "backbone."
    tensors = {key.removeprefix(prefix): value for key, value in saved.tensors.items() if key.startswith(prefix)}
    digest = hashlib.sha256(content).hexdigest()
    return WeightFile(tensors, "the backbone of an amem-main", False, len(content), digest, normalisation)


def _text_at_the_start(content: bytes) -> str | None:
    """The first characters, if they are text; its end may be cut within one."""
    start, encoding = content[:512], "utf-8"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        start, encoding = start[: len(start) // 2 * 2], "utf-16"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError:
        return None
    text = text.removeprefix("\ufeff")
    return text if all(character.isprintable() or character in "\t\n\r" for character in text) else None


def _checked_members(path: Path, content: bytes) -> list[str]:
    """The names in a zip archive, after comparing each member with its checksum: torch and NumPy do not."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > max(MOST_BYTES, MOST_RATIO * len(content)):
                why = f"it would unpack to {unpacked / 2**30:.0f} GiB"
                raise BadData("weights", path, why=why, remedy=_AGAIN)
            damaged = archive.testzip()
            names = archive.namelist()
    except BadData:
        raise
    except Exception as error:  # zipfile and zlib raise half a dozen kinds for damaged or encrypted archives
        why = f"it is cut off or damaged: its {len(content)} bytes are not a whole archive"
        raise BadData("weights", path, why=why, remedy=_AGAIN) from error
    if damaged is not None:
        raise BadData("weights", path, why=f"it is damaged: {damaged} does not match its checksum", remedy=_AGAIN)
    return names


def _load_npz(path: Path, content: bytes) -> dict[str, Tensor]:
    tensors = {}
    try:
        _check_npy_headers(path, content)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            for name in arrays.files:
                array = arrays[name]
                native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
                tensors[name] = torch.from_numpy(native.reshape(array.shape).copy())
    except ValueError as error:
        if "pickle" in str(error):
            raise _code_needed(path, "arrays of Python objects") from error
        raise BadData("weights", path, why=f".npz, but damaged ({error})", remedy=_AGAIN) from error
    except (TypeError, KeyError, EOFError, OSError, RuntimeError, MemoryError) as error:
        raise BadData("weights", path, why=f".npz, but it holds no plain numbers ({error})", remedy=_AGAIN) from error
    return tensors


def _load_torch(path: Path, content: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on damaged bytes torch asks for an issue to be filed
            with torch.serialization.safe_globals(_BESIDE_WEIGHTS):
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|class|instantiate|function)\s+`?([\w.]+\.[\w.]+)", str(error))
        called = named[1] if named else _called_by_pickle(content)
        if 2 < (version := _pickle_protocol(content)) <= 5 and (not called or called.startswith(_OF_STATE_DICTS)):
            why = f"it was saved with pickle protocol {version}, which cannot be opened without trusting it"
            remedy = "Save it again where it was made, with torch.save's own protocol"
            raise BadData("weights", path, why=why, remedy=remedy) from error
        if called:
            raise _code_needed(path, called) from error
        failure: Exception = error
    except Exception as error:  # torch raises half a dozen kinds for bytes it does not understand
        failure = error
    # what torch says of such bytes is about its own insides, and how to open them in spite of all
    why, remedy = "it is cut off, damaged, or no weight file", _AGAIN
    if re.search(r"\.ckpt|\.index$|\.data-\d", path.name):
        why = "it is part of a TensorFlow checkpoint"
        remedy = "Save its variables under their names with numpy.savez, and give the .npz"
    raise BadData("weights", path, why=why, remedy=remedy) from failure


def _pickle_protocol(content: bytes) -> int:
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    return content[1] if content[:1] == b"\x80" else 0


def _called_by_pickle(content: bytes) -> str | None:
    """The first function that a bare pickle would call when opened, found without opening it."""
    words: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if opcode.name == "STACK_GLOBAL":
                return ".".join(words[-2:])
            if isinstance(argument, str):
                words.append(argument)
    except (ValueError, IndexError, struct.error):
        pass
    return None


def _code_needed(path: Path, what: str) -> BadData:
    return BadData(
        "weights",
        path,
        why=f"it holds more than tensors ({what}), and opening it would run code from the file",
        remedy="If you trust its origin, load it where it was made and save its state_dict() alone with torch.save",
    )


def _unwrapped(path: Path, loaded: object) -> dict[str, Tensor]:
    """The state dict in what a file held, at the top or in one of the usual places in a training checkpoint."""
    if isinstance(loaded, Mapping):
        candidates = [loaded, *_wrapped(loaded)]
        candidates += [inner for outer in candidates[1:] for inner in _wrapped(outer)]
        for candidate in candidates:
            if candidate and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in candidate.items()):
                if odd := [key for key, tensor in candidate.items() if not _is_plain(tensor)]:
                    why = f"sparse, quantised or empty shells, not plain tensors: {listing(odd)}"
                    raise BadData("weights", path, why=why, remedy="Save the state_dict() of the network on the CPU")
                return dict(candidate)
        most = max(candidates, key=lambda each: sum(isinstance(value, Tensor) for value in each.values()))
        others = [key for key, value in most.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
        if 0 < len(others) < len(most) / 2:
            why = f"among its tensors are other things: {listing(str(key) for key in others)}"
            raise BadData("weights", path, why=why, remedy="Save the network's state_dict() alone")
        holds = (
            "a dictionary with " + listing((str(key) for key in loaded), most=5) if loaded else "an empty dictionary"
        )
    else:
        holds = f"a {type(loaded).__name__}"
    raise BadData(
        "weights",
        path,
        why=f"no state dict of tensors in it, only {holds}",
        remedy="Save the network's state_dict() with torch.save",
    )


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has its values, each once in memory."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _check_npy_headers(path: Path, content: bytes) -> None:
    """Raise `BadData` for arrays that claim more values than their member holds."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                first = np.lib.format.read_magic(file) == (1, 0)
                read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise BadData("weights", path, why=f"{member.filename} claims {shape} values", remedy=_AGAIN)


def _wrapped(loaded: Mapping) -> list[Mapping]:
    return [loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)]
