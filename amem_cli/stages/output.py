"""What every stage returns, and what every stage asks first."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.atomic import sha256_file, sha256_lines
from amem_cli.artifacts.provenance import parent
from amem_cli.artifacts.status import chain
from amem_cli.data.manifest import Manifest, count_differences
from amem_cli.data.tracklets import AttributeDataset, ImageDataset, Tracklet, VideoDataset
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.options import EvaluateOptions, StageOptions, TrainingOptions
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Progress


@dataclass(frozen=True)
class StageResult:
    """The artifact of a stage; `reused` when it stood there already; `metrics` are figures for the summary."""

    stage: str
    artifact: Path
    reused: bool
    metrics: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "artifact": str(self.artifact),
            "sha256": sha256_file(self.artifact),
            "reused": self.reused,
            "metrics": self.metrics,
        }


def science(options: StageOptions, manifest: Manifest, **resolved: Any) -> dict[str, Any]:
    """The options that decide the result: the data set by its name, `resolved` values for automatic ones."""
    return options.science() | {"dataset": manifest.name} | resolved


def listing_of_tracklets(tracklets: list[Tracklet] | tuple[Tracklet, ...]) -> str:
    """A digest of names, people, cameras and frame names: another one means other data."""
    return sha256_lines(
        f"{tracklet.name}\t{tracklet.person_id}\t{tracklet.camera_id}\t{' '.join(tracklet.files)}"
        for tracklet in tracklets
    )


def warn_of_differences(
    manifest: Manifest, dataset: VideoDataset | ImageDataset | AttributeDataset, progress: Progress
) -> None:
    """A line when the folder holds other counts than the manifest says, and one for all that its reader left out."""
    differences = count_differences(manifest, dataset)
    if differences:
        shown = "; ".join(differences[:4]) + ("; ..." if len(differences) > 4 else "")
        progress.warn(f"{manifest.name} is not the whole data set that its manifest describes: {shown}")
    for note in dataset.notes:
        progress.warn(f"{manifest.name}: {note}")


def warn_of_stale(
    options: StageOptions | EvaluateOptions, manifest: Manifest, split: int | None, stage: str, progress: Progress
) -> None:
    """A line for everything in the workspace that comes before `stage` and was made from other inputs than those that
    stand there now, with the command that makes it anew. What is damaged fails when it is loaded."""
    argument = manifest.name if manifest.shipped else str(manifest.path)
    protocol = manifest.protocol
    splits = None if protocol.kind == "single-split" else protocol.splits
    for link in chain(options.workspace, argument, manifest.name, split, protocol.name, splits):
        if link.stage == stage:
            return
        if link.state == "stale":
            progress.warn(f"{link.path} is {link.why}. To make it anew: {link.command}")


def tell_batch(
    options: TrainingOptions, sizes: dict[str, int], unit: str, processes: Processes, progress: Progress
) -> None:
    """A line with the batch of all processes together, and what `--accumulate` makes of it; a warning under torchrun
    when it is that of no preset.

    `sizes` are the options whose product it is. The batch is the options' whatever the number of processes.
    """
    total = math.prod(sizes.values())
    line = f"a batch is {total} {unit}, {total // processes.world_size} in each of {processes.world_size} process(es)"
    if options.accumulate > 1:
        line += f"; a step is made of {options.accumulate} batches, {options.accumulate * total} {unit}"
    progress.log(line)
    chosen = [field for field in dataclasses.fields(options) if field.name in sizes]
    paper = math.prod(field.default for field in chosen)
    small = math.prod(field.metadata["small"] for field in chosen)
    if processes.world_size > 1 and total not in (paper, small):
        names = " x ".join(f"--{name.replace('_', '-')}" for name in sizes)
        progress.warn(f"{names} make a batch of {total}; --preset paper has {paper}, --preset small {small}")


def weights_parent(weights: str) -> dict[str, dict[str, str]]:
    """The entry of a file of `--weights` among the parents; none without weights."""
    if not weights:
        return {}
    if weights == "imagenet":
        return {"weights": {"name": "torchvision ImageNet", "sha256": ""}}
    if weights == "kinetics":
        return {"weights": {"name": "torchvision Kinetics", "sha256": ""}}
    if not Path(weights).is_file():
        raise InputMissing("--weights", weights, why="not found")
    return {"weights": parent(Path(weights))}


def refuse_other_split(weights: str, dataset: str, split: int | None) -> None:
    """Raise `UsageError` for weights of ours that were trained on another split of the same data set: most people whom
    this split tests were trained on there."""
    try:
        options = checkpoint.read_description(Path(weights))["provenance"]["options"]
        trained_on = options["dataset"], options["split"]
    except (OSError, BadData, KeyError, TypeError):  # none, a word, or somebody else's file
        return
    if trained_on[0] == dataset and trained_on[1] != split:
        why = f"trained on split {trained_on[1]} of {dataset}, which has most of the people that split {split} tests"
        raise UsageError("--weights", weights, why=why, remedy="Take those of another data set")


def split_numbers(dataset: VideoDataset, split: str) -> list[int | None]:
    """The splits that `--split` asks for: [None] for a data set with one official split."""
    if not dataset.numbered:
        if split:
            raise UsageError("--split", split, why=f"{dataset.name} has one official split", remedy="Leave --split out")
        return [None]
    if split == "all":
        return list(range(len(dataset.splits)))
    number = int(split or 0)
    if number >= len(dataset.splits):
        raise UsageError("--split", split, why=f"{dataset.name} has the splits 0 to {len(dataset.splits) - 1}")
    return [number]
