"""The TOML file that `amem config show` prints and `--config` reads."""

import dataclasses
import json
import textwrap
import typing

from amem_cli import __version__
from amem_cli.options import COMMANDS, preset_value

HEAD = """amem {version}, preset {preset}. Use: amem COMMAND --config THIS_FILE. A line left out keeps the preset's 
value; flags win. (P): the paper's choice; (D): ours, where the paper gives none."""


def config_text(commands: list[str], preset: str) -> str:
    """A TOML document with one table per command: every option with its help, at its value under `preset`.

    Folders are commented out, since a file overrides the environment variables AMEM_DATA and AMEM_WORKSPACE.
    """
    head = _comment(HEAD.format(version=__version__, preset=preset))
    return "\n".join([*head, "", *(_table(command, preset) for command in commands)])


def _table(command: str, preset: str) -> str:
    cls = COMMANDS[command]
    kinds = typing.get_type_hints(cls)
    lines = [f"[{command}]"]
    for field in dataclasses.fields(cls):
        value = preset_value(field, preset)
        kind = kinds[field.name]
        choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
        lines += _comment(field.metadata["help"] + (f" <{' | '.join(choices)}>" if choices else ""))
        line = f"{field.name.replace('_', '-')} = {_toml(value)}"
        lines.append(f"# {line}" if field.metadata["env"] else line)
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _toml(value: object) -> str:
    # JSON is TOML for these types, except that TOML requires an escaped DEL
    return json.dumps(value, default=str, ensure_ascii=False).replace("\x7f", "\\u007f")
