"""Stage 5: one feature f_s per tracklet, from the main model alone (section Optimization, last paragraph).

Features: work in shards that a second run does not repeat, several processes (torchrun) with byte-identical results.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from amem_cli.artifacts import checkpoint, features
from amem_cli.artifacts.atomic import sha256_lines
from amem_cli.artifacts.features import GENERATED_PEOPLE, Features
from amem_cli.artifacts.output import StageResult, output_slot
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance, identities, parent, require_same
from amem_cli.data.chain import Chain
from amem_cli.data.clips import evenly_spaced, inference_clips, shortened
from amem_cli.data.datasets import read_videos, split_numbers, trained_test_people, warn_about_counts
from amem_cli.data.loading import FrameBatches, even_batches, loader
from amem_cli.data.manifest import Manifest, load_manifest
from amem_cli.data.readers.tracks import read_times
from amem_cli.data.tracklets import Split, Tracklet, VideoDataset, frames_of, known_people, tracklets_digest
from amem_cli.data.unreadable import without_unreadable
from amem_cli.errors import BadData, UsageError
from amem_cli.models.adaptation import adapted_to_camera
from amem_cli.models.amem import MainModel
from amem_cli.models.checkpoints import load_feature_model
from amem_cli.models.config import ArmConfig, ModelConfig
from amem_cli.options import ExtractFeaturesOptions
from amem_cli.runtime.distributed import Processes, process_group
from amem_cli.runtime.engine import Engine, as_pixels, engine_version, prepare, resolve_engine, resolve_precision
from amem_cli.runtime.progress import Loop, Progress, Silent
from amem_cli.runtime.sharding import Shards

ADAPTATION_CLIPS, ADAPTATION_BATCH = 64, 16  # clips of a camera, and in one batch
BYTES_PER_TRACKLET = 10_000  # two features and the name, in a shard and again in the merged file


def extract_features(options: ExtractFeaturesOptions, progress: Progress) -> list[StageResult]:
    """Extract the features of the test tracklets of one split, or of all: f_s, averaged over consecutive clips that
    cover every frame, then L2-normalised (D). Returns one features file per split. Raises `AmemError`s."""
    with process_group(options.device) as processes:
        progress = progress if processes.is_main else Silent()
        manifest = load_manifest(options.dataset)
        dataset = read_videos(manifest, options.data_root)
        warn_about_counts(manifest, dataset, progress, options.data_root)
        numbers = split_numbers(dataset, options.split)
        return [_extract_split(options, manifest, dataset, number, processes, progress) for number in numbers]


def _extract_split(
    options: ExtractFeaturesOptions,
    manifest: Manifest,
    dataset: VideoDataset,
    number: int | None,
    processes: Processes,
    progress: Progress,
) -> StageResult:
    device, is_main, split = processes.device, processes.is_main, dataset.splits[number or 0]
    output = Workspace(options.workspace).features(manifest.name, number)
    model_file = Path(options.model or Workspace(options.workspace).amem_main(manifest.name, number))
    chain = Chain(manifest, options.workspace, number, options.data_root)
    tracks = manifest.layout == "tracks"  # their people are unknown
    give = "Give --model: the amem-main of a data set with labelled people, or an amem-arm"
    remedy = "Check --model" if options.model else give if tracks else chain.remedy("train-amem")
    as_read = identities(model_file)
    model, config = load_feature_model(model_file, parts=options.parts, remedy=remedy)
    if not options.model and is_main:
        chain.warn_about_stale("extract-features", progress)
    if not tracks:
        check_test_people(model_file, dataset, number, progress)
    config = replace(config, image_size=options.image_size or config.image_size)
    require_rows(options.parts, config)
    if options.flip and config.mirror:
        progress.warn("--flip: the model averages over mirrored clips by itself, so the rows will hardly differ")
    precision = resolve_precision(options.precision, device)
    engine_name = resolve_engine(options.engine, device, precision, clips=True)
    with output_slot("features", output, options, is_main=is_main) as slot:
        described = checkpoint.read_description(model_file)
        readable = without_unreadable(split.test, options, slot, processes, progress)
        split = replace(split, test=tuple(shortened(one, config.clip_frames, options.clips) for one in readable))
        seen = seen_in(manifest.folder(options.data_root), split.test) if tracks else {}
        resolved = {"dataset": manifest.name, "precision": precision, "image_size": config.image_size, "split": number}
        if isinstance(model, MainModel) and model.skips_frames:
            resolved["every_frame"] = True  # features of earlier versions have every second one
        provenance = Provenance(
            command="extract-features",
            options=options.fingerprint() | resolved | {"split_source": split.source},
            parents={described["kind"]: parent(model_file) | facts_of_model(described, config)},
            data=data_digest(split.test, seen),
            engine=engine_version(engine_name),
        )
        require_same(as_read)
        if slot.is_current(provenance, frames_of(split.test), progress.warn):
            return StageResult("extract-features", output, True, summary(features.read(output, people=False)))
        fresh, needed = options.resume == "never", BYTES_PER_TRACKLET * options.parts * len(split.test)
        shards = Shards(output, provenance, processes, fresh=fresh, needed=needed)
        make = partial(prepare, device=device, precision=precision, engine=engine_name, warn=progress.warn)
        shape = (config.clip_frames, *config.height_width)
        cameras = seen.get("camera") or [one.camera_id for one in split.test]
        if options.adapt_cameras and (few := features.few_tracklets(cameras)):
            progress.warn(few)
        columns = compute_columns(model, split.test, shards, options, make, shape, progress)
        if is_main:
            features.write(output, features_of(manifest.name, split, columns | seen, provenance), provenance)
        shards.remove()
        return StageResult("extract-features", output, False, summary(features.read(output, people=False)))


def facts_of_model(described: dict[str, Any], config: ModelConfig | ArmConfig) -> dict[str, str]:
    """What the features record about a model with this description; see `Features.model`."""
    trained = described["provenance"]
    same = {name: value for name, value in trained["options"].items() if name not in ("split", "split_source")}
    same |= {name: entry.get("sha256", "") for name, entry in trained.get("parents", {}).items()}
    facts = {"dataset": str(same.get("dataset", "")), "training": json.dumps(same, sort_keys=True)}
    facts |= {"people": GENERATED_PEOPLE} if "generated" in same else {}
    facts |= {"epoch": "best"} if described.get("validation") else {}
    return facts | ({"mirror": "on"} if config.mirror else {})


def require_rows(parts: int, config: ModelConfig | ArmConfig) -> None:
    """Raise `UsageError` for more horizontal parts than the maps of images of this size have rows."""
    if parts > (rows := config.height_width[0] // 16):
        why = f"maps of {config.image_size} pixels have {rows} rows"
        raise UsageError("--parts", str(parts), why=why, remedy=f"Use at most {rows}")


def compute_columns(
    model: nn.Module, tracklets: Sequence[Tracklet], shards: Shards, options: ExtractFeaturesOptions,
    make: Callable[[nn.Module], Engine], clip_shape: tuple[int, int, int], progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """The columns of `extract_tracklets` in the main process, computed in shards; nothing in the others."""
    device = shards.processes.device
    shape: dict[str, Any] = {"clip_shape": clip_shape, "device": device}
    settings = shape | {"batch_size": options.batch_size, "workers": options.workers, "flip": options.flip}
    clips = [-(-len(tracklet) // clip_shape[0]) for tracklet in tracklets]
    if not options.adapt_cameras:
        compute = partial(extract_tracklets, engine=make(model), **settings)
        return shards.compute(tracklets, clips, compute, progress, "clips")
    order = np.argsort([tracklet.camera_id for tracklet in tracklets], kind="stable")
    compute = partial(extract_by_camera, engine_of=camera_engines(model, make, tracklets, **shape), **settings)
    ordered = [tracklets[row] for row in order.tolist()], [clips[row] for row in order.tolist()]
    columns = shards.compute(*ordered, compute, progress, "clips")
    return {name: values[np.argsort(order)] for name, values in columns.items()}


def camera_engines(
    model: nn.Module, make: Callable[[nn.Module], Engine], tracklets: Sequence[Tracklet], *,
    clip_shape: tuple[int, int, int], device: torch.device,
) -> Callable[[int], Engine]:  # fmt: skip
    """The engine of each camera: `make` of the model with batch norm as in `adapted_to_camera`, measured on one clip in
    the middle of each of up to `ADAPTATION_CLIPS` tracklets of the camera. The engine used last is kept."""
    frames, *size = clip_shape

    @lru_cache(1)
    def engine_of(camera: int) -> Engine:
        own = evenly_spaced([one for one in tracklets if one.camera_id == camera], ADAPTATION_CLIPS)
        middle = [(clips := inference_clips(len(one), frames))[len(clips) // 2] for one in own]
        count = -(-len(own) // ADAPTATION_BATCH)
        batches = [[*zip(own, middle, strict=True)][start::count] for start in range(count)]  # each from all times
        images = FrameBatches(batches, (size[0], size[1]), single=False)
        try:
            pixels = [as_pixels(images[batch], device) for batch in range(count)]
            return make(adapted_to_camera(model.to(device), pixels))
        except torch.OutOfMemoryError as error:
            why = f"{ADAPTATION_BATCH} clips do not fit into memory together ({error})"
            raise UsageError("--adapt-cameras", why=why, remedy="Use --device cpu, or do not adapt") from error

    return engine_of


def extract_by_camera(
    tracklets: Sequence[Tracklet], bar: Loop, *, engine_of: Callable[[int], Engine], **settings: Any
) -> dict[str, np.ndarray]:
    """The columns of `extract_tracklets` with these `settings`, each tracklet by the engine of its camera. The
    tracklets of a camera follow one another."""
    parts = [
        extract_tracklets([*own], bar, engine=engine_of(camera), **settings)
        for camera, own in itertools.groupby(tracklets, lambda tracklet: tracklet.camera_id)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def extract_tracklets(
    tracklets: Sequence[Tracklet], bar: Loop, *, clip_shape: tuple[int, int, int], engine: Engine, device: torch.device,
    batch_size: int = 16, workers: int = -1, flip: bool = False,
) -> dict[str, np.ndarray]:  # fmt: skip
    """L2-normalised `features` (n, D) float32 of tracklets; a batch can hold clips of several tracklets.

    `clip_shape` is (T, H, W). With `flip` also `features_flip`, averaged over each clip and its mirror image.
    """
    clip_frames, *size = clip_shape
    clips_of = [inference_clips(len(tracklet), clip_frames) for tracklet in tracklets]
    clips = [(tracklet, frames) for tracklet, own in zip(tracklets, clips_of, strict=True) for frames in own]
    owners = np.repeat(np.arange(len(tracklets)), [*map(len, clips_of)])  # the tracklet of each clip
    groups = even_batches(len(clips), batch_size)
    batches = [[clips[at] for at in group] for group in groups]
    sums = np.zeros((2, len(tracklets), 0))  # over plain clips, and over mirrored ones
    images = loader(FrameBatches(batches, (size[0], size[1]), single=False), workers, device)
    for group, pixels in zip(groups, bar.fetch(images), strict=True):
        rows = engine(pixels).numpy()
        sums = sums if sums.size else np.zeros((2, len(tracklets), rows.shape[1]))
        np.add.at(sums[0], owners[group], rows)
        if flip:
            np.add.at(sums[1], owners[group], engine(pixels.flip(3)).numpy())  # (B, T, H, W, 3): flips W
        bar.advance(len(pixels))
    # the sum over clips has the direction of their mean
    columns = {"features": _normalised(sums[0])}
    return columns | {"features_flip": _normalised(sums.sum(0))} if flip else columns


def _normalised(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def check_test_people(model_file: Path, dataset: VideoDataset, number: int | None, progress: Progress) -> None:
    """Raise `BadData` for a model of this data set that was trained on test people of split `number`.

    Its training people are those of the recorded split, if the data are the recorded ones; a model whose training
    people are unknown is refused for another split and a warning for the same one. So is a model of another data set.
    """
    recorded = checkpoint.read_description(model_file)["provenance"]
    trained_on = recorded["options"].get("split")
    if recorded["options"].get("dataset") != dataset.name:
        progress.warn(f"{model_file} was trained on '{recorded['options'].get('dataset')}', not on '{dataset.name}'")
        return
    common, remedy = trained_test_people(recorded, dataset, number), f"Use the model of split {number}"
    if common is None:
        split = "" if trained_on is None else f"split {trained_on} of "
        why = f"it was trained on {split}other data than these, so its people may be test people here"
        if trained_on != number:
            raise BadData("model", model_file, why=why, remedy=remedy)
        if recorded.get("data"):
            progress.warn(f"{model_file}: {why}")
    elif common:
        why = f"it was trained on split {trained_on}, with {common} test people of split {number}"
        raise BadData("model", model_file, why=why, remedy=remedy)


def features_of(dataset: str, split: Split, columns: dict[str, Any], provenance: Provenance) -> Features:
    """The content of the features file for the test tracklets of a split."""
    return Features(
        dataset=dataset,
        tracklet=[tracklet.name for tracklet in split.test],
        person_id=known_people(split.test),
        camera_id=np.array([tracklet.camera_id for tracklet in split.test], dtype=np.int64),
        is_query=np.array(split.is_query, dtype=bool),
        provenance=provenance.as_json(),
        **columns,
    )


def seen_in(folder: Path, tracklets: Sequence[Tracklet]) -> dict[str, Any]:
    """More columns for tracks without identities: folder of the images, cameras, and times if tracks.csv has them."""
    place = str(folder.absolute())
    whole = place.encode("utf-8", "replace").decode() == place
    columns: dict[str, Any] = {"folder": place if whole else ""}  # HDF5 cannot store broken characters
    columns["camera"] = [tracklet.name.partition("/")[0] for tracklet in tracklets]
    times = read_times(folder)
    if all(tracklet.name in times for tracklet in tracklets):
        seen = [times[tracklet.name] for tracklet in tracklets]
        for name in ("first_seconds", "last_seconds"):
            columns[name] = np.array([getattr(one, name) for one in seen])
    return columns


def data_digest(tracklets: Sequence[Tracklet], seen: dict[str, Any]) -> str:
    """The SHA-256 of the tracklets, and of their times if `seen` has them: the data that the features file has."""
    digest = tracklets_digest(tracklets)
    if "first_seconds" not in seen:
        return digest
    times = zip(seen["first_seconds"].tolist(), seen["last_seconds"].tolist(), strict=True)
    return sha256_lines([digest, *map(str, times)])


def summary(features: Features) -> dict[str, int]:
    """Counts of a features file."""
    rows, width = features.features.shape
    return {"tracklets": rows, "queries": int(features.is_query.sum()), "dimensions": width}
