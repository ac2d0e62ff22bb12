"""`amem bench`: the speed of each part of the pipeline on this machine, next to a ceiling measured in the same run."""

import io
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from amem_cli.attributes import GROUP_SIZES
from amem_cli.data.manifest import load_manifest
from amem_cli.data.transforms import read_image
from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.models.amem import SIMILARITY_FEATURE, build_main_model
from amem_cli.models.arm import ARM
from amem_cli.models.config import model_config
from amem_cli.options import TrainAmemOptions
from amem_cli.resolve import resolve
from amem_cli.runtime.device import as_pixels
from amem_cli.runtime.distributed import Processes, process_group
from amem_cli.runtime.engine import engine_version, prepare, resolve_engine, resolve_precision
from amem_cli.runtime.progress import Progress
from amem_cli.stages.train_amem import Batch, build_networks, train_step
from amem_cli.tools import paper
from amem_cli.tools.doctor import available_cores
from amem_cli.walkers import write_clips

SIZE = (256, 128)  # the paper's
CLIP_FRAMES = 8
WALKERS = 8  # generated people, with one clip each
IMAGES_PER_BATCH, CLIPS_PER_BATCH = 64, 16  # the defaults of label-videos and extract-features
CONVOLUTION = (8, 256, 64, 32)  # images (x 32 on CUDA), channels in and out, height, width
COPIED = 2**26  # float32 values
SECONDS, QUICK_SECONDS = 3.0, 0.7  # of repeated runs; the result is their median
MICRO_BATCH = 8  # clips of a training step at the paper's size; its 32 need more memory than most machines have


@dataclass(frozen=True)
class Machine:
    """What is measured: device, precision and engines, with the input files and the measured ceilings."""

    processes: Processes
    precision: str
    engines: dict[str, str]
    files: list[Path]
    clips: Tensor  # (B, T, H, W, 3) uint8
    ceilings: dict[str, float]
    spend: float  # seconds of each measurement


def rate(part: str, items: int, unit: str, seconds: float, ceiling: float, bound: str) -> dict[str, Any]:
    """The speed of one part: `value` and `ceiling` in `unit`, the name of the ceiling, the `seconds` of one batch."""
    value = items / seconds
    fraction = value / ceiling
    return {
        "part": part, "value": value, "unit": unit, "ceiling": ceiling, "fraction": fraction, "bound": bound,
        "seconds": seconds,
    }  # fmt: skip


def bench(device: str, precision: str, engine: str, quick: bool, progress: Progress) -> dict[str, Any]:
    """Measure this machine on generated people and random weights: `machine`, `ceilings`, `rates` and `mars`.

    `mars` is the time of each stage on MARS at these rates. `quick` measures for less time and leaves out the training
    at the paper's size. Raises `UsageError` and `InputMissing` as `resolve_engine`, and for a missing CUDA device.
    """
    spend = QUICK_SECONDS if quick else SECONDS
    presets = ("small",) if quick else ("small", "paper")
    with process_group(device) as processes, tempfile.TemporaryDirectory(prefix="amem-bench-") as folder:
        where = processes.device
        precision = resolve_precision(precision, where)
        tasks = {"labelling": False, "extraction": True}
        engines = {task: resolve_engine(engine, where, precision, clips=clips) for task, clips in tasks.items()}
        torch.manual_seed(0)
        with progress.loop("bench", 5 + len(presets), unit="parts") as bar:
            files = write_clips(Path(folder), people=WALKERS, frames=CLIP_FRAMES, height=SIZE[0], width=SIZE[1])
            clips = torch.from_numpy(np.stack([read_image(file, *SIZE) for file in files]))
            clips = clips.view(WALKERS, CLIP_FRAMES, *SIZE, 3)
            ceilings = measure_ceilings(where, precision, files, spend)
            bar.advance()
            machine = Machine(processes, precision, engines, files, clips, ceilings, spend)
            rates, trainings = [], [partial(training, preset=preset) for preset in presets]
            measures: list[Callable[[Machine], dict[str, Any]]] = [decoding, labelling, extraction, *trainings]
            for measure in (*measures, evaluation):
                rates.append(measure(machine))
                bar.advance()
    versions = {task: engine_version(name) for task, name in engines.items()}
    counts = load_manifest("mars").counts
    return {
        "machine": describe_machine(where) | {"precision": precision, "engine": versions},
        "ceilings": ceilings,
        "rates": rates,
        "mars": seconds_of_mars({rate["part"]: rate["value"] for rate in rates}, counts, where.type),
    }


# -- parts -------------------------------------------------------------------------------------------------------------


def decoding(machine: Machine) -> dict[str, Any]:
    """JPEG files to uint8 arrays, as the loader does it, in one process."""
    seconds = median_seconds(lambda: [read_image(file, *SIZE) for file in machine.files], machine.spend)
    ceiling = machine.ceilings["libjpeg"]
    return rate("decoding", len(machine.files), "images/s a core", seconds, ceiling, "libjpeg alone, from memory")


def labelling(machine: Machine) -> dict[str, Any]:
    """Attribute logits of single images by the ARM with ResNet-50."""
    images = machine.clips.flatten(0, 1)[:IMAGES_PER_BATCH]
    return _inference(machine, "labelling", "images/s", ARM("resnet50", GROUP_SIZES), images)


def extraction(machine: Machine) -> dict[str, Any]:
    """f_s of clips by the main model with both branches."""
    clips = machine.clips.repeat(CLIPS_PER_BATCH // len(machine.clips), 1, 1, 1, 1)
    network = build_main_model(model_config(TrainAmemOptions(), paper.PEOPLE))
    return _inference(machine, "extraction", "clips/s", network, clips)


def _inference(machine: Machine, part: str, unit: str, network: nn.Module, images: Tensor) -> dict[str, Any]:
    run = prepare(network, machine.processes.device, machine.precision, machine.engines[part])
    seconds = median_seconds(lambda: run(images), machine.spend)
    ceiling = machine.ceilings["convolution"] / flop(network, images[:1])
    return rate(part, len(images), unit, seconds, ceiling, "a large convolution")


def training(machine: Machine, preset: str) -> dict[str, Any]:
    """Steps of train-amem with both modules, at a preset's size; clips of a smaller batch at the paper's."""
    options = resolve(TrainAmemOptions, {}, preset=preset)
    people = MICRO_BATCH // options.clips_per_person if preset == "paper" else options.people_per_batch
    step, clips = training_step(machine, options, people)
    with FlopCounterMode(display=False) as counter:
        step()
    seconds = median_seconds(step, machine.spend, machine.processes.device)
    ceiling = machine.ceilings["convolution"] * clips / counter.get_total_flops()
    return rate(f"training {options.image_size}", clips, "clips/s", seconds, ceiling, "a large convolution")


def training_step(machine: Machine, options: TrainAmemOptions, people: int) -> tuple[Callable[[], Any], int]:
    """A function that runs one step of train-amem on a fixed batch of `people` x K clips, and the number of clips."""
    networks = build_networks(model_config(options, paper.PEOPLE), options, machine.processes)
    for network in filter(None, (networks.amem, networks.discriminator)):
        network.train()
    count, device = people * options.clips_per_person, machine.processes.device
    pixels = as_pixels(machine.clips[torch.arange(count) % len(machine.clips)], device)  # (B, 3, T, H, W)
    frames = F.interpolate(pixels.transpose(1, 2).flatten(0, 1), options.height_width).unflatten(0, pixels.shape[:3:2])
    batch = Batch(
        clip=frames.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d),
        identity=torch.arange(count, device=device) // options.clips_per_person,
        attributes=torch.randint(2, (count, sum(GROUP_SIZES)), device=device).float(),
        start=torch.ones(count, dtype=torch.int64, device=device),
    )
    return lambda: train_step(networks, [batch], options, machine.precision), count


def evaluation(machine: Machine) -> dict[str, Any]:
    """CMC and mAP at the size of MARS on random features; the ceiling is the product of the two matrices."""
    counts, generator = load_manifest("mars").counts, np.random.default_rng(0)
    queries, gallery = counts["query_tracklets"], counts["gallery_tracklets"]
    features = [generator.standard_normal((n, SIMILARITY_FEATURE), dtype=np.float32) for n in (queries, gallery)]
    ids = [generator.integers(1, counts["test_people"], n) for n in (queries, gallery)]
    cameras = [generator.integers(1, 7, n) for n in (queries, gallery)]
    seconds = median_seconds(lambda: evaluate_ranking(*features, *ids, *cameras), machine.spend)
    left, right = (torch.from_numpy(rows) for rows in features)
    product = median_seconds(lambda: left @ right.T, machine.spend / 2)
    return rate("evaluation", queries, "queries/s", seconds, queries / product, "the matrix product alone")


def seconds_of_mars(rates: dict[str, float], counts: dict[str, int], device: str) -> dict[str, float]:
    """Seconds of each stage on MARS at these rates: labels of the training tracklets, features of the test tracklets,
    training with the paper's options (if it was measured), evaluation.

    Decoding and computing alternate on a CPU and overlap on CUDA. The last clip of a tracklet is half full on average.
    """
    options = TrainAmemOptions()
    clips = counts["test_images"] / CLIP_FRAMES + counts["test_tracklets"] * (CLIP_FRAMES - 1) / (2 * CLIP_FRAMES)
    trained = options.epochs * counts["train_tracklets"]
    both = max if device == "cuda" else sum
    seconds = {
        "label-videos": both([counts["train_images"] / rates["labelling"], counts["train_images"] / rates["decoding"]]),
        "extract-features": both([clips / rates["extraction"], counts["test_images"] / rates["decoding"]]),
        "evaluate": counts["query_tracklets"] / rates["evaluation"],
    }
    if (name := f"training {options.image_size}") in rates:
        seconds["train-amem"] = both([trained / rates[name], trained * CLIP_FRAMES / rates["decoding"]])
    return seconds


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure_ceilings(device: torch.device, precision: str, files: list[Path], spend: float) -> dict[str, float]:
    """Limits of the machine: `convolution` in FLOP/s, `copy` in bytes/s (read and written), `libjpeg` in images/s."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    images, channels, height, width = CONVOLUTION
    images *= 32 if device.type == "cuda" else 1
    x = torch.randn(images, channels, height, width, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds = median_seconds(lambda: F.conv2d(x, weight, padding=1), spend / 2, device)
    source = torch.ones(COPIED, device=device)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / median_seconds(lambda: target.copy_(source), spend / 4, device)
    contents = [file.read_bytes() for file in files]
    libjpeg = len(files) / median_seconds(lambda: [Image.open(io.BytesIO(c)).load() for c in contents], spend / 2)
    return {"convolution": 2 * 9 * channels * x.numel() / seconds, "copy": copy, "libjpeg": libjpeg}


def flop(network: nn.Module, images: Tensor) -> float:
    """FLOP of one uint8 item (1, [T,] H, W, 3); a multiplication and its addition are two. Discards the weights."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.to("meta").eval()(as_pixels(images, torch.device("meta")))
    return counter.get_total_flops()


def median_seconds(run: Callable[[], Any], spend: float, device: torch.device | None = None) -> float:
    """The median of at least three runs, repeated for `spend` seconds after one warm-up run."""

    def once() -> float:
        start = time.perf_counter()
        run()
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    seconds = [once() for _ in range(3)]
    while sum(seconds) < spend:
        seconds.append(once())
    return statistics.median(seconds)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Name of the device, cores, threads, versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {
        "device": device.type, "name": name, "cores": available_cores(), "threads": torch.get_num_threads(),
    } | versions  # fmt: skip


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
