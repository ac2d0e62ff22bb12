"""The inputs of a training of AMEM: tracklets with labels, batches, the TAE, the networks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from amem_cli.artifacts import checkpoint, pseudo_labels
from amem_cli.artifacts.paths import Workspace
from amem_cli.attributes import ATTRIBUTES
from amem_cli.data.chain import Chain
from amem_cli.data.clips import shortened
from amem_cli.data.datasets import trained_test_people
from amem_cli.data.loading import ClipBatches, training_loader
from amem_cli.data.manifest import load_manifest
from amem_cli.data.sampling import check_people, hold_out_people, people_clips_batches
from amem_cli.data.tracklets import Tracklet, VideoDataset, people, tracklets_digest
from amem_cli.errors import AmemError, BadData, UsageError, listing
from amem_cli.models.amem import AMEM, build_amem
from amem_cli.models.checkpoints import TaeParts, load_tae
from amem_cli.models.config import ModelConfig
from amem_cli.models.tae import Discriminator
from amem_cli.options import TrainAmemOptions, weights_by_name
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Progress
from amem_cli.runtime.train_state import Run
from amem_cli.stages.train_amem.step import Batch, Networks
from amem_cli.weights.names import weight_file


@dataclass(frozen=True)
class TrainingData:
    """Training tracklets with their identities (N,) int64 from 0 and pseudo labels (N, A); validation tracklets."""

    tracklets: list[Tracklet]
    identities: Tensor
    labels: Tensor | None
    validation: list[Tracklet]


def training_data(options: TrainAmemOptions, dataset: str, tracklets: list[Tracklet]) -> TrainingData:
    """The training data of some tracklets, with some people used for validation.

    Raises `BadData` for too few people, missing labels or a validation without a second tracklet of anybody,
    `InputMissing` without a labels file.
    """
    train, validation = hold_out_people([t.person_id for t in tracklets], options.validate, options.seed, least=2)
    fit, held_out = [tracklets[row] for row in train], [tracklets[row] for row in validation]
    check_people(fit, options.people_per_batch, options.clip_frames)
    if held_out and len(people(held_out)) == len(held_out):
        raise BadData("validation people", why="none has two tracklets", remedy="Raise --validate, or leave it out")
    identity_of = {person: index for index, person in enumerate(people(fit))}
    identities = torch.tensor([identity_of[tracklet.person_id] for tracklet in fit])
    return TrainingData(fit, identities, training_labels(options, dataset, fit), held_out)


def training_labels(options: TrainAmemOptions, dataset: str, tracklets: list[Tracklet]) -> Tensor | None:
    """Pseudo labels (N, A) float of the tracklets, columns as in `ATTRIBUTES`; None without AEM.

    Raises `InputMissing` without the file and `BadData` if it lacks tracklets or attributes, or belongs to another data
    set.
    """
    if not options.uses_aem:
        return None
    path = module_files(options, dataset)["labels"]
    remedy = "Check --labels" if options.labels else run_before("label-videos", options)
    labels = pseudo_labels.read(path, remedy=remedy)
    if labels.dataset != dataset:
        raise BadData("pseudo-labels", path, why=f"of data set '{labels.dataset}', not '{dataset}'", remedy=remedy)
    missing = [name for name in ATTRIBUTES if name not in labels.attributes]
    if missing:
        why = f"{len(missing)} attributes are missing ({listing(missing, 5)})"
        raise BadData("pseudo-labels", path, why=why, remedy=remedy)
    columns = [labels.attributes.index(name) for name in ATTRIBUTES]
    rows = labels.rows_for([tracklet.name for tracklet in tracklets], path, re.sub(" --subset \\w+", "", remedy))
    return torch.from_numpy(rows[:, columns]).float()


def initial_tae(options: TrainAmemOptions, dataset: str) -> TaeParts | None:
    """The parts of the TAE that MEM starts from, None without MEM. Raises as `load_tae`."""
    if not options.uses_mem:
        return None
    remedy = "Check --tae" if options.tae else run_before("train-tae", options)
    return load_tae(module_files(options, dataset)["tae"], options.image_size, remedy=remedy)


def warn_about_tae(
    options: TrainAmemOptions, dataset: VideoDataset, numbers: list[int | None], progress: Progress
) -> None:
    """One warning if MEM's TAE was trained on test people of these splits, because it is of another split."""
    path = module_files(options, dataset.name).get("tae")
    recorded = checkpoint.read_description(path)["provenance"]["options"] if path and path.is_file() else {}
    trained_on = recorded.get("split", len(dataset.splits))
    if recorded.get("dataset") != dataset.name or trained_on not in range(len(dataset.splits)):
        return
    trained = {*people(dataset.splits[trained_on].train)}
    tested = [str(number) for number in numbers if trained & {*people(dataset.splits[number or 0].test)}]
    if tested:
        why = f"was trained on split {trained_on}, on images of test people of split {', '.join(tested)}"
        progress.warn(f"{path} {why}. A TAE of another data set has none: train-tae --dataset market1501")


def warn_about_labels(options: TrainAmemOptions, dataset: VideoDataset, progress: Progress) -> None:
    """One warning if AEM's pseudo-labels were made from other people or images than the data set has. Labels without
    unreadable images do not record which were left out: only their people and cameras are compared."""
    if not options.uses_aem:
        return
    path = module_files(options, dataset.name)["labels"]
    labels, now = pseudo_labels.read(path), {tracklet.name: tracklet for tracklet in dataset.tracklets}
    recorded, found = labels.provenance.get("options", {}), [now[name] for name in labels.tracklet if name in now]
    if labels.provenance.get("data") and recorded.get("on_bad_image") != "skip":
        seen = [shortened(tracklet, 1, recorded.get("frames", 0)) for tracklet in found]
        same = tracklets_digest(seen) == labels.provenance["data"]
    else:
        same = labels.person_id.tolist() in ([], [tracklet.person_id for tracklet in found])
        same &= labels.camera_id.tolist() == [tracklet.camera_id for tracklet in found]
    if not same:
        remedy = "Check --labels" if options.labels else f"{run_before('label-videos', options)} --force"
        progress.warn(f"{path}: it was made from other people or images than these. {remedy}")


def module_files(options: TrainAmemOptions, dataset: str) -> dict[str, Path]:
    """The files that the modules train with: AEM's pseudo "labels", MEM's "tae"."""
    files, workspace = {}, Workspace(options.workspace)
    if options.uses_aem:
        files["labels"] = Path(options.labels) if options.labels else workspace.labels(dataset)
    if options.uses_mem:
        files["tae"] = Path(options.tae) if options.tae else workspace.tae
    return files


def run_before(stage: str, options: TrainAmemOptions) -> str:
    """The remedy for a missing input that `stage` makes."""
    return Chain(load_manifest(options.dataset), options.workspace, None, options.data_root).remedy(stage)


def initial_weights(options: TrainAmemOptions, progress: Progress) -> Path | None:
    """The file of `--weights`, None to train from scratch; logs what was chosen. Raises as `weight_file`."""
    name = options.weights
    if name == "auto":
        arm = Workspace(options.workspace).arm
        network = checkpoint.read_description(arm)["model"].get("backbone") if arm.is_file() else None
        name = str(arm) if network == options.backbone else weights_by_name(options.backbone)
    path = weight_file(name, options.backbone)
    progress.log(f"{options.backbone} starts from {path or 'random weights (--weights is empty)'}")
    return path


def refuse_other_split(weights: str, dataset: VideoDataset, split: int | None, progress: Progress) -> None:
    """Raise `UsageError` for weights that were trained here on another split of the data set with people that this one
    tests, or on people that are not known; a warning if they are of this split and the people are not known."""
    try:
        recorded = checkpoint.read_description(Path(weights))["provenance"]
        trained_on = recorded["options"]["dataset"], recorded["options"]["split"]
        common = trained_test_people(recorded, dataset, split) if trained_on[0] == dataset.name else 0
    except (AmemError, KeyError, TypeError):  # no weights, weights by name, or a file of another program
        return
    if common is None and trained_on[1] == split:
        why = "were trained on other data than these, so their people may be test people here"
        progress.warn(f"--weights {weights} {why}")
    elif common != 0 and trained_on[1] != split:
        having = f"with {common}" if common else "perhaps with"
        why = f"trained on split {trained_on[1]} of {dataset.name}, {having} test people of split {split}"
        raise UsageError("--weights", weights, why=why, remedy="Use weights from another data set")


def epoch_order(tracklets: list[Tracklet], options: TrainAmemOptions, epoch: int) -> list[np.ndarray]:
    """The P x K batches of an epoch, as rows of the training tracklets; epochs can differ in length by one batch."""
    people_and_clips = options.people_per_batch, options.clips_per_person
    return people_clips_batches(tracklets, *people_and_clips, options.seed, epoch)


def epoch_clips(tracklets: list[Tracklet], options: TrainAmemOptions, processes: Processes, epoch: int) -> ClipBatches:
    """This process's shards of the batches of an epoch: some people with all their K clips."""
    order = [list(batch.reshape(options.people_per_batch, -1)) for batch in epoch_order(tracklets, options, epoch)]
    return ClipBatches(tracklets, [np.concatenate(processes.shard(batch)) for batch in order], options, epoch)


def training_batches(run: Run[TrainAmemOptions], data: TrainingData, start: tuple[int, int]) -> Iterator[Batch]:
    """This process's shards of the batches of all epochs, from `start` (epoch, batch) on; the clips are on the host."""
    options, device = run.options, run.processes.device
    clips_of = partial(epoch_clips, data.tracklets, options, run.processes)
    loaded = training_loader(clips_of, options.epochs, options.workers, device, start)
    for pixels, rows, first, rectangles in loaded:
        yield Batch(
            clip=pixels,
            identity=data.identities[rows].to(device, non_blocking=True),
            attributes=None if data.labels is None else data.labels[rows].to(device, non_blocking=True),
            start=first.to(device, non_blocking=True),
            erased=rectangles if options.erase else None,
        )


def build_networks(
    config: ModelConfig,
    options: TrainAmemOptions,
    processes: Processes,
    tae: TaeParts | None = None,
    weights: Path | None = None,
) -> Networks:
    """AMEM with the backbone's `weights`, MEM's discriminator, their optimisers, the averages of the weights.

    `tae` are the parts that MEM starts from, untrained by default.
    """
    discriminator = None
    if config.motion:
        discriminator = (tae.discriminator if tae else Discriminator(*config.height_width)).to(processes.device)
    mem_start = (tae.encoder, tae.decoder) if tae else None
    amem = build_amem(config, str(weights or ""), mem_start, options.embedding_start).to(processes.device)
    if options.fusion_start == "zero":
        nn.init.zeros_(amem.main.similarity.weight[:, amem.main.backbone.out_channels :])
    if not options.backbone_lr_factor:
        amem.main.backbone.requires_grad_(False)
    discriminator_adam = None
    if options.sync_batchnorm:
        for module in filter(None, (amem, discriminator)):
            processes.synchronise_batch_norm(module)
    if discriminator is not None:
        rate = options.discriminator_learning_rate
        discriminator_adam = torch.optim.Adam(discriminator.parameters(), lr=rate, betas=(0.5, 0.999), fused=True)
    average = None
    if options.average_weights:
        average = AveragedModel(amem, multi_avg_fn=get_ema_multi_avg_fn(options.average_weights), use_buffers=True)
    initial = None
    if options.average_initial and weights:  # random weights are not worth keeping
        initial = {name: tensor.clone() for name, tensor in amem.main.backbone.state_dict().items()}
    adams = adam(amem, options), discriminator_adam
    return Networks(amem, discriminator, *adams, average, initial, options.average_initial)


def adam(amem: AMEM, options: TrainAmemOptions) -> torch.optim.Adam:
    """Adam for AMEM without the frozen encoder.

    The rates of the backbone, of the layer of f_s, and of MEM's embedding and decoder, which start from the TAE, are
    `--learning-rate` x a factor of their own (D).
    """
    special = [(amem.main.backbone, options.backbone_lr_factor), (amem.main.similarity, options.fc_lr_factor)]
    if amem.mem:
        special += [(amem.mem.embedding, options.mem_lr_factor)]
        special += [(amem.mem.decoder, options.mem_lr_factor * options.decoder_lr_factor)]
    members = [(list(module.parameters()), factor) for module, factor in special if module]
    named = {parameter for parameters, _ in members for parameter in parameters}
    members.insert(0, ([parameter for parameter in amem.parameters() if parameter not in named], 1.0))
    groups = [
        {"params": [parameter for parameter in parameters if parameter.requires_grad], "factor": factor}
        for parameters, factor in members
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.Adam(groups, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
