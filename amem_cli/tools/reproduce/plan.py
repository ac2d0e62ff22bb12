"""A table of the paper as a chain of commands: what `amem reproduce --dry-run` prints and `amem reproduce` runs.

Each row is a `train-amem` configuration in its own workspace, WORKSPACE/reproduce/ROW/seedN, in which the stages and
`amem status` work as in any other. Tables with a row in common share its folder. ARM, pseudo-labels and TAE are made
once, in the main workspace. A plan needs no torch.
"""

import dataclasses
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amem_cli.artifacts.paths import Workspace
from amem_cli.data.manifest import Manifest, load_manifest
from amem_cli.errors import UsageError
from amem_cli.options import COMMANDS, flag_of
from amem_cli.resolve import resolve
from amem_cli.tools.reproduce.settings import IMAGE_NETWORKS, parse_settings, parse_weights, require_known
from amem_cli.tools.reproduce.tables import SEEDS, TABLES, Row, Table


@dataclass(frozen=True)
class Request:
    """The arguments of `amem reproduce`; an empty tuple is all data sets, rows or seeds of the table."""

    what: str
    datasets: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    seeds: int = SEEDS
    chosen_seeds: tuple[int, ...] = ()
    preset: str = "paper"
    data_root: Path = Path("data")
    workspace: Path = Path("workspace")
    weights: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """One command: its resolved options, and the line that a user would type."""

    name: str
    options: Any
    line: str


@dataclass(frozen=True)
class Run:
    """One row on one data set with one seed: the commands that it shares with other rows (`inputs`), and its own.

    `drawing` is the command line that draws predicted frames into `picture`, if the table has them.
    """

    row: Row
    dataset: str
    seed: int
    workspace: Workspace
    inputs: tuple[Command, ...]
    commands: tuple[Command, ...]
    picture: Path
    drawing: str | None

    @property
    def lines(self) -> list[str]:
        return [*(command.line for command in self.commands), *filter(None, [self.drawing])]


@dataclass(frozen=True)
class Plan:
    """The runs of a request: all rows of the first seed first."""

    request: Request
    table: Table
    datasets: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def file(self) -> str:
        """The name of the table's files: `what`, and the data sets if they are not the paper's."""
        names = [] if self.datasets == self.table.datasets else [load_manifest(name).name for name in self.datasets]
        return "-".join([self.request.what, *names])

    @property
    def shared(self) -> list[Command]:
        """The inputs of all runs, each once, in the order of the stages."""
        unique = {command.line: command for run in self.runs for command in run.inputs}
        return sorted(unique.values(), key=lambda command: list(COMMANDS).index(command.name))

    @property
    def commands(self) -> list[Command]:
        return [*self.shared, *(command for run in self.runs for command in run.commands)]

    def whole(self) -> "Plan":
        """The plan of all rows and all seeds."""
        return plan(dataclasses.replace(self.request, rows=(), chosen_seeds=()))

    def from_scratch(self) -> list[str]:
        """The networks that are trained without weights: arm, tae, backbones."""
        trained = [command for command in self.commands if command.name.startswith("train-")]
        names = {"train-arm": "arm", "train-tae": "tae"}
        weights = {names.get(command.name) or command.options.backbone: command.options.weights for command in trained}
        return [network for network, file in weights.items() if not file]

    def advice(self) -> str:
        """A warning about networks that are trained from scratch, or nothing."""
        names = self.from_scratch()
        flags = (f"--weights {name}={'imagenet' if name in IMAGE_NETWORKS else 'FILE'}" for name in names)
        warning = (
            f"Trained from scratch: {', '.join(names)}. The paper starts from ImageNet or Kinetics weights and its "
            f"schedule assumes them; do not compare rows with and without weights. To use weights: {' '.join(flags)}"
        )
        return warning if names else ""

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
        """The chain for a program: all `commands`; the same as `shared` ones and `runs`, each of which needs these."""
        shared = [command.line for command in self.shared]
        runs = [{"row": r.row.name, "dataset": r.dataset, "seed": r.seed, "commands": r.lines} for r in self.runs]
        commands = shared + [line for run in self.runs for line in run.lines]
        return {"what": self.request.what, "commands": commands, "shared": shared, "runs": runs}


def plan(request: Request) -> Plan:
    """The plan of a request. All options are checked before anything runs; raises `UsageError`."""
    what, seeds = request.what, request.seeds
    require_known("table", [what], TABLES)
    table, settings = TABLES[what], parse_settings(request.settings)
    require_known("--row", request.rows, [row.name for row in table.rows])
    if seeds < 1:
        raise UsageError("--seeds", str(seeds), why="must be 1 or more")
    for seed in request.chosen_seeds:
        if seed not in range(seeds):
            raise UsageError("--seed", str(seed), why=f"--seeds {seeds} are 0 to {seeds - 1}")
    datasets = request.datasets or table.datasets
    if len(datasets) > 1 and len(table.datasets) == 1:
        raise UsageError("--dataset", ", ".join(datasets), why=f"{what} is about one data set", remedy="Use one")
    for name in settings.get("train-amem", {}).keys() & {name for row in table.rows for name in row.options}:
        raise UsageError("--set", name.replace("_", "-"), why=f"the rows of {what} differ in it", remedy="Leave it out")
    planner = _Planner(request, table, settings, parse_weights(request.weights))
    manifests = {dataset: load_manifest(dataset) for dataset in datasets}
    runs = [
        planner.run(row, dataset, manifest, seed)
        for seed in request.chosen_seeds or range(seeds)
        for dataset, manifest in manifests.items()
        for row in table.rows
        if not request.rows or row.name in request.rows
    ]
    return Plan(request, table, datasets, tuple(runs))


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
        own = Workspace(self.request.workspace / "reproduce" / row.name / f"seed{seed}")
        places = {"data_root": self.request.data_root, "workspace": own.root}
        first = {"dataset": dataset} | ({} if protocol.kind == "single-split" else {"split": "0"})
        on = first | ({"split": "all"} if scored and "split" in first else {})
        commands = [
            self.command("train-amem", on | row.options | {"seed": seed} | places | self.parents(row, manifest))
        ]
        if scored:
            commands.append(self.command("extract-features", on | places))
            name = protocol.name if manifest.shipped else dataset
            commands.append(self.command("evaluate", {"protocol": name, "workspace": own.root}))
        picture = own.root / f"predicted-frames-{manifest.name}.png"
        drawing = shlex.join(["amem", "show", "frames", *_flags(first | places | {"out": picture})])
        inputs, drawn = self.inputs(row, dataset), drawing if self.table.drawn else None
        return Run(row, dataset, seed, own, tuple(inputs), tuple(commands), picture, drawn)

    def inputs(self, row: Row, dataset: str) -> list[Command]:
        """The shared commands that a row needs."""
        places = {"data_root": self.request.data_root, "workspace": self.request.workspace}
        arm, tae = places | self.weights_of("arm"), places | self.weights_of("tae")
        labels = [self.command("train-arm", arm), self.command("label-videos", {"dataset": dataset} | places)]
        return (labels if row.uses_aem else []) + ([self.command("train-tae", tae)] if row.uses_mem else [])

    def parents(self, row: Row, manifest: Manifest) -> dict[str, Any]:
        """The options of train-amem that name the outputs of the shared commands, and weights."""
        shared = Workspace(self.request.workspace)
        labels = {"labels": str(shared.labels(manifest.name))} if row.uses_aem else {}
        return labels | ({"tae": str(shared.tae)} if row.uses_mem else {}) | self.weights_of(row.backbone)

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
