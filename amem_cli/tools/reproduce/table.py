"""A reproduced table: the paper's figures beside ours, as JSON, in Markdown and for the terminal."""

import dataclasses
import json
import math
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy import stats

from amem_cli.artifacts import atomic
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import CREATED_BY, SCHEMA, versions
from amem_cli.data.manifest import load_manifest
from amem_cli.tools import paper
from amem_cli.tools.reproduce.plan import Plan

OTHER_MOTION = "the same by another clip's f_M"
SCORES = ("rank-1", "rank-5", "rank-20", "mAP")
PREDICTIONS = ("psnr", "psnr_copied", "ssim", "ssim_copied", "mse_ratio", "other_motion_ratio")


@dataclass
class Measured:
    """What the finished runs of one row gave: `values` maps a figure's name to one value for each seed."""

    values: dict[str, list[float]] = field(default_factory=dict)
    chance: dict[str, float] | None = None
    workspaces: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)


def document(plan: Plan, measured: dict[tuple[str, str], Measured], notes: list[str]) -> dict[str, Any]:
    """The table as JSON: `rows`, each with `paper` and `ours`; rates are fractions in [0, 1], PSNR is in dB.

    `ours` maps each figure to {"mean", "standard_deviation" (n - 1; None for one seed), "values"}, one value a seed;
    `difference` compares them with those of the row `beside` (see `_difference`).

    Rows of the table that the plan leaves out are those of the file that is there, where they were made by the same
    commands (`recipe`; places and devices do not count), and else empty. `complete` tells whether every run of the
    whole table is in it.
    """
    earlier = _rows_of(plan.workspace.root / "reproduce" / f"{plan.file}.json")
    recipes = {row.name: _recipes(plan.with_rows(row.name)) for row in plan.table.configurations}
    rows = []
    for dataset in plan.datasets:
        name = load_manifest(dataset).name
        for row in plan.table.configurations:
            found, recipe = measured.get((row.name, dataset)), recipes[row.name][dataset]
            if found is None and (kept := earlier.get((row.name, dataset))) and kept["recipe"] == recipe:
                rows.append(kept)
                continue
            found = found or Measured()
            rows.append(
                {
                    "configuration": row.name,
                    "title": row.title,
                    "dataset": dataset,
                    "paper": _fractions(paper.printed(name, row.name)) if plan.table.scored else None,
                    "ours": {figure: _over_seeds(values) for figure, values in found.values.items()},
                    "chance": found.chance,
                    "workspaces": found.workspaces,
                    "pictures": found.pictures,
                    "recipe": recipe,
                }
            )
    by_name = {(row["configuration"], row["dataset"]): row for row in rows}
    beside = {row.name: row.beside for row in plan.table.configurations}
    for row in rows:
        row["beside"] = beside[row["configuration"]]
        other = by_name.get((row["beside"], row["dataset"]))
        row["difference"] = _difference(row, other) if other and other is not row else {}
    done, runs = sum(min(len(row["workspaces"]), plan.seeds) for row in rows), len(rows) * plan.seeds
    filled = [row["configuration"] for row in rows if row["workspaces"]]
    of_filled = plan.with_rows(*dict.fromkeys(filled)) if filled else plan
    document: dict[str, Any] = {
        "kind": "amem-reproduction",
        "schema": SCHEMA,
        "created_by": CREATED_BY,
        "what": plan.what,
        "title": plan.table.title,
        "datasets": list(plan.datasets),
        "file": plan.file,
        "preset": plan.preset,
        "seeds": plan.seeds,
        "settings": list(plan.settings),
        "weights": list(plan.weights),
        "from_scratch": of_filled.from_scratch(),
        "complete": done == runs,
        "runs_done": done,
        "runs": runs,
        "rows": rows,
        "notes": [*plan.table.notes, *notes],
        "commands": of_filled.lines,
        "versions": versions(),
    }
    if plan.what == "table5":
        document["cited"] = [
            {"method": row.method}
            | {
                name: _fractions(value)
                for name, value in (("mars", row.mars), ("ilids-vid", row.ilids_vid), ("prid2011", row.prid2011))
                if name in plan.datasets
            }
            for row in paper.CITED
        ]
    return document


def _rows_of(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of an earlier table that are not empty, by configuration and data set."""
    try:
        rows = json.loads(path.read_text("utf-8"))["rows"]
        return {(row["configuration"], row["dataset"]): row for row in rows if row["workspaces"] and row["recipe"]}
    except (OSError, ValueError, KeyError, TypeError):  # none, or none that could be read: it is written anew
        return {}


def _recipes(plan: Plan) -> dict[str, dict[str, Any]]:
    """What decides the figures of a plan's one row, by data set: the options of its commands that are science, and the
    weights, as JSON values."""
    recipes = {}
    for run in reversed(plan.runs):  # the first seed stays
        commands = [c for c in plan.shared if c.name != "label-videos" or c.options.dataset == run.dataset]
        used: dict[str, Any] = {
            command.name: command.options.fingerprint() | {"weights": getattr(command.options, "weights", "")}
            for command in [*commands, *run.commands]
        }
        del used["train-amem"]["seed"]
        recipes[run.dataset] = used
    return recipes


def _fractions(printed: paper.Printed | None) -> dict[str, float | None] | None:
    if printed is None:
        return None
    return {name: None if value is None else round(value / 100, 4) for name, value in zip(SCORES, printed, strict=True)}


def _over_seeds(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "standard_deviation": deviation, "values": values}


def _difference(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What a row has more than another in rank-1 and mAP, over the seeds that both have.

    {"mean", "interval" (95 %, Student's t over the pairs of one seed; None for one pair), "pairs"} for each figure.
    """
    differences = {}
    for figure in ("rank-1", "mAP"):
        ours, others = (each["ours"].get(figure, {"values": []})["values"] for each in (row, other))
        pairs = [a - b for a, b in zip(ours, others, strict=False)]  # seeds come in order, a later one may be missing
        if not pairs:
            continue
        mean, interval = statistics.fmean(pairs), None
        if len(pairs) > 1:
            reach = stats.t.ppf(0.975, len(pairs) - 1) * statistics.stdev(pairs) / math.sqrt(len(pairs))
            interval = [mean - float(reach), mean + float(reach)]
        differences[figure] = {"mean": mean, "interval": interval, "pairs": len(pairs)}
    return differences


def write(workspace: Workspace, table: dict[str, Any]) -> tuple[Path, Path]:
    """Write REPRODUCE/<file>.json and <file>.md; returns their paths."""
    folder = workspace.root / "reproduce"
    text = json.dumps(table, indent=1, allow_nan=False, default=str)
    made = atomic.write_text(folder / f"{table['file']}.json", text)
    return made, atomic.write_text(folder / f"{table['file']}.md", as_markdown(table, folder))


def as_markdown(table: dict[str, Any], folder: Path) -> str:
    """The table in Markdown, for `folder`; rates in per cent, mean ± standard deviation over the seeds."""
    if table["what"] == "sizes":
        return _sizes_as_markdown(table)
    lines = [f"# {table['title']}", ""]
    lines += [f"Data: {', '.join(table['datasets'])}. Preset: {table['preset']}. {_over(table)}."]
    lines += [f"Weights to start from: {starting_weights(table)}."]
    lines += [f"Settings: {', '.join(table['settings'])}."] if table["settings"] else []
    if not table["complete"]:
        lines += ["", f"**Not complete: {table['runs_done']} of {table['runs']} rows with their seeds are done.**"]
    lines += ["", *_pipe_table(*columns_and_rows(table)), ""]
    columns, rows = differences_beside(table)
    if rows:
        lines += ["What each row has more than the one it is compared with, in per cent, over pairs of one seed:", ""]
        lines += [*_pipe_table(columns, rows), ""]
    for line in chances(table):
        lines += [line, ""]
    for note in table["notes"]:
        lines += [note, ""]
    for row in table["rows"]:
        for picture in row["pictures"][:1]:
            link = os.path.relpath(picture, folder)
            lines += [f"## {row['title']}", "", f"![True, predicted and copied frames]({link})", ""]
    if "cited" in table:
        lines += ["## Other methods, as the paper cites them", "", *_pipe_table(*_cited(table)), ""]
    lines += ["## Commands", "", "```sh", *table["commands"], "```", ""]
    return "\n".join(lines)


def starting_weights(table: dict[str, Any]) -> str:
    """What the trainings of a table start from, in words."""
    scratch = [f"{', '.join(table['from_scratch'])} from scratch"] if table["from_scratch"] else []
    return "; ".join([*table["weights"], *scratch])


def chances(table: dict[str, Any]) -> list[str]:
    """A line for each data set: what a random order would have."""
    lines = []
    for dataset in table["datasets"]:
        chance = next((row["chance"] for row in table["rows"] if row["dataset"] == dataset and row["chance"]), None)
        if chance:
            rates = f"rank-1 {100 * chance['rank-1']:.1f}, mAP {100 * chance['mAP']:.1f}"
            lines.append(f"Chance on {dataset}: {rates}.")
    return lines


def _over(table: dict[str, Any]) -> str:
    counts = {len(row["workspaces"]) for row in table["rows"] if row["workspaces"]} or {table["seeds"]}
    if len(counts) > 1:
        return "Mean ± standard deviation over the seeds that are done"
    (count,) = counts
    return f"Mean ± standard deviation of {count} seeds" if count > 1 else "One seed"


def columns_and_rows(table: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A table's headings and cells as text, for Markdown and for the terminal alike."""
    several = len(table["datasets"]) > 1
    scored = any(row["paper"] for row in table["rows"]) or any("mAP" in row["ours"] for row in table["rows"])
    drawn = any("psnr" in row["ours"] for row in table["rows"])
    columns = [*(["data"] if several else []), "model"]
    columns += [f"{name} {whose}" for name in SCORES for whose in ("paper", "ours")] if scored else []
    frames = ["PSNR dB", "PSNR of copy", "SSIM", "SSIM of copy", "MSE / MSE of copy", OTHER_MOTION]
    columns += frames if drawn else []
    rows = []
    for row in table["rows"]:
        cells = [*([row["dataset"]] if several else []), row["title"]]
        if scored:
            for name in SCORES:
                printed = (row["paper"] or {}).get(name)
                cells += [_per_cent(printed), _ours(row["ours"].get(name), scale=100, digits=1)]
        if drawn:
            digits = (1, 1, 2, 2, 2, 2)
            cells += [_ours(row["ours"].get(n), digits=d) for n, d in zip(PREDICTIONS, digits, strict=True)]
        rows.append(cells)
    return columns, rows


def differences_beside(table: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of what the rows have more than those they are compared with; no cells where none are done."""
    several = len(table["datasets"]) > 1
    columns = [*(["data"] if several else []), "model", "beside", "rank-1", "95 %", "mAP", "95 %"]
    titles = {row["configuration"]: row["title"] for row in table["rows"]}
    rows = []
    for row in filter(lambda row: row["difference"], table["rows"]):
        cells = [*([row["dataset"]] if several else []), row["title"], titles[row["beside"]]]
        for found in row["difference"].values():
            interval = found["interval"] and "{:+.1f} to {:+.1f}".format(*(100 * end for end in found["interval"]))
            cells += [f"{100 * found['mean']:+.1f}", interval or "-"]
        rows.append(cells)
    return columns, rows


def blocks_for_terminal(table: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """The same in blocks for a narrow terminal, each with a title: rates (the paper's below ours), predicted frames,
    differences."""
    wide, rows = columns_and_rows(table)
    names = [name for name in wide if name in ("data", "model")]
    rates, blocks = [name for name in wide if name.endswith(" ours")], []
    if rates:
        stacked = []
        for cells in rows:
            by_name = dict(zip(wide, cells, strict=True))
            stacked.append([by_name[name] for name in [*names, *rates]])
            printed = [by_name[name.replace(" ours", " paper")] for name in rates]
            if any(cell != "-" for cell in printed):
                stacked.append([*("  paper" if name == "model" else "" for name in names), *printed])
        columns = [*names, *(name.removesuffix(" ours") for name in rates)]
        blocks.append((f"{table['title']} (per cent)", columns, stacked))
    if "SSIM" in wide:
        left = (" ours", " paper", OTHER_MOTION)  # the last has no room
        kept = [n for n, name in enumerate(wide) if name in names or not name.endswith(left)]
        short = {"PSNR of copy": "of copy", "SSIM of copy": "of copy", "MSE / MSE of copy": "MSE ratio"}
        columns = [short.get(wide[n], wide[n]) for n in kept]
        title = "Predicted frames beside copies of the last one" if rates else table["title"]
        measured = [[cells[n] for n in kept] for cells in rows]
        blocks.append((title, columns, [cells for cells in measured if any(c != "-" for c in cells[len(names) :])]))
    columns, differences = differences_beside(table)
    if differences:
        blocks.append(("Differences, pairs of one seed (per cent)", columns, differences))
    return blocks or [(table["title"], wide, rows)]


def _ours(figure: dict[str, Any] | None, *, scale: float = 1, digits: int) -> str:
    if figure is None:
        return "-"
    mean, deviation = figure["mean"], figure["standard_deviation"]
    return f"{scale * mean:.{digits}f}" + ("" if deviation is None else f" ± {scale * deviation:.{digits}f}")


def _per_cent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}"


def _cited(table: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    datasets = [name for name in ("mars", "ilids-vid", "prid2011") if name in table["datasets"]]
    figures = [(dataset, name) for dataset in datasets for name in SCORES if name != "mAP" or dataset == "mars"]
    rows = [[row["method"], *(_per_cent(row[d][name]) for d, name in figures)] for row in table["cited"]]
    return ["method", *(f"{dataset} {name}" for dataset, name in figures)], rows


def _pipe_table(columns: list[str], rows: list[list[str]]) -> list[str]:
    words = ("model", "data", "beside", "method", "what", "reading")
    rule = ["---" if name in words else "---:" for name in columns]
    return ["| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows)]


# -- sizes -------------------------------------------------------------------------------------------------------------


def sizes(workspace: Path) -> dict[str, Any]:
    """The section Model Size: measures, writes REPRODUCE/sizes.json and .md, returns the table. Needs no data."""
    from amem_cli.tools.sizes import model_sizes

    rows = [dataclasses.asdict(size) | {"MB": size.MB, "MiB": size.MiB} for size in model_sizes()]
    table = {
        "kind": "amem-reproduction",
        "schema": SCHEMA,
        "created_by": CREATED_BY,
        "what": "sizes",
        "file": "sizes",
        "title": "Model size",
        "complete": True,
        "rows": rows,
        "notes": [
            "MB is 10^6 bytes, MiB 2^20 bytes, of all float32 values, the running means and variances of BN included. "
            "GFLOP are those of one clip of 8 x 256 x 128, a multiplication and its addition counted as two. The paper "
            'says "MB"; its figures fit MiB. Those of a branch are what one branch adds.'
        ],
        "versions": versions(),
    }
    write(Workspace(workspace), table)
    return table


def size_columns_and_rows(table: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of sizes as text, without its readings."""
    columns = ["what", "parameters", "MB", "MiB", 'paper "MB"', "GFLOP"]
    rows = [
        [
            f"{row['group']}: {row['name']}",
            f"{row['parameters']:,}",
            f"{row['MB']:.2f}",
            f"{row['MiB']:.2f}",
            "-" if row["paper_MB"] is None else f"{row['paper_MB']:g}",
            "-" if row["gflop"] is None else f"{row['gflop']:.1f}",
        ]
        for row in table["rows"]
    ]
    return columns, rows


def _sizes_as_markdown(table: dict[str, Any]) -> str:
    columns, rows = size_columns_and_rows(table)
    told = [[*cells, row["reading"]] for cells, row in zip(rows, table["rows"], strict=True)]
    return "\n".join(["# Model size", "", *_pipe_table([*columns, "reading"], told), "", *table["notes"], ""])
