"""Stage 3: the texture auto-encoder (paper, Fig. 3, eq. 4)."""

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.atomic import sha256_lines
from amem_cli.artifacts.lock import locked
from amem_cli.artifacts.output import already_made
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance
from amem_cli.data.loading import ImageBatches, loader
from amem_cli.data.manifest import Manifest, load_manifest, read_attributes, read_images, read_videos
from amem_cli.data.sampling import hold_out_people, shuffled_batches
from amem_cli.data.unreadable import readable_rows
from amem_cli.errors import BadData
from amem_cli.losses import adversarial_loss, discriminator_loss
from amem_cli.models.tae import TEXTURE_CHANNELS, Discriminator, TextureDecoder, TextureEncoder
from amem_cli.options import TrainTaeOptions
from amem_cli.randomness import keyed_seed
from amem_cli.runtime.device import as_pixels
from amem_cli.runtime.distributed import Processes, process_group
from amem_cli.runtime.engine import autocast, resolve_precision
from amem_cli.runtime.progress import Progress, Silent
from amem_cli.runtime.training import Run, as_numbers, batches_of_steps, check_finite, learning_rate, set_learning_rate
from amem_cli.stages.output import StageResult, science, tell_batch, warn_of_differences, weights_parent
from amem_cli.tools.samples import sample_reconstructions


def train_tae(options: TrainTaeOptions, progress: Progress) -> StageResult:
    """Train encoder, decoder and discriminator on single images; returns the checkpoint `amem-tae`.

    When the training is done the mean and deviation of the textures are measured over all training images and kept
    with the encoder: MEM starts from them and counts its texture error in units of their variance.
    """
    with process_group(options.device) as processes:
        device = processes.device
        progress = progress if processes.is_main else Silent()
        processes.require_divisible("--batch-size", options.batch_size)
        manifest = load_manifest(options.dataset)
        every_path, person_ids = training_images(manifest, options.data_root, progress)
        output = Workspace(options.workspace).tae
        if options.on_bad_image == "skip":
            with locked(output, owner=processes.is_main):
                rows = readable_rows(every_path, output.with_suffix(".unreadable.txt"), processes, progress)
            every_path, person_ids = [every_path[row] for row in rows], [person_ids[row] for row in rows]
        fit, validation = hold_out_people(person_ids, options.validate, options.seed)
        paths, held_out = [every_path[row] for row in fit], [every_path[row] for row in validation]
        if len(paths) < 2:
            why = f"there are {len(paths)}, at least 2 are needed"
            raise BadData("training images of", manifest.name, why=why)

        precision = resolve_precision(options.precision, device)
        provenance = Provenance(
            command="train-tae",
            options=science(options, manifest, precision=precision),
            parents=weights_parent(options.weights),
            data=sha256_lines(path.name for path in every_path),
        )
        with locked(output, owner=processes.is_main):
            if already_made("TAE checkpoint", output, provenance, resume=options.resume, force=options.force):
                return StageResult("train-tae", output, True, checkpoint.read_description(output)["metrics"])
            torch.manual_seed(keyed_seed(options.seed, "weights of the TAE"))
            encoder = TextureEncoder(options.weights).to(device)
            decoder = TextureDecoder().to(device)
            discriminator = Discriminator(*options.height_width).to(device)
            if options.sync_batchnorm:
                for module in (encoder, decoder, discriminator):
                    processes.synchronise_batch_norm(module)
            run, metrics = _train(
                encoder, decoder, discriminator, paths, held_out, options, provenance, precision, processes, progress
            )
            if processes.is_main:
                _measure_textures(encoder, paths, options, device, progress)
                save_tae(output, encoder, decoder, discriminator, options, provenance, metrics=metrics)
                run.finished()
            processes.barrier()
    return StageResult("train-tae", output, False, metrics)


def _train(
    encoder: TextureEncoder,
    decoder: TextureDecoder,
    discriminator: Discriminator,
    paths: list[Path],
    held_out: list[Path],
    options: TrainTaeOptions,
    provenance: Provenance,
    precision: str,
    processes: Processes,
    progress: Progress,
) -> tuple[Run, dict[str, float]]:
    device = processes.device
    generator = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(generator, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
    critic = torch.optim.Adam(
        discriminator.parameters(), lr=options.discriminator_learning_rate, betas=(0.5, 0.999), fused=True
    )
    modules = {"encoder": encoder, "decoder": decoder, "discriminator": discriminator}
    optimizers = {"adam": optimizer, "discriminator-adam": critic}
    output = Workspace(options.workspace).tae
    best_file = output.with_name("tae-best.safetensors")
    run = Run(output.parent, options, provenance, processes, progress, modules, optimizers, best_file)
    tell_batch(options, {"batch_size": options.batch_size}, "images", processes, progress)
    steps = batches_of_steps(len(shuffled_batches(len(paths), options.batch_size, options.seed, 0)), options.accumulate)
    for module in modules.values():
        module.train()

    def look() -> None:
        if not processes.is_main:
            return
        figures = validate(encoder, decoder, held_out, options, precision, device, progress)
        run.keep_sample(sample_reconstructions(encoder, decoder, held_out, options.height_width))
        if run.validated("mse", figures, lower_is_better=True):
            judged = copy.deepcopy(encoder)  # measured on a copy: the encoder that is trained stays as it is
            _measure_textures(judged, paths, options, device, progress)
            save_tae(best_file, judged, decoder, discriminator, options, provenance, validation=run.best)

    with run, progress.loop("train-tae", options.epochs * len(steps), done=run.step) as loop:
        while run.goes_on(look):
            epoch = run.epoch
            order = shuffled_batches(len(paths), options.batch_size, options.seed, epoch)
            dataset = ImageBatches(
                paths, [processes.shard(b) for b in order], options.height_width, augment=(options.seed, epoch)
            )
            batches = iter(loader(dataset, options.workers, device, start=run.step_in_epoch * options.accumulate))
            for count in steps[run.step_in_epoch :]:
                set_learning_rate(optimizer, learning_rate(options, epoch, run.step))
                optimizer.zero_grad(set_to_none=True)
                critic.zero_grad(set_to_none=True)
                for pixels, _ in itertools.islice(batches, count):
                    loop.data_arrived()
                    images = as_pixels(pixels, device)

                    with autocast(precision, device):
                        reconstruction = decoder(encoder(images))
                    terms = {"mse": F.mse_loss(reconstruction.float(), images)}
                    loss = terms["mse"]
                    if options.adversarial_weight:
                        discriminator.requires_grad_(False)
                        with autocast(precision, device):
                            fake = discriminator(reconstruction)
                        terms["adversarial"] = adversarial_loss(fake.float(), options.adversarial_form)
                        loss = loss + options.adversarial_weight * terms["adversarial"]  # eq. 4
                    (loss / count).backward()

                    if options.adversarial_weight:
                        discriminator.requires_grad_(True)
                        with autocast(precision, device):
                            real, fake = discriminator(images), discriminator(reconstruction.detach().float())
                        terms["discriminator"] = discriminator_loss(real.float(), fake.float())
                        (terms["discriminator"] / count).backward()

                    values = as_numbers(terms)
                    check_finite(values, run.step)
                    run.add(values)

                processes.average_gradients(generator)
                optimizer.step()
                if options.adversarial_weight:
                    processes.average_gradients(list(discriminator.parameters()))
                    critic.step()

                loop.advance(epoch=epoch + 1, **values)
                last_in_epoch = run.step_in_epoch + 1 == len(steps)
                if (run.step + 1) % options.log_steps == 0 or (last_in_epoch and epoch + 1 == options.epochs):
                    run.log_means()
                run.step_done(last_in_epoch)
    return run, {"train_images": len(paths), **run.metrics} | ({"best": run.best} if run.best else {})


@torch.no_grad()
def validate(
    encoder: TextureEncoder,
    decoder: TextureDecoder,
    held_out: list[Path],
    options: TrainTaeOptions,
    precision: str,
    device: torch.device,
    progress: Progress,
) -> dict[str, float]:
    """The mean squared error of the reconstructed images of held-out training people (pixels in [0, 1]); a copy of the
    networks is judged, so that the training goes on as if nothing had been."""
    judged = copy.deepcopy(encoder).eval(), copy.deepcopy(decoder).eval()
    order = np.arange(len(held_out))
    batches = np.split(order, range(options.batch_size, len(order), options.batch_size))
    images = loader(ImageBatches(held_out, batches, options.height_width, augment=None), options.workers, device)
    error = 0.0
    with progress.loop("held-out training people", len(held_out), unit="images") as loop:
        for pixels, _ in images:
            loop.data_arrived()
            true = as_pixels(pixels, device)
            with autocast(precision, device):
                reconstruction = judged[1](judged[0](true))
            error += F.mse_loss(reconstruction.float(), true).item() * len(true)
            loop.advance(len(true))
    return {"mse": error / len(held_out), "images": len(held_out)}


def save_tae(
    path: Path,
    encoder: TextureEncoder,
    decoder: TextureDecoder,
    discriminator: Discriminator,
    options: TrainTaeOptions,
    provenance: Provenance,
    **more: Any,
) -> Path:
    """Write an `amem-tae`; `more` are further values of its description."""
    tensors = checkpoint.prefixed("encoder.", encoder) | checkpoint.prefixed("decoder.", decoder)
    tensors |= checkpoint.prefixed("discriminator.", discriminator)
    described = {"image_size": options.image_size, "encoder": "ResNet-18, last stride 1"}
    return checkpoint.save(path, "amem-tae", tensors, provenance, model=described, **more)


@torch.no_grad()
def _measure_textures(
    encoder: TextureEncoder, paths: list[Path], options: TrainTaeOptions, device: torch.device, progress: Progress
) -> None:
    """Mean and deviation of each texture channel over all positions of all training images, encoder in eval mode."""
    encoder.eval()
    batches = np.split(np.arange(len(paths)), range(options.batch_size, len(paths), options.batch_size))
    sums = torch.zeros(2, TEXTURE_CHANNELS, dtype=torch.float64)
    positions = 0
    with progress.loop("texture statistics", len(batches)) as loop:
        images = ImageBatches(paths, batches, options.height_width, augment=None)
        for pixels, _ in loader(images, options.workers, device):
            loop.data_arrived()
            texture = encoder(as_pixels(pixels, device)).double()  # (B, 512, H/16, W/16)
            sums += torch.stack([texture.sum(dim=(0, 2, 3)), texture.square().sum(dim=(0, 2, 3))]).cpu()
            positions += texture.numel() // TEXTURE_CHANNELS
            loop.advance()
    mean, square = sums / positions
    encoder.texture_mean.copy_(mean)
    encoder.texture_std.copy_((square - mean.square()).clamp(min=0).sqrt())


def training_images(manifest: Manifest, data_root: Path, progress: Progress) -> tuple[list[Path], list[int]]:
    """The images to reconstruct and whom each shows: those of an image or attribute data set, or the training frames
    of a video one."""
    if manifest.kind == "video":
        videos = read_videos(manifest, data_root)
        warn_of_differences(manifest, videos, progress)
        train = videos.splits[0].train
        paths = [frame for tracklet in train for frame in tracklet.frames]
        return paths, [tracklet.person_id for tracklet in train for _ in tracklet.files]
    images = (read_images if manifest.kind == "images" else read_attributes)(manifest, data_root)
    warn_of_differences(manifest, images, progress)
    return list(images.paths), list(images.person_ids)
