"""The values that options may have, with errors that name the flag. Imports nothing heavy."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

from amem_cli.errors import UsageError
from amem_cli.processes import has_loader_processes

LARGEST_SIDE = 2048  # pixels
LONGEST_CLIP = 1000  # frames
MOST_PARTS = LARGEST_SIDE // 16  # rows of the maps
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {  # what a value must be: its test, the names of the options
    "must be positive": (
        lambda value: value > 0,
        "epochs accumulate learning_rate lr_step lr_factor log_steps validate_epochs discriminator_learning_rate "
        "fc_lr_factor mem_lr_factor decoder_lr_factor batch_size",
    ),
    "must not be negative": (
        lambda value: value >= 0,
        "weight_decay warmup_steps save_seconds adversarial_weight frames clips backbone_lr_factor margin lambda_a "
        "lambda_m texture_weight gradient_steps bootstrap",
    ),
    "must be -1 or more": (lambda value: value >= -1, "workers"),
    "must be at least 1": (lambda value: value >= 1, "predict_stride"),
    "must be at least 2": (lambda value: value >= 2, "people_per_batch clips_per_person"),
    f"must be from 4 to {LONGEST_CLIP}": (lambda value: 4 <= value <= LONGEST_CLIP, "clip_frames"),
    "must be below 1": (lambda value: value < 1, "learning_rate"),
    "must be between 0 and 1": (lambda value: 0 < value < 1, "hold_out threshold"),
    "must be from 0 to 1": (lambda value: 0 <= value <= 1, "flip crop erase jitter freeze_bn"),
    "must be from 0 to below 1": (
        lambda value: 0 <= value < 1,
        "validate label_smoothing average_weights average_initial calibrate",
    ),
}


def flag_of(name: str) -> str:
    """The command line flag of an option: image_size -> --image-size."""
    return f"--{name.replace('_', '-')}"


def check_values(options: Any) -> None:
    """Raise `UsageError` for a value that its option cannot have: number, device, split, image size."""
    for why, (holds, names) in RANGES.items():
        for name in names.split():
            if hasattr(options, name) and not holds(getattr(options, name)):
                raise UsageError(flag_of(name), str(getattr(options, name)), why=why)
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(flag_of(field.name), str(value), why="must be a finite number")
    check_device(options.device)
    if getattr(options, "workers", 0) > 0 and not has_loader_processes():
        why = "Windows has no fork server, which starts them"
        raise UsageError("--workers", str(options.workers), why=why, remedy="Use --workers 0, or Linux (WSL)")
    check_parts(getattr(options, "parts", 1))
    if not re.fullmatch(r"|all|\d{1,3}", split := getattr(options, "split", "")):
        raise UsageError("--split", split, why="not a split", remedy="Use a number such as 0, or all")
    if size := getattr(options, "image_size", ""):
        parse_image_size(size)


def check_device(device: str) -> None:
    """Raise `UsageError` unless `device` is auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        why = "GPUs of Apple are not supported" if device == "mps" else "not supported"
        raise UsageError("--device", device, why=why, remedy="Use auto, cpu, cuda or cuda:N")


def check_parts(parts: int) -> None:
    """Raise `UsageError` for a number of horizontal parts that no maps have."""
    if not 1 <= parts <= MOST_PARTS:
        raise UsageError("--parts", str(parts), why=f"must be from 1 to {MOST_PARTS}")


def parse_image_size(text: str) -> tuple[int, int]:
    """ "256x128" -> (256, 128), height and width, multiples of 16 from 32 to 2048; `UsageError` for others."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(32 <= side <= LARGEST_SIDE and side % 16 == 0 for side in size):
        why = f"must be HEIGHTxWIDTH in pixels, both multiples of 16 from 32 to {LARGEST_SIDE}"
        raise UsageError("--image-size", text, why=why, remedy="For example --image-size 256x128")
    return size


def parse_duration(text: str) -> float | None:
    """ "3h50m" -> seconds; None for an empty text. Raises `UsageError`."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not match:
        raise UsageError("--time-limit", text, why="not a duration", remedy="For example 3h50m or 45m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600.0 + minutes * 60 + seconds if text else None
