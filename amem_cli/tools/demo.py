"""`amem demo`: the pipeline on generated walking people."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from amem_cli.artifacts.output import StageResult
from amem_cli.artifacts.paths import Workspace
from amem_cli.errors import InputMissing
from amem_cli.models.backbones import build_backbone
from amem_cli.options import COMMANDS, EvaluateOptions
from amem_cli.resolve import resolve
from amem_cli.runtime.progress import Progress
from amem_cli.stages.evaluate import evaluate
from amem_cli.stages.extract_features import extract_features
from amem_cli.stages.label_videos import label_videos
from amem_cli.stages.train_amem import train_amem
from amem_cli.stages.train_arm import train_arm
from amem_cli.stages.train_tae import train_tae
from amem_cli.tools.doctor import available_cores
from amem_cli.tools.show import show_all
from amem_cli.tools.source import Source
from amem_cli.video.search import SearchOptions, SearchResult, search
from amem_cli.walkers.layouts import write_walkers
from amem_cli.walkers.options import WalkerOptions
from amem_cli.weights.names import GIVE_FILE, weight_file

WALKERS = WalkerOptions(people=24, frames=(16, 22), twins=0.1, data_sets=("peta", "market1501", "mars"))
IMAGE_SIZE = "96x48"  # minutes on two CPU cores
TRIALS = 3  # training steps with each number of threads
CLIP_FRAMES = 6
DESCRIPTION = "upperBodyRed"  # searched without a picture


def demo(
    folder: Path, seed: int, progress: Progress
) -> tuple[StageResult, list[Path], dict[str, Any], list[SearchResult]]:
    """Generate people in `folder`/data, run the six stages with `--preset small`, draw the pictures, search.

    A rerun keeps what is finished. Returns the evaluation, the pictures, the errors of the predicted frames, and a
    search by picture and one by description.
    """
    choose_threads(progress)
    data, workspace = folder / "data", folder / "workspace"
    if not data.is_dir():
        with progress.loop("walkers", 1, unit="images") as loop:
            write_walkers(data, replace(WALKERS, seed=seed), loop.show, processes=int(available_cores()) or 1)
    start = weights_or_warning(progress)

    def options(command: str, **values: Any) -> Any:
        common = {"data_root": data, "workspace": workspace, "seed": seed}
        return resolve(COMMANDS[command], common | values, preset="small")

    size = {"image_size": IMAGE_SIZE}
    train_arm(options("train-arm", epochs=4, warmup_steps=10, weights=start, **size), progress)
    label_videos(options("label-videos", subset="all"), progress)
    train_tae(options("train-tae", epochs=1, **size), progress)
    # one prediction, of frame t+4, so that f_M has to say one thing; t is always 1, so that f_M need not know t
    frames = {"clip_frames": CLIP_FRAMES, "predict_frames": 1, "predict_stride": 4}
    # prediction is the main task: at lower weights and rates MEM does not learn to use f_M in minutes. The decoder is
    # good already
    motion = {"lambda_m": 1000.0, "learning_rate": 1e-3, "mem_lr_factor": 2.0, "decoder_lr_factor": 0.05}
    whole = {"flip": 0.0, "crop": 0.0, "erase": 0.0}  # people and scene stay in their places: easier to predict
    # MEM predicts from the maps of the trained backbone
    clips = {"epochs": 16, "people_per_batch": 4, "clips_per_person": 2, "average_initial": 0.0}
    middle = {"motion_maps": "middle"}  # the last maps learn where the legs are in half an hour only
    train_amem(options("train-amem", **clips, **middle, **frames, **motion, **whole, **size), progress)
    # not adapted to the cameras, so that a single picture can be the query, as in the notebook
    extract_features(options("extract-features", adapt_cameras=False), progress)
    result = evaluate(EvaluateOptions(protocol="mars", workspace=workspace, seed=seed), progress)
    source = Source("mars", data, Workspace(workspace))
    pictures, errors = show_all(folder / "pictures", source, progress)
    return result, pictures, errors, example_searches(source, progress)


def example_searches(source: Source, progress: Progress) -> list[SearchResult]:
    """The tracklets nearest to the first query, and those that fit `DESCRIPTION`."""
    features, workspace = source.features, source.workspace
    query = features.tracklet[int(features.is_query.argmax())]
    gallery, labels = (workspace.features(*source.key),), (workspace.labels(source.key[0]),)
    by_picture = SearchOptions(gallery=gallery, top=5, query=query)
    by_description = SearchOptions(gallery=gallery, top=5, with_=(DESCRIPTION,), labels=labels)
    return [search(options, progress) for options in (by_picture, by_description)]


def choose_threads(progress: Progress) -> None:
    """If other programs use all cores: a warning, and half of the threads where a trial says that they are faster.

    Threads that wait for one another make the training slow then, on some processors. A user's OMP_NUM_THREADS is kept.
    """
    average = getattr(os, "getloadavg", lambda: (0.0,))  # Windows has none
    load, cores = average()[0], os.cpu_count() or 1
    if load < cores:
        return
    found, threads = "", torch.get_num_threads()
    if threads > 1 and "OMP_NUM_THREADS" not in os.environ:
        half = threads // 2
        seconds = training_seconds((threads, half))
        if faster := seconds[half] < seconds[threads]:
            torch.set_num_threads(half)
        trial = f"a trial took {seconds[threads]:.1f} s with {threads} and {seconds[half]:.1f} s with {half}"
        found = f" Threads: {half if faster else threads} ({trial})"
    progress.warn(
        f"other programs use the processor (load {load:.1f}, {cores} cores), so the demo takes longer.{found}"
    )


def training_seconds(counts: tuple[int, ...]) -> dict[int, float]:
    """Seconds of training steps of the demo's backbone with each number of threads, in turn."""
    before, seconds = torch.get_num_threads(), dict.fromkeys(counts, 0.0)
    backbone, clips = build_backbone("mobilenet_v2"), torch.zeros(8, 3, CLIP_FRAMES, 96, 48)
    for round_ in range(1 + TRIALS):
        for threads in counts:
            torch.set_num_threads(threads)
            began = time.perf_counter()
            backbone(clips).mean().backward()
            seconds[threads] += (time.perf_counter() - began) * (round_ > 0)  # the first starts the threads
    torch.set_num_threads(before)
    return seconds


def weights_or_warning(progress: Progress) -> str:
    """Either "imagenet", or "" after a warning if the weights cannot be had: the demo then trains from scratch."""
    try:
        weight_file("imagenet", "mobilenet_v2")
    except InputMissing as error:
        cost = "The demo trains from scratch: measured once, rank-1 was 46 % instead of 94 %"
        progress.warn(f"no ImageNet weights ({error.why}). {cost}. {error.remedy.removesuffix(GIVE_FILE)}")
        return ""
    return "imagenet"
