"""`amem weights inspect`: identifies a weight file and the network it fits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from amem_cli.errors import listing
from amem_cli.models.backbones import backbone_class
from amem_cli.models.image_networks import OUT_CHANNELS as IMAGE_NETWORKS
from amem_cli.models.image_networks import image_network
from amem_cli.options import BACKBONES
from amem_cli.weights.files import read_weight_file
from amem_cli.weights.loading import head_classes, matching, misfits, require_fit, weights_for
from amem_cli.weights.normalisation import Normalisation

STATISTICS = ("num_batches_tracked", "running_mean", "running_var", "moving_mean", "moving_variance")  # no parameters


@dataclass(frozen=True)
class WeightsReport:
    """The content of a weight file and the network it fits.

    `architecture` is the most similar `--backbone` or image network, None if fewer than half of the tensors match any.
    `notes` say what is removed around it, `problems` lists every key that does not fit.
    """

    path: Path
    bytes: int
    sha256: str
    container: str
    keys: int
    parameters: int
    architecture: str | None
    key_mapping: str | None
    normalisation: Normalisation | None
    head_classes: int | None
    notes: tuple[str, ...]
    fits: bool
    problems: tuple[str, ...]


def inspect_weights(path: str | Path) -> WeightsReport:
    """Compare a weight file with every network. Raises as `read_weight_file`."""
    file = read_weight_file(Path(path))
    # inflated networks last: files of image networks fit them too
    named = {**IMAGE_NETWORKS, **BACKBONES}
    networks = [(name, _empty(name)) for name in named]
    networks += [(name, _empty(name, inflated=True)) for name in IMAGE_NETWORKS if name in BACKBONES]
    candidates = [(name, network, weights_for(network, file, name)) for name, network in networks]
    architecture, network, weights = max(candidates, key=lambda each: matching(each[1], each[2].tensors))
    known = 2 * matching(network, weights.tensors) > len(weights.tensors)
    shapes = listing((f"{key} {tuple(tensor.shape)}" for key, tensor in file.tensors.items()), most=6)
    unknown = [f"fewer than half of its tensors match any of {', '.join(named)}; it holds {shapes}"]
    problems = misfits(network, weights.tensors) if known else unknown
    return WeightsReport(
        path=file.path,
        bytes=file.bytes,
        sha256=file.sha256,
        container=file.container,
        keys=len(file.tensors),
        parameters=sum(
            tensor.numel() for key, tensor in file.tensors.items() if not key.removesuffix(":0").endswith(STATISTICS)
        ),
        architecture=architecture if known else None,
        key_mapping=weights.key_mapping if known else None,
        normalisation=(weights.normalisation or network.normalisation) if known else None,
        head_classes=head_classes(network, weights.tensors) if known else None,
        notes=weights.notes if known else (),
        fits=not problems,
        problems=tuple(problems),
    )


def check_weights(architecture: str, path: str | Path) -> None:
    """Raise what loading this file into `architecture` would raise, without allocating the network."""
    file = read_weight_file(Path(path))
    network = _empty(architecture)
    require_fit(network, weights_for(network, file, architecture), file.path, architecture)


def _empty(architecture: str, inflated: bool = False) -> Any:
    """The network on the meta device, without values; an image network, unless `inflated`, where there are both."""
    with torch.device("meta"):
        if architecture in IMAGE_NETWORKS and not inflated:
            return image_network(architecture)
        return backbone_class(architecture)(strides="stock")
