"""JPEG files to what a network takes: our loader beside the usual PIL and torchvision transforms, one thread.

    python benchmarks/decoding.py [--runs 7]

"usual" is what the peers' loaders do for each image: PIL to RGB, `Resize`, `ToTensor`, `Normalize` (transforms v1), to
float32 (3, 256, 128). "amem" is `read_image` to uint8 (256, 128, 3); float and normalisation come later, on the device,
so "amem + device" adds `as_pixels` and `normalise` of the whole batch on one CPU thread. Images are generated walkers,
at the size that MARS has (256 x 128) and at Market-1501's (128 x 64).
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amem_cli.data.transforms import read_image
from amem_cli.models.backbones import normalise
from amem_cli.runtime.device import as_pixels
from amem_cli.walkers import write_clips
from amem_cli.weights.normalisation import IMAGENET

SIZES = ((256, 128), (128, 64))
IMAGES = 64


def usual(files: list[Path]) -> torch.Tensor:
    steps = [transforms.Resize((256, 128)), transforms.ToTensor(), transforms.Normalize(IMAGENET.mean, IMAGENET.std)]
    transform = transforms.Compose(steps)
    images = []
    for file in files:
        with Image.open(file) as image:
            images.append(transform(image.convert("RGB")))
    return torch.stack(images)


def ours(files: list[Path]) -> torch.Tensor:
    return torch.from_numpy(np.stack([read_image(file, 256, 128) for file in files]))


def ours_on_device(files: list[Path]) -> torch.Tensor:
    return normalise(as_pixels(ours(files), torch.device("cpu")), IMAGENET)


def run(runs: int = 7) -> dict[str, Any]:
    """Median microseconds an image by size and way, runs interleaved. Raises `ValueError` when the pixels differ."""
    ways = {"usual": usual, "amem": ours, "amem + device": ours_on_device}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        for height, width in SIZES:
            files = write_clips(Path(folder), people=IMAGES // 8, height=height, width=width)
            if not torch.allclose(usual(files), ours_on_device(files), atol=1e-5):
                raise ValueError(f"the ways disagree at {height} x {width}")
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(runs):
                for name, way in ways.items():
                    start = time.perf_counter()
                    way(files)
                    times[name].append((time.perf_counter() - start) / len(files) * 1e6)
            sizes[f"{height}x{width}"] = {name: statistics.median(values) for name, values in times.items()}
    torch.set_num_threads(threads)
    return {"images": IMAGES, "runs": runs, "microseconds": sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    found = run(parser.parse_args().runs)
    for size, ways in found["microseconds"].items():
        print(f"{size}, microseconds an image, median of {found['runs']}")
        for name, microseconds in ways.items():
            print(f"  {name:16}{microseconds:8.0f}{ways['usual'] / microseconds:8.2f}")


if __name__ == "__main__":
    main()
