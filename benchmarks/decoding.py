"""JPEG files to the input of a network: amem's loader and the baseline, one thread.

"baseline": PIL to RGB, then `Resize`, `ToTensor`, `Normalize` of torchvision, to float32 (3, 256, 128), as most
re-identification code does. "amem": `read_image` to uint8 (256, 128, 3); conversion and normalisation happen later on
the device. "amem + device": also `as_pixels` and `normalise` of the batch, on a CPU thread. Images are generated people
in the sizes of MARS (256 x 128) and Market-1501 (128 x 64).
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import Method, check_agreement, take_turns
from torchvision import transforms

from amem_cli.data.transforms import read_image
from amem_cli.models.backbones import normalise
from amem_cli.runtime.engine import as_pixels
from amem_cli.walkers.layouts import write_clips
from amem_cli.weights.normalisation import IMAGENET

SIZES = ((256, 128), (128, 64))


def baseline(files: list[Path]) -> torch.Tensor:
    steps = [transforms.Resize((256, 128)), transforms.ToTensor(), transforms.Normalize(IMAGENET.mean, IMAGENET.std)]
    return torch.stack([transforms.Compose(steps)(Image.open(file).convert("RGB")) for file in files])


def amem(files: list[Path]) -> torch.Tensor:
    return torch.from_numpy(np.stack([read_image(file, 256, 128) for file in files]))


def amem_on_device(files: list[Path]) -> torch.Tensor:
    return normalise(as_pixels(amem(files), torch.device("cpu")), IMAGENET)


METHODS = {"baseline": baseline, "amem": amem, "amem + device": amem_on_device}


def make(name: str, files: list[Path]) -> Callable[[], np.ndarray]:
    return lambda: METHODS[name](files).numpy()


def run(runs: int = 7) -> dict[str, Any]:
    """Median microseconds per image, by size and method. Raises `ValueError` if the pixels differ."""
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        for height, width in SIZES:
            files = write_clips(Path(folder), height=height, width=width)
            timed = take_turns({name: Method(make, (name, files)) for name in METHODS}, runs, threads=1)
            check_agreement({name: timed[name].result for name in ("baseline", "amem + device")}, 1e-5)
            seconds = {name: side.medians[0] for name, side in timed.items()}
            sizes[f"{height}x{width}"] = {name: value / len(files) * 1e6 for name, value in seconds.items()}
    return {"images": len(files), "runs": runs, "microseconds": sizes}
