"""Other people's weight files -> our names. The weights carry their input normalisation.

A file is read without running anything in it, its names are translated from the dialect it is written in, and every
key is accounted for: what is missing, left over, of another shape or not finite is an error that lists it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from amem_cli.errors import BadData, InputMissing, UsageError, listing
from amem_cli.weights.files import WeightFile, read_weight_file
from amem_cli.weights.key_mappings import Weights, translate
from amem_cli.weights.normalisation import IMAGENET, Normalisation


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
    file = read_weight_file(path)
    weights = _fitting(network, file, path, architecture)
    expected = network.state_dict().keys()
    network.load_state_dict({key: value for key, value in weights.tensors.items() if key in expected}, strict=False)
    network.normalisation = weights.normalisation or network.normalisation
    classes = _head_classes(network, weights.tensors)
    head_loaded = classes is not None and network.head_keys[0] in expected
    return Pretrained(path, file.sha256, weights.dialect, network.normalisation, classes, head_loaded)


def check_weights(architecture: str, path: str | Path) -> None:
    """Raise what `load_pretrained` would for this file, without building the network."""
    path = Path(path)
    with torch.device("meta"):
        network = _builders()[architecture]()
    _fitting(network, read_weight_file(path), path, architecture)


def _fitting(network: nn.Module, file: WeightFile, path: Path, architecture: str) -> Weights:
    """The file's weights under the network's names; raises `BadData` when they do not fit."""
    weights = translate(file, architecture)
    problems = _misfits(network, weights.tensors)
    if problems:
        conv1 = weights.tensors.get("Conv3d_1a_7x7.conv3d.weight")
        report = inspect_weights(path)
        remedy = f"`amem weights inspect {path}` says what the file is"
        if conv1 is not None and conv1.dim() == 5 and conv1.shape[1] == 2:
            remedy = "These are of the optical-flow network, take the RGB one"
        elif report.fits and report.architecture != architecture:
            why = f"they are of {report.architecture} ({report.dialect}), not of {architecture}"
            images = [name.startswith("resnet") for name in (architecture, report.architecture or "")]
            remedy = f"Give weights of {architecture}"
            if images == [True, True]:
                remedy += f", or train an ARM with --backbone {report.architecture}"
            elif images == [False, False]:
                remedy = f"Use --backbone {report.architecture}"
            raise BadData("weights", path, why=why, remedy=remedy)
        elif report.architecture is None:
            raise BadData("weights", path, why=report.problems[0], remedy=f"Give weights of {architecture}")
        why = f"read as {weights.dialect}, they do not fit {architecture}: {listing(problems, most=len(problems))}"
        raise BadData("weights", path, why=why, remedy=remedy)
    return weights


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
    path = Path(path)
    file = read_weight_file(path)
    about_file = {
        "path": path,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "container": file.container,
        "keys": len(file.tensors),
        "parameters": sum(tensor.numel() for key, tensor in file.tensors.items() if _is_parameter(key)),
    }
    builders = _builders()
    best = None
    for name, build in builders.items():
        with torch.device("meta"):
            network = build()
        weights = translate(file, name)
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
    first = next(iter(file.tensors)).split(".")[0] + "."
    prefix = f", and all begin with {first}" if all(key.startswith(first) for key in file.tensors) else ""
    unknown = f"its keys resemble none of {', '.join(builders)}; they are {_shapes(file.tensors)}{prefix}"
    return best or WeightsReport(
        **about_file,
        architecture=None,
        dialect=None,
        normalisation=None,
        head_classes=None,
        fits=False,
        problems=(unknown,),
    )


def _builders() -> dict[str, Callable[[], nn.Module]]:
    """What a weight file may be of, by its name."""
    from amem_cli.models.backbones import backbone_class, backbone_names  # they load their weights by this module

    builders = {name: lambda name=name: backbone_class(name)(strides="stock") for name in backbone_names()}
    return builders | {f"resnet{depth}": lambda depth=depth: imagenet_resnet(depth) for depth in (18, 50)}


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    return listing((f"{key} {tuple(tensor.shape)}" for key, tensor in tensors.items()), most=6)


def _head_classes(network: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    head = next((tensors[key] for key in network.head_keys if key in tensors), None)
    return None if head is None else len(head)


def _misfits(network: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    expected = network.state_dict()
    rows = [f"missing {key}" for key in expected if key not in given and _is_counted(key)]
    rows += [f"left over {key}" for key in given if key not in expected and key not in network.head_keys]
    rows += _misfits_of_head(network, given)
    for key, tensor in given.items():
        wanted = expected[key].shape if key in expected else tensor.shape
        if tensor.shape != wanted:
            rows.append(f"{key} is {tuple(tensor.shape)} where {tuple(wanted)} belongs")
        if _is_counted(key) and not tensor.is_floating_point():
            rows.append(f"{key} is {tensor.dtype}, not floating point")
        elif not torch.isfinite(tensor.float()).all():
            rows.append(f"{key} has values that are NaN, infinite or beyond float32")
        elif key.endswith("running_var") and (tensor < 0).any():
            rows.append(f"{key} has negative variances")
    return rows


def _misfits_of_head(network: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """A head that the network does without is there whole, one bias for each of its classes, or not at all."""
    there = [key for key in network.head_keys if key in given]
    if not there or there[0] in network.state_dict():
        return []
    if len(there) < len(network.head_keys):
        return [f"missing {key}, a part of the head" for key in network.head_keys if key not in given]
    weight, *biases = (given[key] for key in network.head_keys)
    if not biases:
        return []
    (bias,), rows = biases, []
    if weight.dim() < 2 or bias.shape != weight.shape[:1]:
        rows.append(f"the head's weight is {tuple(weight.shape)} and its bias {tuple(bias.shape)}")
    width = getattr(network, "out_channels", None)
    if width is not None and weight.dim() >= 2 and weight.shape[1] != width:
        rows.append(f"the head takes {weight.shape[1]} channels where the network gives {width}")
    return rows


def _is_counted(key: str) -> bool:
    return not key.endswith("num_batches_tracked")


def _is_parameter(key: str) -> bool:
    buffers = ("num_batches_tracked", "running_mean", "running_var", "moving_mean", "moving_variance")
    return not key.removesuffix(":0").endswith(buffers)
