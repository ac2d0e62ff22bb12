"""The commands of the six stages; `stage_command` prints what a stage returns."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from amem_cli.cli import console
from amem_cli.cli.flags import stage_command
from amem_cli.options import EvaluateOptions
from amem_cli.processes import rank
from amem_cli.runtime.progress import Progress
from amem_cli.stages import run_stage

for name, text, *examples in (
    ("train-arm", "Train the attribute recognition model (ARM) on PETA.",
     "amem train-arm --data-root data --weights imagenet", "amem train-arm --preset small"),
    ("label-videos", "Predict pseudo attribute labels of tracklets with the ARM.",
     "amem label-videos --dataset mars", "amem label-videos --dataset my-cameras.toml"),
    ("train-tae", "Train the texture auto-encoder (TAE) on single images.",
     "amem train-tae --dataset market1501", "amem train-tae --preset small --epochs 5"),
    ("train-amem", "Train AMEM: a 3-D backbone with appearance and motion enhancement, end to end.",
     "amem train-amem --weights rgb_imagenet.pt", "amem train-amem --dataset ilids-vid --split all"),
    ("extract-features", "Extract one feature vector per test tracklet with the main model.",
     "amem extract-features --dataset prid2011 --split all",
     "amem extract-features --dataset my-cameras.toml --adapt-cameras --parts 4"),
):  # fmt: skip
    stage_command(name, text, *examples)(partial(run_stage, name))


@stage_command(
    "evaluate",
    "Compute CMC and mAP of features under a protocol.",
    "amem evaluate --calibrate 0.001",
    "amem evaluate --compare baseline.json amem.json --paper",
)
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
    from amem_cli.artifacts import results
    from amem_cli.stages import evaluate as stage

    if rank() > 0:
        return
    if compare:
        console.print_comparison(results.compare(files or []), as_json, paper)
        return
    result = stage.evaluate(options, progress)
    if as_json:
        console.print_json(result.metrics | ({"paper": console.paper_rows(result.metrics["dataset"])} if paper else {}))
        return
    console.print_result(result.metrics, result.artifact)
    if paper:
        console.print_comparison([(result.artifact.stem, result.metrics)], as_json, paper)
