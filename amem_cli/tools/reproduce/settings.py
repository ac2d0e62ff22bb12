"""What `amem reproduce` takes on top of a table's rows: `--set` and `--weights`. Needs no torch."""

import dataclasses
import re
import typing
from typing import Any, Literal

from amem_cli.errors import UsageError, did_you_mean
from amem_cli.options import COMMANDS

PAPERS_BACKBONES = ("r3d", "p3d", "i3d")  # in Table 4's order
IMAGENET = ("arm", "tae")  # what starts from weights of images

COMMON = ("device", "precision", "workers", "image_size", "resume", "force")
PLACES = {"data_root", "workspace"}
RESERVED = {  # what the plan itself decides
    "train-arm": PLACES,
    "label-videos": PLACES | {"dataset", "arm", "image_size"},  # frames have the ARM's size
    "train-tae": PLACES,
    "train-amem": PLACES
    | {"dataset", "split", "seed", "modules", "predict_frames", "backbone", "weights", "labels", "tae"},
    "extract-features": PLACES | {"dataset", "split", "model", "image_size"},
    "evaluate": PLACES | {"dataset", "protocol", "features", "precision", "image_size", "workers"},  # no networks
}


def parse_settings(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """`--set NAME=VALUE` and `--set COMMAND.NAME=VALUE` as values of the right types, by command.

    Without a command it is train-amem's; the options of `COMMON` are for every command that has them. Raises
    `UsageError` for what does not exist, is of another type, or is the table's own to decide.

    >>> parse_settings(("epochs=5", "train-tae.epochs=8"))
    {'train-amem': {'epochs': 5}, 'train-tae': {'epochs': 8}}
    """
    settings: dict[str, dict[str, Any]] = {}
    names = [text.partition("=")[0].replace("_", "-") for text in texts]
    for text, given in zip(texts, names, strict=True):
        if names.count(given) > 1:
            raise UsageError("--set", text, why=f"{given} is given twice")
        match = re.fullmatch(r"(?:([a-z-]+)\.)?([A-Za-z_-]+)=(.*)", text)
        if not match:
            remedy = "For example --set epochs=30, or --set train-tae.epochs=8"
            raise UsageError("--set", text, why="must be NAME=VALUE or COMMAND.NAME=VALUE", remedy=remedy)
        command, name, value = match[1], match[2].replace("-", "_"), match[3]
        if command and command not in COMMANDS:
            remedy = f"{did_you_mean(command, COMMANDS)}Commands are {', '.join(COMMANDS)}"
            raise UsageError("--set", text, why=f"there is no command {command}", remedy=remedy)
        commands = [command or "train-amem"]
        if not command and name in COMMON:
            commands = [c for c, cls in COMMANDS.items() if name in _names(cls) and name not in RESERVED[c]]
        for each in commands:
            settings.setdefault(each, {})[name] = _value(text, each, name, value)
    return settings


def _names(cls: type) -> list[str]:
    return [entry.name for entry in dataclasses.fields(cls)]


def _value(text: str, command: str, name: str, value: str) -> Any:
    """The text of a value as the option's type."""
    if name in RESERVED[command]:
        remedy = "Use --weights NAME=FILE" if name == "weights" else "Use the command's own flags, or another table"
        raise UsageError("--set", text, why=f"the table itself decides {name.replace('_', '-')}", remedy=remedy)
    kinds = typing.get_type_hints(COMMANDS[command])
    if name not in kinds:
        remedy = f"{did_you_mean(name, kinds)}`amem {command} --help` lists them".replace("_", "-")
        raise UsageError("--set", text, why=f"{command} has no option {name.replace('_', '-')}", remedy=remedy)
    kind = kinds[name]
    if typing.get_origin(kind) is Literal:
        if value in typing.get_args(kind):
            return value
        why = f"{value!r} is none of {', '.join(typing.get_args(kind))}"
    elif kind is bool:
        if value in ("true", "false"):
            return value == "true"
        why = f"{value!r} is neither true nor false"
    else:
        try:
            return kind(value)
        except ValueError:
            why = f"{value!r} is not of type {kind.__name__}"
    raise UsageError("--set", text, why=why)


def parse_weights(texts: tuple[str, ...]) -> dict[str, str]:
    """`--weights NAME=FILE` by name: a backbone of the paper (i3d, r3d, p3d), arm or tae; those two also `imagenet`."""
    files: dict[str, str] = {}
    for text in texts:
        name, _, file = text.partition("=")
        if name not in (*PAPERS_BACKBONES, *IMAGENET) or not file:
            remedy = "For example --weights i3d=rgb_imagenet.pt --weights arm=imagenet"
            why = f"must be NAME=FILE with one of {', '.join((*PAPERS_BACKBONES, *IMAGENET))}"
            raise UsageError("--weights", text, why=why, remedy=remedy)
        if file == "kinetics" or (file == "imagenet" and name not in IMAGENET):
            raise UsageError(
                "--weights", text, why=f"torchvision keeps no {file} weights of {name}", remedy="Give a file"
            )
        if name in files:
            raise UsageError("--weights", text, why=f"{name} is given twice")
        files[name] = file
    return files
