"""Runs a plan: each command calls its stage. The table has the paper's figures next to ours, as JSON and Markdown."""

import contextlib
import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

from scipy import stats

from amem_cli.artifacts import atomic
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import head_of, versions
from amem_cli.artifacts.results import queries_of
from amem_cli.data.datasets import count_differences, read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData, UsageError, counted
from amem_cli.processes import world_size
from amem_cli.resolve import preset_of
from amem_cli.runtime.progress import Progress
from amem_cli.stages import run_stage
from amem_cli.tools import paper
from amem_cli.tools.inspect_weights import check_weights
from amem_cli.tools.reproduce.plan import Command, Plan, Run
from amem_cli.weights.names import NAMES, weight_file

SCORES = ("rank-1", "rank-5", "rank-20", "mAP")
PREDICTIONS = ("psnr", "ssim", "mse_ratio", "other_motion_ratio")
COPIES = ("psnr_copied", "ssim_copied")  # of a copy of the last frame, the baseline of PREDICTIONS
TEXT_COLUMNS = ("model", "compared with", "method", "what")  # the others are numbers

Block = tuple[str, list[str], list[list[str]]]  # a printed table: title, columns, rows


def run(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Run a plan; returns the table as JSON (see `new_table`). An interrupted run leaves that of what is finished, or
    the one that was there if it has computed nothing new."""
    if world_size() > 1:
        raise UsageError("reproduce", why="runs in one process", remedy="Start each command of --dry-run with torchrun")
    for (_, network), weights in plan.trainings.items():
        if weights in NAMES:
            weight_file(weights, network)  # found or downloaded
        elif weights not in ("", "auto"):
            check_weights(network, weights)
    if advice := plan.advice():
        progress.warn(advice)
    many = counted(len(plan.runs), "trainings")
    progress.log(f"{many}: hours on a GPU with the paper's options; amem bench says how long one takes on this machine")
    notes = []
    for manifest in map(load_manifest, plan.datasets):
        if differences := count_differences(manifest, read_videos(manifest, plan.request.data_root)):
            part = f"{manifest.name} is not the complete data set ({'; '.join(differences[:2])}; ...)"
            notes.append(f"{part}: do not compare our figures with the paper's.")
    table, new = new_table(plan, notes), False
    for command in plan.shared:
        run_command(command, progress)
    for number, one in enumerate(progress.repeated(plan.runs, "runs"), 1):
        _link_shared(one.workspace, Workspace(plan.request.workspace))
        progress.log(f"-- {number} of {len(plan.runs)}: {one.title}, {one.dataset}, seed {one.seed}")
        results = [run_command(command, progress) for command in one.commands]
        figures = _measure_predictions(plan, one) if plan.table.drawn else {}
        table = add_run(table, one, results[-1].metrics if plan.table.scored else None, figures)
        new |= not all(one.reused for result in results for one in (result if isinstance(result, list) else [result]))
        if new or number == len(plan.runs):
            write(plan.request.workspace, table)
    return table


def run_command(command: Command, progress: Progress) -> Any:
    """Run the stage of a command."""
    progress.log(f"$ {command.line}")
    return run_stage(command.name, command.options, progress)


def _link_shared(own: Workspace, shared: Workspace) -> None:
    """Links from a row's workspace to the shared artifacts, for `amem status`; the commands use the real paths."""
    for folder in (shared.arm.parent, shared.labels("any").parent, shared.tae.parent):
        link = own.root / folder.name
        if folder.is_dir() and not os.path.lexists(link):
            own.root.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # a file system without links: status reports them as missing
                link.symlink_to(os.path.relpath(folder, own.root), target_is_directory=True)


def _measure_predictions(plan: Plan, one: Run) -> dict[str, float]:
    """Draw the predicted frames of some queries of the first split; the errors over all measured ones."""
    from amem_cli.tools.show import Picture, show
    from amem_cli.tools.source import Source

    source = Source(one.dataset, plan.request.data_root, one.workspace)
    _, errors = show("frames", Picture((), one.picture), source, Progress(quiet=True))
    if errors["mse_ratio"] is None:
        raise BadData("predicted frames of", one.dataset, why="nothing moves in them, so a copy has no error")
    return {key: errors[key] for key in (*PREDICTIONS, *COPIES, "clips") if errors[key] is not None}


# -- the table ---------------------------------------------------------------------------------------------------------


def new_table(plan: Plan, notes: list[str]) -> dict[str, Any]:
    """The table of a plan as JSON, before its runs; rates are fractions in [0, 1], PSNR is in dB."""
    request = plan.request
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for run in plan.runs:
        row, printed = run.row, paper.RESULTS.get(load_manifest(run.dataset).name, {}).get(run.row.name)
        rows[row.name, run.dataset] = {
            "configuration": row.name, "title": run.title, "dataset": run.dataset, "compared_with": row.compared_with,
            "paper": printed.fractions() if printed and plan.table.scored else None,
            "ours": {}, "chance": None, "over": "", "workspaces": [], "pictures": [],
        }  # fmt: skip
    table = header(request.what, plan.file, plan.table.title)
    weights = sorted(f"{name}={start}" for (name, _), start in plan.trainings.items() if start)
    table |= {
        "weights": weights,
        "preset": request.preset or preset_of(request.config),
        "config": str(request.config or ""),
    }
    table |= {"datasets": list(plan.datasets), "seeds": request.seeds, "rows": list(rows.values())}
    table |= {"notes": [*plan.table.notes, *notes], "from_scratch": plan.from_scratch}
    if request.what == "table5":
        table["cited"] = [
            {"method": method} | {name: rates[name].fractions() for name in rates if name in plan.datasets}
            for method, rates in paper.CITED.items()
        ]
    return _compared(table | {"commands": plan.as_json()["commands"]})


def header(what: str, file: str, title: str) -> dict[str, Any]:
    """The first fields of every table."""
    return head_of("amem-reproduction") | {
        "versions": versions(), "what": what, "file": file, "title": title, "complete": True
    }  # fmt: skip


def add_run(
    table: dict[str, Any], run: Run, scores: dict[str, Any] | None, figures: dict[str, float]
) -> dict[str, Any]:
    """The table with a finished run: the `scores` of its evaluation, and `figures` of its predicted frames, each as
    mean and standard deviation (with n - 1; None for one seed) over the `values` of the seeds."""
    row = next(r for r in table["rows"] if (r["configuration"], r["dataset"]) == (run.row.name, run.dataset))
    if scores:
        figures = {f"rank-{k}": scores["rank"][k] for k in ("1", "5", "20")} | {"mAP": scores["mAP"]} | figures
        row["chance"] = {"rank-1": scores["chance"]["rank"]["1"], "mAP": scores["chance"]["mAP"]}
        row["over"] = f"{queries_of(scores)}, gallery {scores['gallery']}"
    for name, figure in figures.items():
        values = [*_values(row, name), figure]
        std = statistics.stdev(values) if len(values) > 1 else None
        row["ours"][name] = {"mean": statistics.fmean(values), "standard_deviation": std, "values": values}
    row["workspaces"].append(str(run.workspace.root))
    row["pictures"] += [str(run.picture)] if "psnr" in figures else []
    return _compared(table)


def _compared(table: dict[str, Any]) -> dict[str, Any]:
    """The table with the differences between rows and the number of finished runs."""
    rows = {(row["configuration"], row["dataset"]): row for row in table["rows"]}
    for row in table["rows"]:
        other = rows.get((row["compared_with"], row["dataset"]), row)
        names = ("rank-1", "mAP") if other is not row else ()
        differences = {name: _difference(_values(row, name), _values(other, name)) for name in names}
        row["difference"] = {name: difference for name, difference in differences.items() if difference}
    done, runs = sum(min(len(row["workspaces"]), table["seeds"]) for row in table["rows"]), len(rows) * table["seeds"]
    return table | {"runs_done": done, "runs": runs, "complete": done == runs}


def _values(row: dict[str, Any], name: str) -> list[float]:
    return row["ours"].get(name, {"values": []})["values"]


def _difference(ours: list[float], others: list[float]) -> dict[str, Any]:
    """The difference of a figure over pairs of the same seed; the interval is 95 %, Student's t, None for one pair."""
    pairs = [a - b for a, b in zip(ours, others, strict=False)]  # seeds are in order, the last ones may be missing
    if not pairs:
        return {}
    mean, interval = statistics.fmean(pairs), None
    if len(pairs) > 1:
        half = float(stats.t.ppf(0.975, len(pairs) - 1)) * statistics.stdev(pairs) / math.sqrt(len(pairs))
        interval = [mean - half, mean + half]
    return {"mean": mean, "interval": interval, "pairs": len(pairs)}


def write(workspace: Path, table: dict[str, Any]) -> Path:
    """Write WORKSPACE/reproduce/FILE.json and FILE.md; returns the latter."""
    path = workspace / "reproduce" / f"{table['file']}.md"
    atomic.write_text(path.with_suffix(".json"), json.dumps(table, indent=1, default=str))
    return atomic.write_text(path, as_markdown(table, path.parent))


def blocks(table: dict[str, Any]) -> list[Block]:
    """The printed tables: rates in per cent, predicted frames, differences.

    Below each of our rows is its reference: the paper, or a copy of the last frame.
    """
    rates, frames, differences = [], [], []
    titles = {row["configuration"]: row["title"] for row in table["rows"]}
    for row in table["rows"]:
        ours, printed = row["ours"], row["paper"]
        title = row["title"] if len(table["datasets"]) == 1 else f"{row['dataset']}: {row['title']}"
        if printed or "mAP" in ours:
            rates.append([title, *(_mean(ours.get(name), 1, scale=100) for name in SCORES)])
        if printed:
            rates.append(["  paper", *(_per_cent(printed[name]) for name in SCORES)])
        if "psnr" in ours:
            frames.append([title, *(_mean(ours.get(name), 1 if name == "psnr" else 2) for name in PREDICTIONS)])
            frames.append(["  copy", _mean(ours[COPIES[0]], 1), _mean(ours[COPIES[1]], 2), "1", "-"])
        if row["difference"]:
            cells = [cell for name in ("rank-1", "mAP") for cell in _interval(row["difference"].get(name))]
            differences.append([title, titles[row["compared_with"]], *cells])
    tables: list[Block] = [
        (f"{table['title']} (per cent)", ["model", *SCORES], rates),
        ("Predicted frames", ["model", "PSNR dB", "SSIM", "MSE ratio", "other f_M"], frames),
        ("Differences (per cent)", ["model", "compared with", "rank-1", "95 %", "mAP", "95 %"], differences),
    ]
    return [block for block in tables if block[2]]


def _mean(figure: dict[str, Any] | None, digits: int, scale: float = 1) -> str:
    mean, std = (figure["mean"], figure["standard_deviation"]) if figure else (None, None)
    cell = "-" if mean is None else f"{scale * mean:.{digits}f}"
    return cell if std is None else f"{cell} ± {scale * std:.{digits}f}"


def _per_cent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}"


def _interval(value: dict[str, Any] | None) -> list[str]:
    interval = value and value["interval"] and "{:+.1f} to {:+.1f}".format(*(100 * end for end in value["interval"]))
    return [f"{100 * value['mean']:+.1f}" if value else "-", interval or "-"]


def remarks(table: dict[str, Any]) -> list[str]:
    """The sentences below a table: data, initial weights, completeness, chance, notes."""
    scratch = [f"{', '.join(table['from_scratch'])} from scratch"] if table["from_scratch"] else []
    chances = {row["dataset"]: row["chance"] for row in table["rows"] if row["chance"]}
    over = {row["dataset"]: row["over"] for row in table["rows"] if row["over"]}
    clips = {row["ours"]["clips"]["mean"] for row in table["rows"] if "clips" in row["ours"]}
    finished = f"{table['runs_done']} of {table['runs']} runs (rows x seeds) are finished."
    return [
        f"Data: {', '.join(table['datasets'])}. Preset: {table['preset']}. Mean ± standard deviation over seeds.",
        f"Initial weights: {'; '.join([*table['weights'], *scratch])}.",
        *([f"Settings: {table['config']}."] if table["config"] else []),
        finished if table["complete"] else f"Not complete: {finished}",
        *(f"Our rates on {dataset} are over {base}." for dataset, base in over.items()),
        *([f"Predicted frames: means over {' or '.join(f'{n:g}' for n in sorted(clips))} clips."] if clips else []),
        *(f"Chance on {d}: rank-1 {_per_cent(c['rank-1'])}, mAP {_per_cent(c['mAP'])}." for d, c in chances.items()),
        *table["notes"],
    ]


def as_markdown(table: dict[str, Any], folder: Path) -> str:
    """The table in Markdown; links to pictures are relative to `folder`."""
    parts = [f"# {table['title']}", *map(block_as_markdown, blocks(table)), *remarks(table)]
    if cited := table.get("cited"):
        columns = [(dataset, name) for dataset in list(cited[0])[1:] for name in SCORES]
        rows = [[row["method"], *(_per_cent(row[dataset][name]) for dataset, name in columns)] for row in cited]
        title = "Other methods, as cited in the paper"
        parts.append(block_as_markdown((title, ["method", *map(" ".join, columns)], rows)))
    for row in table["rows"]:
        for picture in row["pictures"][:1]:
            parts.append(f"![{row['title']}: true, predicted, copied frames]({os.path.relpath(picture, folder)})")
    return "\n\n".join([*parts, "## Commands", "\n".join(["```sh", *table["commands"], "```"])]) + "\n"


def block_as_markdown(block: Block) -> str:
    """A printed table in Markdown."""
    title, columns, rows = block
    rule = ["---" if name in TEXT_COLUMNS else "---:" for name in columns]
    return "\n".join([f"## {title}", "", *("| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows))])
