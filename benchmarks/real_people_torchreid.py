"""The networks of torchreid on the halves of `real_people.py`, by torchreid's own recipe, for a given time.

    pip install torchreid==0.2.5 tensorboard gdown opencv-python-headless scipy
    python benchmarks/real_people_torchreid.py FOLDER --seconds 120 [--network osnet_x1_0] [--imagenet] [--loss triplet]
        [--seed 0] [--new-cameras]

FOLDER is that of `real_people.py`, which must have made the halves, or with `--new-cameras` the other people. With
several `--seconds` the features are scored at each of these times of one training. The recipe is that of torchreid's
README: single images, mirrored at random, in batches of 32; Adam at 3e-4; cross-entropy with label smoothing, and with
--loss triplet also triplets of 8 people x 4. The feature of a tracklet is the mean over all its frames. The time counts
training steps, not the start. `--imagenet` starts mobilenetv2_x1_0 from the weights that `amem --weights imagenet`
uses. Each training is scored twice: by its features, and by those of the network adapted to each camera. The results
are added to FOLDER/results.json.
"""

import argparse
import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchreid
from PIL import Image
from real_people import Hits, add_results, hits_of, print_table, rate
from torch import Tensor

from amem_cli.data.clips import evenly_spaced
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.models.adaptation import adapted_to_camera
from amem_cli.models.image_networks import ImageMaps
from amem_cli.runtime.memory import keep_freed_memory
from amem_cli.stages.extract_features import ADAPTATION_BATCH, ADAPTATION_CLIPS

HEIGHT_WIDTH = (128, 64)  # of the preset `small`
TOLERANCE = 1e-4  # of maps that are at most about 6


class People(torchreid.data.ImageDataset):
    """A half as torchreid reads it: all frames of all tracklets."""

    def __init__(self, root: str = "", **options: Any):
        (split,) = read_videos(load_manifest(str(Path(root) / "people.toml")), Path(root)).splits
        ids = sorted({tracklet.person_id for tracklet in split.train})
        images = [
            (str(path), ids.index(tracklet.person_id), tracklet.camera_id)
            for tracklet in split.train
            for path in tracklet.frames
        ]
        # torchreid wants queries and a gallery of other cameras; they are not used
        super().__init__(images, images[:1], [(path, person, -1) for path, person, _ in images[:1]], **options)


def start_from_imagenet(network: Any) -> None:
    """Copy the ImageNet weights in their order. torchreid's first block has a 1x1 convolution that MobileNetV2 lacks;
    it is left out, so that the maps of both networks are equal, which is checked."""
    ours = ImageMaps("mobilenet_v2", "imagenet").eval()
    ours.network.features[14].conv[1][0].stride = (2, 2)  # which torchreid keeps
    network.conv2[0].conv1 = torch.nn.Identity()
    own = [key for key in network.state_dict() if not key.startswith("classifier.")]
    given = ours.network.features.state_dict().values()
    network.load_state_dict(dict(zip(own, given, strict=True)), strict=False)
    images = torch.rand(2, 3, *HEIGHT_WIDTH)
    with torch.no_grad():
        difference = network.eval().featuremaps((images - ours.mean) / ours.std) - ours(images)
    assert difference.abs().max() < TOLERANCE, difference.abs().max()


def rates(half: Path, arguments: argparse.Namespace) -> Iterator[tuple[int, list[Hits]]]:
    """At each of the given seconds of training: the steps so far, and the queries found, plain and adapted."""
    data = torchreid.data.ImageDataManager(
        root=str(half), sources="people", height=HEIGHT_WIDTH[0], width=HEIGHT_WIDTH[1], use_gpu=False, workers=0,
        train_sampler="RandomIdentitySampler" if arguments.loss == "triplet" else "RandomSampler",
    )  # fmt: skip
    network = torchreid.models.build_model(arguments.network, data.num_train_pids, arguments.loss, pretrained=False)
    if arguments.imagenet:
        start_from_imagenet(network)
    optimizer = torchreid.optim.build_optimizer(network, optim="adam", lr=3e-4)
    engines = {"softmax": torchreid.engine.ImageSoftmaxEngine, "triplet": torchreid.engine.ImageTripletEngine}
    engine = engines[arguments.loss](data, network, optimizer, use_gpu=False)
    engine.set_model_mode("train")
    batches = itertools.chain.from_iterable(data.train_loader for _ in itertools.count())
    steps, trained = 0, 0.0  # seconds
    for seconds in sorted(arguments.seconds):
        began = time.monotonic() - trained
        while (trained := time.monotonic() - began) < seconds:
            engine.forward_backward(next(batches))
            steps += 1
        network.eval()
        yield steps, [hits_of(*features_of(half, network, data.transform_te, adapt)) for adapt in (False, True)]
        network.train()


@torch.no_grad()
def features_of(half: Path, network: Any, transform: Any, adapt: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (N, D), person ids and cameras of the test tracklets; with `adapt` as by `extract-features
    --adapt-cameras`, from the middle frames."""
    (split,) = read_videos(load_manifest(str(half / "people.toml")), half).splits
    ids, cameras = ([getattr(one, name) for one in split.test] for name in ("person_id", "camera_id"))
    images = [
        torch.stack([transform(Image.open(path).convert("RGB")) for path in tracklet.frames]) for tracklet in split.test
    ]
    networks: dict[int, Any] = defaultdict(lambda: network)
    for camera in set(cameras) if adapt else ():
        own = [frames[len(frames) // 2] for frames, one in zip(images, cameras, strict=True) if one == camera]
        chosen = torch.stack(evenly_spaced(own, ADAPTATION_CLIPS))
        count = -(-len(chosen) // ADAPTATION_BATCH)
        networks[camera] = adapted_to_camera(network, [chosen[start::count] for start in range(count)])
    rows = []
    for frames, camera in zip(images, cameras, strict=True):
        parts: list[Tensor] = [networks[camera](part) for part in frames.split(100)]
        rows.append(F.normalize(torch.cat(parts).mean(dim=0), dim=0).numpy())
    return np.stack(rows), np.array(ids), np.array(cameras)


def main(arguments: argparse.Namespace) -> None:
    torchreid.data.register_image_dataset("people", People)
    found: dict[str, Hits] = defaultdict(lambda: defaultdict(dict))
    times = sorted(set(arguments.seconds))
    for part in ["new-cameras"] if arguments.new_cameras else ["half0", "half1"]:
        torch.manual_seed(arguments.seed)
        for seconds, (steps, both) in zip(times, rates(arguments.folder / part, arguments), strict=True):
            for how, hits in zip(("", "adapted-"), both, strict=True):
                where, start = "new-cameras-" * arguments.new_cameras, "-imagenet" * arguments.imagenet
                row = f"{how}{where}torchreid/{arguments.network}-{arguments.loss}{start}-{seconds:.0f}s"
                for archive, people in hits.items():
                    found[f"{row}/seed{arguments.seed}"][archive] |= people
                shown = {archive: rate(people) for archive, people in hits.items()}
                print(part, f"{row}, {steps} steps:", shown, flush=True)
    add_results(arguments.folder, found)
    print_table(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The networks of torchreid on real people.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, nargs="+", default=[120.0])
    parser.add_argument("--network", default="mobilenetv2_x1_0")
    parser.add_argument("--loss", choices=("softmax", "triplet"), default="softmax")
    parser.add_argument("--imagenet", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--new-cameras", action="store_true")
    given = parser.parse_args()
    keep_freed_memory()
    if given.imagenet and given.network != "mobilenetv2_x1_0":
        parser.error("--imagenet has weights of --network mobilenetv2_x1_0 only")
    main(given)
