"""From an options dataclass to a command: names, defaults, choices and help of flags come from its fields alone."""

import dataclasses
import inspect
import os
import shlex
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from amem_cli.cli import completion, console
from amem_cli.cli.root import app
from amem_cli.errors import AmemError, BadData, InputMissing
from amem_cli.options import COMMANDS, PRESETS, AdversarialOptions, StageOptions, TrainingOptions, resolve
from amem_cli.runtime.progress import Progress

# What several commands take, stage or not, reads the same in all of them.
HELP = {field.name: field.metadata["help"] for field in dataclasses.fields(StageOptions)}
HELP |= {
    "preset": "the paper's numbers, or small ones for a CPU",
    "json": "one JSON document on standard output",
    "quiet": "warnings and errors only",
    "split": "split of a data set that has several; 0 when left out",
}
Dataset = Annotated[str, typer.Option(help=HELP["dataset"], autocompletion=completion.datasets)]
Split = Annotated[int | None, typer.Option(help=HELP["split"], autocompletion=completion.split_numbers)]
DataRoot = Annotated[Path, typer.Option(help=HELP["data_root"], envvar="AMEM_DATA")]
Workspace = Annotated[Path, typer.Option(help=HELP["workspace"], envvar="AMEM_WORKSPACE")]
Preset = Annotated[typing.Literal[PRESETS], typer.Option(help=HELP["preset"])]
AsJson = Annotated[bool, typer.Option("--json", help=HELP["json"])]
Quiet = Annotated[bool, typer.Option("--quiet", help=HELP["quiet"])]

EVERY = "Every stage"
SECTIONS = {
    StageOptions: EVERY,
    TrainingOptions: "Every training",
    AdversarialOptions: "Adversarial terms",
}


def stage_command(
    name: str, examples: str, *more: inspect.Parameter
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a Typer command whose flags are the fields of the stage's options dataclass.

    The decorated function gets (options, progress, as_json) and what `more` declares; names, defaults, choices and help
    come from the dataclass.
    """
    cls = COMMANDS[name]
    kinds = typing.get_type_hints(cls)
    fields = sorted(dataclasses.fields(cls), key=lambda field: cls.__mro__.index(_owner(cls, field.name)))
    parameters = [_parameter(field, kinds[field.name], _owner(cls, field.name)) for field in fields]
    parameters += [
        flag("config", Path | None, "TOML file as `amem config show` prints; flags win", section=EVERY),
        flag("preset", typing.Literal[PRESETS], HELP["preset"], PRESETS[0], section=EVERY),
        flag("json", bool, HELP["json"], False, "--json", section=EVERY),
        flag("quiet", bool, HELP["quiet"], False, "--quiet", section=EVERY),
        flag("dry_run", bool, "print the resolved options and stop", False, "--dry-run", section=EVERY),
        *more,
    ]
    own = {parameter.name for parameter in more}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(config: Path | None, preset: str, json: bool, quiet: bool, dry_run: bool, **flags: Any) -> None:
            others = {key: value for key, value in flags.items() if key in own}
            flags = {key: value if value != [] else None for key, value in flags.items() if key not in own}
            options = resolve(cls, flags, preset=preset, config=config)
            _check_names(options)
            if dry_run:
                console.print_options(name, options, json)
                return
            try:
                function(options, Progress(quiet), json, **others)
            except (InputMissing, BadData) as error:
                raise _in_the_same_places(error, options) from error

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__doc__ = f"{inspect.getdoc(function)}\n\nExamples:\n\n{examples}"
        app.command(name)(command)
        return function

    return decorate


def _in_the_same_places(error: AmemError, options: Any) -> AmemError:
    """The error, the command in its remedy completed by the folders of this run, so that it can be pasted."""
    if not error.remedy.startswith("Run: amem "):
        return error
    given = {"workspace": options.workspace, "data-root": options.data_root}
    if given["workspace"] == Path("workspace") or os.environ.get("AMEM_WORKSPACE"):
        del given["workspace"]
    if given["data-root"] == Path("data") or os.environ.get("AMEM_DATA"):
        del given["data-root"]
    places = "".join(f" --{name} {shlex.quote(str(folder))}" for name, folder in given.items())
    kind = InputMissing if isinstance(error, InputMissing) else BadData
    return kind(error.what, error.path, why=error.why, remedy=error.remedy + places)


def _check_names(options: Any) -> None:
    """Raise `UsageError` for a mistyped data set or protocol at once, before torch and the inputs are loaded."""
    from amem_cli.data.manifest import load_manifest, manifest_of_protocol

    if hasattr(options, "protocol"):
        manifest_of_protocol(options.protocol)
    else:
        load_manifest(options.dataset)


def _owner(cls: type, name: str) -> type:
    """The class that brought the option, whatever default the stage gives it."""
    return next(base for base in reversed(cls.__mro__) if name in getattr(base, "__dataclass_fields__", {}))


def _parameter(field: dataclasses.Field, kind: Any, owner: type) -> inspect.Parameter:
    default = ", ".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
    notes = [f"default {default}"] if default and kind is not bool else []
    if field.metadata["small"] != field.default:
        notes.append(f"small {field.metadata['small']}")
    if field.metadata["env"]:
        notes.append(f"env {field.metadata['env']}")
    help_text = field.metadata["help"] + (f" <{', '.join(notes)}>" if notes else "")
    extra: dict[str, Any] = {"help": help_text, "show_default": False, "rich_help_panel": SECTIONS.get(owner)}
    if field.name in completion.OF_OPTION:
        extra["autocompletion"] = completion.OF_OPTION[field.name]
    if kind is bool:
        return annotated(field.name, bool | None, typer.Option(f"--{_dashed(field.name)}", **extra), None)
    if typing.get_origin(kind) is tuple:
        return annotated(field.name, list[Path] | None, typer.Option(f"--{_dashed(field.name)}", **extra), None)
    return annotated(field.name, kind | None, typer.Option(f"--{_dashed(field.name)}", **extra), None)


def flag(
    name: str, kind: Any, help: str, default: Any = None, *declarations: str, section: str | None = None
) -> inspect.Parameter:
    option = typer.Option(*(declarations or (f"--{_dashed(name)}",)), help=help, rich_help_panel=section)
    return annotated(name, kind, option, default)


def annotated(name: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    annotation = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _dashed(name: str) -> str:
    return name.replace("_", "-")
