"""The commands beside the stages: demo, status, data, report, show, reproduce, weights, doctor, config, bench."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from amem_cli.cli import completion, console
from amem_cli.cli.flags import HELP, AsJson, DataRoot, Dataset, Preset, Quiet, Split, Workspace
from amem_cli.cli.root import app, config_app, data_app, weights_app
from amem_cli.errors import BadData, UsageError, did_you_mean
from amem_cli.options import COMMANDS, PRESETS, StageOptions, check_device
from amem_cli.runtime.progress import Progress


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="where people, artifacts and pictures go")] = Path("demo"),
    seed: Annotated[int, typer.Option(help=HELP["seed"])] = StageOptions.seed,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The six stages on generated walking people, start to end, on a CPU, in minutes.

    Examples:

    amem demo

    amem demo /tmp/demo --seed 1
    """
    from amem_cli.tools import demo as stage

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
    dataset: Dataset = StageOptions.dataset,
    split: Split = None,
    out: Annotated[Path, typer.Option(help="the page to write")] = Path("report.html"),
    queries: Annotated[int, typer.Option(help="ranked lists to show: a third the best, a third the worst")] = 12,
    seed: Annotated[int, typer.Option(help="key of the draw of the other queries")] = 0,
    workspace: Workspace = StageOptions.workspace,
    data_root: DataRoot = StageOptions.data_root,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """One HTML page of a workspace: results, ranked lists, predicted frames, training curves, artifacts.

    It holds everything itself and needs no network. It shows people: keep it where the data set may be kept.

    Examples:

    amem report --out report.html

    amem report --dataset ilids-vid --split 3 --queries 24
    """
    from amem_cli.tools.report import report as write_report

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
        Path | None,
        typer.Option(help="picture to write, .png, .svg or .pdf, 'frames' also .gif; KIND.png when left out"),
    ] = None,
    dataset: Dataset = StageOptions.dataset,
    split: Split = None,
    predict_frames: Annotated[
        int | None, typer.Option(help="rounds c of 'frames'; as many as in training when left out")
    ] = None,
    seed: Annotated[int, typer.Option(help="key of the draw of queries for 'ranking'")] = 0,
    workspace: Workspace = StageOptions.workspace,
    data_root: DataRoot = StageOptions.data_root,
    as_json: AsJson = False,
) -> None:
    """One picture: ranked lists, predicted frames (Fig. 4), attributes, the CMC curve, or where the features look.

    Two tracklets after 'attributes' are compared.

    Examples:

    amem show frames --out figure4.pdf --predict-frames 3

    amem show attention 0002C1T0001 --out attention.png
    """
    from amem_cli.artifacts.paths import Workspace
    from amem_cli.tools.show import show as draw

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
    data_root: DataRoot = StageOptions.data_root,
    workspace: Workspace = StageOptions.workspace,
    as_json: AsJson = False,
) -> None:
    """What this machine has for amem: versions, devices, memory, disk, data sets; and a remedy for each problem.

    Examples:

    amem doctor

    amem doctor --data-root /data --workspace /scratch/amem --json
    """
    from amem_cli.tools.doctor import examine, exit_code

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
    preset: Preset = PRESETS[0],
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
    dataset: Dataset = StageOptions.dataset,
    split: Split = None,
    workspace: Workspace = StageOptions.workspace,
    verify: Annotated[bool, typer.Option("--verify", help="compare every artifact with its seal")] = False,
    as_json: AsJson = False,
) -> None:
    """The chain of artifacts: there, missing, stale or damaged, and the command that comes next.

    Examples:

    amem status

    amem status --dataset ilids-vid --split 3 --verify
    """
    from amem_cli.artifacts.status import chain
    from amem_cli.data.manifest import load_manifest

    manifest = load_manifest(dataset)
    if manifest.protocol is None:
        raise BadData("data set", dataset, why="has no tracklets, so no chain of six stages")
    numbered = manifest.protocol.kind != "single-split"
    if split is not None and not (numbered and 0 <= split < manifest.protocol.splits):
        last = manifest.protocol.splits - 1
        why = f"{manifest.name} has the splits 0 to {last}" if numbered else f"{manifest.name} has one official split"
        raise UsageError("--split", split, why=why, remedy="Choose one of these" if numbered else "Leave --split out")
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
    from amem_cli.walkers import WalkerOptions, write_walkers

    options = WalkerOptions(seed=seed, people=people, cameras=cameras, height=height, width=width)
    with Progress(quiet).loop("walkers", 1, unit="images") as loop:
        write_walkers(out, options, loop.show)
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
    data_root: DataRoot = StageOptions.data_root,
    deep: Annotated[bool, typer.Option("--deep", help="decode every image and write their list")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare a data set with its manifest: counts, splits, damaged files. Of a folder it says what is in it.

    Examples:

    amem data check mars

    amem data check prid2011 --data-root /data --deep

    amem data check /data/unpacked
    """
    from amem_cli.data.check import check_dataset, find_datasets
    from amem_cli.data.manifest import SHIPPED, load_manifest

    if name not in SHIPPED and Path(name).is_dir():
        console.print_folders(find_datasets(Path(name)), as_json)
        return
    report = Progress(quiet)
    with report.loop("check", 1, unit="images") as loop:
        found = check_dataset(load_manifest(name), data_root, deep=deep, progress=loop.show)
    console.print_check(found, as_json)
    if not found.ok:
        raise typer.Exit(65)


@app.command()
def reproduce(
    what: Annotated[
        Literal["table3", "table4", "table5", "sizes", "figure4", "losses"],
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
    seed: Annotated[
        list[int] | None, typer.Option(help="only these of the seeds, for batch jobs; may be repeated; makes no table")
    ] = None,
    preset: Preset = PRESETS[0],
    weights: Annotated[
        list[str] | None, typer.Option(help="i3d|r3d|p3d=FILE, arm|tae=FILE or imagenet; may be repeated")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE for train-amem or COMMAND.NAME=VALUE; may be repeated"),
    ] = None,
    data_root: DataRoot = StageOptions.data_root,
    workspace: Workspace = StageOptions.workspace,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the commands and stop")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """A table of the paper: its chain of commands is run (or printed), its figures stand beside ours.

    Each row is a train-amem configuration in a workspace of its own, WORKSPACE/reproduce/ROW/seedN; the table is
    WORKSPACE/reproduce/WHAT.md and .json. What is done is not done again.

    Examples:

    amem reproduce table3 --dry-run --weights i3d=rgb.pt --weights arm=imagenet

    amem reproduce table3 --preset small --data-root walkers --set epochs=10
    """
    from amem_cli.tools.reproduce.plan import plan
    from amem_cli.tools.reproduce.run import TellOnce, run
    from amem_cli.tools.reproduce.table import sizes

    if what == "sizes":
        given: dict[str, Any] = {"--dataset": dataset, "--row": row, "--weights": weights, "--set": settings}
        given |= {"--seeds": seeds != 3, "--seed": seed, "--preset": preset != PRESETS[0]}
        if ignored := [name for name, value in given.items() if value]:
            why = f"sizes are measured without data or training, {' and '.join(ignored)} would change nothing"
            raise UsageError("reproduce", why=why, remedy="Leave it out")
        if not dry_run:
            console.print_sizes(sizes(workspace), workspace / "reproduce" / "sizes.md", as_json)
        elif not as_json:
            print("# sizes are measured on the spot: amem reproduce sizes")
        else:
            print(json.dumps({"what": what, "commands": [], "shared": [], "runs": []}))
        return
    chain = plan(
        what,
        datasets=tuple(dataset or ()),
        rows=tuple(row or ()),
        seeds=seeds,
        chosen_seeds=tuple(seed or ()),
        preset=preset,
        data_root=data_root,
        workspace=workspace,
        weights=tuple(weights or ()),
        settings=tuple(settings or ()),
    )
    if dry_run:
        print(json.dumps(chain.as_json()) if as_json else chain.script())
        return
    table = run(chain, TellOnce(quiet))
    path = None if seed else workspace / "reproduce" / f"{chain.file}.md"
    console.print_reproduction(table, path, as_json)


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
    from amem_cli.weights import loading as pretrained

    report = pretrained.inspect_weights(file)
    console.print_weights(report, as_json)
    if not report.fits:
        raise typer.Exit(65)


@app.command()
def bench(
    device: Annotated[str, typer.Option(help=HELP["device"])] = StageOptions.device,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help=HELP["precision"])
    ] = StageOptions.precision,
    engine: Annotated[
        Literal["auto", "torch", "eager", "openvino"],
        typer.Option(help="of labelling and extraction, as in extract-features"),
    ] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="fewer runs, no training at the paper's size")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """How fast this machine is at each part, the most that it could do, and how long MARS would take.

    Runs on generated people and random weights, and needs no data set. The ceilings are measured in the same run: a
    large convolution, a copy of memory, libjpeg alone.

    Examples:

    amem bench

    amem bench --quick --precision bf16 --json
    """
    from amem_cli.tools.bench import bench as measure

    check_device(device)
    console.print_bench(measure(device, precision, engine, quick, Progress(quiet)), as_json)
