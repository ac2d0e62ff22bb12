"""Running a plan: each command's stage is called, and the table is written anew after every training."""

import contextlib
import os
from pathlib import Path
from typing import Any

from amem_cli.artifacts.paths import Workspace
from amem_cli.data.manifest import count_differences, load_manifest, read_videos
from amem_cli.errors import BadData, UsageError
from amem_cli.runtime.progress import Progress
from amem_cli.tools.reproduce.plan import Command, Plan, Run
from amem_cli.tools.reproduce.table import PREDICTIONS, Measured, document, write

CLIPS_MEASURED = 100  # test tracklets whose predicted frames are compared with the true ones


class TellOnce(Progress):
    """A report in which each warning comes once, although many stages read the same data."""

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            super().warn(text)


def run(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Run a plan; returns the table as JSON (see `document`), which is also in REPRODUCE/<file>.json and .md.

    Finished work is kept by the stages themselves, and the table is written anew after every training, so an
    interrupted run has left a table of what it got to. A plan of chosen seeds writes no table: its runs are for one
    that is made when all seeds are there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        remedy = "Print the commands with --dry-run and start each with torchrun"
        raise UsageError("reproduce", why="runs in one process", remedy=remedy)
    _check_weights(plan)
    if advice := plan.advice():
        progress.warn(advice)
    notes = [note for dataset in plan.datasets for note in _data_notes(dataset, plan.data_root)]
    for command in plan.shared:
        progress.log(f"$ {command.line}")
        run_command(command, progress)
    measured = {(row.name, dataset): Measured() for dataset in plan.datasets for row in plan.rows}
    table = document(plan, measured, notes)
    for number, one in enumerate(plan.runs, 1):
        _link_shared(one.workspace, plan.workspace)
        progress.log(f"-- {number} of {len(plan.runs)}: {one.configuration.title}, {one.dataset}, seed {one.seed}")
        found = measured[one.configuration.name, one.dataset]
        for command in one.commands:
            progress.log(f"$ {command.line}")
            results = run_command(command, progress)
            if command.name == "evaluate":
                _add_scores(found, results[0].metrics)
        if plan.table.drawn:
            _add_predictions(found, plan, one)
        found.workspaces.append(str(one.workspace.root))
        table = document(plan, measured, notes)
        if not plan.chosen_seeds:
            write(plan.workspace, table)
    return table


def _check_weights(plan: Plan) -> None:
    """Raise for a file of weights that is not there or does not fit: now, not after days of other rows."""
    from amem_cli.weights.loading import check_weights

    checked = set()
    for command in plan.commands:
        weights = getattr(command.options, "weights", "")
        if weights in ("", "imagenet"):  # none, or those that torchvision fetches
            continue
        network = {"train-arm": lambda c: c.options.backbone, "train-tae": lambda _: "resnet18"}
        architecture = network.get(command.name, lambda c: c.options.backbone)(command)
        if (architecture, weights) not in checked:
            checked.add((architecture, weights))
            check_weights(architecture, weights)


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
    """Draw the predicted frames of some test tracklets (of the first split) and take the errors of more of them."""
    from amem_cli.tools.show import CLIPS_OF_FRAMES, draw_predicted_frames, read_split, some_queries

    name, number, content = read_split(one.dataset, plan.data_root)
    drawn = some_queries(content, CLIPS_OF_FRAMES)  # those of the printed `amem show frames`
    measured = some_queries(content, CLIPS_MEASURED)
    path, errors = draw_predicted_frames(one.picture, one.workspace.amem(name, number), drawn, measured=measured)
    found.pictures.append(str(path))
    if errors["mse_ratio"] is None:
        raise BadData("predicted frames of", name, why="nobody moves in them, so copying cannot be beaten")
    for key in PREDICTIONS:
        if errors[key] is not None:  # of a single clip there is no other one's f_M
            found.values.setdefault(key, []).append(errors[key])
