"""Remedies in errors as the user's own command line, changed where it must be."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amem_cli.errors import AmemError
from amem_cli.options import COMMANDS, COMMON, PRESETS, flag_of
from amem_cli.processes import local_world_size, world_size
from amem_cli.resolve import folder_flags, resolve

CONTINUING = {"demo", "find", "reproduce", "tracklets", *COMMANDS} - {"evaluate"}


def command_line(arguments: list[str]) -> str:
    """The command that runs with these arguments; under torchrun with torchrun."""
    start = ["amem"]
    if world_size() > 1:
        start = ["torchrun", "--nproc-per-node", str(local_world_size()), "-m", "amem_cli"]
    return shlex.join([*start, *arguments])


def continuing(arguments: list[str], *, saved: bool) -> list[str]:
    """The arguments that continue a command: without `--resume never`, which would discard its work, and, if its state
    is `saved`, without the earlier one of `--resume PATH`.

    >>> continuing(["train-arm", "--resume", "never", "--epochs", "5"], saved=False)
    ['train-arm', '--epochs', '5']
    """
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--resume=") else [word])]
    place = words.index("--resume") if "--resume" in words else len(words)
    return arguments if words[place + 1 : place + 2] != ["never"] and not saved else words[:place] + words[place + 2 :]


def for_command(remedy: str, parameters: Mapping[str, str], images: Any = None) -> str:
    """The remedy for a command with these `parameters`, name -> as it is typed, and the data set of `images`.

    >>> for_command("Use another --workspace, the same options, or --force to overwrite it", {"folder": "FOLDER"})
    'Use another FOLDER, the same options, or delete it'
    """
    remedy = _with_data_set(remedy, images)
    place = next((parameters[one] for one in ("out", "folder", "workspace") if one in parameters), "folder")
    remedy = remedy.replace("(--workspace, --out)", f"({place})").replace("another --workspace", f"another {place}")
    if "on_bad_image" not in parameters:
        remedy = remedy.replace(", or use --on-bad-image skip", "")
    if "force" not in parameters:
        remedy = remedy.replace("Use --force to make it again", "Delete it").replace("--force to overwrite", "delete")
    return remedy


def for_stage(remedy: str, options: Any, preset: str, config: Path | None) -> str:
    """The remedy of a stage that ran with these options: another stage's command gets those that both have."""
    remedy = _with_data_set(remedy, options)
    match = re.match(r"Run: amem (\S+)", remedy)
    if not match or match[1] not in COMMANDS:
        return remedy
    cls, given = COMMANDS[match[1]], remedy.split()
    typed = preset and (config or preset != PRESETS[0])  # a preset of the file is in the file
    # also for a stage without values of presets: it may name one that has some
    words = ["--preset", preset] if typed and "--preset" not in given else []
    words += ["--config", str(config)] if config else []
    try:
        without = resolve(cls, {}, preset=preset, config=config)
    except AmemError:  # the file's table for that stage: its own run reports it
        return remedy
    shared = [name for name in COMMON if hasattr(options, name) and hasattr(without, name) and name != "resume"]
    values = {name: getattr(options, name) for name in shared if flag_of(name) not in given}
    for name, value in values.items():
        words += [] if value in (getattr(without, name), "") else [flag_of(name), str(value)]
    return " ".join([remedy, *map(shlex.quote, words)])


def _with_data_set(remedy: str, images: Any) -> str:
    """The remedy with the data set and folder in place of NAME; without that command for images of no data set."""
    if not getattr(images, "dataset", "") or not hasattr(images, "data_root"):
        return remedy.partition("; amem data check NAME")[0]
    name = f"{shlex.quote(images.dataset)} --deep{folder_flags(data_root=images.data_root)}"
    return remedy.replace("NAME --deep", name)
