"""The six stages as commands: each gets its options, calls one function and prints what came out."""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import typer

from amem_cli.cli import console
from amem_cli.cli.flags import annotated, flag, stage_command
from amem_cli.options import (
    EvaluateOptions,
    ExtractFeaturesOptions,
    LabelVideosOptions,
    TrainAmemOptions,
    TrainArmOptions,
    TrainTaeOptions,
)
from amem_cli.runtime.progress import Progress


@stage_command("train-arm", "amem train-arm --data-root data --weights resnet50.pth\n\namem train-arm --preset small")
def train_arm(options: TrainArmOptions, progress: Progress, as_json: bool) -> None:
    """Train the attribute recognition model (ARM) on PETA."""
    from amem_cli.stages.train_arm import train_arm

    began = time.monotonic()
    _finish([train_arm(options, progress)], progress, as_json, began)


@stage_command("label-videos", "amem label-videos --dataset mars\n\namem label-videos --dataset my-cameras.toml")
def label_videos(options: LabelVideosOptions, progress: Progress, as_json: bool) -> None:
    """Give tracklets pseudo attribute labels by the ARM."""
    from amem_cli.stages.label_videos import label_videos

    began = time.monotonic()
    _finish([label_videos(options, progress)], progress, as_json, began)


@stage_command("train-tae", "amem train-tae --dataset market1501\n\namem train-tae --preset small --epochs 5")
def train_tae(options: TrainTaeOptions, progress: Progress, as_json: bool) -> None:
    """Train the texture auto-encoder (TAE) on single images."""
    from amem_cli.stages.train_tae import train_tae

    began = time.monotonic()
    _finish([train_tae(options, progress)], progress, as_json, began)


@stage_command(
    "train-amem",
    "amem train-amem --weights rgb_imagenet.pt\n\namem train-amem --dataset ilids-vid --split all --modules mem",
)
def train_amem(options: TrainAmemOptions, progress: Progress, as_json: bool) -> None:
    """Train AMEM: a 3-D backbone with appearance and motion enhancement, end to end."""
    from amem_cli.stages.train_amem import train_amem

    began = time.monotonic()
    _finish(train_amem(options, progress), progress, as_json, began)


@stage_command(
    "extract-features", "amem extract-features --dataset mars\n\namem extract-features --dataset prid2011 --split all"
)
def extract_features(options: ExtractFeaturesOptions, progress: Progress, as_json: bool) -> None:
    """Extract one feature per test tracklet by the main model alone."""
    from amem_cli.stages.extract_features import extract_features

    began = time.monotonic()
    _finish(extract_features(options, progress), progress, as_json, began)


@stage_command(
    "evaluate",
    "amem evaluate --protocol mars --calibrate 0.001\n\namem evaluate --compare baseline.json amem.json --paper",
    annotated(
        "files",
        list[Path] | None,
        typer.Argument(
            help="more features files, in the order of the splits; with --compare: results", show_default=False
        ),
        None,
    ),
    flag("compare", bool, "print results side by side", False, "--compare"),
    flag("paper", bool, "the paper's figures beside ours, where it prints some", False, "--paper"),
)
def evaluate(
    options: EvaluateOptions, progress: Progress, as_json: bool, files: list[Path] | None, compare: bool, paper: bool
) -> None:
    """Score features: CMC and mAP under a stated protocol."""
    from amem_cli.stages import evaluate as stage

    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process evaluates
        return
    if compare:
        console.print_comparison(stage.compare(files or []), as_json, paper)
        return
    if files:
        options = dataclasses.replace(options, features=(*options.features, *files))
    result = stage.evaluate(options, progress)
    if as_json:
        print(json.dumps(result.metrics, allow_nan=False))
    else:
        console.print_result(result.metrics, result.artifact)
        if paper:
            console.print_comparison([(result.artifact.stem, result.metrics)], as_json, paper)


def _finish(results: list[Any], progress: Progress, as_json: bool, began: float) -> None:
    """Print what a stage made: one JSON document, or lines for people; under torchrun the first process does."""
    if os.environ.get("RANK", "0") != "0":
        return
    seconds = round(time.monotonic() - began, 3)
    if as_json:
        documents = [result.as_json() for result in results]
        document = documents[0] if len(documents) == 1 else {"stage": results[0].stage, "results": documents}
        print(json.dumps(document | {"seconds": seconds, "warnings": progress.warnings}, allow_nan=False))
    elif not progress.quiet:
        for result in results:
            console.print_stage(result, seconds)
