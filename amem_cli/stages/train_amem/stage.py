"""The stage: inputs, networks, the training loop, validation."""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.output import StageResult, output_slot
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance, identities, parent, require_same, weights_parent
from amem_cli.data.chain import Chain
from amem_cli.data.clips import inference_clips
from amem_cli.data.datasets import generated_people, read_videos, split_numbers, warn_about_counts
from amem_cli.data.loading import read_frames
from amem_cli.data.manifest import Manifest, load_manifest
from amem_cli.data.sampling import check_people
from amem_cli.data.tracklets import Split, Tracklet, frames_of, people, tracklets_digest
from amem_cli.data.unreadable import without_unreadable
from amem_cli.errors import UsageError
from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.models.amem import AMEM, SIMILARITY_FEATURE, MainModel
from amem_cli.models.checkpoints import restore_main, save_amem, save_main
from amem_cli.models.config import ModelConfig, model_config
from amem_cli.models.recomputation import recompute_activations
from amem_cli.options import TrainAmemOptions
from amem_cli.randomness import keyed_seed
from amem_cli.runtime import schedule
from amem_cli.runtime.distributed import Processes, process_group
from amem_cli.runtime.engine import as_pixels, device_of, evaluation_copy, prepare, resolve_precision
from amem_cli.runtime.progress import Progress, Silent
from amem_cli.runtime.stop import StopRequest
from amem_cli.runtime.train_log import TrainLog, finish_step
from amem_cli.runtime.train_state import Run, TrainState, load_state, remove_states
from amem_cli.stages.extract_features import extract_tracklets
from amem_cli.stages.train_amem import inputs
from amem_cli.stages.train_amem.step import Batch, Networks, predicted_frames, train_step, true_frames
from amem_cli.weights.loading import log_pretrained

BATCH = ("people_per_batch", "clips_per_person")
EPOCHS_COUNTED = 10  # to estimate the number of steps: epochs can differ by one
SAMPLE_TRACKLETS, SAMPLE_START = 2, 1  # of the sample picture; MEM predicts from the second frame of a clip


def train_amem(options: TrainAmemOptions, progress: Progress) -> list[StageResult]:
    """Train AMEM on one split, or on all one after another; returns one checkpoint `amem-model` per split.

    Next to each is its `amem-main`: backbone, branches and FC, the parts that inference needs. Raises `AmemError`s;
    missing inputs of any split are reported before the first is trained.
    """
    with process_group(options.device) as processes:
        progress = progress if processes.is_main else Silent()
        processes.require_divisible("--people-per-batch", options.people_per_batch, least=2)
        manifest = load_manifest(options.dataset)
        dataset = read_videos(manifest, options.data_root)
        warn_about_counts(manifest, dataset, progress, options.data_root)
        splits = [(number, dataset.splits[number or 0]) for number in split_numbers(dataset, options.split)]
        if len(splits) > 1 and options.resume not in ("auto", "never"):
            raise UsageError("--resume", options.resume, why="is the state of one split", remedy="Give its --split")
        inputs.warn_about_tae(options, dataset, [number for number, _ in splits], progress)
        for number, split in splits:
            inputs.training_labels(options, manifest.name, list(split.train))
            check_people(split.train, options.people_per_batch, options.clip_frames)
            inputs.refuse_other_split(options.weights, dataset, number, progress)
        inputs.initial_tae(options, manifest.name)
        if processes.is_main:
            inputs.warn_about_labels(options, dataset, progress)
        results = []
        for number, split in progress.repeated(splits, "splits"):
            results.append(_train_split(options, manifest, number, split, processes, progress))
        return results


def _train_split(
    options: TrainAmemOptions,
    manifest: Manifest,
    number: int | None,
    split: Split,
    processes: Processes,
    progress: Progress,
) -> StageResult:
    output = Workspace(options.workspace).amem(manifest.name, number)
    with output_slot("AMEM checkpoint", output, options, is_main=processes.is_main) as slot:
        tracklets = without_unreadable(split.train, options, slot, processes, progress)
        files = inputs.module_files(options, manifest.name)
        as_read = identities(*files.values())
        data = inputs.training_data(options, manifest.name, tracklets)
        if options.uses_aem and not options.labels and processes.is_main:
            Chain(manifest, options.workspace, number, options.data_root).warn_about_stale("train-tae", progress)
        precision = resolve_precision(options.precision, processes.device)
        weights = inputs.initial_weights(options, progress)
        as_read |= identities(weights)
        resolved: dict[str, Any] = {"dataset": manifest.name, "precision": precision, "split": number}
        resolved |= generated_people(manifest, options.data_root)
        if tracklets != list(split.train):
            resolved["all_images"] = tracklets_digest(split.train)  # with those that are left out
        provenance = Provenance(
            command="train-amem",
            options=options.fingerprint() | resolved,
            parents=weights_parent(options.weights, weights) | {role: parent(path) for role, path in files.items()},
            data=tracklets_digest(tracklets),
        )
        if slot.is_current(provenance, frames_of(tracklets), progress.warn):
            if processes.is_main:
                restore_main(output, provenance)
            return StageResult("train-amem", output, True, checkpoint.read_description(output)["metrics"])

        torch.manual_seed(keyed_seed(options.seed, "weights of AMEM"))
        tae = inputs.initial_tae(options, manifest.name)
        config = model_config(options, len(people(data.tracklets)), tae.config if tae else None)
        networks = inputs.build_networks(config, options, processes, tae, weights)
        require_same(as_read)
        log_pretrained(networks.amem, progress.log)
        if options.checkpoint_activations:
            recompute_activations(*networks.amem.blocks(), *filter(None, [networks.discriminator]))
        main, maps = networks.amem.main, MainModel.feature_maps
        schedule.require_batch_memory(options, BATCH, processes, main, precision, maps)
        modules = {"amem": networks.amem, "discriminator": networks.discriminator, "average": networks.average}
        optimizers = {"adam": networks.adam, "discriminator-adam": networks.discriminator_adam}
        run = Run(
            output.parent, options, provenance, processes, progress,
            {name: module for name, module in modules.items() if module is not None},
            {name: optimizer for name, optimizer in optimizers.items() if optimizer is not None},
        )  # fmt: skip
        state = _train(run, networks, config, data)
        metrics: dict[str, Any] = {"train_tracklets": len(data.tracklets), "people": config.people}
        metrics |= {"steps": state.step} | state.metrics | ({"best": state.best} if state.best else {})
        if processes.is_main:
            save_amem(output, networks.tested, networks.discriminator, config, provenance, metrics)
        remove_states(run)
        processes.barrier()
        return StageResult("train-amem", output, False, metrics)


def _train(
    run: Run[TrainAmemOptions], networks: Networks, config: ModelConfig, data: inputs.TrainingData
) -> TrainState:
    """The training loop; returns the final state."""
    options, processes, progress = run.options, run.processes, run.progress
    best_file = run.folder / "amem-main-best.safetensors"

    def steps_in(epoch: int) -> list[int]:
        order = inputs.epoch_order(data.tracklets, options, epoch)
        return schedule.batches_per_step(len(order), options.accumulate)

    state = load_state(run, best_file, lambda epoch: len(steps_in(epoch)))
    precision = run.provenance.options["precision"]
    parallel = networks._replace(
        amem=processes.data_parallel(networks.amem.train()),
        discriminator=networks.discriminator
        and processes.data_parallel(networks.discriminator.train(), broadcast_buffers=False),
    )
    split = run.provenance.options["split"]
    title = "train-amem" if split is None else f"train-amem split {split}"
    first = [steps_in(epoch) for epoch in range(min(options.epochs, EPOCHS_COUNTED))]
    schedule.log_batch_size(options, BATCH, "clips", first[0], processes, progress)
    state.total = round(options.epochs * sum(map(len, first)) / len(first))
    batches = inputs.training_batches(run, data, (state.epoch, state.step_in_epoch * options.accumulate))
    with (
        StopRequest(options, processes, progress.began) as stop,
        TrainLog(run, state) as log,
        progress.loop(title, state.total, done=state.step) as bar,
    ):
        batches = bar.fetch(batches)
        while True:
            if schedule.validation_due(options, state):
                with stop.interruptible(state.step):
                    figures = validate(networks.tested.main, data.validation, options, precision, processes, progress)
                    if processes.is_main and config.motion:
                        log.sample(sample_predictions(networks.tested, config, data.validation))
                    if log.validation("mAP", figures) and processes.is_main:
                        save_main(best_file, networks.tested.main, config, run.provenance, validation=state.best)
            if state.epoch == options.epochs:
                return state
            steps = steps_in(state.epoch)
            for count in steps[state.step_in_epoch :]:
                rate = schedule.learning_rate(options, state.epochs(len(steps)), state.step)
                schedule.set_learning_rate(networks.adam, rate)
                step = list(itertools.islice(batches, count))
                measure = bool(options.gradient_steps) and state.step % options.gradient_steps == 0
                result = train_step(parallel, step, options, precision, measure_gradients=measure)
                log.add(result.losses)
                if result.gradient_norms:
                    log.write({"gradient_norms": result.gradient_norms})
                terms = {k.removeprefix("weighted_"): v for k, v in result.losses.items() if k.startswith("weighted_")}
                bar.advance(1, total=sum(terms.values()), **terms)
                finish_step(run, state, log, stop, last_in_epoch=state.step_in_epoch + 1 == len(steps))


def validate(
    main: MainModel,
    tracklets: list[Tracklet],
    options: TrainAmemOptions,
    precision: str,
    processes: Processes,
    progress: Progress,
) -> dict[str, float]:
    """Rank-1 and mAP of the main model on the validation people: each tracklet is a query, all others the gallery.

    Tracklets of the query's person and camera are ignored, as in the test; if no person was seen by two cameras, only
    the query itself is. Every process extracts a shard, with the main process's BN statistics, from a copy of the
    model.
    """
    network = evaluation_copy(main.for_inference())
    processes.broadcast_buffers(network)
    engine = prepare(network, processes.device, precision, "eager")  # the same on every machine
    mine = list(processes.shard(tracklets))
    clip_shape = (options.clip_frames, *options.height_width)
    clips = sum(-(-len(tracklet) // options.clip_frames) for tracklet in mine)
    rows = np.zeros((0, SIMILARITY_FEATURE), dtype=np.float32)
    with progress.loop("validation", clips, unit="clips") as bar:
        if mine:
            where: dict[str, Any] = {"device": processes.device, "workers": options.workers}
            rows = extract_tracklets(mine, bar, clip_shape=clip_shape, engine=engine, **where)["features"]
    features = np.zeros((len(tracklets), SIMILARITY_FEATURE), dtype=np.float32)
    for rank, shard in enumerate(processes.gather(rows)):
        features[rank :: processes.world_size] = shard
    ids = np.array([tracklet.person_id for tracklet in tracklets])
    cameras = np.array([tracklet.camera_id for tracklet in tracklets])
    ranking = evaluate_ranking(features, features, ids, ids, cameras, cameras)
    if not ranking.valid_queries:
        each = np.arange(len(tracklets))
        ranking = evaluate_ranking(features, features, ids, ids, each, each)
    figures = {"mAP": float(ranking.mAP), "rank-1": float(ranking.cmc[0])}
    return figures | {"queries": ranking.valid_queries, "people": len(people(tracklets))}


@torch.no_grad()
def sample_predictions(amem: AMEM, config: ModelConfig, tracklets: list[Tracklet]) -> list[Tensor]:
    """Rows of a sample picture: the true and the predicted frames of some tracklets' first clips, (c, 3, H, W) each."""
    device, network, rows = device_of(amem), evaluation_copy(amem), []
    for tracklet in tracklets[:SAMPLE_TRACKLETS]:
        frames = read_frames(tracklet, inference_clips(len(tracklet), config.clip_frames)[0], config.height_width)
        clip = as_pixels(torch.from_numpy(frames)[None], device)
        start = torch.tensor([SAMPLE_START], device=device)
        output = network(clip, start, config.predict_frames)
        rows += [true_frames(Batch(clip, start, None, start), config)[:, 0], predicted_frames(output)[:, 0]]
    return rows
