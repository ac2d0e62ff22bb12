"""Stage 2: pseudo attribute labels of tracklets, from the ARM's probabilities averaged over all frames (section AEM).

Features: work in shards that a second run does not repeat, several processes (torchrun) with byte-identical results.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from amem_cli.artifacts import pseudo_labels
from amem_cli.artifacts.output import StageResult, output_slot
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance, identities, parent, require_same
from amem_cli.artifacts.pseudo_labels import PseudoLabels
from amem_cli.data.chain import Chain
from amem_cli.data.clips import shortened
from amem_cli.data.datasets import read_videos, warn_about_counts
from amem_cli.data.loading import FrameBatches, even_batches, loader
from amem_cli.data.manifest import load_manifest
from amem_cli.data.tracklets import Tracklet, frames_of, known_people, select_tracklets, tracklets_digest
from amem_cli.data.unreadable import without_unreadable
from amem_cli.models.checkpoints import load_arm
from amem_cli.models.config import ArmConfig
from amem_cli.options import LabelVideosOptions
from amem_cli.runtime.distributed import process_group
from amem_cli.runtime.engine import Engine, engine_version, prepare, resolve_engine, resolve_precision
from amem_cli.runtime.progress import Loop, Progress, Silent
from amem_cli.runtime.sharding import Shards

BYTES_PER_TRACKLET = 2048  # probabilities, labels and names, in a shard and again in the merged file


def label_videos(options: LabelVideosOptions, progress: Progress) -> StageResult:
    """Label the tracklets of a data set; returns the labels file. Raises `AmemError`s."""
    with process_group(options.device) as processes:
        device, is_main = processes.device, processes.is_main
        progress = progress if is_main else Silent()
        workspace = Workspace(options.workspace)
        arm_file = Path(options.arm) if options.arm else workspace.arm
        manifest = load_manifest(options.dataset)
        chain = Chain(manifest, options.workspace, None, options.data_root)
        as_read = identities(arm_file)
        arm, config = load_arm(arm_file, remedy="Check --arm" if options.arm else chain.remedy("train-arm"))
        dataset = read_videos(manifest, options.data_root)
        warn_about_counts(manifest, dataset, progress, options.data_root)
        tracklets = select_tracklets(dataset, options.subset)
        output = workspace.labels(manifest.name)
        precision = resolve_precision(options.precision, device)
        engine_name = resolve_engine(options.engine, device, precision, clips=False)
        with output_slot("pseudo-labels", output, options, is_main=is_main) as slot:
            tracklets = without_unreadable(tracklets, options, slot, processes, progress)
            tracklets = [shortened(tracklet, 1, options.frames) for tracklet in tracklets]
            resolved = {"dataset": manifest.name, "precision": precision, "image_size": config.image_size}
            provenance = Provenance(
                command="label-videos",
                options=options.fingerprint() | resolved,
                parents={"arm": parent(arm_file)},
                data=tracklets_digest(tracklets),
                engine=engine_version(engine_name),
            )
            require_same(as_read)
            if slot.is_current(provenance, frames_of(tracklets), progress.warn):
                return StageResult("label-videos", output, True, summary(pseudo_labels.read(output)))
            fresh, needed = options.resume == "never", BYTES_PER_TRACKLET * len(tracklets)
            shards = Shards(output, provenance, processes, fresh=fresh, needed=needed)
            engine = prepare(arm, device, precision, engine_name, progress.warn)
            compute = partial(label_tracklets, config=config, engine=engine, options=options, device=device)
            columns = shards.compute(tracklets, [*map(len, tracklets)], compute, progress, "frames")
            if is_main:
                labels = PseudoLabels(
                    dataset=manifest.name,
                    tracklet=[tracklet.name for tracklet in tracklets],
                    person_id=known_people(tracklets),
                    camera_id=np.array([tracklet.camera_id for tracklet in tracklets], dtype=np.int64),
                    **columns,
                    labels=(columns["probabilities"] > options.threshold).astype(np.uint8),
                    attributes=config.attributes,
                    threshold=options.threshold,
                    provenance=provenance.as_json(),
                )
                pseudo_labels.write(output, labels, provenance)
            shards.remove()
            return StageResult("label-videos", output, False, summary(pseudo_labels.read(output)))


def label_tracklets(
    tracklets: Sequence[Tracklet], bar: Loop, *, config: ArmConfig, engine: Engine, options: LabelVideosOptions,
    device: torch.device,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Means over all frames: `probabilities` (n, A) float32, `frames` (n,) int64. Batches hold several tracklets."""
    owners = np.repeat(np.arange(len(tracklets)), [len(tracklet) for tracklet in tracklets])  # tracklet of each frame
    inside = np.concatenate([np.arange(len(tracklet)) for tracklet in tracklets])  # its index in the tracklet
    frames_of_batch = even_batches(len(owners), options.batch_size)
    batches = [[(tracklets[owners[at]], inside[at : at + 1]) for at in frames] for frames in frames_of_batch]
    images = loader(FrameBatches(batches, config.height_width, single=True), options.workers, device)
    sums = np.zeros((len(tracklets), len(config.attributes)))
    for frames, pixels in zip(frames_of_batch, bar.fetch(images), strict=True):
        np.add.at(sums, owners[frames], engine(pixels).sigmoid().numpy())  # (B, A)
        bar.advance(len(pixels))
    counts = np.array([len(tracklet) for tracklet in tracklets], dtype=np.int64)
    return {"probabilities": (sums / counts[:, None]).astype(np.float32), "frames": counts}


def summary(labels: PseudoLabels) -> dict[str, object]:
    """Counts of a labels file: tracklets, frames, mean number of positive attributes."""
    return {
        "tracklets": len(labels.tracklet),
        "frames": int(labels.frames.sum()),
        "attributes_per_tracklet": round(float(labels.labels.sum(axis=1).mean()), 2),
    }
