"""The commands other than the stages: options, one call, one print."""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from amem_cli.cli import console, flags, video
from amem_cli.cli.flags import app, choice, command, config_app, data_app, features_app, weights_app
from amem_cli.errors import AmemError, UsageError, counted, require_known
from amem_cli.option_values import check_device
from amem_cli.options import COMMANDS, PRESETS, TrainAmemOptions
from amem_cli.runtime.progress import Progress
from amem_cli.tools.export_options import ExportOptions
from amem_cli.tools.reproduce.tables import TABLES, Request
from amem_cli.walkers.options import WalkerOptions

if TYPE_CHECKING:
    from amem_cli.tools.source import Source

DATASET, DATA = TrainAmemOptions.dataset, TrainAmemOptions.data_root
PICTURES = ("ranking", "frames", "attributes", "cmc", "attention")


@dataclass(frozen=True)
class Where(flags.Folders):
    """The data set, split and folders that a picture or report is about."""

    dataset: flags.Dataset = DATASET
    split: flags.Split = None

    def source(self) -> "Source":
        from amem_cli.artifacts.paths import Workspace
        from amem_cli.tools.source import Source

        return Source(self.dataset, self.data_root, Workspace(self.workspace), self.split)


@command(app, "demo", "amem demo", "amem demo /tmp/demo --seed 1")
def demo(
    output: flags.Output,
    folder: Annotated[Path, Argument(help="output: generated people, artifacts, pictures")] = Path("demo"),
    seed: flags.Seed = 0,
) -> None:
    """Run the six stages on generated walking people, on a CPU, in minutes."""
    from amem_cli.tools.demo import demo

    result, pictures, errors, searches = demo(folder, seed, Progress(output.quiet))
    if output.as_json:
        more = {"pictures": pictures, "predicted_frames": errors, "searches": [video.as_json(one) for one in searches]}
        return console.print_json(result.metrics | more)
    console.print_result(result.metrics, result.artifact)
    console.print_prediction(errors)
    for one in searches:
        video.print_hits(one)
    console.print_pictures(pictures)
    where = f"--workspace {shlex.quote(str(folder / 'workspace'))} --data-root {shlex.quote(str(folder / 'data'))}"
    print(f"next: amem report {where}")


@command(app, "report", "amem report --out report.html", "amem report --dataset ilids-vid --split 3 --queries 24")
def report(
    output: flags.Output,
    where: Where,
    out: Annotated[Path, Option(help="HTML file to write")] = Path("report.html"),
    queries: Annotated[
        int, Option(min=1, help="ranked lists: a third the best, a third the worst, a third random")
    ] = 12,
    seed: flags.Seed = 0,
) -> None:
    """Write one HTML page: results, ranked lists, predicted frames, training curves, artifacts.

    The page needs no network. It shows people: it falls under the terms of the data set.
    """
    from amem_cli.tools.report import report

    page = report(out, where.source(), progress := Progress(output.quiet), queries=queries, seed=seed)
    megabytes = page.stat().st_size / 1e6
    if output.as_json:
        figures = {"report": page, "megabytes": round(megabytes, 3), "warnings": progress.warnings}
        return console.print_json(figures)
    print(f"report: {page} ({megabytes:.1f} MB), open it in a browser")


@command(app, "show", "amem show frames --out figure4.pdf --predict-frames 3", "amem show attention 0002C1T0001")
def show(
    kind: Annotated[str, choice(*PICTURES, argument=True, help="what to draw")],
    where: Where,
    tracklets: Annotated[list[str] | None, Argument(help="tracklet names; empty: chosen automatically")] = None,
    out: Annotated[Path | None, Option(help=".png, .svg or .pdf; empty: KIND.png")] = None,
    predict_frames: Annotated[int | None, Option(help="c of 'frames'; empty: as in training")] = None,
    seed: flags.Seed = 0,
    as_json: flags.AsJson = False,
) -> None:
    """Draw ranked lists, predicted frames (Fig. 4), attributes, the CMC curve, or attention maps.

    With two tracklets, 'attributes' compares them.
    """
    from amem_cli.tools.source import Picture

    wanted, source = Picture(tracklets or [], out or Path(f"{kind}.png"), predict_frames, seed), where.source()
    wanted.check(kind, source.manifest)
    from amem_cli.tools.show import show  # after the check: it imports torch and matplotlib

    picture, figures = show(kind, wanted, source, progress := Progress(quiet=as_json))
    if as_json:
        return console.print_json({"picture": picture, **figures, "warnings": progress.warnings})
    if kind == "frames":
        console.print_prediction(figures)
    elif kind == "attention":
        for name, shares in figures["shares"].items():
            console.print_wrapped(f"{name}: " + ", ".join(f"{part} {100 * one:.0f} %" for part, one in shares.items()))
    console.print_pictures([picture])


@command(app, "doctor", "amem doctor", "amem doctor --data-root /data --workspace /scratch/amem --json")
def doctor(folders: flags.Folders, as_json: flags.AsJson = False) -> None:
    """Check this machine: versions, devices, memory, disk, data sets; suggest a remedy for each problem."""
    from amem_cli.tools.doctor import examine, exit_code

    findings = examine(folders.data_root, folders.workspace)
    if as_json:
        problems = sum(finding.state in ("problem", "impossible") for finding in findings)
        console.print_json({"findings": findings, "problems": problems})
    else:
        console.print_findings(findings)
    raise typer.Exit(exit_code(findings))


@command(config_app, "show", "amem config show > amem.toml", "amem config show train-amem --preset small")
def config_show(
    command: Annotated[str | None, choice(*COMMANDS, argument=True, help="empty: all")] = None,
    preset: flags.Preset = PRESETS[0],
) -> None:
    """Print every option with its help as a TOML file for --config."""
    print(flags.config_text([command] if command else list(COMMANDS), preset), end="")


@command(app, "status", "amem status", "amem status --dataset ilids-vid --split 3 --verify")
def status(
    folders: flags.Folders,
    dataset: flags.Dataset = DATASET,
    split: Annotated[int | None, Option(help="only this split")] = None,
    verify: Annotated[bool, Option("--verify", help="compare artifacts with checksums and images")] = False,
    as_json: flags.AsJson = False,
) -> None:
    """List the artifacts of the six stages (ready, unfinished, missing, stale, damaged) and the next command.

    Of a data set with several splits it lists all.
    """
    from amem_cli.data.chain import Chain
    from amem_cli.data.datasets import read_dataset

    source = Where(folders.workspace, folders.data_root, dataset, split).source()
    states = Chain(source.manifest, folders.workspace, split, folders.data_root).states(deep=verify)
    if verify:
        try:
            read_dataset(source.manifest, folders.data_root)
        except AmemError as error:
            Progress().warn(f"the images are not compared: {error}")
    following = next((state.command for state in states if state.state not in ("ready", "unused")), None)
    if as_json:
        fields = ("stage", "split", "path", "state", "why", "command")
        rows = [{field: getattr(state, field) for field in fields} for state in states]
        console.print_json({"chain": rows, "next": following})
    else:
        console.print_chain(states, folders.workspace, following)
    if any(state.state == "damaged" for state in states):
        raise typer.Exit(65)


@command(
    data_app,
    "walkers",
    "amem data walkers walkers",
    "amem data walkers walkers --people 60 --cameras 4",
    "amem data walkers scenes --videos",
)
def walkers(
    out: Annotated[Path, Argument(help="output: OUT/{peta,market1501,mars,ilids-vid,prid2011}")],
    options: WalkerOptions,
    videos: Annotated[
        bool,
        Option("--videos", help="instead: videos of two cameras, with their true boxes; a quarter of --people walk"),
    ] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Generate walking people in the original layouts of the five data sets, or as videos."""
    from amem_cli.tools.doctor import available_cores
    from amem_cli.walkers.layouts import write_walkers

    progress = Progress(quiet)
    if videos:
        if options != WalkerOptions(seed=options.seed, people=options.people):
            raise UsageError("--videos", why="uses --seed and --people alone", remedy="Leave the other options out")
        from amem_cli.video.decode import import_av
        from amem_cli.walkers.videos import write_videos

        import_av()
        with progress.loop("walkers", 1, unit="pictures") as loop:
            made = write_videos(out, seed=options.seed, people=options.people // 4, progress=loop.show)
        progress.log(f"walkers in {out}: amem find {shlex.join(map(str, made))} --out answer")
        return
    with progress.loop("walkers", 1, unit="images") as loop:
        write_walkers(out, options, loop.show, processes=int(available_cores()) or 1)
    progress.log(f"walkers in {out}: use them with --data-root {shlex.quote(str(out))}")


@command(data_app, "check", "amem data check mars --deep", "amem data check /data/new")
def check(
    output: flags.Output,
    name: Annotated[str, Argument(help="shipped data set, path of your own .toml, or a folder")],
    data_root: flags.DataRoot = DATA,
    deep: Annotated[bool, Option("--deep", help="decode every image, write the list of images")] = False,
) -> None:
    """Compare a data set with its manifest: counts, splits, damaged files; or identify a folder."""
    from amem_cli.data.check import check_dataset, find_datasets
    from amem_cli.data.manifest import SHIPPED, load_manifest

    if name not in SHIPPED and Path(name).is_dir():
        if deep:
            raise UsageError("--deep", why=f"{name} is a folder", remedy="Name a data set, such as mars")
        folders = find_datasets(Path(name))
        return console.print_json({"folders": folders}) if output.as_json else console.print_folders(folders)
    with Progress(output.quiet).loop("check", 1, unit="images") as loop:
        report = check_dataset(load_manifest(name), data_root, deep=deep, progress=loop.show)
    if output.as_json:
        console.print_json(dataclasses.asdict(report) | {"ok": report.ok})
    else:
        console.print_check(report)
    if not report.ok:
        raise typer.Exit(65)


@command(app, "reproduce", "amem reproduce table3 --dry-run", "amem reproduce table3 --preset small --config my.toml")
def reproduce(request: Request, output: flags.Output, dry_run: flags.DryRun = False) -> None:
    """Reproduce a table of the paper and print its values next to ours.

    Each row is a train-amem configuration in WORKSPACE/reproduce/ROW/seedN.
    Tables: WORKSPACE/reproduce/WHAT.md and .json. Finished work is reused.
    """
    from amem_cli.tools.reproduce.plan import plan

    require_known("table", [request.what], [*TABLES, "sizes"])
    results = request.workspace / "reproduce"
    if request.what == "sizes":
        from amem_cli.tools.reproduce.sizes import size_block, sizes

        plain = Request("sizes", data_root=request.data_root, workspace=request.workspace)
        if request != plain or dry_run:
            raise UsageError("sizes", why="it only takes --workspace, --json and --quiet", remedy="Leave the rest out")
        table = sizes(request.workspace)
        if output.as_json:
            return console.print_json(table)
        return console.print_tables([size_block(table)], table["notes"], results / "sizes.md")
    chain = plan(request)
    if dry_run:
        return console.print_json(chain.as_json()) if output.as_json else print(chain.script())
    from amem_cli.tools.reproduce.run import blocks, remarks, run

    table = run(chain, Progress(output.quiet))
    if output.as_json:
        return console.print_json(table)
    console.print_tables(blocks(table), remarks(table), results / f"{chain.file}.md")


@command(
    features_app,
    "convert",
    "amem features convert pytorch_result.mat features.h5",
    "amem features convert query.npz features.h5 --gallery gallery.npz",
    "amem features convert workspace/features/mars.h5 mars.parquet",
)
def convert_features(
    output: flags.Output,
    source: Annotated[Path, Argument(help=".h5, .npz, .mat, .pt, .parquet, .npy (with .csv), or a folder of .npy")],
    out: Annotated[Path, Argument(help="output: .h5, .parquet, .npy (with .csv), .npz, .mat")],
    dataset: Annotated[str, Option(help="data set, or its .toml, of another program's features; empty: mars")] = "",
    gallery: Annotated[Path | None, Option(help="file of the gallery, if SOURCE has the queries alone")] = None,
    queries: Annotated[str, Option(help="if SOURCE does not say it: the first N rows, or a file of names")] = "",
    force: Annotated[bool, Option("--force", help="replace an existing output")] = False,
) -> None:
    """Convert features from or for other programs: torchreid, fast-reid, layumi's baseline, data bases.

    Each note says what was changed or assumed.
    """
    from amem_cli.data.manifest import load_manifest
    from amem_cli.tools.convert_features import convert

    name = load_manifest(dataset).name if dataset.endswith(".toml") else dataset
    found = convert(source, out, name, gallery=gallery, queries=queries, force=force)
    if output.as_json:
        return console.print_json(found)
    for note in found["notes"]:
        Progress(output.quiet).log(note)
    rows, queries = counted(found["rows"], "rows"), counted(found["queries"], "queries")
    print(f"{' and '.join(found['out'])}: {rows}, {queries}")


@command(app, "export", "amem export amem-main.safetensors --out amem.onnx", "amem export arm.safetensors --out a.xml")
def export(output: flags.Output, options: ExportOptions, dry_run: flags.DryRun = False) -> None:
    """Write a model for other programs: ONNX, OpenVINO or torch.export.

    Frames go in as uint8 RGB of any size: resizing and normalisation are
    inside. The file is compared with the original before it is written.
    """
    from amem_cli.tools.export import export

    out = options.out
    description = export(options, progress := Progress(output.quiet), dry_run=dry_run)
    if output.as_json:
        return console.print_json(description | {"out": out, "dry_run": dry_run, "warnings": progress.warnings})
    print(f"export: {out} ({description['format']}{', not written' if dry_run else ''})")
    console.print_export(description)


@command(weights_app, "inspect", "amem weights inspect rgb_imagenet.pt", "amem weights inspect r3d.pth --json")
def inspect_weights(
    file: Annotated[Path, Argument(help="a file for --weights, from any source")], as_json: flags.AsJson = False
) -> None:
    """Identify a weight file, the network it fits, and every key that does not."""
    from amem_cli.tools.inspect_weights import inspect_weights

    report = inspect_weights(file)
    console.print_json(report) if as_json else console.print_weights(report)
    if not report.fits:
        raise typer.Exit(65)


@command(app, "bench", "amem bench", "amem bench --quick --precision bf16 --json")
def bench(
    output: flags.Output,
    device: Annotated[str, Option(help=flags.HELP["device"])] = "auto",
    precision: Annotated[str, choice("auto", "fp32", "bf16", help=flags.HELP["precision"])] = "auto",
    engine: Annotated[str, choice("auto", "torch", "eager", "openvino", help="as in extract-features")] = "auto",
    quick: Annotated[bool, Option("--quick", help="fewer runs, and no training")] = False,
) -> None:
    """Measure the speed of each part, its ceiling, and the time MARS would take.

    Uses generated people and random weights. The same run measures the
    ceilings: a large convolution, libjpeg alone.
    """
    from amem_cli.tools.bench import bench

    check_device(device)
    figures = bench(device, precision, engine, quick, Progress(output.quiet))
    console.print_json(figures) if output.as_json else console.print_bench(figures)
