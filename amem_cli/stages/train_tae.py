"""Stage 3: train the texture auto-encoder TAE on single images (section MEM, Fig. 3, eq. 4).

Features: adversarial loss with a DCGAN discriminator, validation on separate people with the best weights kept,
gradient accumulation, exact resume, time limit, several processes (torchrun).
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.output import StageResult, output_slot
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance, identities, require_same, weights_parent
from amem_cli.data.clips import evenly_spaced
from amem_cli.data.datasets import read_dataset, warn_about_counts
from amem_cli.data.loading import ImageBatches, loader, shuffled_images, training_loader
from amem_cli.data.manifest import Manifest, load_manifest
from amem_cli.data.sampling import hold_out_people, shuffled_batches
from amem_cli.data.tracklets import VideoDataset, frames_of, images_digest
from amem_cli.data.unreadable import readable_rows
from amem_cli.losses import discriminator_loss, tae_loss
from amem_cli.models.checkpoints import save_tae
from amem_cli.models.config import TaeConfig
from amem_cli.models.patches import patch_moments, start_from_patches
from amem_cli.models.tae import TAE, Discriminator, TextureEncoder, set_batch_norm_mode
from amem_cli.options import TrainTaeOptions
from amem_cli.randomness import keyed_seed
from amem_cli.runtime import schedule
from amem_cli.runtime.distributed import gradient_sync, process_group, unwrapped
from amem_cli.runtime.engine import as_pixels, autocast, device_of, evaluation_copy, resolve_precision
from amem_cli.runtime.progress import Progress, Silent
from amem_cli.runtime.stop import StopRequest
from amem_cli.runtime.train_log import TrainLog, finish_step
from amem_cli.runtime.train_state import Run, load_state, remove_states
from amem_cli.weights.loading import log_pretrained
from amem_cli.weights.names import weight_file

SAMPLES = 8  # images in a sample picture
VALIDATION_BATCH = 32
IMAGES_FOR_PATCHES = 1024  # of which a TAE of patches takes the principal components
PATCHES_RATE = 0.02  # relative to --learning-rate: a TAE of patches starts where its error is small


class Networks(NamedTuple):
    """TAE and discriminator, each with its optimiser."""

    tae: TAE
    discriminator: Discriminator
    adam: torch.optim.Optimizer
    discriminator_adam: torch.optim.Optimizer


def train_tae(options: TrainTaeOptions, progress: Progress) -> StageResult:
    """Train encoder, decoder and discriminator; returns the checkpoint `amem-tae`.

    It also has mean and standard deviation of the textures over all training images, for MEM. Raises `AmemError`s.
    """
    with process_group(options.device) as processes:
        device, is_main = processes.device, processes.is_main
        progress = progress if is_main else Silent()
        processes.require_divisible("--batch-size", options.batch_size)
        manifest = load_manifest(options.dataset)
        every_path, person_ids, split = training_images(manifest, options.data_root, progress)
        weights = weight_file(options.initial_weights, options.tae_encoder)
        output = Workspace(options.workspace).tae
        with output_slot("TAE checkpoint", output, options, is_main=is_main) as slot:
            rows = readable_rows(every_path, options, slot, processes, progress)
            every_path, person_ids = [every_path[row] for row in rows], [person_ids[row] for row in rows]
            train, validation = hold_out_people(person_ids, options.validate, options.seed)
            paths, validation_paths = [every_path[row] for row in train], [every_path[row] for row in validation]
            processes.require_images(len(paths), manifest.name)
            precision = resolve_precision(options.precision, device)
            resolved = {"dataset": manifest.name, "precision": precision} | split
            as_read = identities(weights)
            provenance = Provenance(
                command="train-tae",
                options=options.fingerprint() | resolved,
                parents=weights_parent(options.initial_weights, weights),
                data=images_digest(every_path),
            )
            if slot.is_current(provenance, every_path, progress.warn):
                return StageResult("train-tae", output, True, checkpoint.read_description(output)["metrics"])

            torch.manual_seed(keyed_seed(options.seed, "weights of the TAE"))
            config = TaeConfig(image_size=options.image_size, encoder=options.tae_encoder)
            tae = TAE(config.encoder, options.initial_weights).to(device)
            require_same(as_read)
            log_pretrained(tae, progress.log)
            if config.encoder == "patches":
                start_from_patches(tae, patch_moments(_some_images(paths, options, device)))
            schedule.require_batch_memory(options, ("batch_size",), processes, tae, precision)
            discriminator = Discriminator(*options.height_width).to(device)
            if options.sync_batchnorm:
                processes.synchronise_batch_norm(tae)
                processes.synchronise_batch_norm(discriminator)
            networks = build_networks(tae, discriminator, options)
            run = Run(
                output.parent, options, provenance, processes, progress,
                {"tae": tae, "discriminator": discriminator},
                {"adam": networks.adam, "discriminator-adam": networks.discriminator_adam},
            )  # fmt: skip
            metrics = {"train_images": len(paths)} | _train(run, networks, config, paths, validation_paths)
            if is_main:
                measure_textures(tae.encoder, paths, options, progress)
                save_tae(output, tae, discriminator, config, provenance, metrics=metrics)
            remove_states(run)
            processes.barrier()
    return StageResult("train-tae", output, False, metrics)


def build_networks(tae: TAE, discriminator: Discriminator, options: TrainTaeOptions) -> Networks:
    """The networks with Adam: `--weight-decay` for the TAE, DCGAN's beta1 of 0.5 and no decay for the discriminator."""
    group = {"params": tae.parameters(), "factor": PATCHES_RATE if options.tae_encoder == "patches" else 1.0}
    adam = torch.optim.Adam([group], lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
    rate = options.discriminator_learning_rate
    discriminator_adam = torch.optim.Adam(discriminator.parameters(), lr=rate, betas=(0.5, 0.999), fused=True)
    return Networks(tae, discriminator, adam, discriminator_adam)


def train_step(
    networks: Networks, batches: Sequence[Tensor], options: TrainTaeOptions, precision: str
) -> dict[str, float]:
    """One step of both optimisers with the mean gradients of `batches`, uint8 (B, H, W, 3) on the host each.

    The TAE minimises eq. 4, then the discriminator is trained on the same images and reconstructions. Returns the mean
    losses: mse, and with an adversarial weight adversarial and discriminator. Raises `BadData` before the optimisers
    step if one is not finite.
    """
    tae, discriminator, adam, discriminator_adam = networks
    device = device_of(tae)
    adam.zero_grad()
    discriminator_adam.zero_grad()
    losses = []
    for number, pixels in enumerate(batches, 1):
        last = number == len(batches)
        images = as_pixels(pixels, device)
        with gradient_sync(tae, enabled=last):
            discriminator.requires_grad_(False)
            with autocast(precision, device):
                reconstruction = tae(images)
                fake = unwrapped(discriminator)(reconstruction) if options.adversarial_weight else None
            loss = tae_loss(
                reconstruction.float(), images, None if fake is None else fake.float(),
                options.adversarial_weight, options.adversarial_form,
            )  # fmt: skip
            (loss.value / len(batches)).backward()
        terms = dict(loss.terms)
        if options.adversarial_weight:
            discriminator.requires_grad_(True)
            with gradient_sync(discriminator, enabled=last):
                with autocast(precision, device):
                    real_logits = discriminator(images)
                    fake_logits = discriminator(reconstruction.detach())
                terms["discriminator"] = discriminator_loss(real_logits.float(), fake_logits.float())
                (terms["discriminator"] / len(batches)).backward()
        losses.append(terms)
    values = schedule.mean_losses(losses)
    adam.step()
    if options.adversarial_weight:
        discriminator_adam.step()
    return values


def _train(
    run: Run[TrainTaeOptions], networks: Networks, config: TaeConfig, paths: list[Path], validation_paths: list[Path]
) -> dict[str, Any]:
    """The training loop. Returns the last logged losses, and "best", the best validation, if there is one."""
    options, processes, progress = run.options, run.processes, run.progress
    best_file = run.folder / "tae-best.safetensors"
    steps = schedule.batches_per_step(
        len(shuffled_batches(len(paths), options.batch_size, options.seed, 0)), options.accumulate
    )
    state = load_state(run, best_file, lambda _: len(steps))
    precision = run.provenance.options["precision"]
    parallel = Networks(
        processes.data_parallel(networks.tae.train()),
        processes.data_parallel(networks.discriminator.train(), broadcast_buffers=False),
        networks.adam,
        networks.discriminator_adam,
    )
    schedule.log_batch_size(options, ("batch_size",), "images", steps, processes, progress)
    state.total = options.epochs * len(steps)
    images_of = partial(shuffled_images, paths, np.arange(len(paths)), options, processes.shard)
    start = (state.epoch, state.step_in_epoch * options.accumulate)
    batches = training_loader(images_of, options.epochs, options.workers, processes.device, start)
    with (
        StopRequest(options, processes, progress.began) as stop,
        TrainLog(run, state) as log,
        progress.loop("train-tae", state.total, done=state.step) as bar,
    ):
        batches = bar.fetch(batches)
        while True:
            if schedule.validation_due(options, state):
                with stop.interruptible(state.step):
                    if processes.is_main:
                        figures, sample = validate(networks.tae, validation_paths, options, precision, progress)
                        log.sample(sample)
                        if log.validation("mse", figures, lower_is_better=True):
                            best = evaluation_copy(networks.tae)  # the encoder in training keeps its mode
                            measure_textures(best.encoder, paths, options, progress)
                            parts = (best, networks.discriminator, config, run.provenance)
                            save_tae(best_file, *parts, validation=state.best)
            if state.epoch == options.epochs:
                break
            for count in steps[state.step_in_epoch :]:
                rate = schedule.learning_rate(options, state.epochs(len(steps)), state.step)
                schedule.set_learning_rate(networks.adam, rate)
                step = [pixels for pixels, _ in itertools.islice(batches, count)]
                frozen = config.encoder == "patches" or state.step >= options.freeze_bn * state.total
                set_batch_norm_mode(networks.tae, training=not frozen)
                losses = train_step(parallel, step, options, precision)
                log.add(losses)
                bar.advance(1, **losses)
                finish_step(run, state, log, stop, last_in_epoch=state.step_in_epoch + 1 == len(steps))
    return state.metrics | ({"best": state.best} if state.best else {})


def _some_images(paths: list[Path], options: TrainTaeOptions, device: torch.device) -> Iterator[Tensor]:
    """Batches of up to `IMAGES_FOR_PATCHES` images, evenly spaced, (B, 3, H, W) in [0, 1]."""
    rows = evenly_spaced(range(len(paths)), IMAGES_FOR_PATCHES)
    batches = np.split(rows, range(VALIDATION_BATCH, len(rows), VALIDATION_BATCH))
    images = ImageBatches(paths, batches, options.height_width, augment=None)
    return (as_pixels(pixels, device) for pixels, _ in loader(images, 0, device))


@torch.no_grad()
def validate(
    tae: TAE, paths: list[Path], options: TrainTaeOptions, precision: str, progress: Progress
) -> tuple[dict[str, float], list[Tensor]]:
    """The mean squared error of reconstructed validation images, pixels in [0, 1]; and rows of a sample picture.

    Works on a copy of the network in eval mode. The rows are some images and their reconstructions.
    """
    device, network = device_of(tae), evaluation_copy(tae)
    batches = np.split(np.arange(len(paths)), range(VALIDATION_BATCH, len(paths), VALIDATION_BATCH))
    images = loader(ImageBatches(paths, batches, options.height_width, augment=None), options.workers, device)
    error, sample = 0.0, list[Tensor]()
    with progress.loop("validation images", len(paths), unit="images") as bar:
        for pixels, _ in bar.fetch(images):
            true = as_pixels(pixels, device)
            with autocast(precision, device):
                reconstruction = network(true).float()
            error += F.mse_loss(reconstruction, true).item() * len(true)
            sample = sample or [true[:SAMPLES], reconstruction[:SAMPLES]]
            bar.advance(len(true))
    return {"mse": error / len(paths), "images": len(paths)}, sample


@torch.no_grad()
def measure_textures(encoder: TextureEncoder, paths: list[Path], options: TrainTaeOptions, progress: Progress) -> None:
    """Set `texture_mean` and `texture_std` per channel over all positions of all images; sets eval mode."""
    device = device_of(encoder)
    encoder.eval()
    batches = np.split(np.arange(len(paths)), range(options.batch_size, len(paths), options.batch_size))
    sums = torch.zeros(2, encoder.channels, dtype=torch.float64)
    positions = 0.0
    with progress.loop("texture statistics", len(batches)) as bar:
        images = ImageBatches(paths, batches, options.height_width, augment=None)
        for pixels, _ in bar.fetch(loader(images, options.workers, device)):
            texture = encoder(as_pixels(pixels, device)).double()  # (B, C, H/16, W/16)
            sums += torch.stack([texture.sum(dim=(0, 2, 3)), texture.square().sum(dim=(0, 2, 3))]).cpu()
            positions += texture.numel() / encoder.channels
            bar.advance()
    mean, square = sums / positions
    encoder.texture_mean.copy_(mean)
    encoder.texture_std.copy_((square - mean.square()).clamp(min=0).sqrt())


def training_images(
    manifest: Manifest, data_root: Path, progress: Progress
) -> tuple[list[Path], list[int], dict[str, int]]:
    """Paths and person ids of the images: all of an image or attribute data set, the training frames of a video one.
    Of a video data set with numbered splits it is the "split" 0, else there is no such entry."""
    data = read_dataset(manifest, data_root)
    warn_about_counts(manifest, data, progress, data_root)
    if isinstance(data, VideoDataset):
        train = data.splits[0].train
        ids = [tracklet.person_id for tracklet in train for _ in tracklet.files]
        return list(frames_of(train)), ids, {"split": 0} if data.numbered else {}
    return list(data.paths), [int(person) for person in data.person_ids], {}
