"""Stage 1: the attribute recognition model on PETA (paper, section AEM; eq. 1-3)."""

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.atomic import sha256_lines
from amem_cli.artifacts.lock import locked
from amem_cli.artifacts.output import already_made
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import ATTRIBUTES, GROUP_SIZES
from amem_cli.data.loading import ImageBatches, loader
from amem_cli.data.manifest import load_manifest, read_attributes
from amem_cli.data.sampling import hold_out_people, shuffled_batches
from amem_cli.data.tracklets import AttributeDataset
from amem_cli.data.unreadable import readable_rows
from amem_cli.errors import BadData, UsageError
from amem_cli.losses import attribute_loss
from amem_cli.metrics.attributes import attribute_metrics
from amem_cli.models.arm import ARM
from amem_cli.options import TrainArmOptions
from amem_cli.randomness import keyed_seed
from amem_cli.runtime.device import as_pixels
from amem_cli.runtime.distributed import Processes, process_group
from amem_cli.runtime.engine import autocast, prepare, resolve_precision
from amem_cli.runtime.progress import Progress, Silent
from amem_cli.runtime.training import Run, as_numbers, batches_of_steps, check_finite, learning_rate, set_learning_rate
from amem_cli.stages.output import StageResult, science, tell_batch, warn_of_differences, weights_parent
from amem_cli.tools.samples import sample_attributes

DEPTH = {"resnet50": 50, "resnet18": 18}


def train_arm(options: TrainArmOptions, progress: Progress) -> StageResult:
    """Train the ARM and judge it on held-out images; returns the checkpoint `amem-arm`.

    Its description holds `model` (depth, attributes, image size) and the held-out `metrics`. Raises the kinds of
    `AmemError` that the README lists.
    """
    with process_group(options.device) as processes:
        progress = progress if processes.is_main else Silent()
        processes.require_divisible("--batch-size", options.batch_size)
        manifest = load_manifest(options.dataset)
        data = read_attributes(manifest, options.data_root)
        warn_of_differences(manifest, data, progress)
        if data.attributes != ATTRIBUTES:
            raise BadData("attributes of", manifest.name, why="are not PETA's 105, whose groups the model is made of")
        train_rows, held_out = partition(data, options)
        output = Workspace(options.workspace).arm
        readable = np.arange(len(data.paths))
        if options.on_bad_image == "skip":
            with locked(output, owner=processes.is_main):
                readable = readable_rows(data.paths, output.with_suffix(".unreadable.txt"), processes, progress)
            train_rows, held_out = (rows[np.isin(rows, readable)] for rows in (train_rows, held_out))
        fit, validation = hold_out_people(data.person_ids[train_rows], options.validate, options.seed)
        train_rows, validation_rows = train_rows[fit], train_rows[validation]

        precision = resolve_precision(options.precision, processes.device)
        listing = (f"{data.paths[row].name}\t{data.labels[row].tobytes().hex()}" for row in readable)
        provenance = Provenance(
            command="train-arm",
            options=science(options, manifest, precision=precision),
            parents=weights_parent(options.weights),
            data=sha256_lines(listing),
        )
        with locked(output, owner=processes.is_main):
            if already_made("ARM checkpoint", output, provenance, resume=options.resume, force=options.force):
                metrics = checkpoint.read_description(output)["metrics"]
                return StageResult("train-arm", output, reused=True, metrics=metrics)
            torch.manual_seed(keyed_seed(options.seed, "weights of the ARM"))
            model = ARM(DEPTH[options.backbone], GROUP_SIZES, options.weights).to(processes.device)
            if options.sync_batchnorm:
                processes.synchronise_batch_norm(model)
            run = _train(model, data, train_rows, validation_rows, options, provenance, processes, progress)
            metrics = {"train_images": len(train_rows), "held_out_images": len(held_out)}
            metrics |= {"best": run.best} if run.best else {}
            if processes.is_main:
                if len(held_out):
                    metrics |= evaluate_arm(model, data, held_out, options, precision, processes.device, progress)
                save_arm(output, model, options, provenance, metrics=metrics)
                run.finished()
            processes.barrier()
    return StageResult("train-arm", output, reused=False, metrics=metrics)


def _train(
    model: ARM,
    data: AttributeDataset,
    rows: np.ndarray,
    validation_rows: np.ndarray,
    options: TrainArmOptions,
    provenance: Provenance,
    processes: Processes,
    progress: Progress,
) -> Run:
    device = processes.device
    trained = list(model.parameters())
    optimizer = torch.optim.Adam(trained, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
    output = Workspace(options.workspace).arm
    best_file = output.with_name("arm-best.safetensors")
    run = Run(output.parent, options, provenance, processes, progress, {"arm": model}, {"adam": optimizer}, best_file)
    tell_batch(options, {"batch_size": options.batch_size}, "images", processes, progress)
    steps = batches_of_steps(len(shuffled_batches(len(rows), options.batch_size, options.seed, 0)), options.accumulate)
    labels = torch.from_numpy(data.labels).float().to(device)
    model.train()

    def look() -> None:
        if processes.is_main:
            figures = validate(model, data, validation_rows, options, provenance, device, progress)
            run.keep_sample(sample_attributes(model, data, validation_rows, options.height_width))
            if run.validated("mA", figures):
                save_arm(best_file, model, options, provenance, validation=run.best)

    with run, progress.loop("train-arm", options.epochs * len(steps), done=run.step) as loop:
        while run.goes_on(look):
            epoch = run.epoch
            order = shuffled_batches(len(rows), options.batch_size, options.seed, epoch)
            shares = [processes.shard(rows[batch]) for batch in order]
            images = ImageBatches(data.paths, shares, options.height_width, augment=(options.seed, epoch))
            batches = iter(loader(images, options.workers, device, start=run.step_in_epoch * options.accumulate))
            for count in steps[run.step_in_epoch :]:
                set_learning_rate(optimizer, learning_rate(options, epoch, run.step))
                optimizer.zero_grad(set_to_none=True)
                for pixels, indices in itertools.islice(batches, count):
                    loop.data_arrived()
                    with autocast(provenance.options["precision"], device):
                        logits = model(as_pixels(pixels, device))
                    loss = attribute_loss(logits.float(), labels[indices.to(device, non_blocking=True)])
                    (loss / count).backward()
                    values = as_numbers({"attribute": loss})
                    check_finite({"attribute loss": values["attribute"]}, run.step)
                    run.add(values)
                processes.average_gradients(trained)
                optimizer.step()

                loop.advance(**values, epoch=epoch + 1)
                last_in_epoch = run.step_in_epoch + 1 == len(steps)
                if (run.step + 1) % options.log_steps == 0 or (last_in_epoch and epoch + 1 == options.epochs):
                    run.log_means()
                run.step_done(last_in_epoch)
    return run


def validate(
    model: ARM,
    data: AttributeDataset,
    rows: np.ndarray,
    options: TrainArmOptions,
    provenance: Provenance,
    device: torch.device,
    progress: Progress,
) -> dict[str, float]:
    """mA over all attributes with positives (and over the usual 35) on the images of held-out training people; a copy
    of the model is judged, so that the training goes on as if nothing had been."""
    precision = provenance.options["precision"]
    found = evaluate_arm(copy.deepcopy(model), data, rows, options, precision, device, progress)
    figures = {"mA": found["all"]["mA"], "mA usual 35": found["usual_35"]["mA"], "images": len(rows)}
    if figures["mA"] is None:
        why = "no attribute has images with and without it among them"
        raise BadData("held-out training people", why=why, remedy="Raise --validate, or leave it out")
    return {name: value for name, value in figures.items() if value is not None}


def save_arm(path: Path, model: ARM, options: TrainArmOptions, provenance: Provenance, **more: Any) -> Path:
    """Write an `amem-arm`; `more` are further values of its description."""
    described = {"depth": DEPTH[options.backbone], "attributes": list(ATTRIBUTES)}
    described |= {"image_size": options.image_size, "normalisation": "ImageNet, inside the network"}
    return checkpoint.save(path, "amem-arm", model.state_dict(), provenance, model=described, **more)


def partition(data: AttributeDataset, options: TrainArmOptions) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on and those held out, (n,) int64 each, by `--partition`.

    A random split of PETA lets one person into both parts, which flatters the result; `person` does not.
    """
    if options.partition == "none":
        return np.arange(len(data.paths)), np.array([], dtype=np.int64)
    if options.partition == "person":
        return hold_out_people(data.person_ids, options.hold_out, options.seed, whom="test people")
    number = int(options.partition.removeprefix("random-"))
    if number > len(data.partitions):
        why = f"{data.name} brings {len(data.partitions)} partitions (they are in PETA.mat)"
        raise UsageError("--partition", options.partition, why=why, remedy="Use --partition person")
    parts = data.partitions[number - 1]
    return np.concatenate([parts["train"], parts["val"]]), parts["test"]


def evaluate_arm(
    model: ARM,
    data: AttributeDataset,
    rows: np.ndarray,
    options: TrainArmOptions,
    precision: str,
    device: torch.device,
    progress: Progress,
) -> dict[str, object]:
    """mA, accuracy, precision, recall and F1 on `rows`: over all attributes with positives and over the usual 35."""
    batches = [rows[start : start + options.batch_size] for start in range(0, len(rows), options.batch_size)]
    engine = prepare(model, device, precision, "eager")  # the same wherever OpenVINO is
    probabilities = []
    with progress.loop("held-out images", len(rows), unit="images") as loop:
        images = ImageBatches(data.paths, batches, options.height_width, augment=None)
        for pixels, _ in loader(images, options.workers, device):
            loop.data_arrived()
            probabilities.append(engine(pixels).sigmoid().numpy())
            loop.advance(len(pixels))
    found, labels = np.concatenate(probabilities), data.labels[rows]
    model.requires_grad_(True)
    return attribute_metrics_of(found, labels, data)


def attribute_metrics_of(probabilities: np.ndarray, labels: np.ndarray, data: AttributeDataset) -> dict[str, object]:
    """The figures of a held-out part as JSON values: over `all` attributes with positives, over the `usual_35`, and
    per attribute; None where nothing can be counted."""
    figures: dict[str, object] = {}
    for part, columns in (("all", range(len(data.attributes))), ("usual_35", data.evaluated)):
        found = attribute_metrics(probabilities, labels, data.attributes, subset=list(columns))
        names = ("mA", "accuracy", "precision", "recall", "f1")
        figures[part] = {name: _number(getattr(found, name)) for name in names} | {"left_out": list(found.left_out)}
        if part == "all":
            figures["per_attribute"] = {
                score.name: {
                    "positives": score.positives,
                    "mA": _number((score.true_positive_rate + score.true_negative_rate) / 2),
                    "f1": _number(score.f1),
                }
                for score in found.attributes
            }
    return figures


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
