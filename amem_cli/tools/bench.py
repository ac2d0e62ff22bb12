"""`amem bench`: how fast this machine runs each part of the pipeline, beside the most that it could do."""

import io
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amem_cli.attributes import GROUP_SIZES
from amem_cli.data.manifest import load_manifest
from amem_cli.data.transforms import read_image
from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.models.amem import SIMILARITY_FEATURE, build_main_model
from amem_cli.models.arm import ARM
from amem_cli.options import TrainAmemOptions, resolve
from amem_cli.runtime.device import as_pixels
from amem_cli.runtime.distributed import process_group
from amem_cli.runtime.engine import Engine, engine_version, prepare, resolve_engine, resolve_precision
from amem_cli.runtime.progress import Progress
from amem_cli.stages.amem_step import Batch, add_gradients
from amem_cli.stages.train_amem import build_amem, describe, parameter_groups
from amem_cli.tools import paper
from amem_cli.tools.doctor import available_cores
from amem_cli.walkers import write_clips

SIZE = (256, 128)  # the paper's
CLIP_FRAMES = 8
WALKERS = 8  # people drawn, with a clip of each
IMAGES_A_STEP, CLIPS_A_STEP = 64, 16  # the defaults of label-videos and extract-features
CONVOLUTION = (8, 256, 64, 32)  # images (times 32 on CUDA), channels in and out, height, width: large for a CPU
COPIED = 2**26  # float32 values
SECONDS, QUICK_SECONDS = 3.0, 0.7  # of runs that a median is taken of
MICRO_BATCH = 8  # clips of a training step at the paper's size: a part of its 32, which few machines hold at once


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one part runs: `value` and `ceiling` are in `unit`, `seconds` are the median of one step of it.

    `bound` says what the ceiling is: what this machine does alone, measured in the same run.
    """

    part: str
    value: float
    unit: str
    ceiling: float
    bound: str
    seconds: float

    @property
    def fraction(self) -> float:
        """Of the ceiling."""
        return self.value / self.ceiling


def bench(device: str, precision: str, engine: str, quick: bool, progress: Progress) -> dict[str, Any]:
    """Measure this machine on generated people and random weights: `machine`, `ceilings`, `rates` and `mars`.

    `mars` has the seconds that each stage would take on MARS by these rates (`seconds_of_mars`). `quick` times fewer
    runs and leaves the training at the paper's size out. Raises `UsageError` and `InputMissing` as `resolve_engine`
    does, and for a CUDA device that is not there.
    """
    spend = QUICK_SECONDS if quick else SECONDS
    with process_group(device) as processes, tempfile.TemporaryDirectory(prefix="amem-bench-") as folder:
        where = processes.device
        precision = resolve_precision(precision, where)
        engines = {
            "labelling": resolve_engine(engine, where, precision, clips=False),
            "extraction": resolve_engine(engine, where, precision, clips=True),
        }
        torch.manual_seed(0)
        with progress.loop("bench", 6 if quick else 7, unit="parts") as loop:
            files = write_clips(Path(folder), people=WALKERS, frames=CLIP_FRAMES, height=SIZE[0], width=SIZE[1])
            ceilings = measure_ceilings(where, precision, files, spend)
            loop.advance()
            rates = [decoding(files, ceilings, spend)]
            loop.advance()
            clips = torch.from_numpy(np.stack([read_image(file, *SIZE) for file in files]))
            clips = clips.view(WALKERS, CLIP_FRAMES, *clips.shape[1:])  # (B, T, H, W, 3)
            run = prepare(ARM(50, GROUP_SIZES), where, precision, engines["labelling"], progress.warn)
            rates.append(labelling(run, clips, ceilings, spend))
            loop.advance()
            main_model = build_main_model(describe(TrainAmemOptions(), paper.PEOPLE))
            run = prepare(main_model, where, precision, engines["extraction"], progress.warn)
            rates.append(extraction(run, clips, ceilings, spend))
            loop.advance()
            for preset in ("small",) if quick else ("small", "paper"):
                rates.append(training(preset, clips, where, precision, ceilings, spend))
                loop.advance()
            rates.append(evaluation(ceilings, spend))
            loop.advance()
    machine = describe_machine(where) | {
        "precision": precision,
        "engine": {part: engine_version(name) for part, name in engines.items()},
    }
    return {
        "machine": machine,
        "ceilings": ceilings,
        "rates": [
            {"part": r.part, "value": r.value, "unit": r.unit, "ceiling": r.ceiling, "fraction": r.fraction,
             "bound": r.bound, "seconds": r.seconds} for r in rates
        ],
        "mars": seconds_of_mars({r.part: r.value for r in rates}, load_manifest("mars").counts, where.type),
    }  # fmt: skip


# -- parts -------------------------------------------------------------------------------------------------------------


def decoding(files: list[Path], ceilings: dict[str, float], spend: float) -> Rate:
    """JPEG files of 256 x 128 to uint8 arrays as the loader does it, in one process."""
    seconds = median_seconds(lambda: [read_image(file, *SIZE) for file in files], spend)
    bound = "libjpeg alone, from memory"
    return Rate("decoding", len(files) / seconds, "images/s a core", ceilings["libjpeg"], bound, seconds)


def labelling(run: Engine, clips: torch.Tensor, ceilings: dict[str, float], spend: float) -> Rate:
    """The ARM's logits of single frames; ResNet-50, as the paper's."""
    images = clips.flatten(0, 1)[:IMAGES_A_STEP]
    seconds = median_seconds(lambda: run(images), spend)
    work = flop(ARM(50, GROUP_SIZES), images[:1])
    return _against_convolution("labelling", len(images), "images/s", seconds, work, ceilings)


def extraction(run: Engine, clips: torch.Tensor, ceilings: dict[str, float], spend: float) -> Rate:
    """f_s of clips by the main model with both branches."""
    batch = clips.repeat(CLIPS_A_STEP // len(clips), 1, 1, 1, 1)
    seconds = median_seconds(lambda: run(batch), spend)
    work = flop(build_main_model(describe(TrainAmemOptions(), paper.PEOPLE)), clips[:1])
    return _against_convolution("extraction", len(batch), "clips/s", seconds, work, ceilings)


def training(
    preset: str, clips: torch.Tensor, device: torch.device, precision: str, ceilings: dict[str, float], spend: float
) -> Rate:
    """Steps of train-amem with both modules at a preset's size: losses, gradients, both optimisers.

    The paper's batch of 32 clips is taken in parts of 8; its rate is that of the clips.
    """
    options = resolve(TrainAmemOptions, {}, preset=preset)
    people = MICRO_BATCH // options.clips_per_person if preset == "paper" else options.people_per_batch
    step, count = training_step(options, people, clips, device, precision)
    with FlopCounterMode(display=False) as counter:
        step()
    seconds = median_seconds(step, spend, device)
    part = f"training {options.image_size}"
    return _against_convolution(part, count, "clips/s", seconds, counter.get_total_flops() / count, ceilings)


def training_step(
    options: TrainAmemOptions, people: int, clips: torch.Tensor, device: torch.device, precision: str
) -> tuple[Callable[[], None], int]:
    """One step of train-amem as a function, on a fixed batch of `people` x K clips, and its number of clips."""
    count = people * options.clips_per_person
    described = describe(options, paper.PEOPLE)
    model, discriminator = build_amem(described, None, options)
    model.to(device).train()
    discriminator.to(device).train()
    optimizer = torch.optim.Adam(parameter_groups(model, options), lr=options.learning_rate, fused=True)
    critic = torch.optim.Adam(discriminator.parameters(), lr=options.discriminator_learning_rate, fused=True)
    pixels = as_pixels(clips[torch.arange(count) % len(clips)], device)
    frames = F.interpolate(pixels.transpose(1, 2).flatten(0, 1), options.height_width).unflatten(0, pixels.shape[:3:2])
    batch = Batch(
        clip=frames.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d),
        identity=torch.arange(count, device=device) // options.clips_per_person,
        attributes=torch.randint(2, (count, sum(GROUP_SIZES)), device=device).float(),
        start=torch.ones(count, dtype=torch.int64, device=device),
    )

    def step() -> None:
        for each in (optimizer, critic):
            each.zero_grad(set_to_none=True)
        add_gradients(model, discriminator, batch, options, precision)
        optimizer.step()
        critic.step()

    return step, count


def evaluation(ceilings: dict[str, float], spend: float) -> Rate:
    """CMC and mAP at MARS's size on random features; its ceiling is the product of the two matrices alone."""
    counts = load_manifest("mars").counts
    queries, gallery = counts["query_tracklets"], counts["gallery_tracklets"]
    generator = np.random.default_rng(0)
    features = [generator.standard_normal((n, SIMILARITY_FEATURE), dtype=np.float32) for n in (queries, gallery)]
    ids = [generator.integers(1, counts["test_people"], n) for n in (queries, gallery)]
    cameras = [generator.integers(1, 7, n) for n in (queries, gallery)]
    seconds = median_seconds(lambda: evaluate_ranking(*features, *ids, *cameras), spend)
    left, right = (torch.from_numpy(part) for part in features)
    product = median_seconds(lambda: left @ right.T, spend / 2)
    return Rate("evaluation", queries / seconds, "queries/s", queries / product, "the matrix product alone", seconds)


def seconds_of_mars(rates: dict[str, float], counts: dict[str, int], device: str) -> dict[str, float]:
    """Seconds of each stage on MARS by the rates of the parts: labelling of the training tracklets, features of the
    test tracklets, the paper's epochs of training (where it was timed), evaluation.

    On a CPU decoding and computing take turns, on CUDA the slower one decides. A tracklet's last clip is half full on
    the average. A training step takes P x K clips of 8 frames, an epoch every tracklet once.
    """
    options = TrainAmemOptions()
    clips = counts["test_images"] / CLIP_FRAMES + counts["test_tracklets"] * (CLIP_FRAMES - 1) / (2 * CLIP_FRAMES)
    trained = options.epochs * counts["train_tracklets"]
    both = max if device == "cuda" else sum
    found = {
        "label-videos": both((counts["train_images"] / rates["labelling"], counts["train_images"] / rates["decoding"])),
        "extract-features": both((clips / rates["extraction"], counts["test_images"] / rates["decoding"])),
        "evaluate": counts["query_tracklets"] / rates["evaluation"],
    }
    if (name := f"training {options.image_size}") in rates:
        found["train-amem"] = both((trained / rates[name], trained * CLIP_FRAMES / rates["decoding"]))
    return found


# -- ceilings ----------------------------------------------------------------------------------------------------------


def measure_ceilings(device: torch.device, precision: str, files: list[Path], spend: float) -> dict[str, float]:
    """The best of the machine: `convolution` FLOP/s, `copy` bytes/s (read and written), `libjpeg` images/s."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    images, channels, height, width = CONVOLUTION
    images *= 32 if device.type == "cuda" else 1
    x = torch.randn(images, channels, height, width, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=device, dtype=dtype)
    conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    work = 2 * 9 * channels * x.numel()
    with torch.inference_mode():
        convolution = work / median_seconds(lambda: conv(x), spend / 2, device)
    source = torch.ones(COPIED, device=device)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / median_seconds(lambda: target.copy_(source), spend / 4, device)
    contents = [file.read_bytes() for file in files]
    libjpeg = len(files) / median_seconds(lambda: [Image.open(io.BytesIO(c)).load() for c in contents], spend / 2)
    return {"convolution": convolution, "copy": copy, "libjpeg": libjpeg}


def flop(network: nn.Module, images: torch.Tensor) -> float:
    """FLOP of one item, uint8 (1, [T,] H, W, 3), by `network`, whose weights are lost. A multiplication and its
    addition are two."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        network.to("meta").eval()(as_pixels(images, torch.device("meta")))
    return counter.get_total_flops()


def _against_convolution(
    part: str, count: int, unit: str, seconds: float, flop_each: float, ceilings: dict[str, float]
) -> Rate:
    ceiling = ceilings["convolution"] / flop_each
    return Rate(part, count / seconds, unit, ceiling, "a large convolution", seconds)


def median_seconds(run: Callable[[], Any], spend: float, device: torch.device | None = None) -> float:
    """The median of at least three runs, and of as many as take `spend` seconds, after one that warms up."""

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


# -- inputs and machine ------------------------------------------------------------------------------------------------


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The device and its processor by name, cores, threads, versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": device.type,
        "name": name,
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """The processor's name as Linux tells it, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
