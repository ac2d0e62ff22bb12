"""The command line. Each command reads its options, calls one stage and prints what came out.

Stages are imported inside the commands, so that `amem --help` does not wait for torch.
"""

import dataclasses
import inspect
import json
import os
import signal
import sys
import time
import traceback
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from amem_cli import __version__
from amem_cli.cli import completion, console
from amem_cli.cli.help import App, usage_error
from amem_cli.errors import AmemError, BadData, UsageError, did_you_mean
from amem_cli.options import (
    COMMANDS,
    PRESETS,
    AdversarialOptions,
    ExtractFeaturesOptions,
    LabelVideosOptions,
    StageOptions,
    TrainAmemOptions,
    TrainArmOptions,
    TrainingOptions,
    TrainTaeOptions,
    resolve,
)
from amem_cli.progress import Progress

app = App(
    name="amem",
    help="""Video-based person re-identification by Appearance and Motion Enhancement (AMEM, AAAI 2020).

    Six stages, each leaving an artifact for the next: train-arm, label-videos, train-tae, train-amem,
    extract-features, evaluate. Every command takes --help, and --debug for the traceback of an error.

    Examples:

    amem demo

    amem doctor
    """,
)
data_app = App(
    help="""Check data sets, or generate one.

    Examples:

    amem data walkers walkers

    amem data check mars --data-root walkers
    """
)
config_app = App(
    help="""The options of every command as a file.

    Examples:

    amem config show > amem.toml

    amem config show train-amem --preset small
    """
)
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
weights_app = App(
    help="""Look into weight files.

    Examples:

    amem weights inspect rgb_imagenet.pt
    """,
)
app.add_typer(weights_app, name="weights")

EVERY = "Every stage"
SECTIONS = {
    StageOptions: EVERY,
    TrainingOptions: "Every training",
    AdversarialOptions: "Adversarial terms",
}


def run(arguments: list[str]) -> int:
    """Run a command; returns the exit code. An `AmemError` becomes one line on standard error; a bug keeps its
    traceback and gives 70."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return typer.main.get_command(app).main(arguments, prog_name="amem", standalone_mode=False) or 0
    except AmemError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("error: interrupted: finished parts are kept. Run the same command again to continue.", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has gone, as in `amem status | head`
        return 0
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's usage errors; where their class lives depends on its version
            print(usage_error(error), file=sys.stderr)
            return 2
        traceback.print_exc()
        print("error: this is a bug in amem. Please report the lines above.", file=sys.stderr)
        return 70


# -- commands from options ---------------------------------------------------------------------------------------------


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
        _flag("config", Path | None, "TOML file as `amem config show` prints; flags win", section=EVERY),
        _flag(
            "preset", typing.Literal[PRESETS], "the paper's numbers, or small ones for a CPU", "paper", section=EVERY
        ),
        _flag("json", bool, "one JSON document on standard output", False, "--json", section=EVERY),
        _flag("quiet", bool, "warnings and errors only", False, "--quiet", section=EVERY),
        _flag("dry_run", bool, "print the resolved options and stop", False, "--dry-run", section=EVERY),
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
            function(options, Progress(quiet), json, **others)

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__doc__ = f"{inspect.getdoc(function)}\n\nExamples:\n\n{examples}"
        app.command(name)(command)
        return function

    return decorate


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
        return _annotated(field.name, bool | None, typer.Option(f"--{_dashed(field.name)}", **extra), None)
    if typing.get_origin(kind) is tuple:
        return _annotated(field.name, list[Path] | None, typer.Option(f"--{_dashed(field.name)}", **extra), None)
    return _annotated(field.name, kind | None, typer.Option(f"--{_dashed(field.name)}", **extra), None)


def _flag(
    name: str, kind: Any, help: str, default: Any = None, *declarations: str, section: str | None = None
) -> inspect.Parameter:
    option = typer.Option(*(declarations or (f"--{_dashed(name)}",)), help=help, rich_help_panel=section)
    return _annotated(name, kind, option, default)


def _annotated(name: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    annotation = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _finish(results: list[Any], progress: Progress, as_json: bool, began: float) -> None:
    """Print what a stage made: one JSON document, or lines for people; under torchrun the first process does."""
    if os.environ.get("RANK", "0") != "0":
        return
    seconds = round(time.monotonic() - began, 3)
    if as_json:
        documents = [result.as_json() for result in results]
        document = documents[0] if len(documents) == 1 else {"stage": results[0].stage, "results": documents}
        print(json.dumps(document | {"seconds": seconds, "warnings": progress.warnings}, allow_nan=False))
    elif not progress.quiet:
        for result in results:
            console.print_stage(result, seconds)


# -- the six stages ----------------------------------------------------------------------------------------------------


@stage_command("train-arm", "amem train-arm --data-root data --weights resnet50.pth\n\namem train-arm --preset small")
def train_arm(options: TrainArmOptions, progress: Progress, as_json: bool) -> None:
    """Train the attribute recognition model (ARM) on PETA."""
    from amem_cli.stages.train_arm import train_arm

    began = time.monotonic()
    _finish([train_arm(options, progress)], progress, as_json, began)


@stage_command("label-videos", "amem label-videos --dataset mars\n\namem label-videos --dataset my-cameras.toml")
def label_videos(options: LabelVideosOptions, progress: Progress, as_json: bool) -> None:
    """Give tracklets pseudo attribute labels by the ARM."""
    from amem_cli.stages.label_videos import label_videos

    began = time.monotonic()
    _finish([label_videos(options, progress)], progress, as_json, began)


@stage_command("train-tae", "amem train-tae --dataset market1501\n\namem train-tae --preset small --epochs 5")
def train_tae(options: TrainTaeOptions, progress: Progress, as_json: bool) -> None:
    """Train the texture auto-encoder (TAE) on single images."""
    from amem_cli.stages.train_tae import train_tae

    began = time.monotonic()
    _finish([train_tae(options, progress)], progress, as_json, began)


@stage_command(
    "train-amem",
    "amem train-amem --weights rgb_imagenet.pt\n\namem train-amem --dataset ilids-vid --split all --modules mem",
)
def train_amem(options: TrainAmemOptions, progress: Progress, as_json: bool) -> None:
    """Train AMEM: a 3-D backbone with appearance and motion enhancement, end to end."""
    from amem_cli.stages.train_amem import train_amem

    began = time.monotonic()
    _finish(train_amem(options, progress), progress, as_json, began)


@stage_command(
    "extract-features", "amem extract-features --dataset mars\n\namem extract-features --dataset prid2011 --split all"
)
def extract_features(options: ExtractFeaturesOptions, progress: Progress, as_json: bool) -> None:
    """Extract one feature per test tracklet by the main model alone."""
    from amem_cli.stages.extract_features import extract_features

    began = time.monotonic()
    _finish(extract_features(options, progress), progress, as_json, began)


@stage_command(
    "evaluate",
    "amem evaluate --protocol mars --calibrate 0.001\n\namem evaluate --compare baseline.json amem.json --paper",
    _annotated(
        "files",
        list[Path] | None,
        typer.Argument(
            help="more features files, in the order of the splits; with --compare: results", show_default=False
        ),
        None,
    ),
    _flag("compare", bool, "print results side by side", False, "--compare"),
    _flag("paper", bool, "the paper's figures beside ours, where it prints some", False, "--paper"),
)
def evaluate(
    options: Any, progress: Progress, as_json: bool, files: list[Path] | None, compare: bool, paper: bool
) -> None:
    """Score features: CMC and mAP under a stated protocol."""
    from amem_cli.stages import evaluate as stage

    if compare:
        console.print_comparison(stage.compare(files or []), as_json, paper)
        return
    if files:
        options = dataclasses.replace(options, features=(*options.features, *files))
    result = stage.evaluate(options, progress)
    if as_json:
        print(json.dumps(result.metrics, allow_nan=False))
    else:
        console.print_result(result.metrics, result.artifact)
        if paper:
            console.print_comparison([(result.artifact.stem, result.metrics)], as_json, paper)


# -- beside the stages -------------------------------------------------------------------------------------------------

AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on standard output")]
Quiet = Annotated[bool, typer.Option("--quiet", help="warnings and errors only")]


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="where people, artifacts and pictures go")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="key of every random draw")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The six stages on generated walking people, start to end, on a CPU, in minutes.

    Examples:

    amem demo

    amem demo /tmp/demo --seed 1
    """
    from amem_cli.stages import demo as stage

    result, pictures, errors = stage.demo(folder, seed, Progress(quiet))
    if as_json:
        more = {"pictures": [str(path) for path in pictures], "predicted_frames": errors}
        print(json.dumps(result.metrics | more, allow_nan=False))
    else:
        console.print_result(result.metrics, result.artifact)
        console.print_prediction(errors)
        console.print_pictures(pictures)


@app.command()
def report(
    dataset: Annotated[
        str,
        typer.Option(help="shipped manifest's name, or the path of your own .toml", autocompletion=completion.datasets),
    ] = "mars",
    split: Annotated[
        int | None,
        typer.Option(
            help="split of a data set that has several; 0 when left out", autocompletion=completion.split_numbers
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="the page to write")] = Path("report.html"),
    queries: Annotated[int, typer.Option(help="ranked lists to show: a third the best, a third the worst")] = 12,
    seed: Annotated[int, typer.Option(help="key of the draw of the other queries")] = 0,
    workspace: Annotated[Path, typer.Option(help="folder for all artifacts", envvar="AMEM_WORKSPACE")] = Path(
        "workspace"
    ),
    data_root: Annotated[Path, typer.Option(help="folder that holds the data sets", envvar="AMEM_DATA")] = Path("data"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """One HTML page of a workspace: results, ranked lists, predicted frames, training curves, artifacts.

    It holds everything itself and needs no network. It shows people: keep it where the data set may be kept.

    Examples:

    amem report --out report.html

    amem report --dataset ilids-vid --split 3 --queries 24
    """
    from amem_cli.stages.report import report as write_report

    page = write_report(out, dataset, data_root, workspace, Progress(quiet), split=split, queries=queries, seed=seed)
    megabytes = page.stat().st_size / 1e6
    if as_json:
        print(json.dumps({"report": str(page), "megabytes": round(megabytes, 3)}))
    else:
        print(f"report: {page} ({megabytes:.1f} MB), open it in a browser")


@app.command()
def show(
    kind: Annotated[
        str, typer.Argument(help="ranking | frames | attributes | cmc | attention", autocompletion=completion.pictures)
    ],
    tracklets: Annotated[
        list[str] | None, typer.Argument(help="names of tracklets; some are chosen when left out", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="picture to write, .png, .svg or .pdf; KIND.png when left out")
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(help="shipped manifest's name, or the path of your own .toml", autocompletion=completion.datasets),
    ] = "mars",
    split: Annotated[
        int | None,
        typer.Option(
            help="split of a data set that has several; 0 when left out", autocompletion=completion.split_numbers
        ),
    ] = None,
    predict_frames: Annotated[
        int | None, typer.Option(help="rounds c of 'frames'; as many as in training when left out")
    ] = None,
    seed: Annotated[int, typer.Option(help="key of the draw of queries for 'ranking'")] = 0,
    workspace: Annotated[Path, typer.Option(help="folder for all artifacts", envvar="AMEM_WORKSPACE")] = Path(
        "workspace"
    ),
    data_root: Annotated[Path, typer.Option(help="folder that holds the data sets", envvar="AMEM_DATA")] = Path("data"),
    as_json: AsJson = False,
) -> None:
    """One picture: ranked lists, predicted frames (Fig. 4), attributes, the CMC curve, or where the features look.

    Two tracklets after 'attributes' are compared.

    Examples:

    amem show frames --out figure4.pdf --predict-frames 3

    amem show attention 0002C1T0001 --out attention.png
    """
    from amem_cli.artifacts.workspace import Workspace
    from amem_cli.stages.show import show as draw

    part = "" if split is None else str(split)
    picture, figures = draw(
        kind, tracklets or [], out or Path(f"{kind}.png"), dataset, data_root, Workspace(workspace),
        split=part, rounds=predict_frames, seed=seed,
    )  # fmt: skip
    if as_json:
        print(json.dumps({"picture": str(picture), **figures}, allow_nan=False))
        return
    if kind == "frames":
        console.print_prediction(figures)
    elif kind == "attention":
        console.print_shares(figures["shares"])
    console.print_pictures([picture])


@app.command()
def doctor(
    data_root: Annotated[Path, typer.Option(help="folder that holds the data sets", envvar="AMEM_DATA")] = Path("data"),
    workspace: Annotated[Path, typer.Option(help="folder for all artifacts", envvar="AMEM_WORKSPACE")] = Path(
        "workspace"
    ),
    as_json: AsJson = False,
) -> None:
    """What this machine has for amem: versions, devices, memory, disk, data sets; and a remedy for each problem.

    Examples:

    amem doctor

    amem doctor --data-root /data --workspace /scratch/amem --json
    """
    from amem_cli.doctor import examine, exit_code

    findings = examine(data_root, workspace)
    console.print_findings(findings, as_json)
    if code := exit_code(findings):
        raise typer.Exit(code)


@config_app.command("show")
def config_show(
    command: Annotated[
        str | None,
        typer.Argument(help="only this command's table", autocompletion=completion.commands, show_default=False),
    ] = None,
    preset: Annotated[
        typing.Literal[PRESETS], typer.Option(help="the paper's numbers, or small ones for a CPU")
    ] = "paper",
) -> None:
    """Print every option with its help as a TOML file, which --config takes back.

    Examples:

    amem config show --preset paper > amem.toml

    amem config show train-amem --preset small
    """
    from amem_cli.cli.config_file import config_text

    if command is not None and command not in COMMANDS:
        remedy = f"{did_you_mean(command, COMMANDS)}Known are {', '.join(COMMANDS)}"
        raise UsageError("command", command, why="has no options in a file", remedy=remedy)
    print(config_text([command] if command else list(COMMANDS), preset), end="")


@app.command()
def status(
    dataset: Annotated[
        str,
        typer.Option(help="shipped manifest's name, or the path of your own .toml", autocompletion=completion.datasets),
    ] = "mars",
    split: Annotated[
        int | None,
        typer.Option(
            help="split of a data set that has several; 0 when left out", autocompletion=completion.split_numbers
        ),
    ] = None,
    workspace: Annotated[Path, typer.Option(help="folder for all artifacts", envvar="AMEM_WORKSPACE")] = Path(
        "workspace"
    ),
    verify: Annotated[bool, typer.Option("--verify", help="compare every artifact with its seal")] = False,
    as_json: AsJson = False,
) -> None:
    """The chain of artifacts: there, missing, stale or damaged, and the command that comes next.

    Examples:

    amem status

    amem status --dataset ilids-vid --split 3 --verify
    """
    from amem_cli.artifacts.workspace import chain
    from amem_cli.data.manifest import load_manifest

    manifest = load_manifest(dataset)
    if manifest.protocol is None:
        raise BadData("data set", dataset, why="has no tracklets, so no chain of six stages")
    numbered = manifest.protocol.kind != "single-split"
    states = chain(
        workspace,
        dataset if not manifest.shipped else manifest.name,
        manifest.name,
        (split or 0) if numbered else None,
        manifest.protocol.name,
        manifest.protocol.splits if numbered else None,
        deep=verify,
    )
    console.print_chain(states, workspace, as_json)
    if any(state.state == "damaged" for state in states):
        raise typer.Exit(65)


@data_app.command()
def walkers(
    out: Annotated[Path, typer.Argument(help="folder to make: OUT/{peta,market1501,mars,ilids-vid,prid2011}")],
    seed: Annotated[int, typer.Option(help="key of every random draw: same seed, same bytes")] = 0,
    people: Annotated[int, typer.Option(help="people to train on, and as many to test on")] = 24,
    cameras: Annotated[int, typer.Option(help="cameras of the MARS-like set")] = 2,
    height: Annotated[int, typer.Option(help="height of the boxes around people, in pixels")] = 128,
    width: Annotated[int, typer.Option(help="width of these boxes, in pixels")] = 64,
    quiet: Quiet = False,
) -> None:
    """Generate walking people in the original layouts of the five data sets.

    Examples:

    amem data walkers walkers

    amem data walkers walkers --people 60 --cameras 4 --seed 7
    """
    from amem_cli.data.walkers import write_walkers

    report = Progress(quiet)
    with report.loop("walkers", 1, unit="images") as loop:
        write_walkers(out, seed=seed, people=people, cameras=cameras, height=height, width=width, progress=loop.show)
    if not quiet:
        print(f"walkers in {out}: use them with --data-root {out}", file=sys.stderr)


@data_app.command()
def check(
    name: Annotated[
        str,
        typer.Argument(
            help="shipped manifest's name, the path of your own .toml, or a folder", autocompletion=completion.datasets
        ),
    ],
    data_root: Annotated[Path, typer.Option(help="folder that holds the data sets", envvar="AMEM_DATA")] = Path("data"),
    deep: Annotated[bool, typer.Option("--deep", help="decode every image and write their list")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare a data set with its manifest: counts, splits, damaged files.

    Examples:

    amem data check mars

    amem data check prid2011 --data-root /data --deep
    """
    from amem_cli.data.check import check_dataset
    from amem_cli.data.manifest import load_manifest

    report = Progress(quiet)
    with report.loop("check", 1, unit="images") as loop:
        found = check_dataset(load_manifest(name), data_root, deep=deep, progress=loop.show)
    console.print_check(found, as_json)
    if not found.ok:
        raise typer.Exit(65)


@app.command()
def reproduce(
    what: Annotated[
        typing.Literal["table3", "table4", "table5", "sizes", "figure4", "losses"],
        typer.Argument(help="which of the paper's results; sizes needs no data"),
    ],
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="shipped manifest's name or your own .toml <default mars; table5: all three>",
            autocompletion=completion.datasets,
        ),
    ] = None,
    row: Annotated[list[str] | None, typer.Option(help="only these rows, such as amem; may be repeated")] = None,
    seeds: Annotated[int, typer.Option(help="trainings of each row, with the seeds 0, 1, ...")] = 3,
    preset: Annotated[
        typing.Literal[PRESETS], typer.Option(help="the paper's numbers, or small ones for a CPU")
    ] = "paper",
    weights: Annotated[
        list[str] | None, typer.Option(help="BACKBONE=FILE: Kinetics weights of a backbone; may be repeated")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE for train-amem or COMMAND.NAME=VALUE; may be repeated"),
    ] = None,
    data_root: Annotated[Path, typer.Option(help="folder that holds the data sets", envvar="AMEM_DATA")] = Path("data"),
    workspace: Annotated[Path, typer.Option(help="folder for all artifacts", envvar="AMEM_WORKSPACE")] = Path(
        "workspace"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the commands and stop")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """A table of the paper: its chain of commands is run (or printed), its figures stand beside ours.

    Each row is a train-amem configuration in a workspace of its own, WORKSPACE/reproduce/ROW/seedN; the table is
    WORKSPACE/reproduce/WHAT.md and .json. What is done is not done again.

    Examples:

    amem reproduce table3 --dry-run --weights i3d=rgb_imagenet.pt

    amem reproduce table3 --preset small --data-root walkers --set epochs=10
    """
    from amem_cli.stages import reproduce as stage

    if what == "sizes":
        if not dry_run:
            console.print_sizes(stage.sizes(workspace), workspace / "reproduce" / "sizes.md", as_json)
        elif not as_json:
            print("# sizes are measured on the spot: amem reproduce sizes")
        else:
            print(json.dumps({"what": what, "commands": []}))
        return
    plan = stage.plan(
        what,
        datasets=tuple(dataset or ()),
        rows=tuple(row or ()),
        seeds=seeds,
        preset=preset,
        data_root=data_root,
        workspace=workspace,
        weights=tuple(weights or ()),
        settings=tuple(settings or ()),
    )
    if dry_run:
        lines = [command.line for command in plan.commands]
        print(json.dumps({"what": what, "commands": lines}) if as_json else plan.script())
        return
    table = stage.run(plan, stage.TellOnce(quiet))
    console.print_reproduction(table, workspace / "reproduce" / f"{what}.md", as_json)


@weights_app.command("inspect")
def inspect_weights(
    file: Annotated[Path, typer.Argument(help="a file for --weights, of whatever origin")],
    as_json: AsJson = False,
) -> None:
    """Say what a weight file is, which network it fits, and every key that stands against it.

    Examples:

    amem weights inspect rgb_imagenet.pt

    amem weights inspect resnet-50-kinetics.pth --json
    """
    from amem_cli.models import pretrained

    report = pretrained.inspect_weights(file)
    console.print_weights(report, as_json)
    if not report.fits:
        raise typer.Exit(65)


def _version(value: bool) -> None:
    if value:
        print(f"amem {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and stop")
    ] = False,
) -> None:
    pass
