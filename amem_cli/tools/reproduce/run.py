"""Runs a plan: each command calls its stage; the table is written again after every training."""

import contextlib
import os
from importlib import import_module
from typing import Any

from amem_cli.artifacts.paths import Workspace
from amem_cli.data.datasets import count_differences, read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData, UsageError
from amem_cli.runtime.progress import Progress
from amem_cli.tools.inspect_weights import check_weights
from amem_cli.tools.reproduce.plan import Command, Plan, Run
from amem_cli.tools.reproduce.table import COPIES, PREDICTIONS, add_run, new_table, write
from amem_cli.weights.names import NAMES


def run(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Run a plan; returns the table as JSON (see `new_table`), which is also written.

    The stages reuse finished work, and an interrupted run leaves the table of what is finished.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        remedy = "Print the commands with --dry-run and start each with torchrun"
        raise UsageError("reproduce", why="it runs in one process", remedy=remedy)
    for (_, network), weights in plan.trainings.items():
        if weights not in ("", "auto", *NAMES):  # those by name are found or downloaded
            check_weights(network, weights)
    if advice := plan.advice():
        progress.warn(advice)
    many = f"{len(plan.runs)} trainings" if len(plan.runs) > 1 else "one training"
    progress.log(f"{many}: hours on a GPU with the paper's options; amem bench says how long one takes on this machine")
    workspace, notes = plan.request.workspace, []
    for manifest in map(load_manifest, plan.datasets):
        if differences := count_differences(manifest, read_videos(manifest, plan.request.data_root)):
            part = f"{manifest.name} is not the complete data set ({'; '.join(differences[:2])}; ...)"
            notes.append(f"{part}: do not compare our figures with the paper's.")
    table = new_table(plan, notes)
    for command in plan.shared:
        run_command(command, progress)
    for number, one in enumerate(progress.repeated(plan.runs, "runs"), 1):
        _link_shared(one.workspace, Workspace(workspace))
        progress.log(f"-- {number} of {len(plan.runs)}: {one.row.title}, {one.dataset}, seed {one.seed}")
        results = [run_command(command, progress) for command in one.commands]
        figures = _measure_predictions(plan, one) if plan.table.drawn else {}
        table = add_run(table, one, results[-1].metrics if plan.table.scored else None, figures)
        write(workspace, table)
    return table


def run_command(command: Command, progress: Progress) -> Any:
    """Call the stage of a command: the function of the same name."""
    progress.log(f"$ {command.line}")
    name = command.name.replace("-", "_")
    return getattr(import_module(f"amem_cli.stages.{name}"), name)(command.options, progress)


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
    from amem_cli.tools.show import show
    from amem_cli.tools.source import Picture, Source

    source = Source(one.dataset, plan.request.data_root, one.workspace)
    _, errors = show("frames", Picture((), one.picture), source, Progress(quiet=True))
    if errors["mse_ratio"] is None:
        why = "nothing moves in them, so a copy has no error to compare with"
        raise BadData("predicted frames of", one.dataset, why=why)
    return {key: errors[key] for key in (*PREDICTIONS, *COPIES, "clips") if errors[key] is not None}
