"""The `amem` command and its groups; `stages`, `tools` and `video` add the commands.

Their flags and the config file are derived from the options dataclasses (names, defaults, choices, help).
"""

import dataclasses
import inspect
import os
import textwrap
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from amem_cli import __version__
from amem_cli.cli import console, remedies
from amem_cli.errors import AmemError, did_you_mean, listing
from amem_cli.options import COMMANDS, COMMON, PRESETS, TrainAmemOptions, flag_of, preset_value
from amem_cli.processes import rank
from amem_cli.resolve import resolve
from amem_cli.runtime.progress import Progress, Silent
from amem_cli.text import toml_value

WITHOUT_EFFECT = {
    "evaluate": "evaluate reads features only",
    "label-videos": "label-videos resizes frames to the size that the ARM was trained at",
}
NO = "no_"  # the start of the name of a hidden flag that turns a switch off
LEGEND = (
    "(P): the paper's choice. (D): our choice where the paper gives none. small, strong: the values of these presets."
)
CONFIG_HEAD = """amem {version}. Use: amem COMMAND --config THIS_FILE. A line left out keeps the preset's value; flags
win. (P): the paper's choice; (D): ours, where the paper gives none."""
ABOUT = """Video-based person re-identification by Appearance and Motion Enhancement (AMEM, AAAI 2020).

Six stages, each writes an artifact that later stages read: train-arm,
label-videos, train-tae, train-amem, extract-features, evaluate.

Every command takes --help, and --debug for the traceback of an error.
"""


def new_app(help: str, *examples: str) -> typer.Typer:
    names = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(help=help, epilog=epilog(*examples), no_args_is_help=True, context_settings=names)


def epilog(*examples: str, note: str = "") -> str:
    """The end of a help text: one example per line, each short enough not to be wrapped at 80 columns."""
    return "\n\n".join(["Examples:", *examples, *([note] if note else [])])


app = new_app(ABOUT, "amem demo", "amem doctor")
data_app = new_app(
    "Check or generate data sets.", "amem data walkers walkers", "amem data check mars --data-root walkers"
)
config_app = new_app(
    "Print the options of the stages as a file.",
    "amem config show > amem.toml",
    "amem config show train-amem --preset small",
)
weights_app = new_app("Inspect weight files.", "amem weights inspect rgb_imagenet.pt")
features_app = new_app("Convert features.", "amem features convert pytorch_result.mat features.h5 --dataset mars")
app.add_typer(data_app, name="data")
app.add_typer(features_app, name="features")
app.add_typer(config_app, name="config")
app.add_typer(weights_app, name="weights")


def _version(value: bool) -> None:
    if value:
        print(f"amem {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    pass


def choice(*known: str, help: str, flag: str | None = None, argument: bool = False, **settings: Any) -> Any:
    """A Typer option (or argument) with the values `known`; the error for another value suggests the nearest one."""

    def check(value: Any) -> Any:
        if value is not None and value not in known:
            meant = did_you_mean(value, known).strip() or "Choose one of these."
            raise typer.BadParameter(f"'{value}' is not one of {', '.join(map(repr, known))}. {meant}")
        return value

    settings |= {"help": f"{' | '.join(known)}; {help}", "callback": check}
    if argument:
        return typer.Argument(**settings)
    return typer.Option(*filter(None, [flag]), metavar="<name>", **settings)


# Options that several commands share.
HELP = {field.name: field.metadata["help"] for field in dataclasses.fields(TrainAmemOptions)}
Dataset = Annotated[str, typer.Option(help=HELP["dataset"])]
Split = Annotated[int | None, typer.Option(help="split of a data set with several; default 0")]
DataRoot = Annotated[Path, typer.Option(help=HELP["data_root"], envvar="AMEM_DATA")]
Workspace = Annotated[Path, typer.Option(help=HELP["workspace"], envvar="AMEM_WORKSPACE")]
Seed = Annotated[int, typer.Option(help=HELP["seed"])]
Config = Annotated[Path | None, typer.Option(help="TOML file as `amem config show` prints it; flags win over it")]
Preset = Annotated[str, choice(*PRESETS, help="the paper; small: ImageNet start, for a CPU; strong: for a GPU")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress, log or summary; results and warnings are printed")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would run, and exit")]


@dataclass(frozen=True)
class Folders:
    """Where data sets and artifacts are."""

    workspace: Workspace = TrainAmemOptions.workspace
    data_root: DataRoot = TrainAmemOptions.data_root


@dataclass(frozen=True)
class Output:
    """What a command prints."""

    as_json: AsJson = False
    quiet: Quiet = False


def command(app: typer.Typer, name: str, *examples: str, note: str = "") -> Callable[[Callable], Callable]:
    """Add the decorated function as a command; a parameter that is a dataclass becomes one flag per field.

    The fields have an `Annotated` type, or are made by `option`; others have no flag. `note` ends the help.
    """

    def decorate(function: Callable) -> Callable:
        declared = inspect.signature(function).parameters.values()
        groups: dict[str, Any] = {p.name: p.annotation for p in declared if dataclasses.is_dataclass(p.annotation)}
        flags_of = {name: _group_flags(group) for name, group in groups.items()}

        def call(**given: Any) -> None:
            try:
                for parameter, group in groups.items():
                    own = {flag.name: given.pop(flag.name) for flag in flags_of[parameter]}
                    own = {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
                    given[parameter] = group(**{name: value for name, value in own.items() if value is not None})
                function(**given)
            except AmemError as error:
                images = next((one for one in given.values() if hasattr(one, "data_root")), None)
                error.remedy = remedies.for_command(error.remedy, typed, images)
                raise

        flags: list[inspect.Parameter] = []
        for one in declared:
            flags += flags_of.get(one.name, [_parameter(one.name, one.annotation, one.default)])
        arguments = [one.name for one in flags if isinstance(one.annotation.__metadata__[0], typer.models.ArgumentInfo)]
        typed = {one.name: one.name.upper() if one.name in arguments else flag_of(one.name) for one in flags}
        call.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
        app.command(name, help=inspect.getdoc(function), epilog=epilog(*examples, note=note))(call)
        return function

    return decorate


def stage_command(name: str, text: str, *examples: str) -> Callable[[Callable], Callable]:
    """Add the decorated function as command `name` with this help `text` and a flag for every option of the stage.

    It gets (options, progress), and as_json if it takes that; further parameters become flags. Its results are printed.
    """
    cls = COMMANDS[name]
    flags = _stage_flags(cls, name)
    options_of_others = [option for option in COMMON if option not in cls.__dataclass_fields__]

    def decorate(function: Callable) -> Callable:
        parameters = inspect.signature(function).parameters
        further = [one for one in parameters.values() if one.name not in ("options", "progress", "as_json")]

        def call(
            config: Config = None,
            preset: Preset = None,  # type: ignore[assignment]
            as_json: AsJson = False,
            quiet: Quiet = False,
            dry_run: DryRun = False,
            **given: Any,
        ) -> None:
            progress = Progress(quiet) if rank() == 0 else Silent()
            others = {one.name: given.pop(one.name) for one in further}
            others |= {"as_json": as_json} if "as_json" in parameters else {}
            _switch_off(given)
            unused = [flag_of(option) for option in options_of_others if given.pop(option) is not None]
            if others.get("files") and not others.get("compare"):  # of evaluate; with --compare they are results
                given["features"] = [*(given["features"] or []), *others["files"]]
            options = resolve(cls, given, preset=preset or "", config=config)
            idle = [flag_of(option) for option, value in given.items() if value not in (None, False)]
            if idle and others.get("compare"):
                progress.warn(f"with --compare, {_no_effect(idle)}")
            _check_names(options, dry_run)
            if unused:
                progress.warn(f"{WITHOUT_EFFECT[name]}, {_no_effect(unused)}")
            if of_last_maps := _flags_of_last_maps(options, given):
                progress.warn(f"with --motion-maps middle, {_no_effect(of_last_maps)} on the motion branch")
            if preset and config and (fixed := fixed_by_file(options, preset, given)):
                progress.warn(f"--preset {preset} has no effect on what {config} sets: {listing(fixed, 5)}")
            for one in dataclasses.fields(options) if config else ():
                place = os.environ.get(one.metadata["env"] or "")
                if place and given[one.name] is None and Path(place) != getattr(options, one.name):
                    progress.warn(f"{one.metadata['env']}={place} has no effect: {config} sets {flag_of(one.name)[2:]}")
            if dry_run:
                return console.print_options(name, options, as_json) if rank() == 0 else None
            try:
                results = function(options, progress, **others)
            except AmemError as error:
                error.remedy = remedies.for_stage(error.remedy, options, preset or "", config)
                raise
            if results is not None and rank() == 0:
                console.print_stages(results, progress, as_json)

        general = list(inspect.signature(call).parameters.values())[:-1]
        call.__signature__ = inspect.Signature([*general, *further, *flags])  # type: ignore[attr-defined]
        call.__doc__ = text
        command(app, name, *examples, note=LEGEND)(call)
        return function

    return decorate


def _stage_flags(cls: type, command: str) -> list[inspect.Parameter]:
    """The stage's own options first, then each group it inherits; hidden, the common options that it does not have."""
    kinds = typing.get_type_hints(cls)
    groups = [base for base in cls.__mro__ if dataclasses.is_dataclass(base)]
    group_of = {name: group for group in groups for name in group.__annotations__}  # the base class that declares it
    flags = []
    for field in sorted(dataclasses.fields(cls), key=lambda field: groups.index(group_of[field.name])):
        panel = vars(group_of[field.name]).get("panel", command)
        flags.append(_parameter(field.name, _flag(field, kinds[field.name], panel)))
    flags += [
        _parameter(name, Annotated[str | None, typer.Option(flag_of(name), hidden=True)])
        for name in COMMON
        if name not in kinds
    ]
    switches = [one.name for one in dataclasses.fields(cls) if kinds[one.name] is bool and not one.metadata["presets"]]
    return flags + [  # hidden: they turn off what a --config file turns on
        _parameter(NO + name, Annotated[bool, typer.Option(flag_of(NO + name), hidden=True)], False)
        for name in switches
    ]


def _switch_off(given: dict[str, Any]) -> None:
    """Take the flags --no-NAME out of `given`, and give the options NAME the value false."""
    for negated in [name for name in given if name.startswith(NO)]:
        if given.pop(negated):
            given[negated.removeprefix(NO)] = False


def _no_effect(flags: list[str]) -> str:
    return f"{' and '.join(flags)} {'has' if len(flags) == 1 else 'have'} no effect"


def _flags_of_last_maps(options: Any, given: dict[str, Any]) -> list[str]:
    """The given flags that design branches on the backbone's last maps, if the motion branch reads middle maps."""
    middle = isinstance(options, TrainAmemOptions) and options.uses_mem and options.motion_maps == "middle"
    return [flag_of(name) for name in ("branch", "branch_kernel") if middle and given[name] is not None]


def fixed_by_file(options: Any, preset: str, given: dict[str, Any]) -> list[str]:
    """The options of a preset that have another value without a flag: a `--config` file sets them."""
    fields = [field for field in dataclasses.fields(options) if field.metadata["presets"] and given[field.name] is None]
    return [flag_of(one.name)[2:] for one in fields if getattr(options, one.name) != preset_value(one, preset)]


def _group_flags(group: Any) -> list[inspect.Parameter]:
    kinds, flags = typing.get_type_hints(group), []
    for field in dataclasses.fields(group):
        if typing.get_origin(field.type) is Annotated:
            flags.append(_parameter(field.name, field.type, field.default))
        elif field.metadata:
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else None
            flags.append(_parameter(field.name, _flag(field, kinds[field.name], "Options", envvar=True), default))
    return flags


def _flag(field: dataclasses.Field, kind: Any, panel: str, *, envvar: bool = False) -> Any:
    """Type and flag of an option, for Typer, which reads its environment variable only with `envvar`."""
    value, env = field.default, field.metadata["env"]
    notes = [] if value in ("", (), None, dataclasses.MISSING) or kind is bool else [f"default: {value}"]
    notes += [f"{preset}: {other}" for preset, other in field.metadata["presets"].items()] + [f"env: {env}"] * bool(env)
    help = field.metadata["help"] + (f" \\[{', '.join(notes)}]" if notes else "")  # escaped, else markup of Rich
    flag = field.metadata["flag"] or flag_of(field.name)
    if kind is bool and field.metadata["presets"]:
        flag += f"/--no-{flag[2:]}"
    if typing.get_origin(kind) is typing.Literal:
        return Annotated[str | None, choice(*typing.get_args(kind), flag=flag, help=help, rich_help_panel=panel)]
    if typing.get_origin(kind) is tuple:
        kind = list[typing.get_args(kind)[0]]  # type: ignore[misc]
    if field.metadata["argument"]:
        return Annotated[kind if value is dataclasses.MISSING else kind | None, typer.Argument(help=help)]
    variable = env if envvar and env else None
    return Annotated[
        kind | None, typer.Option(flag, help=help, rich_help_panel=panel, envvar=variable, show_envvar=False)
    ]


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _check_names(options: Any, dry_run: bool) -> None:
    """Raise `UsageError` for a mistyped data set or protocol, and `BadData` for a training on tracks without
    identities, before torch and the inputs are loaded; with `dry_run`, which reads no data set, `UsageError` also for a
    split that its manifest does not have."""
    from amem_cli.data.manifest import load_manifest, manifest_of_protocol, protocol_of, require_people

    if hasattr(options, "protocol"):
        manifest_of_protocol(options.protocol)
        return
    manifest = load_manifest(options.dataset)
    if isinstance(options, TrainAmemOptions):
        require_people(manifest)
    if dry_run and hasattr(options, "split"):
        from amem_cli.data.datasets import choose_splits

        choose_splits(manifest.name, protocol_of(manifest).numbers, options.split)


def config_text(commands: list[str], preset: str) -> str:
    """The TOML file of `amem config show`, a table per command. Folders are comments: a file overrides AMEM_DATA."""
    head = [*_comment(CONFIG_HEAD.format(version=__version__)), f"preset = {toml_value(preset)}"]
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
        line = f"{field.name.replace('_', '-')} = {toml_value(value)}"
        lines.append(f"# {line}" if field.metadata["env"] else line)
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
