"""The paper's tables as chains of commands: what `amem reproduce` prints with --dry-run, and runs without.

Every row of a table is one `train-amem` configuration with a workspace of its own, REPRODUCE/<configuration>/seed<N>
below the main workspace, in which the stages and `amem status` work as in any other. Tables that have a row in common
share its folder, so Table 4 trains no I3D row that Table 3 has trained. ARM, pseudo-labels and TAE are made once, in
the main workspace. A plan needs no torch.
"""

import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amem_cli.artifacts.paths import Workspace
from amem_cli.data.manifest import Manifest, load_manifest
from amem_cli.errors import UsageError, did_you_mean
from amem_cli.options import COMMANDS, resolve
from amem_cli.tools.reproduce.settings import IMAGENET, PAPERS_BACKBONES, parse_settings, parse_weights

WHAT = ("table3", "table4", "table5", "sizes", "figure4", "losses")


# -- the paper's rows --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Configuration:
    """One row: `name` is its folder, `title` the paper's words, `options` those of `train-amem` that make it, and
    `beside` the row that its figures are compared with, seed by seed."""

    name: str
    title: str
    options: dict[str, Any]
    beside: str = "baseline"


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
    return Configuration(f"{base.name}-without-{what}", f"{base.title}, {title}", base.options | options, base.name)


def _on_backbones() -> Iterator[Configuration]:
    letters = {"B": BASELINE, "B+A": AEM, "B+M": MEM[3], "AMEM": AMEM}
    for backbone in PAPERS_BACKBONES:
        prefix = "" if backbone == "i3d" else f"{backbone}-"  # i3d rows are Table 3's
        for letter, row in letters.items():
            options = row.options | {"backbone": backbone}
            yield Configuration(prefix + row.name, f"{backbone.upper()}, {letter}", options, f"{prefix}baseline")


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
    """One row with one seed: the commands that make it, in its own workspace.

    `trainings` is the number of splits; `drawing` the line that draws its predicted frames, where the table has them.
    """

    configuration: Configuration
    dataset: str
    seed: int
    workspace: Workspace
    commands: tuple[Command, ...]
    trainings: int
    picture: Path | None
    drawing: str | None

    @property
    def lines(self) -> list[str]:
        return [*(command.line for command in self.commands), *([self.drawing] if self.drawing else [])]


@dataclass(frozen=True)
class Plan:
    """What is to be run for a table: `shared` commands first, then the `runs`, all rows of the first seed first.

    `table` is the whole one; `rows` are the configurations that are run, `chosen_seeds` their seeds if not all.
    """

    what: str
    table: Table
    rows: tuple[Configuration, ...]
    datasets: tuple[str, ...]
    workspace: Workspace
    data_root: Path
    preset: str
    seeds: int
    chosen_seeds: tuple[int, ...]
    settings: tuple[str, ...]
    weights: tuple[str, ...]
    shared: tuple[Command, ...]
    runs: tuple[Run, ...]

    @property
    def file(self) -> str:
        """The table's name among those of its workspace: that of the paper's data sets is `what` alone."""
        names = [] if self.datasets == self.table.datasets else [load_manifest(name).name for name in self.datasets]
        return "-".join([self.what, *names])

    def with_rows(self, *names: str) -> "Plan":
        """The same with all seeds of other rows of the table, of all without names."""
        return plan(
            self.what,
            datasets=self.datasets,
            rows=names,
            seeds=self.seeds,
            preset=self.preset,
            data_root=self.data_root,
            workspace=self.workspace.root,
            weights=self.weights,
            settings=self.settings,
        )

    @property
    def commands(self) -> list[Command]:
        return [*self.shared, *(command for run in self.runs for command in run.commands)]

    @property
    def lines(self) -> list[str]:
        """Every command as a user would type it."""
        return [*(command.line for command in self.shared), *(line for run in self.runs for line in run.lines)]

    def from_scratch(self) -> list[str]:
        """What is trained without the weights that the paper starts from: backbones, arm, tae."""
        trained = {"train-arm": "arm", "train-tae": "tae"}
        named = {
            trained.get(command.name) or command.options.backbone: command.options.weights
            for command in self.commands
            if command.name in trained or command.name == "train-amem"
        }
        return [name for name, weights in named.items() if not weights]

    def advice(self) -> str:
        """A sentence about what is trained from scratch, or nothing."""
        if not (names := self.from_scratch()):
            return ""
        given = " ".join(f"--weights {name}={'imagenet' if name in IMAGENET else 'FILE'}" for name in names)
        return (
            f"from scratch, where the paper starts from ImageNet or Kinetics weights: {', '.join(names)}. Its schedule "
            f"does not fit that, and rows with and without such weights are no comparison; {given} gives them"
        )

    def script(self) -> str:
        """The whole chain for a shell, with a comment above each part."""
        count = sum(run.trainings for run in self.runs)
        trainings = f"{count} training{'s' if count != 1 else ''} of train-amem"
        lines = [f"# {self.table.title}: {trainings}. What is done already is not done again."]
        lines += [f"# {line}" for line in textwrap.wrap(self.advice(), 116)]
        lines += ["set -e"]
        if self.shared:
            lines += ["", "# once, for all rows", *(command.line for command in self.shared)]
        for run in self.runs:
            on = f" on {run.dataset}" if len(self.datasets) > 1 else ""
            lines += ["", f"# {run.configuration.title}{on}, seed {run.seed}"]
            lines += run.lines
        lines += ["", f"# The same `amem reproduce {self.what}` without --dry-run then makes the table."]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The chain for a program: all `commands`, and the same as `shared` ones and `runs`, which need only those."""
        runs = [
            {"row": run.configuration.name, "dataset": run.dataset, "seed": run.seed, "commands": run.lines}
            for run in self.runs
        ]
        shared = [command.line for command in self.shared]
        return {"what": self.what, "commands": self.lines, "shared": shared, "runs": runs}


def plan(
    what: str,
    *,
    datasets: tuple[str, ...] = (),
    rows: tuple[str, ...] = (),
    seeds: int = 3,
    chosen_seeds: tuple[int, ...] = (),
    preset: str = "paper",
    data_root: Path = Path("data"),
    workspace: Path = Path("workspace"),
    weights: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
) -> Plan:
    """The chain of commands for `what` (any of `WHAT` but sizes).

    `rows` are names of the table's configurations and `chosen_seeds` some of its seeds, none for all; `weights` and
    `settings` are those of `parse_weights` and `parse_settings`. All options are checked now, before anything runs.
    Raises `UsageError` for what does not exist or does not go together.
    """
    if what not in TABLES:
        raise UsageError("reproduce", what, why="there is no such table", remedy=f"Choose one of {', '.join(WHAT)}")
    if seeds < 1:
        raise UsageError("--seeds", str(seeds), why="must be 1 or more")
    for seed in chosen_seeds:
        if seed not in range(seeds):
            raise UsageError("--seed", str(seed), why=f"--seeds {seeds} are 0 to {seeds - 1}")
    table, chosen = TABLES[what], parse_settings(settings)
    datasets = datasets or table.datasets
    if len(datasets) > 1 and len(table.datasets) == 1:
        raise UsageError("--dataset", ", ".join(datasets), why=f"{what} is about one data set", remedy="Give one")
    varied = {name for row in table.configurations for name in row.options}
    for name in chosen.get("train-amem", {}).keys() & varied:
        why = f"the rows of {what} differ in it"
        raise UsageError("--set", name.replace("_", "-"), why=why, remedy="Leave it out, or run train-amem itself")
    files = parse_weights(weights)
    everywhere = {"data_root": data_root, "workspace": workspace}
    shared_at, configurations = Workspace(workspace), _chosen_rows(what, rows)
    manifests = {dataset: _video_manifest(dataset) for dataset in datasets}

    def command(name: str, **flags: Any) -> Command:
        return _command(name, flags, chosen.get(name, {}), preset)

    shared = []
    if any(row.options["modules"] in ("aem", "amem", "after-enhancement") for row in configurations):
        shared.append(command("train-arm", **everywhere, **_weights_of("arm", files)))
        shared += [command("label-videos", dataset=dataset, **everywhere) for dataset in datasets]
    if any(row.options["modules"] in ("mem", "amem", "after-enhancement") for row in configurations):
        shared.append(command("train-tae", **everywhere, **_weights_of("tae", files)))

    runs = []
    for seed in chosen_seeds or range(seeds):
        for dataset, manifest in manifests.items():
            numbered = manifest.protocol.kind != "single-split"
            # what is only drawn is drawn of the first split
            on: dict[str, Any] = {"dataset": dataset} | ({"split": "all" if table.scored else "0"} if numbered else {})
            for row in configurations:
                own = Workspace(workspace / "reproduce" / row.name / f"seed{seed}")
                places = {"data_root": data_root, "workspace": own.root}
                parents: dict[str, Any] = {}
                if row.options["modules"] in ("aem", "amem", "after-enhancement"):
                    parents["labels"] = str(shared_at.labels(manifest.name))
                if row.options["modules"] in ("mem", "amem", "after-enhancement"):
                    parents["tae"] = str(shared_at.tae)
                parents |= _weights_of(row.options.get("backbone", "i3d"), files)
                commands = [command("train-amem", **on, **row.options, seed=seed, **places, **parents)]
                if table.scored:
                    protocol = manifest.protocol.name if manifest.shipped else dataset
                    commands.append(command("extract-features", **on, **places))
                    commands.append(command("evaluate", protocol=protocol, workspace=own.root))
                picture = drawing = None
                if table.drawn:
                    picture = own.root / f"predicted-frames-{manifest.name}.png"
                    at: dict[str, Any] = {"dataset": dataset} | ({"split": 0} if numbered else {})
                    drawing = shlex.join(["amem", "show", "frames", *_flags(at | places | {"out": picture})])
                trainings = manifest.protocol.splits if numbered and table.scored else 1
                runs.append(Run(row, dataset, seed, own, tuple(commands), trainings, picture, drawing))
    return Plan(
        what,
        table,
        configurations,
        datasets,
        shared_at,
        data_root,
        preset,
        seeds,
        chosen_seeds,
        settings,
        weights,
        tuple(shared),
        tuple(runs),
    )


def _weights_of(name: str, files: dict[str, str]) -> dict[str, str]:
    return {"weights": files[name]} if name in files else {}


def _chosen_rows(what: str, rows: tuple[str, ...]) -> tuple[Configuration, ...]:
    table = TABLES[what]
    known = [row.name for row in table.configurations]
    for name in rows:
        if name not in known:
            remedy = f"{did_you_mean(name, known)}Its rows are {', '.join(known)}"
            raise UsageError("--row", name, why=f"{what} has no such row", remedy=remedy)
    return tuple(row for row in table.configurations if not rows or row.name in rows)


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
    words = ["amem", name, *_flags(given)]
    if resolve(cls, {}, preset=preset) != resolve(cls, {}):
        words += ["--preset", preset]
    return Command(name, options, shlex.join(words))


def _flags(given: dict[str, Any]) -> list[str]:
    words = []
    for key, value in given.items():
        flag = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        else:
            words += [flag, str(value)]
    return words
