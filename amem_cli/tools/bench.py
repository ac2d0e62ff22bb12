"""`amem bench`: the speed of each part of the pipeline on this machine, next to a ceiling measured in the same run."""

import io
import platform
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from amem_cli.attributes import GROUP_SIZES
from amem_cli.data.loading import default_workers
from amem_cli.data.manifest import load_manifest
from amem_cli.data.transforms import read_image
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.models.config import model_config
from amem_cli.options import TrainAmemOptions
from amem_cli.runtime.distributed import Processes, process_group
from amem_cli.runtime.engine import as_pixels, engine_version, prepare, resolve_engine, resolve_precision
from amem_cli.runtime.memory import read_text
from amem_cli.runtime.progress import Progress
from amem_cli.stages.train_amem import Batch, build_networks, train_step
from amem_cli.tools import paper
from amem_cli.tools.doctor import available_cores
from amem_cli.walkers.layouts import write_clips

SIZE = (256, 128)  # the paper's
CLIP_FRAMES = 8
WALKERS = 8  # generated people, with one clip each
IMAGES_PER_BATCH, CLIPS_PER_BATCH = 64, 16  # the defaults of label-videos and extract-features
CONVOLUTION = (8, 256, 64, 32)  # images (x 32 on CUDA), channels in and out, height, width
SECONDS, QUICK_SECONDS = 3.0, 0.7  # of repeated runs; the result is their median
MICRO_BATCH = 2  # people of a training step; the paper's 8 need more memory than most machines have


def bench(device: str, precision: str, engine: str, quick: bool, progress: Progress) -> dict[str, Any]:
    """Measure this machine on generated people and random weights: `machine`, `ceilings`, `rates`, and in `mars` the
    time of each stage at these rates. `quick` takes less time, without training. Raises `AmemError`s as
    `resolve_engine`."""
    spend = QUICK_SECONDS if quick else SECONDS
    rates = []
    progress.log(f"bench: {'about a minute' if quick else 'a few minutes'} on two CPU cores, less on a GPU")
    with process_group(device) as processes, tempfile.TemporaryDirectory(prefix="amem-bench-") as folder:
        where = processes.device
        precision = resolve_precision(precision, where)
        torch.manual_seed(0)
        with progress.loop("bench", 4 if quick else 5, unit="parts") as bar:
            files = write_clips(Path(folder), people=WALKERS, frames=CLIP_FRAMES, height=SIZE[0], width=SIZE[1])
            images = torch.from_numpy(np.stack([read_image(file, *SIZE) for file in files]))
            clips = images.view(WALKERS, CLIP_FRAMES, *SIZE, 3).repeat(CLIPS_PER_BATCH // WALKERS, 1, 1, 1, 1)
            ceilings = measure_ceilings(where, precision, files, spend)
            bar.advance()
            seconds = median_seconds(lambda: [read_image(file, *SIZE) for file in files], spend)
            rates.append(rate("decoding", len(files), "images/s a core", seconds, ceilings["libjpeg"]))
            bar.advance()
            main = build_main_model(model_config(TrainAmemOptions(), paper.PEOPLE))
            engines = {}
            for part, unit, network, batch in (
                ("labelling", "images/s", ARM("resnet50", GROUP_SIZES), images[:IMAGES_PER_BATCH]),
                ("extraction", "clips/s", main, clips),
            ):
                name = resolve_engine(engine, where, precision, clips=part == "extraction")
                run, engines[part] = prepare(network, where, precision, name), engine_version(name)
                seconds = median_seconds(partial(run, batch), spend)
                rates.append(rate(part, len(batch), unit, seconds, ceilings["convolution"] / flop(network, batch[:1])))
                bar.advance()
            if not quick:
                step, count = training_step(processes, precision, clips)
                with FlopCounterMode(display=False) as counter:
                    step()
                ceiling = ceilings["convolution"] * count / counter.get_total_flops()
                rates.append(rate("training", count, "clips/s", median_seconds(step, spend), ceiling))
                bar.advance()
    return {
        "machine": describe_machine(where, precision) | {"engine": engines},
        "ceilings": ceilings,
        "rates": rates,
        "mars": seconds_of_mars({one["part"]: one["value"] for one in rates}, load_manifest("mars").counts, where.type),
    }


def rate(part: str, items: int, unit: str, seconds: float, ceiling: float) -> dict[str, Any]:
    """The speed of one part: `value` and `ceiling` in `unit`, the `fraction` of it, the `seconds` of one batch."""
    value = items / seconds
    return {
        "part": part, "value": value, "unit": unit, "ceiling": ceiling, "fraction": value / ceiling, "seconds": seconds,
    }  # fmt: skip


def training_step(processes: Processes, precision: str, clips: Tensor) -> tuple[Callable[[], Any], int]:
    """A function that runs one step of train-amem with the paper's options on a few people, and its number of clips."""
    options, device = TrainAmemOptions(), processes.device
    networks = build_networks(model_config(options, paper.PEOPLE), options, processes)
    for network in filter(None, (networks.amem, networks.discriminator)):
        network.train()
    count = MICRO_BATCH * options.clips_per_person
    batch = Batch(
        clip=as_pixels(clips[:count], device).contiguous(memory_format=torch.channels_last_3d),
        identity=torch.arange(count, device=device) // options.clips_per_person,
        attributes=torch.randint(2, (count, sum(GROUP_SIZES)), device=device).float(),
        start=torch.ones(count, dtype=torch.int64, device=device),
    )
    return lambda: train_step(networks, [batch], options, precision), count


def seconds_of_mars(rates: dict[str, float], counts: dict[str, int], device: str) -> dict[str, float]:
    """Seconds of each stage on MARS at these rates: labels of the training tracklets, features of the test tracklets,
    training with the paper's options (if it was measured).

    Decoding and computing alternate on a CPU. On CUDA several processes decode meanwhile. The last clip of a tracklet
    is half full on average.
    """
    decoding = rates["decoding"] * max(1, default_workers(device))
    clips = counts["test_images"] / CLIP_FRAMES + counts["test_tracklets"] * (CLIP_FRAMES - 1) / (2 * CLIP_FRAMES)
    trained = TrainAmemOptions.epochs * counts["train_tracklets"]
    both = max if device == "cuda" else sum
    seconds = {
        "label-videos": both([counts["train_images"] / rates["labelling"], counts["train_images"] / decoding]),
        "extract-features": both([clips / rates["extraction"], counts["test_images"] / decoding]),
    }
    if "training" in rates:
        seconds["train-amem"] = both([trained / rates["training"], trained * CLIP_FRAMES / decoding])
    return seconds


def measure_ceilings(device: torch.device, precision: str, files: list[Path], spend: float) -> dict[str, float]:
    """Limits of the machine: `convolution` in FLOP/s, `libjpeg` alone, from memory, in images/s."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    images, channels, height, width = CONVOLUTION
    images *= 32 if device.type == "cuda" else 1
    x = torch.randn(images, channels, height, width, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds = median_seconds(lambda: F.conv2d(x, weight, padding=1), spend / 2)
    contents = [file.read_bytes() for file in files]
    libjpeg = len(files) / median_seconds(lambda: [Image.open(io.BytesIO(c)).load() for c in contents], spend / 2)
    return {"convolution": 2 * 9 * channels * x.numel() / seconds, "libjpeg": libjpeg}


def flop(network: nn.Module, images: Tensor) -> float:
    """FLOP of one uint8 item (1, [T,] H, W, 3); a multiplication and its addition are two. Discards the weights."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.to("meta").eval()(as_pixels(images, torch.device("meta")))
    return counter.get_total_flops()


def median_seconds(run: Callable[[], Any], spend: float) -> float:
    """The median of runs that are repeated for `spend` seconds after a warm-up."""
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=spend).median


def describe_machine(device: torch.device, precision: str) -> dict[str, Any]:
    """Name of the device, cores, threads, versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": device.type, "name": name, "cores": available_cores(), "threads": torch.get_num_threads(),
        "python": platform.python_version(), "torch": torch.__version__, "precision": precision,
    }  # fmt: skip


def processor() -> str:
    """The name of the processor and the vector instructions that torch uses: one name can have several speeds."""
    names = re.findall(r"^model name\s*: (.*)$", read_text(Path("/proc/cpuinfo")), re.MULTILINE)  # Linux on x86
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
