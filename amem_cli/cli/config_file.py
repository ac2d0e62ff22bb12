"""The file that `amem config show` prints and `--config` takes back."""

import dataclasses
import json
import textwrap
import typing
from pathlib import Path
from typing import Any, Literal

from amem_cli import __version__
from amem_cli.errors import UsageError
from amem_cli.options import COMMANDS, resolve

WIDTH = 100


def config_text(commands: list[str], preset: str) -> str:
    """A TOML document with a table for each of `commands`: every option with its help, at its value under `preset`.

    Read back by `--config` it gives the same options as the preset, in the environment where it was printed.
    Raises `UsageError` for an unknown preset.
    """
    head = (
        f"amem {__version__}, preset {preset}. Use it with: amem COMMAND --config THIS_FILE. A line left out keeps the "
        "preset's value; the command line wins. (P): the paper's choice; (D): ours, where the paper is silent."
    )
    return "\n".join([*_comment(head), "", *(_table(command, preset) for command in commands)])


def _table(command: str, preset: str) -> str:
    options = resolve(COMMANDS[command], {}, preset=preset)
    kinds = typing.get_type_hints(COMMANDS[command])
    lines = [f"[{command}]"]
    for field in dataclasses.fields(options):
        value, kind = getattr(options, field.name), kinds[field.name]
        notes = [" | ".join(typing.get_args(kind))] if typing.get_origin(kind) is Literal else []
        if value != field.default:
            notes.append(f"default {_toml(field.default)}")
        if field.metadata["env"]:
            notes.append(f"env {field.metadata['env']}")
        lines += _comment(field.metadata["help"] + (f" <{', '.join(notes)}>" if notes else ""))
        lines.append(f"{field.name.replace('_', '-')} = {_toml(value, field.name)}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _toml(value: Any, name: str = "") -> str:
    """A value as TOML, which reads back as the same value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item, name) for item in value)}]"
    text = json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")  # the escapes of JSON are TOML's too
    if any("\ud800" <= character <= "\udfff" for character in text):
        what = f"--{name.replace('_', '-')}"
        raise UsageError(what, ascii(str(value)), why="is not Unicode, which TOML files are", remedy="Use another path")
    assert isinstance(value, str | Path)
    return text
