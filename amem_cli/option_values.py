"""Checks of single values of options, with errors that name the flag. Imports nothing heavy."""

import re

from amem_cli.errors import UsageError

LARGEST_SIDE = 2048  # pixels


def flag_of(name: str) -> str:
    """The command line flag of an option: image_size -> --image-size."""
    return f"--{name.replace('_', '-')}"


def check_device(device: str) -> None:
    """Raise `UsageError` unless `device` is auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        why = "GPUs of Apple are not supported" if device == "mps" else "not supported"
        raise UsageError("--device", device, why=why, remedy="Use auto, cpu, cuda or cuda:N")


def check_resume(resume: str) -> None:
    """Raise `UsageError` if `--resume` names a state file for a command that has none."""
    if resume not in ("auto", "never"):
        raise UsageError("--resume", resume, why="this command has no state files", remedy="Use auto or never")


def check_split(split: str) -> None:
    """Raise `UsageError` unless `split` is empty, a number or "all"."""
    if not re.fullmatch(r"|all|\d{1,3}", split):
        raise UsageError("--split", split, why="not a split", remedy="Use a number such as 0, or all")


def parse_image_size(text: str) -> tuple[int, int]:
    """ "256x128" -> (256, 128), height and width in pixels; both are multiples of 16 from 32 to 2048.

    Raises `UsageError`.
    """
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
