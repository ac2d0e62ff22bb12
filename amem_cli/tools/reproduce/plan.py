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
from amem_cli.data.manifest import load_manifest, protocol_of
from amem_cli.errors import UsageError, require_known
from amem_cli.options import BACKBONES, COMMANDS, NETWORKS_WITH, TrainAmemOptions, flag_of, weights_by_name
from amem_cli.resolve import read_config, resolve
from amem_cli.tools.reproduce.tables import TABLES, Request, Row, Table

NETWORKS = {"arm": "resnet50", "tae": "resnet18"} | {name: name for name in BACKBONES}  # by name in --weights


@dataclass(frozen=True)
class Command:
    """One command: its resolved options, and the line as typed by a user."""

    name: str
    options: Any
    line: str


@dataclass(frozen=True)
class Run:
    """One row on one data set with one seed: the commands that other rows need too (`inputs`), and its own; `drawing`
    draws `picture`, for tables of predicted frames."""

    row: Row
    dataset: str
    seed: int
    workspace: Workspace
    inputs: list[Command]
    commands: list[Command]
    picture: Path
    drawing: str

    @property
    def title(self) -> str:
        """The row's title, with the backbone that a configuration file sets."""
        backbone = self.commands[0].options.backbone
        return self.row.title if backbone == self.row.backbone else f"{self.row.title}, {backbone} for I3D"

    @property
    def lines(self) -> list[str]:
        return [command.line for command in self.commands] + [self.drawing] * bool(self.drawing)


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

    @property
    def trainings(self) -> dict[tuple[str, str], str]:
        """The trained networks, as (name for --weights, architecture), and their initial weights."""
        found = {}
        for command in self.commands:
            options = command.options
            if command.name == "train-tae":
                found["tae", options.tae_encoder] = options.initial_weights
            elif command.name.startswith("train-"):
                found["arm" if command.name == "train-arm" else options.backbone, options.backbone] = options.weights
        return found

    @property
    def from_scratch(self) -> list[str]:
        """The networks that are trained without weights, but for a TAE of patches, of which there are none."""
        return [name for (name, network), weights in self.trainings.items() if not weights and network != "patches"]

    def advice(self) -> str:
        """A warning about networks that are trained from scratch, or nothing."""
        if not self.from_scratch:
            return ""
        return (
            f"Trained from scratch: {', '.join(self.from_scratch)}. The paper starts from ImageNet or Kinetics "
            "weights (--weights NAME=FILE) and its schedule assumes them; do not compare rows with and without weights"
        )

    def script(self) -> str:
        """The chain as a shell script."""
        lines = [f"# {self.table.title}. Finished work is reused."]
        lines += [*(f"# {line}" for line in textwrap.wrap(self.advice(), 116)), "set -e"]
        if self.shared:
            lines += ["", "# once, for all rows", *(command.line for command in self.shared)]
        for run in self.runs:
            lines += ["", f"# {run.title} on {run.dataset}, seed {run.seed}", *run.lines]
        return "\n".join([*lines, "", "# The same command without --dry-run then writes the table."])

    def as_json(self) -> dict[str, Any]:
        """All `commands`; the same divided into `shared` inputs and `runs`."""
        shared = [command.line for command in self.shared]
        runs = [{"row": r.row.name, "dataset": r.dataset, "seed": r.seed, "commands": r.lines} for r in self.runs]
        commands = shared + [line for run in self.runs for line in run.lines]
        return {"what": self.request.what, "commands": commands, "shared": shared, "runs": runs}


def plan(request: Request) -> Plan:
    """The plan of a request. All options are checked before anything runs; raises `UsageError`."""
    require_known("table", [request.what], TABLES)
    table, weights = TABLES[request.what], parse_weights(request.weights)
    require_known("--row", request.rows, [row.name for row in table.rows])
    if request.seeds < 1:
        raise UsageError("--seeds", str(request.seeds), why="must be 1 or more")
    given = read_config(TrainAmemOptions, request.config) if request.config else {}
    if places := [flag_of(name)[2:] for name in ("workspace", "data_root") if name in given]:
        raise UsageError("--config", request.config, why=f"it sets {' and '.join(places)}", remedy="Give them as flags")
    if "split" in given:
        raise UsageError("--config", request.config, why="it sets split", remedy="Leave it out: a table is over all")
    datasets = tuple(dict.fromkeys(request.datasets or table.datasets))
    if len(datasets) > 1 and len(table.datasets) == 1:
        raise UsageError("--dataset", ", ".join(datasets), why=f"{request.what} is about one data set")
    names = [load_manifest(dataset).name for dataset in datasets if datasets != table.datasets]
    rows = [row for row in table.rows if not request.rows or row.name in request.rows]
    known = _starting(request, given)
    if unused := [name for name in weights if name not in known]:
        why = f"no row of {request.what} starts {unused[0]} from weights"
        raise UsageError("--weights", f"{unused[0]}=...", why=why, remedy=f"Use NAME=FILE with {', '.join(known)}")
    order = [(row, dataset, seed) for seed in range(request.seeds) for dataset in datasets for row in rows]
    file = "-".join([request.what, *names, *dict.fromkeys(request.rows)])
    return Plan(request, table, datasets, file, [_run(request, weights, *one) for one in order])


def _starting(request: Request, given: dict[str, Any]) -> list[str]:
    """The networks that rows of the table start from weights, also rows that are not chosen: array jobs give all
    weights to each row. `given` is in the configuration file."""
    rows = TABLES[request.what].rows
    uses = [TrainAmemOptions(modules=row.options["modules"]) for row in rows]
    names = {row.options.get("backbone") or given.get("backbone", row.backbone) for row in rows}
    if any(one.uses_aem for one in uses):
        names.add("arm")
    tae = resolve(COMMANDS["train-tae"], {}, preset=request.preset, config=request.config)
    if any(one.uses_mem for one in uses) and tae.tae_encoder != "patches":  # which has no weights
        names.add("tae")
    return sorted(names)


def parse_weights(texts: tuple[str, ...]) -> dict[str, str]:
    """`--weights NAME=FILE` by name of the network; the file may be weights by name (`NETWORKS_WITH`). Raises
    `UsageError`."""
    files: dict[str, str] = {}
    for text in texts:
        name, _, file = text.partition("=")
        if name not in NETWORKS or not file or name in files:
            raise UsageError("--weights", text, why=f"must be NAME=FILE with one of {', '.join(NETWORKS)}, each once")
        if NETWORKS[name] not in NETWORKS_WITH.get(file, NETWORKS.values()):
            raise UsageError("--weights", text, why=f"there are no {file} weights of {name}", remedy="Use a file")
        files[name] = file
    return files


def _run(request: Request, weights: dict[str, str], row: Row, dataset: str, seed: int) -> Run:
    table, manifest, main = TABLES[request.what], load_manifest(dataset), Workspace(request.workspace)
    protocol, own = protocol_of(manifest), main.root / "reproduce" / row.name / f"seed{seed}"

    def command(name: str, **flags: Any) -> Command:
        words = ["amem", name, *_words(flags)]
        words += ["--preset", request.preset] if request.preset else []
        words += ["--config", str(request.config)] if request.config else []
        options = resolve(COMMANDS[name], flags, preset=request.preset, config=request.config)
        return Command(name, options, shlex.join(words))

    def start(network: str) -> dict[str, Any]:
        return {"weights": weights[network]} if network in weights else {}

    split = {} if protocol.kind == "single-split" else {"split": "all" if table.scored else "0"}
    on: dict[str, Any] = {"dataset": dataset, "data_root": request.data_root}
    shared: dict[str, Any] = {"data_root": request.data_root, "workspace": main.root}
    given = read_config(TrainAmemOptions, request.config) if request.config else {}
    fixed = {"backbone": row.backbone, "clip_frames": TrainAmemOptions.clip_frames}  # what the rows depend on
    options = {name: value for name, value in fixed.items() if name not in given} | row.options | {"seed": seed}
    inputs, uses = [], TrainAmemOptions(modules=row.options["modules"])
    if uses.uses_aem:
        inputs += [command("train-arm", **shared, **start("arm")), command("label-videos", dataset=dataset, **shared)]
        options |= {"labels": str(main.labels(manifest.name))}
    if uses.uses_mem:
        inputs.append(command("train-tae", **shared, **start("tae")))
        options |= {"tae": str(main.tae)}
    options |= start(row.options.get("backbone") or given.get("backbone", row.backbone))
    train = command("train-amem", **on, **split, workspace=own, **options)
    if train.options.weights == "auto":  # the workspace's ARM, if another row has made it: not the same start for all
        options |= {"weights": weights_by_name(train.options.backbone)}
        train = command("train-amem", **on, **split, workspace=own, **options)
    commands = [train]
    if table.scored:
        commands.append(command("extract-features", **on, **split, workspace=own))
        commands.append(command("evaluate", protocol=protocol.name if manifest.shipped else dataset, workspace=own))
    picture, drawing = own / f"predicted-frames-{manifest.name}.png", ""
    if table.drawn:
        one = on | ({"split": "0"} if split else {}) | {"workspace": own, "out": picture}
        drawing = shlex.join(["amem", "show", "frames", *_words(one)])
    return Run(row, dataset, seed, Workspace(own), inputs, commands, picture, drawing)


def _words(flags: dict[str, Any]) -> list[str]:
    return [word for name, value in flags.items() for word in (flag_of(name), str(value))]
