"""A table of the paper as a chain of commands: `amem reproduce --dry-run` prints it, `amem reproduce` runs it.

Each row is a `train-amem` configuration in its own workspace, WORKSPACE/reproduce/ROW/seedN, in which the stages and
`amem status` work as in any other. Tables with the same row use the same folder. ARM, pseudo-labels and TAE are made
once, in the main workspace. A plan needs no torch.
"""

import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amem_cli.artifacts.paths import Workspace
from amem_cli.data.manifest import Manifest, load_manifest
from amem_cli.errors import UsageError, require_known
from amem_cli.options import COMMANDS, PRESETS, TrainAmemOptions, flag_of
from amem_cli.resolve import resolve
from amem_cli.tools.reproduce.settings import parse_settings, parse_weights
from amem_cli.tools.reproduce.tables import SEEDS, TABLES, Row, Table


@dataclass(frozen=True)
class Request:
    """The arguments of `amem reproduce`; an empty tuple is all data sets or rows of the table."""

    what: str
    datasets: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    seeds: int = SEEDS
    preset: str = "paper"
    data_root: Path = Path("data")
    workspace: Path = Path("workspace")
    weights: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """One command: its resolved options, and the line as typed by a user."""

    name: str
    options: Any
    line: str


@dataclass(frozen=True)
class Run:
    """One row on one data set with one seed: the commands that other rows need too (`inputs`), and its own.

    `lines` are its own commands as typed by a user; in a table of predicted frames the last one draws `picture`.
    """

    row: Row
    dataset: str
    seed: int
    workspace: Workspace
    inputs: list[Command]
    commands: list[Command]
    lines: list[str]
    picture: Path


@dataclass(frozen=True)
class Plan:
    """The runs of a request: all rows of the first seed first. `file` is the name of the table's files."""

    request: Request
    table: Table
    datasets: tuple[str, ...]
    file: str
    runs: list[Run]

    @property
    def shared(self) -> list[Command]:
        """The inputs of all runs, each once, in the order of the stages."""
        unique = {command.line: command for run in self.runs for command in run.inputs}
        return sorted(unique.values(), key=lambda command: list(COMMANDS).index(command.name))

    @property
    def commands(self) -> list[Command]:
        return [*self.shared, *(command for run in self.runs for command in run.commands)]

    def from_scratch(self) -> list[str]:
        """The networks that are trained without weights: arm, tae, backbones."""
        names = {"train-arm": "arm", "train-tae": "tae"}
        trained = [(c.name, c.options) for c in self.commands if c.name.startswith("train-")]
        weights = {names.get(name) or options.backbone: options.weights for name, options in trained}
        return [network for network, file in weights.items() if not file]

    def advice(self) -> str:
        """A warning about networks that are trained from scratch, or nothing."""
        warning = (
            f"Trained from scratch: {', '.join(self.from_scratch())}. The paper starts from ImageNet or Kinetics "
            "weights (--weights NAME=FILE) and its schedule assumes them; do not compare rows with and without weights"
        )
        return warning if self.from_scratch() else ""

    def script(self) -> str:
        """The chain as a shell script."""
        lines = [f"# {self.table.title}. Finished work is reused."]
        lines += [*(f"# {line}" for line in textwrap.wrap(self.advice(), 116)), "set -e"]
        if self.shared:
            lines += ["", "# once, for all rows", *(command.line for command in self.shared)]
        for run in self.runs:
            lines += ["", f"# {run.row.title} on {run.dataset}, seed {run.seed}", *run.lines]
        return "\n".join([*lines, "", "# The same command without --dry-run then writes the table."])

    def as_json(self) -> dict[str, Any]:
        """The chain in machine-readable form: all `commands`; the same divided into `shared` inputs and `runs`."""
        shared = [command.line for command in self.shared]
        runs = [{"row": r.row.name, "dataset": r.dataset, "seed": r.seed, "commands": r.lines} for r in self.runs]
        commands = shared + [line for run in self.runs for line in run.lines]
        return {"what": self.request.what, "commands": commands, "shared": shared, "runs": runs}


def plan(request: Request) -> Plan:
    """The plan of a request. All options are checked before anything runs; raises `UsageError`."""
    what, seeds = request.what, range(request.seeds)
    require_known("table", [what], TABLES)
    table, settings = TABLES[what], parse_settings(request.settings)
    require_known("--row", request.rows, [row.name for row in table.rows])
    if not seeds:
        raise UsageError("--seeds", str(request.seeds), why="must be 1 or more")
    datasets = request.datasets or table.datasets
    if len(datasets) > 1 and len(table.datasets) == 1:
        raise UsageError("--dataset", ", ".join(datasets), why=f"{what} is about one data set", remedy="Use one")
    for name in settings.get("train-amem", {}).keys() & {name for row in table.rows for name in row.options}:
        raise UsageError("--set", name.replace("_", "-"), why=f"the rows of {what} differ in it", remedy="Leave it out")
    planner = _Planner(request, table, settings, parse_weights(request.weights))
    manifests = {dataset: load_manifest(dataset) for dataset in datasets}
    names = [manifest.name for manifest in manifests.values() if datasets != table.datasets]
    rows = [row for row in table.rows if not request.rows or row.name in request.rows]
    order = [(seed, on, row) for seed in seeds for on in manifests.items() for row in rows]
    file = "-".join([what, *names, *request.rows])
    return Plan(request, table, datasets, file, [planner.run(row, *on, seed) for seed, on, row in order])


@dataclass(frozen=True)
class _Planner:
    request: Request
    table: Table
    settings: dict[str, dict[str, Any]]
    weights: dict[str, str]

    def run(self, row: Row, dataset: str, manifest: Manifest, seed: int) -> Run:
        protocol, scored = manifest.protocol, self.table.scored
        if protocol is None:
            raise UsageError("--dataset", dataset, why="has no tracklets", remedy="Use a data set of videos")
        main, own = self.request.workspace, self.request.workspace / "reproduce" / row.name / f"seed{seed}"
        root = {"data_root": self.request.data_root}
        first = {"dataset": dataset} | ({} if protocol.kind == "single-split" else {"split": "0"})
        on = first | ({"split": "all"} if scored and "split" in first else {}) | root | {"workspace": own}
        options, inputs = self.paper_values(row) | {"seed": seed} | self.weights_of(row.backbone), []
        if row.uses_aem:
            inputs.append(self.command("train-arm", root | {"workspace": main} | self.weights_of("arm")))
            inputs.append(self.command("label-videos", {"dataset": dataset} | root | {"workspace": main}))
            options |= {"labels": str(Workspace(main).labels(manifest.name))}
        if row.uses_mem:
            inputs.append(self.command("train-tae", root | {"workspace": main} | self.weights_of("tae")))
            options |= {"tae": str(Workspace(main).tae)}
        commands = [self.command("train-amem", on | options)]
        if scored:
            name = protocol.name if manifest.shipped else dataset
            commands.append(self.command("extract-features", on))
            commands.append(self.command("evaluate", {"protocol": name, "workspace": own}))
        lines, picture = [command.line for command in commands], own / f"predicted-frames-{manifest.name}.png"
        if self.table.drawn:
            drawing = first | root | {"workspace": own, "out": picture}
            lines.append(shlex.join(["amem", "show", "frames", *_flags(drawing)]))
        return Run(row, dataset, seed, Workspace(own), inputs, commands, lines, picture)

    def paper_values(self, row: Row) -> dict[str, Any]:
        """The options of a row; with another preset than the paper's also backbone and T, which the rows depend on."""
        if self.request.preset == PRESETS[0]:
            return dict(row.options)
        fixed = {"backbone": row.backbone, "clip_frames": TrainAmemOptions.clip_frames}
        given = self.settings.get("train-amem", {})
        return {name: value for name, value in fixed.items() if name not in given} | row.options

    def weights_of(self, network: str) -> dict[str, Any]:
        return {"weights": self.weights[network]} if network in self.weights else {}

    def command(self, name: str, flags: dict[str, Any]) -> Command:
        """A command with its options resolved as on the command line."""
        cls, preset, settings = COMMANDS[name], self.request.preset, self.settings.get(name, {})
        for setting in settings.keys() & flags:
            raise UsageError("--set", setting.replace("_", "-"), why=f"reproduce itself sets it for {name}")
        words = ["amem", name, *_flags(flags | settings)]
        if resolve(cls, {}, preset=preset) != resolve(cls, {}):
            words += ["--preset", preset]
        return Command(name, resolve(cls, flags | settings, preset=preset), shlex.join(words))


def _flags(given: dict[str, Any]) -> list[str]:
    pairs = [(flag_of(name), value) for name, value in given.items() if value is not False]
    return [word for flag, value in pairs for word in ([flag] if value is True else [flag, str(value)])]
