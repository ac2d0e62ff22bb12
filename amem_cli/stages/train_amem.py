"""Stage 4: AMEM, end to end (paper, Fig. 1, eq. 6): identity and triplet loss, AEM, MEM."""

import copy
import dataclasses
import itertools
import shlex
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from amem_cli.artifacts import checkpoint, pseudo_labels
from amem_cli.artifacts.lock import locked
from amem_cli.artifacts.output import already_made, is_complete
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance, parent
from amem_cli.attributes import ATTRIBUTES, GROUP_SIZES
from amem_cli.data.loading import ClipBatches, loader
from amem_cli.data.manifest import load_manifest, read_videos
from amem_cli.data.sampling import check_people, hold_out_people, people_clips_batches
from amem_cli.data.tracklets import Tracklet, people
from amem_cli.data.unreadable import without_unreadable
from amem_cli.errors import BadData, UsageError, listing
from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.models.amem import AMEM, SIMILARITY_FEATURE, MainModel, build_main_model
from amem_cli.models.arm import AttributeHeads
from amem_cli.models.branches import BRANCH_CHANNELS
from amem_cli.models.mem import MEM
from amem_cli.models.recomputation import recompute_activations
from amem_cli.models.tae import Discriminator, FrozenTextureEncoder, TextureDecoder
from amem_cli.options import TrainAmemOptions
from amem_cli.pictures.frames import evenly_spaced
from amem_cli.randomness import keyed_seed
from amem_cli.runtime.device import as_pixels
from amem_cli.runtime.distributed import Processes, process_group
from amem_cli.runtime.engine import prepare, resolve_precision
from amem_cli.runtime.progress import Progress, Silent
from amem_cli.runtime.training import Run, as_numbers, batches_of_steps, check_finite, learning_rate, set_learning_rate
from amem_cli.stages.amem_step import Batch, add_gradients
from amem_cli.stages.extract_features import extract_tracklets
from amem_cli.stages.output import (
    StageResult,
    listing_of_tracklets,
    refuse_other_split,
    science,
    split_numbers,
    tell_batch,
    warn_of_differences,
    warn_of_stale,
    weights_parent,
)
from amem_cli.tools.samples import TRACKLETS, sample_clips

VALIDATION_CLIPS = 16  # a step without gradients; decides speed alone


def train_amem(options: TrainAmemOptions, progress: Progress) -> list[StageResult]:
    """Train AMEM on one split, or on all of them one after another; returns one checkpoint `amem-model` each.

    Beside each stands `amem-main`: backbone, branches and FC, all that inference needs.
    """
    with process_group(options.device) as processes:
        progress = progress if processes.is_main else Silent()
        processes.require_divisible("--people-per-batch", options.people_per_batch, least=2)
        manifest = load_manifest(options.dataset)
        dataset = read_videos(manifest, options.data_root)
        warn_of_differences(manifest, dataset, progress)
        results = []
        numbers = split_numbers(dataset, options.split)
        for split in numbers:  # a fault of the last split is told before the first is trained
            training_labels(options, manifest.name, list(dataset.splits[split or 0].train))
            refuse_other_split(options.weights, manifest.name, split)
            if options.uses_mem:
                parent_of_tae(Path(options.tae) if options.tae else Workspace(options.workspace).tae)
            check_people(dataset.splits[split or 0].train, options.people_per_batch, options.clip_frames)
        for split in numbers:
            workspace = Workspace(options.workspace)
            output = workspace.amem(manifest.name, split)
            tracklets = list(dataset.splits[split or 0].train)
            if options.on_bad_image == "skip":
                with locked(output, owner=processes.is_main):
                    tracklets = without_unreadable(
                        tracklets, output.with_suffix(".unreadable.txt"), processes, progress
                    )
            train_rows, validation_rows = hold_out_people(
                [tracklet.person_id for tracklet in tracklets], options.validate, options.seed, least=2
            )
            listing_of_all = listing_of_tracklets(tracklets)
            held_out = [tracklets[row] for row in validation_rows]
            tracklets = [tracklets[row] for row in train_rows]
            labels, label_parent = training_labels(options, manifest.name, tracklets)
            if labels is not None and not options.labels and processes.is_main:
                warn_of_stale(options, manifest, split, "train-tae", progress)
            tae = Path(options.tae) if options.tae else workspace.tae
            tae_parent = {"tae": parent_of_tae(tae)} if options.uses_mem else {}
            check_people(tracklets, options.people_per_batch, options.clip_frames)

            precision = resolve_precision(options.precision, processes.device)
            provenance = Provenance(
                command="train-amem",
                options=science(options, manifest, precision=precision, split=split),
                parents=weights_parent(options.weights) | label_parent | tae_parent,
                data=listing_of_all,
            )
            with locked(output, owner=processes.is_main):
                if already_made("AMEM checkpoint", output, provenance, resume=options.resume, force=options.force):
                    if processes.is_main and not is_complete(workspace.amem_main(manifest.name, split)):
                        restore_main(output, provenance)
                    metrics = checkpoint.read_description(output)["metrics"]
                    results.append(StageResult("train-amem", output, True, metrics))
                    continue
                torch.manual_seed(keyed_seed(options.seed, "weights of AMEM"))
                described = describe(options, len(people(tracklets)))
                model, discriminator = build_amem(described, tae, options)
                run, metrics = _train(
                    model, discriminator, described, tracklets, labels, held_out, output, options, provenance,
                    processes, progress,
                )  # fmt: skip
                if processes.is_main:
                    save_models(output, model, discriminator, described, provenance, metrics)
                    run.finished()
                processes.barrier()
                results.append(StageResult("train-amem", output, False, metrics))
    return results


def _train(
    model: AMEM,
    discriminator: Discriminator | None,
    described: dict[str, Any],
    tracklets: list[Tracklet],
    labels: Tensor | None,
    held_out: list[Tracklet],
    output: Path,
    options: TrainAmemOptions,
    provenance: Provenance,
    processes: Processes,
    progress: Progress,
) -> tuple[Run, dict[str, float]]:
    device, precision = processes.device, provenance.options["precision"]
    model.to(device)
    if options.sync_batchnorm:
        model = cast(AMEM, processes.synchronise_batch_norm(model))
        discriminator = discriminator and cast(Discriminator, processes.synchronise_batch_norm(discriminator))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(
        parameter_groups(model, options), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    modules: dict[str, torch.nn.Module] = {"amem": model}
    optimizers = {"adam": optimizer}
    if discriminator is not None:
        discriminator.to(device)
        modules["discriminator"] = discriminator
        optimizers["discriminator-adam"] = critic = torch.optim.Adam(
            discriminator.parameters(), lr=options.discriminator_learning_rate, betas=(0.5, 0.999), fused=True
        )
    identity_of = {person: index for index, person in enumerate(people(tracklets))}
    identities = torch.tensor([identity_of[tracklet.person_id] for tracklet in tracklets], device=device)
    labels = labels.to(device) if labels is not None else None
    if options.checkpoint_activations:
        recompute_activations(*model.blocks(), *([discriminator] if discriminator else []))

    shown = evenly_spaced(held_out, TRACKLETS)
    labels_of_shown, _ = training_labels(options, provenance.options["dataset"], shown)
    best_file = output.with_name("amem-main-best.safetensors")
    run = Run(output.parent, options, provenance, processes, progress, modules, optimizers, best_file)
    for module in modules.values():
        module.train()
    sizes = {"people_per_batch": options.people_per_batch, "clips_per_person": options.clips_per_person}
    tell_batch(options, sizes, "clips", processes, progress)
    # later epochs may have one batch more or less
    total = options.epochs * len(batches_of_steps(len(_batches(tracklets, options, 0)), options.accumulate))

    def look() -> None:
        figures = validate(model.main, held_out, options, precision, processes, progress)
        if processes.is_main and options.modules != "baseline":
            run.keep_sample(sample_clips(model, described, shown, labels_of_shown))
        if run.validated("mAP", figures) and processes.is_main:
            save_main(best_file, model.main, described, provenance, validation=run.best)

    with run, progress.loop("train-amem", total, done=run.step) as loop:
        while run.goes_on(look):
            epoch = run.epoch
            order = _batches(tracklets, options, epoch)
            clips = ClipBatches(
                tracklets,
                [_share_of_people(batch, options, processes) for batch in order],
                options.height_width,
                clip_frames=options.clip_frames,
                predict_frames=options.predict_frames if options.uses_mem else 1,
                flip=options.flip,
                crop=options.crop,
                seed=options.seed,
                epoch=epoch,
            )
            taken = run.step_in_epoch * options.accumulate
            batches = iter(loader(clips, options.workers, device, start=taken))
            steps = batches_of_steps(len(order), options.accumulate)
            for count in steps[run.step_in_epoch :]:
                set_learning_rate(optimizer, learning_rate(options, epoch, run.step))
                for each in optimizers.values():
                    each.zero_grad(set_to_none=True)
                for number, (pixels, indices, start) in enumerate(itertools.islice(batches, count)):
                    loop.data_arrived()
                    indices = indices.to(device, non_blocking=True)
                    batch = Batch(
                        clip=as_pixels(pixels, device),
                        identity=identities[indices],
                        attributes=labels[indices] if labels is not None else None,
                        start=start.to(device, non_blocking=True),
                    )

                    measured = number == 0 and options.gradient_steps and run.step % options.gradient_steps == 0
                    terms, weighted, norms = add_gradients(
                        model, discriminator, batch, options, precision, batches=count, measured=bool(measured)
                    )
                    values = as_numbers(terms | {f"weighted_{name}": value for name, value in weighted.items()})
                    check_finite({name: values[name] for name in terms}, run.step)
                    run.add(values)
                    if norms:
                        run.log({"gradient_norms": norms})

                processes.average_gradients(trained)
                optimizer.step()
                if discriminator is not None and options.adversarial_weight:
                    processes.average_gradients(list(discriminator.parameters()))
                    critic.step()

                summands = {name: values[f"weighted_{name}"] for name in weighted}
                loop.advance(total=sum(summands.values()), **summands)
                last_in_epoch = run.step_in_epoch + 1 == len(steps)
                if (run.step + 1) % options.log_steps == 0 or (last_in_epoch and epoch + 1 == options.epochs):
                    run.log_means()
                run.step_done(last_in_epoch)
    counts = {"train_tracklets": len(tracklets), "people": len(identity_of), "steps": run.step}
    return run, counts | run.metrics | ({"best": run.best} if run.best else {})


def parameter_groups(model: AMEM, options: TrainAmemOptions) -> list[dict[str, Any]]:
    """What Adam trains: MEM's embedding and decoder, which start from the TAE, at a rate of their own (D)."""
    mem = set(model.motion_enhancement.parameters()) if model.motion_enhancement else set()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter not in mem], "factor": 1.0},
        {"params": [parameter for parameter in trained if parameter in mem], "factor": options.mem_lr_factor},
    ]
    return [group for group in groups if group["params"]]


def validate(
    main: MainModel,
    held_out: list[Tracklet],
    options: TrainAmemOptions,
    precision: str,
    processes: Processes,
    progress: Progress,
) -> dict[str, float]:
    """Rank-1 and mAP by the main model on held-out training people: every tracklet looks for its person in the others.

    Tracklets of the query's person and camera are ignored, as in the test, where cameras allow it: where nobody is
    seen by two cameras only the query itself is. Every process extracts its share, with the first one's statistics of
    batch norm; a copy of the model is judged, so that the training goes on as if nothing had been.
    """
    judged = copy.deepcopy(main.for_inference())
    processes.share_statistics(judged)
    engine = prepare(judged, processes.device, precision, "eager")  # the same wherever OpenVINO is
    mine = list(processes.shard(held_out))
    clip_shape = (options.clip_frames, *options.height_width)
    clips = sum(-(-len(tracklet) // options.clip_frames) for tracklet in mine)
    rows = np.zeros((0, SIMILARITY_FEATURE), dtype=np.float32)
    with progress.loop("held-out training people", clips, unit="clips") as loop:
        if mine:
            how = {"batch_size": VALIDATION_CLIPS, "workers": options.workers}
            rows = extract_tracklets(mine, clip_shape, engine, processes.device, loop, **how)["features"]
    features = np.zeros((len(held_out), SIMILARITY_FEATURE), dtype=np.float32)
    for rank, part in enumerate(processes.gather(rows)):
        features[rank :: processes.world_size] = part
    ids = np.array([tracklet.person_id for tracklet in held_out])
    cameras = np.array([tracklet.camera_id for tracklet in held_out])
    for each in (cameras, np.arange(len(held_out))):
        ranking = evaluate_ranking(features, features, ids, ids, each, each)
        if ranking.valid_queries:
            return {
                "mAP": float(ranking.mAP),
                "rank-1": float(ranking.cmc[0]),
                "queries": ranking.valid_queries,
                "people": len(people(held_out)),
            }
    why = "nobody among them has two tracklets"
    raise BadData("held-out training people", why=why, remedy="Raise --validate, or leave it out")


def _batches(tracklets: list[Tracklet], options: TrainAmemOptions, epoch: int) -> list[Any]:
    return people_clips_batches(tracklets, options.people_per_batch, options.clips_per_person, options.seed, epoch)


def _share_of_people(batch: Any, options: TrainAmemOptions, processes: Processes) -> Any:
    """This process's people of a P x K batch, with all their K clips, so that it can make triplets."""
    rows = batch.reshape(options.people_per_batch, options.clips_per_person)
    return processes.shard(rows).reshape(-1)


# -- putting it together -----------------------------------------------------------------------------------------------


def describe(options: TrainAmemOptions, number_of_people: int) -> dict[str, Any]:
    """The model's dimensions, as its checkpoints describe themselves."""
    return {
        "backbone": options.backbone,
        "branch": options.branch,
        "branch_kernel": options.branch_kernel,
        "appearance": options.uses_aem,
        "motion": options.uses_mem,
        "fused": options.modules != "after-enhancement",
        "modules": options.modules,
        "clip_frames": options.clip_frames,
        "predict_frames": options.predict_frames,
        "image_size": options.image_size,
        "people": number_of_people,
        "attributes": list(ATTRIBUTES) if options.uses_aem else [],
    }


def build_amem(
    described: dict[str, Any], tae: Path | None, options: TrainAmemOptions | None = None
) -> tuple[AMEM, Discriminator | None]:
    """The training model and MEM's discriminator, untrained but for `--weights` and the TAE's parts.

    Without `tae` (to load a trained model) the TAE's parts stay untrained.
    """
    main = build_main_model(described, options.weights if options else "")
    heads = AttributeHeads(BRANCH_CHANNELS, GROUP_SIZES) if described["appearance"] else None
    if not described["motion"]:
        return AMEM(main, described["people"], heads, None), None
    encoder, decoder = FrozenTextureEncoder(), TextureDecoder()
    height, width = map(int, described["image_size"].split("x"))
    discriminator = Discriminator(height, width)
    if tae is not None:
        saved = checkpoint.load(tae, "amem-tae")
        if saved.description["model"].get("image_size") != described["image_size"]:
            raise UsageError(
                "--image-size",
                described["image_size"],
                why=f"the TAE in {tae} was trained at {saved.description['model'].get('image_size')}",
                remedy="Use the same size in train-tae and train-amem",
            )
        checkpoint.load_into(encoder, saved, "encoder.")
        checkpoint.load_into(decoder, saved, "decoder.")
        checkpoint.load_into(discriminator, saved, "discriminator.")
    start = options.embedding_start if options else "random"
    motion = MEM(BRANCH_CHANNELS, encoder, decoder, start)
    return AMEM(main, described["people"], heads, motion), discriminator


def training_labels(
    options: TrainAmemOptions, dataset: str, tracklets: list[Tracklet]
) -> tuple[Tensor | None, dict[str, dict[str, str]]]:
    """The pseudo-labels (N, A) float of the training tracklets, columns as in `ATTRIBUTES`; None without AEM."""
    if not options.uses_aem:
        return None, {}
    path = Path(options.labels) if options.labels else Workspace(options.workspace).labels(dataset)
    command = f"amem label-videos --dataset {shlex.quote(options.dataset)}"
    found = pseudo_labels.read(path, remedy=f"Run: {command}")
    if found.dataset != dataset:
        raise BadData(
            "pseudo-labels", path, why=f"are of '{found.dataset}', not of '{dataset}'", remedy=f"Run: {command}"
        )
    missing = [name for name in ATTRIBUTES if name not in found.attributes]
    if missing:
        why = f"lack {len(missing)} of PETA's attributes ({listing(missing, 5)})"
        raise BadData("pseudo-labels", path, why=why, remedy=f"Run: {command}")
    columns = [found.attributes.index(name) for name in ATTRIBUTES]
    rows = found.rows_for([tracklet.name for tracklet in tracklets], path, command)
    return torch.from_numpy(rows[:, columns]).float(), {"labels": parent(path)}


def parent_of_tae(path: Path) -> dict[str, str]:
    """The TAE among the parents, once it is known to be one."""
    checkpoint.load(path, "amem-tae")
    return parent(path)


def save_models(
    output: Path,
    model: AMEM,
    discriminator: Discriminator | None,
    described: dict[str, Any],
    provenance: Provenance,
    metrics: dict[str, Any],
) -> None:
    """Write `amem-main`, then the whole model, whose presence says that the stage is done.

    Both descriptions carry the input normalisation that came with the backbone's weights.
    """
    described = described | {"normalisation": dataclasses.asdict(model.main.backbone.normalisation)}
    save_main(output.with_name("amem-main.safetensors"), model.main, described, provenance)
    tensors = checkpoint.prefixed("amem.", model)
    tensors |= checkpoint.prefixed("discriminator.", discriminator) if discriminator is not None else {}
    checkpoint.save(output, "amem-model", tensors, provenance, model=described, metrics=metrics)


def restore_main(output: Path, provenance: Provenance) -> Path:
    """Write the `amem-main` of a finished training again, from the whole model."""
    saved = checkpoint.load(output, "amem-model")
    model, _ = build_amem(saved.description["model"], None)
    checkpoint.load_into(model, saved, "amem.")
    return save_main(output.with_name("amem-main.safetensors"), model.main, saved.description["model"], provenance)


def save_main(path: Path, main: MainModel, described: dict[str, Any], provenance: Provenance, **more: Any) -> Path:
    """Write an `amem-main`: the parts that inference needs; `more` are further values of its description."""
    described = described | {"normalisation": dataclasses.asdict(main.backbone.normalisation)}
    bare = described if described["fused"] else described | {"appearance": False, "motion": False}
    return checkpoint.save(path, "amem-main", main.for_inference().state_dict(), provenance, model=bare, **more)
