"""The values of `amem reproduce --set` and `--weights`. Needs no torch."""

import dataclasses
import re
from typing import Any

from amem_cli.errors import UsageError, require_known
from amem_cli.options import COMMANDS
from amem_cli.resolve import convert
from amem_cli.tools.reproduce.tables import PAPER_BACKBONES

IMAGE_NETWORKS = ("arm", "tae")  # start from weights trained on images, the backbones from weights trained on videos
COMMON = ("device", "precision", "workers", "image_size", "resume", "force")  # for every command that has them


def parse_settings(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """`--set NAME=VALUE` and `--set COMMAND.NAME=VALUE` as options of each command; raises `UsageError`.

    Without a command they apply to train-amem, or to every command if they are in `COMMON`.

    >>> parse_settings(("epochs=5", "train-tae.epochs=8"))
    {'train-amem': {'epochs': 5}, 'train-tae': {'epochs': 8}}
    """
    settings: dict[str, dict[str, Any]] = {}
    options = {command: [field.name for field in dataclasses.fields(cls)] for command, cls in COMMANDS.items()}
    given: set[str] = set()
    for text in texts:
        match = re.fullmatch(r"((?:([a-z-]+)\.)?([A-Za-z_-]+))=(.*)", text)
        if not match:
            remedy = "For example --set epochs=30, or --set train-tae.epochs=8"
            raise UsageError("--set", text, why="must be NAME=VALUE or COMMAND.NAME=VALUE", remedy=remedy)
        target, command, name, value = match[1].replace("_", "-"), match[2], match[3].replace("-", "_"), match[4]
        if target in given:
            raise UsageError("--set", text, why=f"{target} is given twice")
        given.add(target)
        require_known("command", [command] if command else [], COMMANDS)
        commands = [command or "train-amem"]
        if not command and name in COMMON:  # features are extracted at the size that the model was trained at
            own = ("extract-features",) if name == "image_size" else ()
            commands = [each for each in COMMANDS if name in options[each] and each not in own]
        for each in commands:
            require_known(f"option of {each}", [name], options[each])
            settings.setdefault(each, {})[name] = convert(COMMANDS[each], name, value, f"--set {text}", strict=False)
    return settings


def parse_weights(texts: tuple[str, ...]) -> dict[str, str]:
    """`--weights NAME=FILE` by name: i3d, r3d, p3d, arm or tae; `imagenet` for the last two. Raises `UsageError`."""
    files: dict[str, str] = {}
    names = (*PAPER_BACKBONES, *IMAGE_NETWORKS)
    for text in texts:
        name, _, file = text.partition("=")
        if name not in names or not file:
            raise UsageError("--weights", text, why=f"must be NAME=FILE with one of {', '.join(names)}")
        if file == "kinetics" or (file == "imagenet" and name not in IMAGE_NETWORKS):
            raise UsageError("--weights", text, why=f"torchvision has no {file} weights of {name}", remedy="Use a file")
        if name in files:
            raise UsageError("--weights", text, why=f"{name} is given twice")
        files[name] = file
    return files
