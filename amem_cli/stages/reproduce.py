"""The paper's tables as chains of commands: what `amem reproduce` prints with --dry-run, and runs without.

Every row of a table is one `train-amem` configuration with a workspace of its own, REPRODUCE/<configuration>/seed<N>
below the main workspace, in which the stages and `amem status` work as in any other. Tables that have a row in common
share its folder, so Table 4 trains no I3D row that Table 3 has trained. ARM, pseudo-labels and TAE are made once, in
the main workspace. Stages are imported when they run: a plan needs no torch.
"""

import contextlib
import dataclasses
import json
import os
import re
import shlex
import statistics
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from amem_cli import paper
from amem_cli.artifacts import atomic
from amem_cli.artifacts.provenance import CREATED_BY, SCHEMA, versions
from amem_cli.artifacts.workspace import Workspace
from amem_cli.data.manifest import Manifest, count_differences, load_manifest, read_videos
from amem_cli.errors import BadData, UsageError, did_you_mean
from amem_cli.options import COMMANDS, resolve
from amem_cli.progress import Progress

WHAT = ("table3", "table4", "table5", "sizes", "figure4", "losses")
What = Literal["table3", "table4", "table5", "sizes", "figure4", "losses"]
PAPERS_BACKBONES = ("r3d", "p3d", "i3d")  # in Table 4's order
STRIPS = 8  # tracklets whose predicted frames are drawn and measured


# -- the paper's rows --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Configuration:
    """One row: `name` is its folder, `title` the paper's words, `options` those of `train-amem` that make it."""

    name: str
    title: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table (or figure) of the paper. `scored`: rows are evaluated; `drawn`: frames are predicted and measured."""

    title: str
    configurations: tuple[Configuration, ...]
    datasets: tuple[str, ...] = ("mars",)
    scored: bool = True
    drawn: bool = False
    notes: tuple[str, ...] = ()


BASELINE = Configuration("baseline", "Baseline (I3D)", {"modules": "baseline"})
AEM = Configuration("aem", "Baseline + AEM", {"modules": "aem"})
MEM = {
    c: Configuration(f"mem-c{c}", f"Baseline + MEM (c={c})", {"modules": "mem", "predict_frames": c})
    for c in (1, 2, 3, 4)
}
AFTER = Configuration(
    "after-enhancement", "Baseline (After Enhancement)", {"modules": "after-enhancement", "predict_frames": 3}
)
AMEM = Configuration("amem", "Baseline + AEM + MEM (AMEM)", {"modules": "amem", "predict_frames": 3})


def _without(what: str, base: Configuration, title: str, **options: Any) -> Configuration:
    return Configuration(f"{base.name}-without-{what}", f"{base.title}, {title}", base.options | options)


def _on_backbones() -> Iterator[Configuration]:
    letters = {"B": BASELINE, "B+A": AEM, "B+M": MEM[3], "AMEM": AMEM}
    for backbone in PAPERS_BACKBONES:
        prefix = "" if backbone == "i3d" else f"{backbone}-"  # i3d rows are Table 3's
        for letter, row in letters.items():
            yield Configuration(
                prefix + row.name, f"{backbone.upper()}, {letter}", row.options | {"backbone": backbone}
            )


TABLES = {
    "table3": Table(
        "Table 3: ablation study on each module", (BASELINE, AEM, MEM[1], MEM[2], MEM[3], MEM[4], AFTER, AMEM)
    ),
    "table4": Table("Table 4: other backbones", tuple(_on_backbones())),
    "table5": Table("Table 5: the three data sets", (BASELINE, AMEM), datasets=("mars", "ilids-vid", "prid2011")),
    "losses": Table(
        "Different components in the loss function",
        (
            AMEM,
            _without("adversarial", AMEM, "without L_adv", adversarial_weight=0.0),
            _without("texture", AMEM, "without texture MSE", texture_loss="none"),
        ),
        drawn=True,
        notes=("The paper lists no figures here: accuracy hardly changes, generated images become much worse.",),
    ),
    "figure4": Table(
        "Figure 4: predicted frames",
        tuple(
            row
            for c in (1, 2, 3)
            for row in (MEM[c], _without("texture", MEM[c], "without texture MSE", texture_loss="none"))
        ),
        scored=False,
        drawn=True,
        notes=(
            "The paper prints pictures only. Copying frame t is the yardstick: a ratio of the MSEs below 1 means that "
            "something about motion has been learned.",
        ),
    ),
}


# -- the plan ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """One command: `options` are resolved, `line` is the same for a shell."""

    name: str
    options: Any
    line: str


@dataclass(frozen=True)
class Run:
    """One row with one seed: the commands that make it, in its own workspace."""

    configuration: Configuration
    dataset: str
    seed: int
    workspace: Workspace
    commands: tuple[Command, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be run for a table: `shared` commands first, then the `runs`, all rows of the first seed first."""

    what: str
    table: Table
    datasets: tuple[str, ...]
    workspace: Workspace
    data_root: Path
    preset: str
    seeds: int
    settings: tuple[str, ...]
    weights: tuple[str, ...]
    shared: tuple[Command, ...]
    runs: tuple[Run, ...]

    @property
    def commands(self) -> list[Command]:
        return [*self.shared, *(command for run in self.runs for command in run.commands)]

    def script(self) -> str:
        """The whole chain for a shell, with a comment above each part."""
        lines = [f"# {self.table.title}: {len(self.runs)} trainings. What is done already is not done again."]
        if self.shared:
            lines += ["", "# once, for all rows", *(command.line for command in self.shared)]
        for run in self.runs:
            on = f" on {run.dataset}" if len(self.datasets) > 1 else ""
            lines += ["", f"# {run.configuration.title}{on}, seed {run.seed}"]
            lines += [command.line for command in run.commands]
        lines += ["", f"# The same `amem reproduce {self.what}` without --dry-run then makes the table."]
        return "\n".join(lines)


def plan(
    what: str,
    *,
    datasets: tuple[str, ...] = (),
    rows: tuple[str, ...] = (),
    seeds: int = 3,
    preset: str = "paper",
    data_root: Path = Path("data"),
    workspace: Path = Path("workspace"),
    weights: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
) -> Plan:
    """The chain of commands for `what` (any of `WHAT` but sizes).

    `rows` are names of the table's configurations, none for all. `weights` are "BACKBONE=FILE", `settings` are
    "NAME=VALUE" for train-amem (those of `COMMON`: for every command that has them) or "COMMAND.NAME=VALUE". All
    options are checked now, before anything runs. Raises `UsageError` for what does not exist or does not go together.
    """
    if what not in TABLES:
        raise UsageError("reproduce", what, why="there is no such table", remedy=f"Choose one of {', '.join(WHAT)}")
    if seeds < 1:
        raise UsageError("--seeds", str(seeds), why="must be 1 or more")
    table, chosen = _with_rows(what, rows), parse_settings(settings)
    datasets = datasets or table.datasets
    if len(datasets) > 1 and len(table.datasets) == 1:
        raise UsageError("--dataset", ", ".join(datasets), why=f"{what} is about one data set", remedy="Give one")
    files = parse_weights(weights)
    everywhere = {"data_root": data_root, "workspace": workspace}
    shared_at, configurations = Workspace(workspace), table.configurations
    manifests = {dataset: _video_manifest(dataset) for dataset in datasets}

    def command(name: str, **flags: Any) -> Command:
        return _command(name, flags, chosen.get(name, {}), preset)

    shared = []
    if any(row.options["modules"] in ("aem", "amem", "after-enhancement") for row in configurations):
        shared.append(command("train-arm", **everywhere))
        shared += [command("label-videos", dataset=dataset, **everywhere) for dataset in datasets]
    if any(row.options["modules"] in ("mem", "amem", "after-enhancement") for row in configurations):
        shared.append(command("train-tae", **everywhere))

    runs = []
    for seed in range(seeds):
        for dataset, manifest in manifests.items():
            numbered = manifest.protocol.kind != "single-split"
            on: dict[str, Any] = {"dataset": dataset} | ({"split": "all"} if numbered else {})
            for row in configurations:
                own = Workspace(workspace / "reproduce" / row.name / f"seed{seed}")
                places = {"data_root": data_root, "workspace": own.root}
                parents: dict[str, Any] = {}
                if row.options["modules"] in ("aem", "amem", "after-enhancement"):
                    parents["labels"] = str(shared_at.labels(manifest.name))
                if row.options["modules"] in ("mem", "amem", "after-enhancement"):
                    parents["tae"] = str(shared_at.tae)
                backbone = row.options.get("backbone", "i3d")
                parents |= {"weights": files[backbone]} if backbone in files else {}
                commands = [command("train-amem", **on, **row.options, seed=seed, **places, **parents)]
                if table.scored:
                    protocol = manifest.protocol.name if manifest.shipped else dataset
                    commands.append(command("extract-features", **on, **places))
                    commands.append(command("evaluate", protocol=protocol, workspace=own.root))
                runs.append(Run(row, dataset, seed, own, tuple(commands)))
    return Plan(
        what, table, datasets, shared_at, data_root, preset, seeds, settings, weights, tuple(shared), tuple(runs)
    )


def _with_rows(what: str, rows: tuple[str, ...]) -> Table:
    table = TABLES[what]
    known = [row.name for row in table.configurations]
    for name in rows:
        if name not in known:
            remedy = f"{did_you_mean(name, known)}Its rows are {', '.join(known)}"
            raise UsageError("--row", name, why=f"{what} has no such row", remedy=remedy)
    chosen = tuple(row for row in table.configurations if not rows or row.name in rows)
    return dataclasses.replace(table, configurations=chosen)


def _video_manifest(dataset: str) -> Manifest:
    manifest = load_manifest(dataset)
    if manifest.protocol is None:
        raise UsageError("--dataset", dataset, why="has no tracklets and no protocol", remedy="Name one of videos")
    return manifest


def _command(name: str, flags: dict[str, Any], settings: dict[str, Any], preset: str) -> Command:
    """A stage's options, resolved as the command line does it, and the line that a user would type."""
    cls = COMMANDS[name]
    given = flags | {key: value for key, value in settings.items() if key not in flags}
    options = resolve(cls, given, preset=preset)
    words = ["amem", name]
    for key, value in given.items():
        flag = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        else:
            words += [flag, str(value)]
    if resolve(cls, {}, preset=preset) != resolve(cls, {}):
        words += ["--preset", preset]
    return Command(name, options, shlex.join(words))


# -- settings on top of the rows ---------------------------------------------------------------------------------------

COMMON = ("device", "precision", "workers", "image_size", "resume", "force")
PLACES = {"data_root", "workspace"}
RESERVED = {  # what the plan itself decides
    "train-arm": PLACES,
    "label-videos": PLACES | {"dataset", "arm", "image_size"},  # frames have the ARM's size
    "train-tae": PLACES,
    "train-amem": PLACES
    | {"dataset", "split", "seed", "modules", "predict_frames", "backbone", "weights", "labels", "tae"},
    "extract-features": PLACES | {"dataset", "split", "model", "image_size"},
    "evaluate": {"workspace", "protocol", "features"},
}


def parse_settings(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """`--set NAME=VALUE` and `--set COMMAND.NAME=VALUE` as values of the right types, by command.

    >>> parse_settings(("epochs=5", "train-tae.epochs=8"))
    {'train-amem': {'epochs': 5}, 'train-tae': {'epochs': 8}}
    """
    settings: dict[str, dict[str, Any]] = {}
    for text in texts:
        match = re.fullmatch(r"(?:([a-z-]+)\.)?([A-Za-z_-]+)=(.*)", text)
        if not match:
            remedy = "For example --set epochs=30, or --set train-tae.epochs=8"
            raise UsageError("--set", text, why="must be NAME=VALUE or COMMAND.NAME=VALUE", remedy=remedy)
        command, name, value = match[1], match[2].replace("-", "_"), match[3]
        if command and command not in COMMANDS:
            remedy = f"{did_you_mean(command, COMMANDS)}Commands are {', '.join(COMMANDS)}"
            raise UsageError("--set", text, why=f"there is no command {command}", remedy=remedy)
        commands = [command or "train-amem"]
        if not command and name in COMMON:
            commands = [c for c, cls in COMMANDS.items() if name in _names(cls) and name not in RESERVED[c]]
        for each in commands:
            settings.setdefault(each, {})[name] = _value(text, each, name, value)
    return settings


def _names(cls: type) -> list[str]:
    return [entry.name for entry in dataclasses.fields(cls)]


def _value(text: str, command: str, name: str, value: str) -> Any:
    """The text of a value as the option's type."""
    if name in RESERVED[command]:
        remedy = "Use --weights BACKBONE=FILE" if name == "weights" else "Use the command's own flags, or another table"
        raise UsageError("--set", text, why=f"the table itself decides {name.replace('_', '-')}", remedy=remedy)
    kinds = typing.get_type_hints(COMMANDS[command])
    if name not in kinds:
        remedy = f"{did_you_mean(name, kinds)}`amem {command} --help` lists them".replace("_", "-")
        raise UsageError("--set", text, why=f"{command} has no option {name.replace('_', '-')}", remedy=remedy)
    kind = kinds[name]
    if typing.get_origin(kind) is Literal:
        if value in typing.get_args(kind):
            return value
        why = f"{value!r} is none of {', '.join(typing.get_args(kind))}"
    elif kind is bool:
        if value in ("true", "false"):
            return value == "true"
        why = f"{value!r} is neither true nor false"
    else:
        try:
            return kind(value)
        except ValueError:
            why = f"{value!r} is not of type {kind.__name__}"
    raise UsageError("--set", text, why=why)


def parse_weights(texts: tuple[str, ...]) -> dict[str, str]:
    """`--weights BACKBONE=FILE` by backbone, for those of the paper: i3d, r3d, p3d."""
    files = {}
    for text in texts:
        backbone, _, file = text.partition("=")
        if backbone not in PAPERS_BACKBONES or not file:
            remedy = "For example --weights i3d=rgb_imagenet.pt --weights r3d=resnet-50-kinetics.pth"
            why = f"must be BACKBONE=FILE with one of the backbones {', '.join(PAPERS_BACKBONES)}"
            raise UsageError("--weights", text, why=why, remedy=remedy)
        files[backbone] = file
    return files


# -- running it --------------------------------------------------------------------------------------------------------


class TellOnce(Progress):
    """A report in which each warning comes once, although many stages read the same data."""

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            super().warn(text)


@dataclass
class Measured:
    """What the finished runs of one row gave: `values` maps a figure's name to one value for each seed."""

    values: dict[str, list[float]] = field(default_factory=dict)
    chance: dict[str, float] | None = None
    workspaces: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)


def run(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Run a plan; returns the table as JSON (see `document`), which is also in REPRODUCE/<what>.json and .md.

    Finished work is kept by the stages themselves, and the table is written anew after every training, so an
    interrupted run has left a table of what it got to.
    """
    from amem_cli.stages.result import weights_parent

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        remedy = "Print the commands with --dry-run and start each with torchrun"
        raise UsageError("reproduce", why="runs in one process", remedy=remedy)
    for command in plan.commands:  # a missing file of weights is found now, not days later
        if getattr(command.options, "weights", ""):
            weights_parent(command.options.weights)
    notes = [note for dataset in plan.datasets for note in _data_notes(dataset, plan.data_root)]
    for command in plan.shared:
        progress.say(f"$ {command.line}")
        run_command(command, progress)
    measured = {(row.name, dataset): Measured() for dataset in plan.datasets for row in plan.table.configurations}
    table = document(plan, measured, notes)
    for number, one in enumerate(plan.runs, 1):
        _link_shared(one.workspace, plan.workspace)
        progress.say(f"-- {number} of {len(plan.runs)}: {one.configuration.title}, {one.dataset}, seed {one.seed}")
        found = measured[one.configuration.name, one.dataset]
        for command in one.commands:
            progress.say(f"$ {command.line}")
            results = run_command(command, progress)
            if command.name == "evaluate":
                _add_scores(found, results[0].metrics)
        if plan.table.drawn:
            _add_predictions(found, plan, one)
        found.workspaces.append(str(one.workspace.root))
        table = document(plan, measured, notes)
        write(plan.workspace, table)
    return table


def run_command(command: Command, progress: Progress) -> list[Any]:
    """Call the stage behind a command; its results, one for each split."""
    if command.name == "train-arm":
        from amem_cli.stages.train_arm import train_arm as stage
    elif command.name == "label-videos":
        from amem_cli.stages.label_videos import label_videos as stage
    elif command.name == "train-tae":
        from amem_cli.stages.train_tae import train_tae as stage
    elif command.name == "train-amem":
        from amem_cli.stages.train_amem import train_amem as stage
    elif command.name == "extract-features":
        from amem_cli.stages.extract_features import extract_features as stage
    else:
        from amem_cli.stages.evaluate import evaluate as stage
    results = stage(command.options, progress)
    return results if isinstance(results, list) else [results]


def _link_shared(own: Workspace, shared: Workspace) -> None:
    """Let `amem status` see the shared artifacts in a row's workspace too; the commands themselves name their paths."""
    for made in (shared.arm, shared.labels("any"), shared.tae):
        folder, link = made.parent, own.root / made.parent.name
        if folder.is_dir() and not os.path.lexists(link):
            own.root.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # a file system without links: status calls them missing, no more
                link.symlink_to(os.path.relpath(folder, own.root), target_is_directory=True)


def _data_notes(dataset: str, data_root: Path) -> list[str]:
    """Why the paper's figures are no yardstick for this data, if so."""
    manifest = load_manifest(dataset)
    differences = count_differences(manifest, read_videos(manifest, data_root))
    if not differences:
        return []
    return [
        f"The data called {manifest.name} are not the whole data set of that name ({differences[0]}; "
        f"{len(differences)} differences): the paper's figures are no yardstick for ours."
    ]


def _add_scores(found: Measured, scores: dict[str, Any]) -> None:
    for rank in ("1", "5", "20"):
        found.values.setdefault(f"rank-{rank}", []).append(scores["rank"][rank])
    found.values.setdefault("mAP", []).append(scores["mAP"])
    found.chance = {"rank-1": scores["chance"]["rank"]["1"], "mAP": scores["chance"]["mAP"]}


def _add_predictions(found: Measured, plan: Plan, one: Run) -> None:
    """Draw the predicted frames of some test tracklets (of the first split) and take their errors."""
    from amem_cli.pictures.frames import evenly_spaced
    from amem_cli.stages.show import draw_predicted_frames, read_split

    name, number, content = read_split(one.dataset, plan.data_root)
    tracklets = evenly_spaced([t for t, query in zip(content.test, content.is_query, strict=True) if query], STRIPS)
    out = one.workspace.root / f"predicted-frames-{name}.png"
    path, errors = draw_predicted_frames(out, one.workspace.amem(name, number), tracklets)
    found.pictures.append(str(path))
    for key in ("psnr", "psnr_copied", "ssim", "ssim_copied", "mse_ratio"):
        if errors[key] is None:
            raise BadData("predicted frames of", name, why="nobody moves in them, so copying cannot be beaten")
        found.values.setdefault(key, []).append(errors[key])


# -- the table ---------------------------------------------------------------------------------------------------------

SCORES = ("rank-1", "rank-5", "rank-20", "mAP")
PREDICTIONS = ("psnr", "psnr_copied", "ssim", "ssim_copied", "mse_ratio")


def document(plan: Plan, measured: dict[tuple[str, str], Measured], notes: list[str]) -> dict[str, Any]:
    """The table as JSON: `rows`, each with `paper` and `ours`; rates are fractions in [0, 1], PSNR is in dB.

    `ours` maps each figure to {"mean", "standard_deviation" (n - 1; None for one seed), "values"}, one value a seed;
    `complete` tells whether every run is in it.
    """
    rows = []
    for dataset in plan.datasets:
        name = load_manifest(dataset).name
        for row in plan.table.configurations:
            found = measured[row.name, dataset]
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
                }
            )
    done = sum(len(row["workspaces"]) for row in rows)
    document: dict[str, Any] = {
        "kind": "amem-reproduction",
        "schema": SCHEMA,
        "created_by": CREATED_BY,
        "what": plan.what,
        "title": plan.table.title,
        "datasets": list(plan.datasets),
        "preset": plan.preset,
        "seeds": plan.seeds,
        "settings": list(plan.settings),
        "weights": list(plan.weights),
        "complete": done == len(plan.runs),
        "runs_done": done,
        "runs": len(plan.runs),
        "rows": rows,
        "notes": [*plan.table.notes, *notes],
        "commands": [command.line for command in plan.commands],
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


def _fractions(printed: paper.Printed | None) -> dict[str, float | None] | None:
    if printed is None:
        return None
    return {name: None if value is None else round(value / 100, 4) for name, value in zip(SCORES, printed, strict=True)}


def _over_seeds(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "standard_deviation": deviation, "values": values}


def write(workspace: Workspace, table: dict[str, Any]) -> tuple[Path, Path]:
    """Write REPRODUCE/<what>.json and <what>.md; returns their paths."""
    folder = workspace.root / "reproduce"
    text = json.dumps(table, indent=1, allow_nan=False, default=str)
    made = atomic.write_text(folder / f"{table['what']}.json", text)
    return made, atomic.write_text(folder / f"{table['what']}.md", as_markdown(table, folder))


def as_markdown(table: dict[str, Any], folder: Path) -> str:
    """The table in Markdown, for `folder`; rates in per cent, mean ± standard deviation over the seeds."""
    if table["what"] == "sizes":
        return _sizes_as_markdown(table)
    seeds = f"{table['seeds']} seed{'s' if table['seeds'] > 1 else ''}"
    lines = [f"# {table['title']}", ""]
    lines += [f"Data: {', '.join(table['datasets'])}. Preset: {table['preset']}. Mean ± standard deviation of {seeds}."]
    lines += [f"Backbones' weights: {', '.join(table['weights']) or 'none, from scratch'}."]
    lines += [f"Settings: {', '.join(table['settings'])}."] if table["settings"] else []
    if not table["complete"]:
        lines += ["", f"**Not complete: {table['runs_done']} of {table['runs']} trainings are done.**"]
    lines += ["", *_pipe_table(*columns_and_rows(table)), ""]
    for dataset in table["datasets"]:
        chance = next((row["chance"] for row in table["rows"] if row["dataset"] == dataset and row["chance"]), None)
        if chance:
            rates = f"rank-1 {100 * chance['rank-1']:.1f}, mAP {100 * chance['mAP']:.1f}"
            lines += [f"Chance on {dataset}: {rates}.", ""]
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


def columns_and_rows(table: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A table's headings and cells as text, for Markdown and for the terminal alike."""
    several = len(table["datasets"]) > 1
    scored = any(row["paper"] for row in table["rows"]) or any("mAP" in row["ours"] for row in table["rows"])
    drawn = any("psnr" in row["ours"] for row in table["rows"])
    columns = [*(["data"] if several else []), "model"]
    columns += [f"{name} {whose}" for name in SCORES for whose in ("paper", "ours")] if scored else []
    columns += ["PSNR dB", "PSNR of copy", "SSIM", "SSIM of copy", "MSE / MSE of copy"] if drawn else []
    rows = []
    for row in table["rows"]:
        cells = [*([row["dataset"]] if several else []), row["title"]]
        if scored:
            for name in SCORES:
                printed = (row["paper"] or {}).get(name)
                cells += [_per_cent(printed), _ours(row["ours"].get(name), scale=100, digits=1)]
        if drawn:
            digits = (1, 1, 3, 3, 2)
            cells += [_ours(row["ours"].get(n), digits=d) for n, d in zip(PREDICTIONS, digits, strict=True)]
        rows.append(cells)
    return columns, rows


def lines_for_terminal(table: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The same cells for a narrow terminal: the paper's figures below ours instead of beside them."""
    wide, rows = columns_and_rows(table)
    single = [name for name in wide if not name.endswith(" paper")]
    columns = [name.removesuffix(" ours") for name in single]
    stacked = []
    for cells in rows:
        by_name = dict(zip(wide, cells, strict=True))
        stacked.append([by_name[name] for name in single])
        if any(by_name.get(f"{name} paper", "-") != "-" for name in columns):
            names = {"model": "  paper"}
            stacked.append([names.get(name, by_name.get(f"{name} paper", "")) for name in columns])
    return columns, stacked


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
    words = ("model", "data", "method", "what", "reading")
    rule = ["---" if name in words else "---:" for name in columns]
    return ["| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows)]


# -- sizes -------------------------------------------------------------------------------------------------------------


def sizes(workspace: Path) -> dict[str, Any]:
    """The section Model Size: measures, writes REPRODUCE/sizes.json and .md, returns the table. Needs no data."""
    from amem_cli.models.sizes import model_sizes

    rows = [dataclasses.asdict(size) | {"MB": size.MB, "MiB": size.MiB} for size in model_sizes()]
    table = {
        "kind": "amem-reproduction",
        "schema": SCHEMA,
        "created_by": CREATED_BY,
        "what": "sizes",
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
    columns = ["what", "parameters", "MB", "MiB", "paper", "GFLOP"]
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
