"""Other people's names of weights -> ours, for each dialect that a file can be written in.

| file | dialect |
|---|---|
| `Mixed_3b.b1b.conv3d.weight`, `.bn.*` | I3D, PyTorch port |
| `mixed_3b.branch_1.1.conv3d.weight`, `.batch3d.*` | I3D, the other PyTorch port |
| `RGB/inception_i3d/Mixed_3b/Branch_1/Conv3d_0b_3x3/conv_3d/w` in an .npz | I3D, the original TensorFlow variables |
| `module.conv1.weight` in {"state_dict": ...} | 3D-ResNet-50 of Hara et al., 2018 or 2020 |
| `conv1_custom.weight` | P3D-199 |
| `backbone.*` in an `amem-main.safetensors` | our own |
| torchvision's own names | S3D, R3D-18, MC3-18, R(2+1)D-18; ResNet-18 and ResNet-50 for images |
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from amem_cli.weights.files import WeightFile
from amem_cli.weights.normalisation import HARA_2018, HARA_2020, Normalisation


@dataclass(frozen=True)
class Weights:
    """A file's tensors under our names; `normalisation` where the file decides it, None where the network does."""

    tensors: dict[str, Tensor]
    dialect: str
    normalisation: Normalisation | None = None


def translate(file: WeightFile, architecture: str) -> Weights:
    """The tensors of a file under the names of our `architecture`; names of no known dialect stay as they are."""
    if file.normalisation is not None:
        return Weights(file.tensors, "amem's own names", file.normalisation)
    if architecture == "i3d":
        return _i3d_names(file.tensors)
    if architecture == "r3d":
        return _r3d(file)
    dialects = {"p3d": "P3D, PyTorch port", "resnet18": "torchvision ResNet", "resnet50": "torchvision ResNet"}
    dialects |= dict.fromkeys(("s3d", "r3d_18", "mc3_18", "r2plus1d_18"), "torchvision video")
    return Weights(file.tensors, dialects.get(architecture, "the network's own names"))


CLASSES_OF_2020 = (700, 339, 100, 1039, 1139)  # Kinetics-700, Moments in Time, STAIR and their unions
LEAST_VARIANCE_UP_TO_255 = 300


def _r3d(file: WeightFile) -> Weights:
    """Hara's weights of 2018 and 2020 differ in their input: pixels to 255 less a mean, or divided by a deviation too.

    Those of 2018 have 400 classes and were saved with `module.`, those of 2020 have others and none. Where these signs
    are missing or disagree the first layer tells it (see `_variance_seen`); where it has seen nothing, an untrained
    network is read as 2018. The dialect says which sign it was, and whether the first layer speaks against it.
    """
    head, variance = file.tensors.get("fc.weight"), _variance_seen(file.tensors)
    classes = None if head is None or head.dim() == 0 else len(head)
    if classes == 400 or (classes in CLASSES_OF_2020 and not file.module_prefix):
        first, sign = classes == 400, f"by its {classes} classes"
    elif file.module_prefix and classes not in CLASSES_OF_2020:
        first, sign = True, "by its names with module."
    elif variance is not None:
        first, sign = variance > LEAST_VARIANCE_UP_TO_255, "by the scale of its first layer"
    else:
        first, sign = True, "supposed, nothing in the file tells"
    if variance is not None and (variance > LEAST_VARIANCE_UP_TO_255) != first:
        sign += ", though the scale of its first layer speaks against it"
    year, normalisation = ("2018", HARA_2018) if first else ("2020", HARA_2020)
    return Weights(file.tensors, f"3D-ResNet of Hara et al., {year}, {sign}", normalisation)


def _variance_seen(tensors: Mapping[str, Tensor]) -> float | None:
    """The variance of the pixels along the first layer's filters (the median of the filters), or None if untrained.

    It is the variance that BN saw behind a filter over the filter's squared norm: 1 to 20 of normalised pixels, and
    60^2 times that of pixels up to 255.
    """
    filters, seen = tensors.get("conv1.weight"), tensors.get("bn1.running_var")
    if (
        filters is None
        or seen is None
        or filters.dim() < 2
        or seen.shape != filters.shape[:1]
        or bool((seen == 1).all())
    ):
        return None
    return float((seen.double() / filters.double().flatten(1).square().sum(dim=1).clamp_min(1e-30)).median())


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


def _i3d_names(tensors: dict[str, Tensor]) -> Weights:
    if any("/conv_3d/" in key for key in tensors):
        return Weights(_from_tensorflow(tensors), "I3D, TensorFlow variables")
    if any(key.startswith(("conv3d_1a_7x7.", "mixed_3b.")) for key in tensors):
        names = {key: _from_other_port(key) for key in tensors}
        return Weights(_renamed(names, tensors), "I3D, PyTorch port with mixed_*.branch_*")
    return Weights(tensors, "I3D, PyTorch port with Mixed_*.b*")


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
    """Tensors under their new names; a second one of the same name keeps its old one with a word on that, to be found
    left over."""
    renamed: dict[str, Tensor] = {}
    for theirs, tensor in tensors.items():
        ours = names[theirs]
        renamed[f"{theirs} (a second {ours})" if ours in renamed else ours] = tensor
    return renamed
