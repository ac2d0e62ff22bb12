"""Stage 1: train the attribute recognition model ARM on PETA (section AEM, eq. 1 and 2).

Features: validation on separate people with the best weights kept, gradient accumulation, exact resume, time limit,
several processes (torchrun). The test set is that of `--partition`; the model never sees it.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.output import StageResult, output_slot
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance, identities, require_same, weights_parent
from amem_cli.attributes import ATTRIBUTES
from amem_cli.data.datasets import generated_people, read_attributes, warn_about_counts
from amem_cli.data.loading import ImageBatches, loader, shuffled_images, training_loader
from amem_cli.data.manifest import load_manifest
from amem_cli.data.sampling import hold_out_people, shuffled_batches
from amem_cli.data.tracklets import AttributeDataset, attributes_digest
from amem_cli.data.unreadable import readable_rows
from amem_cli.errors import BadData, UsageError
from amem_cli.losses import arm_loss
from amem_cli.metrics.attributes import attribute_metrics
from amem_cli.models.arm import ARM
from amem_cli.models.checkpoints import save_arm
from amem_cli.models.config import ArmConfig
from amem_cli.options import TrainArmOptions
from amem_cli.randomness import keyed_seed
from amem_cli.runtime import schedule
from amem_cli.runtime.distributed import gradient_sync, process_group
from amem_cli.runtime.engine import as_pixels, autocast, device_of, prepare, resolve_precision
from amem_cli.runtime.progress import Progress, Silent
from amem_cli.runtime.stop import StopRequest
from amem_cli.runtime.train_log import TrainLog, finish_step
from amem_cli.runtime.train_state import Run, load_state, remove_states
from amem_cli.weights.loading import log_pretrained
from amem_cli.weights.names import weight_file


def train_arm(options: TrainArmOptions, progress: Progress) -> StageResult:
    """Train the ARM and measure it on the test images; returns the checkpoint `amem-arm`.

    Its description holds the `ArmConfig` (as "model") and `metrics`. Raises `AmemError`s.
    """
    with process_group(options.device) as processes:
        progress = progress if processes.is_main else Silent()
        processes.require_divisible("--batch-size", options.batch_size)
        manifest = load_manifest(options.dataset)
        data = read_attributes(manifest, options.data_root)
        warn_about_counts(manifest, data, progress, options.data_root)
        if data.attributes != ATTRIBUTES:
            raise BadData("attributes", manifest.name, why="they are not PETA's 105, which the groups need")
        weights = weight_file(options.weights, options.backbone)
        output = Workspace(options.workspace).arm
        with output_slot("ARM checkpoint", output, options, is_main=processes.is_main) as slot:
            readable = readable_rows(data.paths, options, slot, processes, progress)
            train, validation, test = split_rows(data, options, readable)
            processes.require_images(len(train), manifest.name)
            precision = resolve_precision(options.precision, processes.device)
            as_read = identities(weights)
            provenance = Provenance(
                command="train-arm",
                options=options.fingerprint()
                | {"dataset": manifest.name, "precision": precision}
                | generated_people(manifest, options.data_root),
                parents=weights_parent(options.weights, weights),
                data=attributes_digest(data, readable),
            )
            if slot.is_current(provenance, (data.paths[row] for row in readable), progress.warn):
                return StageResult("train-arm", output, True, checkpoint.read_description(output)["metrics"])

            torch.manual_seed(keyed_seed(options.seed, "weights of the ARM"))
            config = ArmConfig(backbone=options.backbone, image_size=options.image_size)
            model = ARM(config.backbone, weights=options.weights).to(processes.device)
            require_same(as_read)
            log_pretrained(model, progress.log)
            schedule.require_batch_memory(options, ("batch_size",), processes, model, precision)
            if options.sync_batchnorm:
                processes.synchronise_batch_norm(model)
            optimizer = adam(model, options)
            run = Run(output.parent, options, provenance, processes, progress, {"arm": model}, {"adam": optimizer})
            best = _train(run, config, data, train, validation)

            metrics: dict[str, Any] = {"train_images": len(train), "held_out_images": len(test)} | best
            if processes.is_main:
                if len(test):
                    metrics |= score_attributes(run_model(model, data, test, options, precision, progress), data, test)
                save_arm(output, model, config, provenance, metrics=metrics)
            remove_states(run)
            processes.barrier()
    return StageResult("train-arm", output, False, metrics)


def adam(model: nn.Module, options: TrainArmOptions) -> torch.optim.Adam:
    """Adam over all parameters with `--learning-rate` and `--weight-decay`."""
    rate, decay = options.learning_rate, options.weight_decay
    return torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay, fused=True)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[tuple[Tensor, Tensor]],
    precision: str,
    frequencies: Tensor | None = None,
) -> dict[str, float]:
    """One optimiser step with the mean gradient of `batches`; returns the mean loss as {"attribute": ...}.

    Each batch is (images, labels): uint8 (B, H, W, 3) on the host and (B, A) in {0, 1}. `frequencies` (A,) weight the
    loss, as in `arm_loss`. Raises `BadData` before the optimiser steps if the loss is not finite.
    """
    device = device_of(model)
    optimizer.zero_grad()
    losses = []
    for number, (images, labels) in enumerate(batches, 1):
        with gradient_sync(model, enabled=number == len(batches)):
            with autocast(precision, device):
                logits = model(as_pixels(images, device))
            loss = arm_loss(logits.float(), labels.to(device, non_blocking=True), frequencies=frequencies)
            (loss / len(batches)).backward()
        losses.append({"attribute": loss})
    values = schedule.mean_losses(losses)
    optimizer.step()
    return values


def _train(
    run: Run[TrainArmOptions], config: ArmConfig, data: AttributeDataset, train: np.ndarray, validation: np.ndarray
) -> dict[str, Any]:
    """The training loop. Returns {"best": the best validation}, empty without validation."""
    options, processes, progress = run.options, run.processes, run.progress
    model, optimizer = run.networks["arm"], run.optimizers["adam"]
    assert isinstance(model, ARM)
    best_file = run.folder / "arm-best.safetensors"
    steps = schedule.batches_per_step(
        len(shuffled_batches(len(train), options.batch_size, options.seed, 0)), options.accumulate
    )
    state = load_state(run, best_file, lambda _: len(steps))
    precision = run.provenance.options["precision"]
    frequencies = None
    if options.loss_weights == "frequency":
        frequencies = torch.from_numpy(data.labels[train].mean(axis=0)).float().to(processes.device)
    parallel = processes.data_parallel(model.train())
    schedule.log_batch_size(options, ("batch_size",), "images", steps, processes, progress)

    state.total = options.epochs * len(steps)
    batches = training_batches(run, data, train, (state.epoch, state.step_in_epoch * options.accumulate))
    with (
        StopRequest(options, processes, progress.began) as stop,
        TrainLog(run, state) as log,
        progress.loop("train-arm", state.total, done=state.step) as bar,
    ):
        batches = bar.fetch(batches)
        while True:
            if schedule.validation_due(options, state):
                with stop.interruptible(state.step):
                    if processes.is_main:
                        figures = validate(model, data, validation, options, precision, progress)
                        if log.validation("mA", figures):
                            save_arm(best_file, model, config, run.provenance, validation=state.best)
            if state.epoch == options.epochs:
                break
            for count in steps[state.step_in_epoch :]:
                rate = schedule.learning_rate(options, state.epochs(len(steps)), state.step)
                schedule.set_learning_rate(optimizer, rate)
                step = list(itertools.islice(batches, count))
                losses = train_step(parallel, optimizer, step, precision, frequencies)
                log.add(losses)
                bar.advance(1, **losses)
                finish_step(run, state, log, stop, last_in_epoch=state.step_in_epoch + 1 == len(steps))
    return {"best": state.best} if state.best else {}


def training_batches(
    run: Run[TrainArmOptions], data: AttributeDataset, train: np.ndarray, start: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's shards of all batches from `start` (epoch, batch) on: (images, labels) as in `train_step`."""
    options, processes = run.options, run.processes
    images_of = partial(shuffled_images, data.paths, train, options, processes.shard)
    labels = torch.from_numpy(data.labels)
    for pixels, rows in training_loader(images_of, options.epochs, options.workers, processes.device, start):
        yield pixels, labels[rows]


def validate(
    model: ARM, data: AttributeDataset, rows: np.ndarray, options: TrainArmOptions, precision: str, progress: Progress
) -> dict[str, float]:
    """mA over all attributes that occur, and over the usual 35, on the images of the validation people.

    The network keeps its mode and its BN statistics. Raises `BadData` if no attribute has both values.
    """
    scores = score_attributes(run_model(model, data, rows, options, precision, progress), data, rows)
    figures = {"mA": scores["all"]["mA"], "mA usual 35": scores.get("usual_35", {}).get("mA"), "images": len(rows)}
    if figures["mA"] is None:
        why = "no attribute has images with it and images without it"
        raise BadData("validation images", why=why, remedy="Raise --validate, or leave it out")
    return {name: value for name, value in figures.items() if value is not None}


def run_model(
    model: ARM, data: AttributeDataset, rows: np.ndarray, options: TrainArmOptions, precision: str, progress: Progress
) -> np.ndarray:
    """Attribute probabilities (len(rows), A) float32 of images; works on a copy of the model in eval mode."""
    batches = [rows[start : start + options.batch_size] for start in range(0, len(rows), options.batch_size)]
    device = device_of(model)
    engine = prepare(model, device, precision, "eager")  # the same on every machine
    probabilities = []
    with progress.loop("test images", len(rows), unit="images") as bar:
        images = ImageBatches(data.paths, batches, options.height_width, augment=None)
        for pixels, _ in bar.fetch(loader(images, options.workers, device)):
            probabilities.append(engine(pixels).sigmoid().numpy())
            bar.advance(len(pixels))
    return np.concatenate(probabilities)


def score_attributes(probabilities: np.ndarray, data: AttributeDataset, rows: np.ndarray) -> dict[str, Any]:
    """Metrics as JSON: over `all` attributes that occur, the `usual_35`, and `per_attribute`; None if undefined."""
    metrics: dict[str, Any] = {}
    for subset, columns in (("all", [*range(len(data.attributes))]), ("usual_35", [*data.evaluated])):
        if not columns:
            continue
        names = [data.attributes[column] for column in columns]
        scores = attribute_metrics(probabilities[:, columns], data.labels[rows][:, columns], names)
        rates = {rate: _number(getattr(scores, rate)) for rate in ("mA", "accuracy", "precision", "recall", "f1")}
        metrics[subset] = rates | {"left_out": list(scores.left_out)}
        if subset == "all":
            metrics["per_attribute"] = {
                score.name: {
                    "positives": score.positives,
                    "mA": _number((score.true_positive_rate + score.true_negative_rate) / 2),
                    "f1": _number(score.f1),
                }
                for score in scores.attributes
            }
    return metrics


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def split_rows(
    data: AttributeDataset, options: TrainArmOptions, readable: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the training, validation and test images among the readable ones, (n,) int64 each.

    PETA's random partitions have people in training and test set. Raises `UsageError` for one that the data set lacks.
    """
    rows, test = np.arange(len(data.paths)), np.array([], dtype=np.int64)
    if options.partition == "person":
        rows, test = hold_out_people(data.person_ids, options.hold_out, options.seed, purpose="test people")
    elif options.partition != "none":
        number = int(options.partition.removeprefix("random-"))
        if number > len(data.partitions):
            why = f"{data.name} has {len(data.partitions)} partitions (PETA.mat holds them)"
            raise UsageError("--partition", options.partition, why=why, remedy="Use --partition person")
        subsets = data.partitions[number - 1]
        rows, test = np.concatenate([subsets["train"], subsets["val"]]), subsets["test"]
    rows, test = rows[np.isin(rows, readable)], test[np.isin(test, readable)]
    train, validation = hold_out_people(data.person_ids[rows], options.validate, options.seed)
    return rows[train], rows[validation], test
