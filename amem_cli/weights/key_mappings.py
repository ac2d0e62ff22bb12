"""Map the keys of published weight files to ours. Prefixes and heads of other projects are left to `loading`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from amem_cli.weights.files import WeightFile
from amem_cli.weights.normalisation import HARA_2018, HARA_2020, Normalisation

# the layers of torchvision's ResNet in a `Sequential`, as in Video-Person-ReID
_NUMBERED = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


@dataclass(frozen=True)
class MappedWeights:
    """Tensors under our keys. `normalisation`: None if the file does not say it. `notes`: what was removed."""

    tensors: dict[str, Tensor]
    key_mapping: str
    normalisation: Normalisation | None = None
    notes: tuple[str, ...] = ()


def map_keys(file: WeightFile, architecture: str) -> MappedWeights:
    """The tensors of a file under the keys of `architecture`; unknown keys are not changed."""
    if file.normalisation is not None:
        return MappedWeights(file.tensors, "amem", file.normalisation)
    if architecture == "i3d":
        return _map_i3d(file.tensors)
    if architecture == "r3d":
        normalisation, reason = _hara_normalisation(file)
        year = 2018 if normalisation == HARA_2018 else 2020
        return MappedWeights(file.tensors, f"3D-ResNet of Hara et al., {year} (from {reason})", normalisation)
    if architecture == "mobilenet_v2" and "features.2.conv.6.weight" in file.tensors:
        return _map_mobilenet_v2(file.tensors)
    if architecture in ("resnet18", "resnet50") and "4.0.conv1.weight" in file.tensors:
        split = {key: key.split(".") for key in file.tensors}
        keys = {key: ".".join((_NUMBERED.get(first, first), *rest)) for key, (first, *rest) in split.items()}
        return MappedWeights(_renamed(keys, file.tensors), "ResNet with numbers for its layers")
    return MappedWeights(file.tensors, "the network's own keys")


# -- MobileNetV2 -------------------------------------------------------------------------------------------------------

_BLOCK_KEY = re.compile(r"(?P<block>features\.(?P<index>\d+)\.conv)\.(?P<layer>\d)\.(?P<name>\w+)")
_BLOCK_LAYERS = {0: "0.0", 1: "0.1", 3: "1.0", 4: "1.1", 6: "2", 7: "3"}  # layer number: its name in torchvision
_FIRST_BLOCK_LAYERS = {0: "0.0", 1: "0.1", 3: "1", 4: "2"}  # without the expansion


def _map_mobilenet_v2(tensors: dict[str, Tensor]) -> MappedWeights:
    """The keys of the first PyTorch port, whose blocks number all layers without groups."""
    mapped = {}
    for key, tensor in tensors.items():
        if match := _BLOCK_KEY.fullmatch(key):
            layers = _FIRST_BLOCK_LAYERS if match["index"] == "1" else _BLOCK_LAYERS
            key = f"{match['block']}.{layers.get(int(match['layer']), match['layer'])}.{match['name']}"
        mapped[key] = tensor
    return MappedWeights(mapped, "MobileNetV2, keys by layer number")


# -- 3D-ResNet of Hara et al. ------------------------------------------------------------------------------------------

CLASSES_OF_2020 = (700, 339, 100, 1039, 1139)  # Kinetics-700, Moments in Time, STAIR and their unions
MIN_VARIANCE_OF_2018 = 300  # of pixels in [0, 255]; normalised ones have 1 to 20


def _hara_normalisation(file: WeightFile) -> tuple[Normalisation, str]:
    """The input of Hara's weights, which have the same keys in both years, and the reason for the conclusion.

    In 2018 it was pixels in [0, 255] minus a mean; in 2020 they were also divided by their std. The files of 2018 have
    400 classes and the prefix `module.`. Fine-tuned files may have neither; then the scale of the first layer decides.
    """
    head, filters, variance = (file.tensors.get(key) for key in ("fc.weight", "conv1.weight", "bn1.running_var"))
    classes = head.shape[0] if head is not None and head.dim() else 0
    if classes == 400 or classes in CLASSES_OF_2020:
        return (HARA_2018 if classes == 400 else HARA_2020), f"its {classes} classes"
    if file.module_prefix:
        return HARA_2018, "its prefix module."
    if filters is None or variance is None or filters.shape[1:] != (3, 7, 7, 7) or variance.shape != filters.shape[:1]:
        return HARA_2018, "no evidence in the file: the default"
    # the variance of the pixels along a filter: that of its output over the filter's squared norm
    pixels = (variance.double() / filters.double().flatten(1).square().sum(dim=1).clamp_min(1e-30)).median()
    return (HARA_2018 if pixels > MIN_VARIANCE_OF_2018 else HARA_2020), "the scale of its first layer"


# -- I3D ---------------------------------------------------------------------------------------------------------------

_UNITS = {  # ours: other PyTorch port, TensorFlow
    "b0": ("branch_0", "Branch_0/Conv3d_0a_1x1"),
    "b1a": ("branch_1.0", "Branch_1/Conv3d_0a_1x1"),
    "b1b": ("branch_1.1", "Branch_1/Conv3d_0b_3x3"),
    "b2a": ("branch_2.0", "Branch_2/Conv3d_0a_1x1"),
    "b2b": ("branch_2.1", "Branch_2/Conv3d_0b_3x3"),
    "b3b": ("branch_3.1", "Branch_3/Conv3d_0b_1x1"),
}
_TENSORFLOW_UNITS = {theirs: ours for ours, (_, theirs) in _UNITS.items()}
_TENSORFLOW_UNITS["Branch_2/Conv3d_0a_3x3"] = "b2b"  # an irregular name of the original, in Mixed_5b only
_TENSORFLOW_KINDS = {
    "conv_3d/w": "conv3d.weight",
    "conv_3d/b": "conv3d.bias",
    "batch_norm/gamma": "bn.weight",
    "batch_norm/beta": "bn.bias",
    "batch_norm/moving_mean": "bn.running_mean",
    "batch_norm/moving_variance": "bn.running_var",
    "Conv_0/kernel": "conv3d.weight",  # and the names of Flax
    "Conv_0/bias": "conv3d.bias",
    "BatchNorm_0/bias": "bn.bias",
    "BatchNorm_0/mean": "bn.running_mean",
    "BatchNorm_0/var": "bn.running_var",
}
_TENSORFLOW_KEY = re.compile(
    r"(?:(?:RGB|Flow)/)?(?:inception_i3d/)?(?:params/|batch_stats/)?"
    rf"(?P<unit>.+)/(?P<kind>{'|'.join(_TENSORFLOW_KINDS)})(?::0)?"
)


def _map_i3d(tensors: dict[str, Tensor]) -> MappedWeights:
    for part, source in (("/conv_3d/", "TensorFlow"), ("/Conv_0/", "Flax")):
        if any(part in key for key in tensors):
            return MappedWeights(_from_tensorflow(tensors), f"I3D, {source} variables")
    if any(key.startswith(("conv3d_1a_7x7.", "mixed_3b.")) for key in tensors):
        keys = {key: _from_other_port(key) for key in tensors}
        return MappedWeights(_renamed(keys, tensors), "I3D, PyTorch port with mixed_*.branch_*")
    return MappedWeights(tensors, "I3D, PyTorch port with Mixed_*.b*")


def _from_other_port(key: str) -> str:
    ours = key.replace(".batch3d.", ".bn.").replace("conv3d_0c_1x1.", "logits.", 1)
    if ours.startswith("mixed_"):
        block, rest = ours.split(".", 1)
        for unit, (theirs, _) in _UNITS.items():
            if rest.startswith(theirs + "."):
                return f"{block.capitalize()}.{unit}{rest.removeprefix(theirs)}"
    return re.sub(r"^conv3d_(\d)", r"Conv3d_\1", ours)


def _from_tensorflow(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, tensors = {name: name for name in variables}, dict(variables)
    for name, value in variables.items():
        match = _TENSORFLOW_KEY.fullmatch(name)
        if match is None:
            continue
        block, _, unit = match["unit"].partition("/")
        ours = "logits" if match["unit"] == "Logits/Conv3d_0c_1x1" else block
        if block.startswith("Mixed_"):
            ours = f"{block}.{_TENSORFLOW_UNITS.get(unit, unit)}"
        keys[name] = f"{ours}.{_TENSORFLOW_KINDS[match['kind']]}"
        if match["kind"] in ("conv_3d/w", "Conv_0/kernel") and value.dim() == 5:
            tensors[name] = value.permute(4, 3, 0, 1, 2).contiguous()  # (kT, kH, kW, in, out) -> (out, in, kT, kH, kW)
        elif value.dim() == 5:
            tensors[name] = value.flatten()  # (1, 1, 1, 1, C) -> (C,)
    renamed = _renamed(keys, tensors)
    for key, beta in list(renamed.items()):
        if key.endswith(".bn.bias"):  # the original's BN has no scale
            renamed.setdefault(key.removesuffix("bias") + "weight", torch.ones_like(beta))
    return renamed


def _renamed(keys: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under their new keys. A duplicate gets a key that fits no network, so that loading reports it."""
    renamed: dict[str, Tensor] = {}
    for theirs, tensor in tensors.items():
        ours = keys[theirs]
        renamed[f"{theirs} (duplicate of {ours})" if ours in renamed else ours] = tensor
    return renamed
