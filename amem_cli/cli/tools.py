"""The commands other than the stages: options, one call, one print."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from amem_cli.cli import completion, console
from amem_cli.cli.flags import HELP, AsJson, DataRoot, Dataset, DryRun, Preset, Quiet, Seed, Split, Workspace, choice
from amem_cli.cli.help import epilog
from amem_cli.cli.root import app, config_app, data_app, weights_app
from amem_cli.errors import UsageError
from amem_cli.options import COMMANDS, PRESETS, TrainAmemOptions, check_device
from amem_cli.runtime.progress import Progress
from amem_cli.tools.reproduce.tables import SEEDS, TABLES
from amem_cli.walkers import WalkerOptions

DATASET, DATA, WORKSPACE = TrainAmemOptions.dataset, TrainAmemOptions.data_root, TrainAmemOptions.workspace


@app.command(epilog=epilog("amem demo", "amem demo /tmp/demo --seed 1"))
def demo(
    folder: Annotated[Path, Argument(help="output: generated people, artifacts, pictures")] = Path("demo"),
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run the six stages on generated walking people, on a CPU, in minutes."""
    from amem_cli.tools.demo import demo

    result, pictures, errors = demo(folder, seed, Progress(quiet))
    if as_json:
        return console.print_json(result.metrics | {"pictures": pictures, "predicted_frames": errors})
    console.print_result(result.metrics, result.artifact)
    console.print_prediction(errors)
    console.print_pictures(pictures)


@app.command(epilog=epilog("amem report --out report.html", "amem report --dataset ilids-vid --split 3 --queries 24"))
def report(
    dataset: Dataset = DATASET,
    split: Split = None,
    out: Annotated[Path, Option(help="HTML file to write")] = Path("report.html"),
    queries: Annotated[int, Option(help="ranked lists: a third the best, a third the worst, a third random")] = 12,
    seed: Seed = 0,
    workspace: Workspace = WORKSPACE,
    data_root: DataRoot = DATA,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page: results, ranked lists, predicted frames, training curves, artifacts.

    The page needs no network. It shows people: it falls under the terms of the data set.
    """
    from amem_cli.artifacts.paths import Workspace
    from amem_cli.tools.report import report
    from amem_cli.tools.source import Source

    source = Source(dataset, data_root, Workspace(workspace), split)
    page = report(out, source, Progress(quiet), queries=queries, seed=seed)
    megabytes = page.stat().st_size / 1e6
    if as_json:
        return console.print_json({"report": page, "megabytes": round(megabytes, 3)})
    print(f"report: {page} ({megabytes:.1f} MB), open it in a browser")


@app.command(epilog=epilog("amem show frames --out figure4.pdf --predict-frames 3", "amem show attention 0002C1T0001"))
def show(
    kind: Annotated[
        str, Argument(help="ranking | frames | attributes | cmc | attention", autocompletion=completion.pictures)
    ],
    tracklets: Annotated[list[str] | None, Argument(help="tracklet names; empty: chosen automatically")] = None,
    out: Annotated[Path | None, Option(help=".png, .svg, .pdf, 'frames' also .gif; empty: KIND.png")] = None,
    dataset: Dataset = DATASET,
    split: Split = None,
    predict_frames: Annotated[int | None, Option(help="c of 'frames'; empty: as in training")] = None,
    seed: Seed = 0,
    workspace: Workspace = WORKSPACE,
    data_root: DataRoot = DATA,
    as_json: AsJson = False,
) -> None:
    """Draw ranked lists, predicted frames (Fig. 4), attributes, the CMC curve, or attention maps.

    With two tracklets, 'attributes' compares them.
    """
    from amem_cli.artifacts.paths import Workspace
    from amem_cli.tools.show import Picture, show
    from amem_cli.tools.source import Source

    wanted = Picture(tracklets or [], out or Path(f"{kind}.png"), predict_frames, seed)
    source = Source(dataset, data_root, Workspace(workspace), split)
    picture, figures = show(kind, wanted, source, Progress(quiet=as_json))
    if as_json:
        return console.print_json({"picture": picture, **figures})
    if kind == "frames":
        console.print_prediction(figures)
    elif kind == "attention":
        console.print_shares(figures["shares"])
    console.print_pictures([picture])


@app.command(epilog=epilog("amem doctor", "amem doctor --data-root /data --workspace /scratch/amem --json"))
def doctor(data_root: DataRoot = DATA, workspace: Workspace = WORKSPACE, as_json: AsJson = False) -> None:
    """Check this machine: versions, devices, memory, disk, data sets; suggest a remedy for each problem."""
    from amem_cli.tools.doctor import examine, exit_code

    findings = examine(data_root, workspace)
    if as_json:
        problems = sum(finding.state in ("problem", "impossible") for finding in findings)
        console.print_json({"findings": findings, "problems": problems})
    else:
        console.print_findings(findings)
    raise typer.Exit(exit_code(findings))


@config_app.command("show", epilog=epilog("amem config show > amem.toml", "amem config show train-amem --preset small"))
def config_show(
    command: Annotated[str | None, choice(*COMMANDS, argument=True, help="empty: all")] = None,
    preset: Preset = PRESETS[0],
) -> None:
    """Print every option with its help as a TOML file for --config."""
    from amem_cli.cli.config_file import config_text

    print(config_text([command] if command else list(COMMANDS), preset), end="")


@app.command(epilog=epilog("amem status", "amem status --dataset ilids-vid --split 3 --verify"))
def status(
    dataset: Dataset = DATASET,
    split: Split = None,
    workspace: Workspace = WORKSPACE,
    verify: Annotated[bool, Option("--verify", help="compare every artifact with its checksum")] = False,
    as_json: AsJson = False,
) -> None:
    """List the artifacts of the six stages (ready, missing, stale, damaged) and the next command."""
    from amem_cli.artifacts.paths import Workspace
    from amem_cli.artifacts.status import ChainOf, chain
    from amem_cli.tools.source import Source

    source = Source(dataset, DATA, Workspace(workspace), split)
    manifest, protocol = source.manifest, source.protocol
    name = manifest.name if manifest.shipped else dataset
    splits = None if source.number is None else protocol.splits
    of = ChainOf(workspace, name, manifest.name, source.number, protocol.name, splits)
    states = chain(of, deep=verify)
    following = next((state.command for state in states if state.state not in ("ready", "unused")), None)
    if as_json:
        fields = ("stage", "path", "state", "why", "command")
        rows = [{field: getattr(state, field) for field in fields} for state in states]
        console.print_json({"chain": rows, "next": following})
    else:
        console.print_chain(states, workspace, following)
    if any(state.state == "damaged" for state in states):
        raise typer.Exit(65)


@data_app.command(epilog=epilog("amem data walkers walkers", "amem data walkers walkers --people 60 --cameras 4"))
def walkers(
    out: Annotated[Path, Argument(help="output: OUT/{peta,market1501,mars,ilids-vid,prid2011}")],
    seed: Seed = 0,
    people: Annotated[int, Option(help="people to train on, and as many to test on")] = WalkerOptions.people,
    cameras: Annotated[int, Option(help="cameras of the MARS-like set")] = WalkerOptions.cameras,
    height: Annotated[int, Option(help="height of person boxes in pixels")] = WalkerOptions.height,
    width: Annotated[int, Option(help="width of person boxes in pixels")] = WalkerOptions.width,
    quiet: Quiet = False,
) -> None:
    """Generate walking people in the original layouts of the five data sets."""
    from amem_cli.walkers import write_walkers

    options = WalkerOptions(seed=seed, people=people, cameras=cameras, height=height, width=width)
    with Progress(quiet).loop("walkers", 1, unit="images") as loop:
        write_walkers(out, options, loop.show)
    if not quiet:
        print(f"walkers in {out}: use them with --data-root {out}", file=sys.stderr)


@data_app.command(epilog=epilog("amem data check mars --deep", "amem data check /data/new"))
def check(
    name: Annotated[
        str, Argument(help="shipped data set, path of your own .toml, or a folder", autocompletion=completion.datasets)
    ],
    data_root: DataRoot = DATA,
    deep: Annotated[bool, Option("--deep", help="decode every image, write the list of images")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare a data set with its manifest: counts, splits, damaged files; or identify a folder."""
    from amem_cli.data.check import check_dataset, find_datasets
    from amem_cli.data.manifest import SHIPPED, load_manifest

    if name not in SHIPPED and Path(name).is_dir():
        folders = find_datasets(Path(name))
        return console.print_json({"folders": folders}) if as_json else console.print_folders(folders)
    with Progress(quiet).loop("check", 1, unit="images") as loop:
        report = check_dataset(load_manifest(name), data_root, deep=deep, progress=loop.show)
    if as_json:
        console.print_json(dataclasses.asdict(report) | {"ok": report.ok})
    else:
        console.print_check(report)
    if not report.ok:
        raise typer.Exit(65)


@app.command(epilog=epilog("amem reproduce table3 --dry-run", "amem reproduce table3 --preset small --set epochs=10"))
def reproduce(
    what: Annotated[str, choice(*TABLES, "sizes", argument=True, help="sizes needs no data")],
    dataset: Annotated[
        list[str] | None,
        Option(help="data set or your own .toml; default mars, table5: all three", autocompletion=completion.datasets),
    ] = None,
    row: Annotated[list[str] | None, Option(help="only this row, e.g. amem; repeatable")] = None,
    seeds: Annotated[int, Option(help="trainings per row, with the seeds 0, 1, ...")] = SEEDS,
    seed: Annotated[list[int] | None, Option(help="only this seed, without a table; repeatable")] = None,
    preset: Preset = PRESETS[0],
    weights: Annotated[list[str] | None, Option(help="i3d|r3d|p3d=FILE, arm|tae=FILE or imagenet; repeatable")] = None,
    settings: Annotated[
        list[str] | None, Option("--set", help="train-amem's NAME=VALUE, or COMMAND.NAME=VALUE; repeatable")
    ] = None,
    data_root: DataRoot = DATA,
    workspace: Workspace = WORKSPACE,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Reproduce a table of the paper and print its values next to ours.

    Each row is a train-amem configuration in WORKSPACE/reproduce/ROW/seedN.
    Tables: WORKSPACE/reproduce/WHAT.md and .json. Finished work is reused.
    """
    from amem_cli.tools.reproduce.plan import Request, plan

    if what == "sizes":
        given: dict[str, Any] = {"--dataset": dataset, "--row": row, "--weights": weights, "--set": settings}
        given |= {"--seeds": seeds != SEEDS, "--seed": seed, "--preset": preset != PRESETS[0], "--dry-run": dry_run}
        return _sizes([flag for flag, value in given.items() if value], workspace, as_json)
    names: dict[str, Any] = {"datasets": dataset, "rows": row, "weights": weights, "settings": settings}
    several = {name: tuple(values or ()) for name, values in (names | {"chosen_seeds": seed}).items()}
    request = Request(what, seeds=seeds, preset=preset, data_root=data_root, workspace=workspace, **several)
    chain = plan(request)
    if dry_run:
        return console.print_json(chain.as_json()) if as_json else print(chain.script())
    from amem_cli.tools.reproduce.run import run

    table = run(chain, Progress(quiet))
    if as_json:
        return console.print_json(table)
    console.print_reproduction(table, None if seed else workspace / "reproduce" / f"{chain.file}.md")


def _sizes(without_effect: list[str], workspace: Path, as_json: bool) -> None:
    from amem_cli.tools.reproduce.table import sizes

    if without_effect:
        why = f"sizes needs neither data nor training, {' and '.join(without_effect)} would change nothing"
        raise UsageError("reproduce", why=why, remedy="Leave it out")
    table = sizes(workspace)
    console.print_json(table) if as_json else console.print_sizes(table, workspace / "reproduce" / "sizes.md")


@weights_app.command(
    "inspect", epilog=epilog("amem weights inspect rgb_imagenet.pt", "amem weights inspect r3d.pth --json")
)
def inspect_weights(
    file: Annotated[Path, Argument(help="a file for --weights, from any source")], as_json: AsJson = False
) -> None:
    """Identify a weight file, the network it fits, and every key that does not."""
    from amem_cli.tools.inspect_weights import inspect_weights

    report = inspect_weights(file)
    console.print_json(report) if as_json else console.print_weights(report)
    if not report.fits:
        raise typer.Exit(65)


@app.command(epilog=epilog("amem bench", "amem bench --quick --precision bf16 --json"))
def bench(
    device: Annotated[str, Option(help=HELP["device"], autocompletion=completion.OF_OPTION["device"])] = "auto",
    precision: Annotated[str, choice("auto", "fp32", "bf16", help=HELP["precision"])] = "auto",
    engine: Annotated[str, choice("auto", "torch", "eager", "openvino", help="as in extract-features")] = "auto",
    quick: Annotated[bool, Option("--quick", help="fewer runs, no training at the paper's size")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure the speed of each part, its ceiling, and the time MARS would take.

    Uses generated people and random weights. The same run measures the
    ceilings: a large convolution, a copy of memory, libjpeg alone.
    """
    from amem_cli.tools.bench import bench

    check_device(device)
    found = bench(device, precision, engine, quick, Progress(quiet))
    console.print_json(found) if as_json else console.print_bench(found)
