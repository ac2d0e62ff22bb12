"""The commands of the six stages: options, one call. `stage_command` prints what it returns."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from amem_cli.cli import console
from amem_cli.cli.flags import first_process, stage_command
from amem_cli.options import EvaluateOptions
from amem_cli.runtime.progress import Progress


@stage_command("train-arm", "amem train-arm --data-root data --weights imagenet", "amem train-arm --preset small")
def train_arm(options: Any, progress: Progress) -> Any:
    """Train the attribute recognition model (ARM) on PETA."""
    from amem_cli.stages.train_arm import train_arm

    return train_arm(options, progress)


@stage_command("label-videos", "amem label-videos --dataset mars", "amem label-videos --dataset my-cameras.toml")
def label_videos(options: Any, progress: Progress) -> Any:
    """Predict pseudo attribute labels of tracklets with the ARM."""
    from amem_cli.stages.label_videos import label_videos

    return label_videos(options, progress)


@stage_command("train-tae", "amem train-tae --dataset market1501", "amem train-tae --preset small --epochs 5")
def train_tae(options: Any, progress: Progress) -> Any:
    """Train the texture auto-encoder (TAE) on single images."""
    from amem_cli.stages.train_tae import train_tae

    return train_tae(options, progress)


@stage_command(
    "train-amem", "amem train-amem --weights rgb_imagenet.pt", "amem train-amem --dataset ilids-vid --split all"
)
def train_amem(options: Any, progress: Progress) -> Any:
    """Train AMEM: a 3-D backbone with appearance and motion enhancement, end to end."""
    from amem_cli.data.manifest import load_manifest, require_people

    require_people(load_manifest(options.dataset))
    from amem_cli.stages.train_amem import train_amem

    return train_amem(options, progress)


@stage_command("extract-features", "amem extract-features", "amem extract-features --dataset prid2011 --split all")
def extract_features(options: Any, progress: Progress) -> Any:
    """Extract one feature vector per test tracklet with the main model."""
    from amem_cli.stages.extract_features import extract_features

    return extract_features(options, progress)


@stage_command("evaluate", "amem evaluate --calibrate 0.001", "amem evaluate --compare baseline.json amem.json --paper")
def evaluate(
    options: EvaluateOptions,
    progress: Progress,
    as_json: bool,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="features files in the order of the splits; with --compare results", show_default=False),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="print results next to each other")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="add the paper's values, where it has some")] = False,
) -> None:
    """Compute CMC and mAP of features under a protocol."""
    from amem_cli.artifacts import results
    from amem_cli.stages import evaluate as stage

    if not first_process():
        return
    if compare:
        console.print_comparison(results.compare(files or []), as_json, paper)
        return
    result = stage.evaluate(dataclasses.replace(options, features=(*options.features, *(files or ()))), progress)
    if as_json:
        console.print_json(result.metrics)
        return
    console.print_result(result.metrics, result.artifact)
    if paper:
        console.print_comparison([(result.artifact.stem, result.metrics)], as_json, paper)
