"""Other people's weight files -> our names. The weights carry their input normalisation.

A file is read without running anything in it, its names are translated from the dialect it is written in, and every
key is accounted for: what is missing, left over, of another shape or not finite is an error that lists it.

| file | dialect |
|---|---|
| `Mixed_3b.b1b.conv3d.weight`, `.bn.*` | I3D, PyTorch port |
| `mixed_3b.branch_1.1.conv3d.weight`, `.batch3d.*` | I3D, the other PyTorch port |
| `RGB/inception_i3d/Mixed_3b/Branch_1/Conv3d_0b_3x3/conv_3d/w` in an .npz | I3D, the original TensorFlow variables |
| `module.conv1.weight` in {"state_dict": ...} | 3D-ResNet-50 of Hara et al., 2018 or 2020 |
| `conv1_custom.weight` | P3D-199 |
| torchvision's own names | S3D, R3D-18, MC3-18, R(2+1)D-18; ResNet-18 and ResNet-50 for images |
"""

import hashlib
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from amem_cli.artifacts.atomic import read_bytes
from amem_cli.errors import BadData, InputMissing, UsageError, listing


@dataclass(frozen=True)
class Normalisation:
    """What weights expect of their input: (pixels - mean) / std per channel R, G, B, with pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PLUS_MINUS_ONE = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TORCHVISION_KINETICS = Normalisation((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
# Hara's first weights: pixels in 0-255 less the mean of ActivityNet, not divided.
HARA_2018 = Normalisation((114.7748 / 255, 107.7354 / 255, 99.4750 / 255), (1 / 255, 1 / 255, 1 / 255))
HARA_2020 = Normalisation((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737))


@dataclass(frozen=True)
class Pretrained:
    """What was loaded into a network: which file, in which dialect, and the input its weights expect.

    `head_classes` is the number of classes of the file's classification head (None without one), `head_loaded`
    whether the network took it.
    """

    path: Path
    sha256: str
    dialect: str
    normalisation: Normalisation
    head_classes: int | None
    head_loaded: bool


@dataclass(frozen=True)
class WeightsReport:
    """What a weight file is, for `amem weights inspect FILE`.

    `architecture` is the `--backbone` it suits best, or resnet18 / resnet50 (ARM's and TAE's encoder), or None when
    it resembles none; `fits` whether it loads as it is, and if not, `problems` lists every key that stands against it.
    """

    path: Path
    bytes: int
    sha256: str
    container: str
    keys: int
    parameters: int
    architecture: str | None
    dialect: str | None
    normalisation: Normalisation | None
    head_classes: int | None
    fits: bool
    problems: tuple[str, ...]


def load_pretrained(network: nn.Module, path: str | Path, architecture: str) -> Pretrained:
    """Put the weights of a file into `network` and set its `normalisation` to what they expect.

    `architecture` is a backbone's name, or resnet18 / resnet50. The keys in `network.head_keys` (the classification
    head, which most of our networks do without) may be there and are then left out. `num_batches_tracked` may be
    missing. float16, bfloat16 and float64 become float32.

    Raises `InputMissing` without the file, `BadData` when it is no weight file, is damaged, would run code when
    opened, or does not fit: then with every key missing, left over, of another shape, or not finite.
    """
    path = Path(path)
    file = _read(path)
    weights = _translate(file, architecture)
    problems = _misfits(network, weights.tensors)
    if problems:
        conv1 = weights.tensors.get("Conv3d_1a_7x7.conv3d.weight")
        flow = conv1 is not None and conv1.dim() == 5 and conv1.shape[1] == 2
        raise BadData(
            "weights",
            path,
            why=f"read as {weights.dialect}, they do not fit {architecture}: {listing(problems)}",
            remedy="These are of the optical-flow network, take the RGB one"
            if flow
            else f"`amem weights inspect {path}` says what the file is",
        )
    expected = network.state_dict().keys()
    network.load_state_dict({key: value for key, value in weights.tensors.items() if key in expected}, strict=False)
    network.normalisation = weights.normalisation or network.normalisation
    classes = _head_classes(network, weights.tensors)
    head_loaded = classes is not None and network.head_keys[0] in expected
    return Pretrained(path, file.sha256, weights.dialect, network.normalisation, classes, head_loaded)


def imagenet_resnet(depth: int, weights: str | Path | None = None, *, last_stride: int = 2) -> nn.Module:
    """torchvision's ResNet-18 or ResNet-50 for images, its `fc` an identity: (B, 3, H, W) -> (B, 512 or 2048).

    `weights`: "imagenet" (torchvision's IMAGENET1K_V1, fetched where the machine has the network), a file, or None
    for random ones. `last_stride=1` makes the maps of `layer4` H/16 x W/16 instead of H/32 x W/32; no weight changes
    shape. `normalisation` is ImageNet's, pixels in [0, 1].

    Raises `UsageError` for another depth, `InputMissing` and `BadData` as `load_pretrained`.
    """
    if depth not in (18, 50):
        raise UsageError("ResNet", why=f"there is no depth {depth} here", remedy="Choose 18 or 50")
    import torchvision

    builder = torchvision.models.resnet18 if depth == 18 else torchvision.models.resnet50
    network = builder(weights=None)
    network.fc = nn.Identity()
    first = network.layer4[0]
    strided = first.conv1 if depth == 18 else first.conv2
    strided.stride = first.downsample[0].stride = (last_stride, last_stride)
    network.head_keys = ("fc.weight", "fc.bias")
    network.normalisation = IMAGENET
    if weights is not None:
        enum = torchvision.models.ResNet18_Weights if depth == 18 else torchvision.models.ResNet50_Weights
        path = fetch(enum.IMAGENET1K_V1.url) if weights == "imagenet" else weights
        load_pretrained(network, path, f"resnet{depth}")
    return network


def fetch(url: str) -> Path:
    """The file behind one of torchvision's weight addresses, from torch's cache or, once, from the network.

    The hash in its name is checked as it arrives. Raises `InputMissing` when it cannot be had, with the way around.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[1])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([0-9a-f]{8,})\.pth$", url)
        try:
            torch.hub.download_url_to_file(url, str(path), digest and digest[1], progress=False)
        except (OSError, RuntimeError) as error:
            raise InputMissing(
                "weights",
                path,
                why=f"not here, and {url} could not be fetched ({error})",
                remedy="Fetch that address on another machine, copy the file here and name it with --weights FILE",
            ) from error
    return path


def inspect_weights(path: str | Path) -> WeightsReport:
    """Say what a weight file is and whether it fits one of our networks.

    Raises `InputMissing` and `BadData` as `load_pretrained` for files that cannot be read as weights at all.
    """
    from amem_cli.models.backbones import BACKBONES  # builders import this module for their normalisation

    path = Path(path)
    file = _read(path)
    about_file = {
        "path": path,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "container": file.container,
        "keys": len(file.tensors),
        "parameters": sum(tensor.numel() for key, tensor in file.tensors.items() if _is_parameter(key)),
    }
    builders = {name: lambda build=build: build(strides="stock") for name, build in BACKBONES.items()}
    builders |= {f"resnet{depth}": lambda depth=depth: imagenet_resnet(depth) for depth in (18, 50)}
    best = None
    for name, build in builders.items():
        with torch.device("meta"):
            network = build()
        weights = _translate(file, name)
        problems = _misfits(network, weights.tensors)
        known = len(weights.tensors.keys() & network.state_dict().keys())
        if known * 2 > len(weights.tensors) and (best is None or len(problems) < len(best.problems)):
            best = WeightsReport(
                **about_file,
                architecture=name,
                dialect=weights.dialect,
                normalisation=weights.normalisation or network.normalisation,
                head_classes=_head_classes(network, weights.tensors),
                fits=not problems,
                problems=tuple(problems),
            )
    unknown = "its keys resemble none of " + ", ".join(builders)
    return best or WeightsReport(
        **about_file,
        architecture=None,
        dialect=None,
        normalisation=None,
        head_classes=None,
        fits=False,
        problems=(unknown,),
    )


# ---- from dialects to our names ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Weights:
    """A file's tensors under our names; `normalisation` where the file decides it, None where the network does."""

    tensors: dict[str, Tensor]
    dialect: str
    normalisation: Normalisation | None = None


def _translate(file: "_File", architecture: str) -> _Weights:
    if architecture == "i3d":
        return _i3d_names(file.tensors)
    if architecture == "r3d":
        # The weights of 2020 are for 700 or more classes and were saved without `module.`; only the input differs.
        head = file.tensors.get("fc.weight")
        first = file.module_prefix or head is None or len(head) == 400
        year, normalisation = ("2018", HARA_2018) if first else ("2020", HARA_2020)
        return _Weights(file.tensors, f"3D-ResNet of Hara et al., {year}", normalisation)
    dialects = {"p3d": "P3D, PyTorch port", "resnet18": "torchvision ResNet", "resnet50": "torchvision ResNet"}
    dialects |= dict.fromkeys(("s3d", "r3d_18", "mc3_18", "r2plus1d_18"), "torchvision video")
    return _Weights(file.tensors, dialects.get(architecture, "the network's own names"))


def _head_classes(network: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    head = next((tensors[key] for key in network.head_keys if key in tensors), None)
    return None if head is None else len(head)


_PORT_UNITS = {
    "branch_0": "b0",
    "branch_1.0": "b1a",
    "branch_1.1": "b1b",
    "branch_2.0": "b2a",
    "branch_2.1": "b2b",
    "branch_3.1": "b3b",
}
_TENSORFLOW_UNITS = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_2/Conv3d_0a_3x3": "b2b",  # a slip in the original, in Mixed_5b only
    "Branch_3/Conv3d_0b_1x1": "b3b",
}
_TENSORFLOW_KINDS = {
    "conv_3d/w": "conv3d.weight",
    "conv_3d/b": "conv3d.bias",
    "batch_norm/gamma": "bn.weight",
    "batch_norm/beta": "bn.bias",
    "batch_norm/moving_mean": "bn.running_mean",
    "batch_norm/moving_variance": "bn.running_var",
}
_TENSORFLOW_NAME = re.compile(
    rf"(?:(?:RGB|Flow)/)?(?:inception_i3d/)?(?P<unit>.+)/(?P<kind>{'|'.join(_TENSORFLOW_KINDS)})(?::0)?"
)


def _i3d_names(tensors: dict[str, Tensor]) -> _Weights:
    if any("/conv_3d/" in key for key in tensors):
        return _Weights(_from_tensorflow(tensors), "I3D, TensorFlow variables")
    if any(key.startswith(("conv3d_1a_7x7.", "mixed_3b.")) for key in tensors):
        names = {key: _from_other_port(key) for key in tensors}
        return _Weights(_renamed(names, tensors), "I3D, PyTorch port with mixed_*.branch_*")
    return _Weights(tensors, "I3D, PyTorch port with Mixed_*.b*")


def _from_other_port(key: str) -> str:
    unit = key.replace(".batch3d.", ".bn.").replace("conv3d_0c_1x1.", "logits.", 1)
    if unit.startswith("mixed_"):
        block, rest = unit.split(".", 1)
        for theirs, ours in _PORT_UNITS.items():
            if rest.startswith(theirs + "."):
                return f"{block.capitalize()}.{ours}{rest[len(theirs) :]}"
    return re.sub(r"^conv3d_(\d)", r"Conv3d_\1", unit)


def _from_tensorflow(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names, tensors = {}, {}
    for name, value in variables.items():
        match = _TENSORFLOW_NAME.fullmatch(name)
        if match is None:
            names[name], tensors[name] = name, value
            continue
        block, _, unit = match["unit"].partition("/")
        ours = "logits" if match["unit"] == "Logits/Conv3d_0c_1x1" else block
        if block.startswith("Mixed_"):
            ours = f"{block}.{_TENSORFLOW_UNITS.get(unit, unit)}"
        names[name] = f"{ours}.{_TENSORFLOW_KINDS[match['kind']]}"
        if match["kind"] == "conv_3d/w" and value.dim() == 5:
            value = value.permute(4, 3, 0, 1, 2).contiguous()  # (kT, kH, kW, in, out) -> (out, in, kT, kH, kW)
        elif value.dim() == 5 and value.shape[:4].numel() == 1:
            value = value.flatten()  # (1, 1, 1, 1, C)
        tensors[name] = value
    renamed = _renamed(names, tensors)
    for key, beta in list(renamed.items()):
        if key.endswith(".bn.bias"):  # the original's BN has no scale
            renamed.setdefault(key.removesuffix("bias") + "weight", torch.ones_like(beta))
    return renamed


def _renamed(names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under their new names; one whose new name is taken keeps its old one, to be found left over."""
    renamed: dict[str, Tensor] = {}
    for theirs, tensor in tensors.items():
        ours = names[theirs]
        renamed[theirs if ours in renamed else ours] = tensor
    return renamed


def _misfits(network: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    expected = network.state_dict()
    rows = [f"missing {key}" for key in expected if key not in given and _is_counted(key)]
    rows += [f"left over {key}" for key in given if key not in expected and key not in network.head_keys]
    for key, tensor in given.items():
        wanted = expected[key].shape if key in expected else tensor.shape
        if tensor.shape != wanted:
            rows.append(f"{key} is {tuple(tensor.shape)} where {tuple(wanted)} belongs")
        if _is_counted(key) and not tensor.is_floating_point():
            rows.append(f"{key} is {tensor.dtype}, not floating point")
        elif not torch.isfinite(tensor).all():
            rows.append(f"{key} has NaN or infinite values")
        elif key.endswith("running_var") and (tensor < 0).any():
            rows.append(f"{key} has negative variances")
    return rows


def _is_counted(key: str) -> bool:
    return not key.endswith("num_batches_tracked")


def _is_parameter(key: str) -> bool:
    buffers = ("num_batches_tracked", "running_mean", "running_var", "moving_mean", "moving_variance")
    return not key.removesuffix(":0").endswith(buffers)


# ---- from bytes to tensors -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    tensors: dict[str, Tensor]
    container: str
    module_prefix: bool
    bytes: int
    sha256: str


_AGAIN = "Download it again and compare its size with the source's"
_NOT_WEIGHTS = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself", "Run `git lfs pull` where it is from"),
    (b"\x1f\x8b", "it is compressed by gzip", "Unpack it first"),
    (b"\x89HDF\r\n", "it is an HDF5 file, as Keras writes it", "Take the PyTorch or TensorFlow weights"),
    (b"Rar!", "it is a RAR archive", "Unpack it first"),
    (b"7z\xbc\xaf", "it is a 7-Zip archive", "Unpack it first"),
)
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")


def _read(path: Path) -> _File:
    content = read_bytes(path, "weights", remedy="Give the path of a weight file with --weights FILE")
    _reject_what_is_no_weight_file(path, content)
    if content[:4] == b"PK\x03\x04":
        members = _checked_members(path, content)
        if any(name.endswith(".npy") for name in members):
            loaded, container = _load_npz(path, content), "NumPy .npz"
        elif any("/code/" in name for name in members):
            raise _code_needed(path, "a TorchScript program")
        else:
            loaded, container = _load_torch(path, content), "PyTorch"
    elif content[8:9] == b"{":
        try:
            loaded, container = load_safetensors(content), "safetensors"
        except SafetensorError as error:
            raise BadData("weights", path, why=f"safetensors, but damaged ({error})", remedy=_AGAIN) from error
    else:
        loaded, container = _load_torch(path, content), "PyTorch (before 1.6)"
    tensors = _unwrapped(path, loaded)
    prefixed = all(key.startswith("module.") for key in tensors)
    return _File(
        {key.removeprefix("module.") if prefixed else key: value for key, value in tensors.items()},
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
        if content.startswith(mark):
            raise BadData("weights", path, why=why, remedy=remedy)
    if content[257:262] == b"ustar":
        raise BadData("weights", path, why="it is a tar archive", remedy="Unpack it first")
    start = content[:512]
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml|!--|script|meta)", start, re.IGNORECASE):
        raise BadData(
            "weights",
            path,
            why="it is a web page, often a login or download page saved under this name",
            remedy="Open the link in a browser, or use the direct address of the file",
        )
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        shown = start[:60].decode().strip().splitlines()[0]
        raise BadData("weights", path, why=f"it is a text file that begins {shown!r}", remedy=_AGAIN)


def _checked_members(path: Path, content: bytes) -> list[str]:
    """The names in a zip archive, after comparing each member with its checksum: torch and NumPy do not."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, ValueError, OSError, NotImplementedError) as error:
        why = f"it is cut off or damaged: its {len(content)} bytes are not a whole archive"
        raise BadData("weights", path, why=why, remedy=_AGAIN) from error
    if damaged is not None:
        raise BadData("weights", path, why=f"it is damaged: {damaged} does not match its checksum", remedy=_AGAIN)
    return names


def _load_npz(path: Path, content: bytes) -> dict[str, Tensor]:
    tensors = {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            for name in arrays.files:
                array = arrays[name]
                native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
                tensors[name] = torch.from_numpy(native.reshape(array.shape).copy())
    except ValueError as error:
        if "pickle" in str(error):
            raise _code_needed(path, "arrays of Python objects") from error
        raise BadData("weights", path, why=f".npz, but damaged ({error})", remedy=_AGAIN) from error
    except (TypeError, KeyError, EOFError, OSError) as error:
        raise BadData("weights", path, why=f".npz, but it holds no plain numbers ({error})", remedy=_AGAIN) from error
    return tensors


def _load_torch(path: Path, content: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on damaged bytes torch asks for an issue to be filed
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|class|instantiate|function)\s+`?([\w.]+\.[\w.]+)", str(error))
        if named:
            raise _code_needed(path, named[1]) from error
        failure: Exception = error
    except Exception as error:  # torch raises half a dozen kinds for bytes it does not understand
        failure = error
    first_line = (str(failure) or type(failure).__name__).strip().splitlines()[0].rstrip(". ")
    why = f"it is cut off, damaged, or no weight file ({first_line})"
    remedy = _AGAIN
    if re.search(r"\.ckpt|\.index$|\.data-\d", path.name):
        why = "it is part of a TensorFlow checkpoint"
        remedy = "Save its variables under their names with numpy.savez, and give the .npz"
    raise BadData("weights", path, why=why, remedy=remedy) from failure


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
        candidates = [loaded, *(loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping))]
        for candidate in candidates:
            if candidate and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in candidate.items()):
                return dict(candidate)
        holds = "a dictionary with " + listing((str(key) for key in loaded), most=5)
    else:
        holds = f"a {type(loaded).__name__}"
    raise BadData(
        "weights",
        path,
        why=f"no state dict of tensors in it, only {holds}",
        remedy="Save the network's state_dict() with torch.save",
    )
