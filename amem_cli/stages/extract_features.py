"""Stage 5: one f_s per tracklet by the main model alone (paper, section Optimization, last paragraph)."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amem_cli.artifacts import atomic, checkpoint, features
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.lock import locked
from amem_cli.artifacts.output import already_made
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance, parent
from amem_cli.artifacts.shards import Shards, plan_shards
from amem_cli.data.clips import inference_clips
from amem_cli.data.loading import FrameBatches, even_batches, loader
from amem_cli.data.manifest import load_manifest, read_videos
from amem_cli.data.tracklets import Split, Tracklet
from amem_cli.data.unreadable import without_unreadable
from amem_cli.errors import BadData
from amem_cli.models.amem import SIMILARITY_FEATURE, MainModel, build_main_model
from amem_cli.options import ExtractFeaturesOptions
from amem_cli.runtime.distributed import Processes, process_group
from amem_cli.runtime.engine import Engine, engine_version, prepare, resolve_engine, resolve_precision
from amem_cli.runtime.progress import Loop, Progress, Silent
from amem_cli.stages.output import (
    StageResult,
    listing_of_tracklets,
    science,
    split_numbers,
    warn_of_differences,
    warn_of_stale,
)

BYTES_PER_TRACKLET = 10_000  # both features and the name, in a shard and again in the merged file


def extract_features(options: ExtractFeaturesOptions, progress: Progress) -> list[StageResult]:
    """Extract the test tracklets' features of one split, or of all; returns one features file each.

    A tracklet is cut into consecutive clips that cover every frame (`inference_clips`), f_s is averaged over the clips
    and then L2-normalised (D).
    """
    with process_group(options.device) as processes:
        progress = progress if processes.is_main else Silent()
        manifest = load_manifest(options.dataset)
        dataset = read_videos(manifest, options.data_root)
        warn_of_differences(manifest, dataset, progress)
        workspace = Workspace(options.workspace)
        results = []
        for number in split_numbers(dataset, options.split):
            split = dataset.splits[number or 0]
            output = workspace.features(manifest.name, number)
            model_file = Path(options.model) if options.model else workspace.amem_main(manifest.name, number)
            part = "" if number is None else f" --split {number}"
            remedy = f"Run: amem train-amem --dataset {shlex.quote(options.dataset)}{part}"
            model, described = load_main_model(model_file, remedy=remedy)
            if not options.model and processes.is_main:
                warn_of_stale(options, manifest, number, "extract-features", progress)
            trained = checkpoint.read_description(model_file)["provenance"]["options"]
            check_same_split(model_file, trained, manifest.name, number, progress)
            image_size = options.image_size or described["image_size"]
            precision = resolve_precision(options.precision, processes.device)
            engine_name = resolve_engine(options.engine, processes.device, precision, clips=True)
            resolved = {"precision": precision, "image_size": image_size, "split": number}
            with locked(output, owner=processes.is_main):
                if options.on_bad_image == "skip":
                    tracklets = without_unreadable(
                        split.test, output.with_suffix(".unreadable.txt"), processes, progress
                    )
                    split = replace(split, test=tuple(tracklets))
                provenance = Provenance(
                    command="extract-features",
                    options=science(options, manifest, **resolved) | {"split_source": split.source},
                    parents={"amem-main": parent(model_file)},
                    data=listing_of_tracklets(split.test),
                    engine=engine_version(engine_name),
                )
                if already_made("features", output, provenance, resume=options.resume, force=options.force):
                    results.append(StageResult("extract-features", output, True, summary(features.read(output))))
                    continue
                if processes.is_main:
                    atomic.require_free_space(output.parent, BYTES_PER_TRACKLET * len(split.test))
                shards = Shards(output, provenance, fresh=options.resume == "never", processes=processes)
                engine = prepare(model, processes.device, precision, engine_name, progress.warn)
                clip_shape = (described["clip_frames"], *map(int, image_size.split("x")))
                _extract_shards(shards, split.test, clip_shape, engine, options, processes, progress)
                processes.barrier()
                if processes.is_main:
                    columns = shards.merge(len(plan_shards(split.test)))
                    features.write(output, table_of(manifest.name, split, columns, provenance), provenance)
                    shards.remove()
                processes.barrier()
                results.append(StageResult("extract-features", output, False, summary(features.read(output))))
    return results


def _extract_shards(
    shards: Shards,
    tracklets: tuple[Tracklet, ...],
    clip_shape: tuple[int, int, int],
    engine: Engine,
    options: ExtractFeaturesOptions,
    processes: Processes,
    progress: Progress,
) -> None:
    mine = processes.shard(list(enumerate(plan_shards(tracklets))))
    todo = [(number, rows) for number, rows in mine if not shards.has(number)]
    total, left = (
        sum(-(-len(tracklets[row]) // clip_shape[0]) for _, rows in some for row in rows) for some in (mine, todo)
    )
    with progress.loop("extract-features", total, done=total - left, unit="clips") as loop:
        for number, rows in todo:
            part = [tracklets[row] for row in rows]
            how = {"batch_size": options.batch_size, "workers": options.workers, "flip": options.flip}
            shards.write(number, extract_tracklets(part, clip_shape, engine, processes.device, loop, **how))


def extract_tracklets(
    tracklets: Sequence[Tracklet],
    clip_shape: tuple[int, int, int],
    engine: Engine,
    device: torch.device,
    loop: Loop,
    *,
    batch_size: int,
    workers: int,
    flip: bool = False,
) -> dict[str, np.ndarray]:
    """The `features` (n, 512) float32 of some tracklets, of unit length; clips of several tracklets share a batch.

    `clip_shape` is (T, H, W). With `flip` also `features_flip`, over each clip and its mirror image.
    """
    clip_frames, *size = clip_shape
    clips = [
        (row, frames)
        for row, tracklet in enumerate(tracklets)
        for frames in inference_clips(len(tracklet), clip_frames)
    ]
    owners = np.array([row for row, _ in clips])
    groups = even_batches(len(clips), batch_size)
    batches = [[(tracklets[clips[at][0]], clips[at][1]) for at in group] for group in groups]
    plain, mirrored = np.zeros((2, len(tracklets), SIMILARITY_FEATURE))
    images = loader(FrameBatches(batches, tuple(size), single=False), workers, device)
    for group, pixels in zip(groups, images, strict=True):
        loop.data_arrived()
        np.add.at(plain, owners[group], engine(pixels).numpy())
        if flip:
            np.add.at(mirrored, owners[group], engine(pixels.flip(3)).numpy())  # (B, T, H, W, 3): along W
        loop.advance(len(pixels))
    # a mean over clips and the sum over them have the same direction
    columns = {"features": _unit_rows(plain)}
    return columns | {"features_flip": _unit_rows(plain + mirrored)} if flip else columns


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def check_same_split(path: Path, options: dict[str, Any], dataset: str, split: int | None, progress: Progress) -> None:
    """Refuse a model that was trained on another split of the data set: it has seen some of the test people.

    `options` are those in the model's provenance. One of another data set is worth a warning.
    """
    if options.get("dataset") != dataset:
        progress.warn(f"{path} was trained on '{options.get('dataset')}', not on '{dataset}'")
    elif options.get("split") != split:
        why = f"was trained on split {options.get('split')}; people of split {split}'s test part were among them"
        raise BadData("model", path, why=why, remedy=f"Use the model of split {split}")


def load_main_model(path: Path, *, remedy: str = "") -> tuple[MainModel, dict]:
    """The main model of a checkpoint `amem-main`, and its description."""
    saved = checkpoint.load(path, "amem-main", remedy=remedy)
    with checkpoint.described_by(saved):
        described = saved.description["model"]
        model = build_main_model(described)
        _height, _width = map(int, described["image_size"].split("x"))
        if not 1 <= described["clip_frames"] <= 1000:
            raise ValueError(f"clips of {described['clip_frames']} frames")
    checkpoint.load_into(model, saved)
    return model, saved.description["model"]


def table_of(dataset: str, split: Split, columns: dict[str, np.ndarray], provenance: Provenance) -> Features:
    """The features file's content for the test tracklets of a split."""
    return Features(
        dataset=dataset,
        tracklet=[tracklet.name for tracklet in split.test],
        person_id=np.array([tracklet.person_id for tracklet in split.test], dtype=np.int64),
        camera_id=np.array([tracklet.camera_id for tracklet in split.test], dtype=np.int64),
        is_query=np.array(split.is_query, dtype=bool),
        provenance=provenance.as_json(),
        **columns,
    )


def summary(found: Features) -> dict[str, int]:
    """Figures of a features file for people."""
    rows, width = found.features.shape
    return {"tracklets": rows, "queries": int(found.is_query.sum()), "dimensions": width}
