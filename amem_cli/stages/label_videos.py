"""Stage 2: pseudo attribute labels of tracklets, the ARM's probabilities averaged over all frames (paper, AEM)."""

from pathlib import Path

import numpy as np

from amem_cli.artifacts import atomic, checkpoint, pseudo_labels
from amem_cli.artifacts.lock import locked
from amem_cli.artifacts.output import already_made
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance, parent
from amem_cli.artifacts.pseudo_labels import PseudoLabels
from amem_cli.artifacts.shards import Shards, plan_shards
from amem_cli.attributes import GROUP_SIZES
from amem_cli.data.loading import FrameBatches, even_batches, loader
from amem_cli.data.manifest import load_manifest, read_videos
from amem_cli.data.tracklets import Tracklet, VideoDataset
from amem_cli.data.unreadable import without_unreadable
from amem_cli.models.arm import ARM
from amem_cli.options import LabelVideosOptions
from amem_cli.runtime.distributed import Processes, process_group
from amem_cli.runtime.engine import Engine, engine_version, prepare, resolve_engine, resolve_precision
from amem_cli.runtime.progress import Loop, Progress, Silent
from amem_cli.stages.output import StageResult, listing_of_tracklets, science, warn_of_differences

BYTES_PER_TRACKLET = 2048  # probabilities, labels and names, in a shard and again in the merged file


def label_videos(options: LabelVideosOptions, progress: Progress) -> StageResult:
    """Label the tracklets of a data set; returns the labels file.

    Every frame counts once, whatever the tracklet's length. Work is done in shards that a rerun does not repeat.
    """
    with process_group(options.device) as processes:
        progress = progress if processes.is_main else Silent()
        workspace = Workspace(options.workspace)
        arm_file = Path(options.arm) if options.arm else workspace.arm
        arm, description = load_arm(arm_file)
        manifest = load_manifest(options.dataset)
        dataset = read_videos(manifest, options.data_root)
        warn_of_differences(manifest, dataset, progress)
        tracklets = tracklets_of(dataset, options.part)
        output = workspace.labels(manifest.name)

        precision = resolve_precision(options.precision, processes.device)
        engine_name = resolve_engine(options.engine, processes.device, precision, clips=False)
        image_size = description["model"]["image_size"]  # the ARM's own, no flag can disagree
        with locked(output, owner=processes.is_main):
            if options.on_bad_image == "skip":
                tracklets = without_unreadable(tracklets, output.with_suffix(".unreadable.txt"), processes, progress)
            provenance = Provenance(
                command="label-videos",
                options=science(options, manifest, precision=precision, image_size=image_size),
                parents={"arm": parent(arm_file)},
                data=listing_of_tracklets(tracklets),
                engine=engine_version(engine_name),
            )
            if already_made("pseudo-labels", output, provenance, resume=options.resume, force=options.force):
                return StageResult("label-videos", output, True, summary(pseudo_labels.read(output)))
            if processes.is_main:
                atomic.require_free_space(output.parent, BYTES_PER_TRACKLET * len(tracklets))
            height, width = map(int, image_size.split("x"))
            shards = Shards(output, provenance, fresh=options.resume == "never", processes=processes)
            engine = prepare(arm, processes.device, precision, engine_name, progress.warn)
            _label_shards(shards, tracklets, (height, width), engine, options, processes, progress)
            processes.barrier()
            if processes.is_main:
                columns = shards.merge(len(plan_shards(tracklets)))
                labels = PseudoLabels(
                    dataset=manifest.name,
                    tracklet=[tracklet.name for tracklet in tracklets],
                    person_id=np.array([tracklet.person_id for tracklet in tracklets], dtype=np.int64),
                    camera_id=np.array([tracklet.camera_id for tracklet in tracklets], dtype=np.int64),
                    frames=columns["frames"],
                    probabilities=columns["probabilities"],
                    labels=(columns["probabilities"] > options.threshold).astype(np.uint8),
                    attributes=tuple(description["model"]["attributes"]),
                    threshold=options.threshold,
                    provenance=provenance.as_json(),
                )
                pseudo_labels.write(output, labels, provenance)
                shards.remove()
            processes.barrier()
            return StageResult("label-videos", output, False, summary(pseudo_labels.read(output)))


def _label_shards(
    shards: Shards,
    tracklets: list[Tracklet],
    size: tuple[int, int],
    engine: Engine,
    options: LabelVideosOptions,
    processes: Processes,
    progress: Progress,
) -> None:
    plan = plan_shards(tracklets)
    mine = processes.shard(list(enumerate(plan)))
    todo = [(number, rows) for number, rows in mine if not shards.has(number)]
    total = sum(len(tracklets[row]) for _, rows in mine for row in rows)
    left = sum(len(tracklets[row]) for _, rows in todo for row in rows)
    with progress.loop("label-videos", total, done=total - left, unit="frames") as loop:
        for number, rows in todo:
            shards.write(number, _label([tracklets[row] for row in rows], size, engine, options, processes, loop))


def _label(
    tracklets: list[Tracklet],
    size: tuple[int, int],
    engine: Engine,
    options: LabelVideosOptions,
    processes: Processes,
    loop: Loop,
) -> dict[str, np.ndarray]:
    """The temporal means of some tracklets: `probabilities` (n, A) float32 and `frames` (n,) int64."""
    owners = np.repeat(np.arange(len(tracklets)), [len(tracklet) for tracklet in tracklets])  # of each frame
    inside = np.concatenate([np.arange(len(tracklet)) for tracklet in tracklets])
    frames_of_batch = even_batches(len(owners), options.batch_size)
    batches = [[(tracklets[owners[at]], inside[at : at + 1]) for at in frames] for frames in frames_of_batch]
    images = loader(FrameBatches(batches, size, single=True), options.workers, processes.device)
    sums = np.zeros((len(tracklets), sum(GROUP_SIZES)))
    for frames, pixels in zip(frames_of_batch, images, strict=True):
        loop.data_arrived()
        probabilities = engine(pixels).sigmoid().numpy()  # (B, A)
        np.add.at(sums, owners[frames], probabilities)
        loop.advance(len(pixels))
    counts = np.array([len(tracklet) for tracklet in tracklets], dtype=np.int64)
    return {"probabilities": (sums / counts[:, None]).astype(np.float32), "frames": counts}


def load_arm(path: Path) -> tuple[ARM, dict]:
    """The ARM of a checkpoint and its description."""
    saved = checkpoint.load(path, "amem-arm")
    with checkpoint.described_by(saved):
        described = saved.description["model"]
        arm = ARM(described["depth"], GROUP_SIZES)
        _height, _width = map(int, described["image_size"].split("x"))
        if len(described["attributes"]) != sum(GROUP_SIZES):
            raise ValueError(f"{len(described['attributes'])} attributes")
    checkpoint.load_into(arm, saved)
    return arm, saved.description


def tracklets_of(dataset: VideoDataset, part: str) -> list[Tracklet]:
    """The tracklets of a part, each once, in a fixed order; several splits train on everybody, so all are taken."""
    if dataset.numbered or part == "all":
        every = {t.name: t for split in dataset.splits for t in (*split.train, *split.test)}
        return [every[name] for name in sorted(every)]
    split = dataset.splits[0]
    return list(split.train if part == "train" else split.test)


def summary(labels: PseudoLabels) -> dict[str, object]:
    """Figures of a labels file for people: tracklets, frames, mean number of attributes."""
    return {
        "tracklets": len(labels.tracklet),
        "frames": int(labels.frames.sum()),
        "attributes_per_tracklet": round(float(labels.labels.sum(axis=1).mean()), 2),
    }
