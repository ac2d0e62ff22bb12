"""Experiment trackers (`--log-to`). They get the figures of metrics.jsonl; a resumed training continues its run."""

import importlib
import os
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from amem_cli.artifacts import atomic
from amem_cli.errors import UsageError
from amem_cli.runtime.train_state import Run


class Tracker(NamedTuple):
    """What a tracker does with figures by name and their step, with a picture, and at the end."""

    write: Callable[[dict[str, float], int], object]
    close: Callable[[], object]
    picture: Callable[[str, Any, int], object] = lambda *_: None


def open_trackers(run: Run, step: int) -> dict[str, Tracker]:
    """The trackers of `--log-to` and `--tensorboard`, which get figures from `step` on. Raises `UsageError`."""
    opened = {}
    for name in {run.options.log_to, "tensorboard" if run.options.tensorboard else "none"} - {"none"}:
        try:
            opened[name] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}[name](run, step)
        except Exception as error:  # of many kinds: no login, no server, another version
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise UsageError("--log-to", name, why=reason, remedy=f"Set up {name}, or leave the option out") from error
    return opened


def _tensorboard(run: Run, step: int) -> Tracker:
    """Event files in the training's folder, with the sample pictures."""
    from torch.utils.tensorboard import SummaryWriter

    # a resumed run replaces the steps that the interrupted one wrote after its last saved state
    writer: Any = SummaryWriter(run.folder / "tensorboard", purge_step=step, flush_secs=10)
    add = writer.add_scalar
    return Tracker(lambda figures, step: [add(*item, step) for item in figures.items()], writer.close, writer.add_image)


def _wandb(run: Run, step: int) -> Tracker:
    """A run of the project "amem". It stays in the training's folder unless WANDB_MODE is online."""
    wandb: Any = importlib.import_module("wandb")
    identity = {"id": _run_id(run, "wandb", step, lambda: uuid.uuid4().hex[:8]), "name": _name(run)}
    place = {"dir": run.folder, "mode": os.environ.get("WANDB_MODE", "offline")}
    quiet = wandb.Settings(console="off", silent=True)
    started = wandb.init(
        **identity, **place, project="amem", config=run.options.fingerprint(), resume="allow", settings=quiet
    )
    return Tracker(lambda figures, step: started.log(figures, step=step), started.finish)


def _mlflow(run: Run, step: int) -> Tracker:
    """A run of the experiment "amem" in the store that MLflow is set up for (MLFLOW_TRACKING_URI)."""
    client: Any = importlib.import_module("mlflow").MlflowClient()

    def create() -> str:
        found = client.get_experiment_by_name("amem")
        experiment = found.experiment_id if found else client.create_experiment("amem")
        run_id = client.create_run(experiment, run_name=_name(run)).info.run_id
        for option, value in run.options.fingerprint().items():
            client.log_param(run_id, option, value)
        return run_id

    run_id = _run_id(run, "mlflow", step, create)
    client.update_run(run_id, status="RUNNING")
    return Tracker(
        lambda figures, step: [client.log_metric(run_id, *figure, step=step) for figure in figures.items()],
        lambda: client.set_terminated(run_id),
    )


def _run_id(run: Run, tracker: str, step: int, create: Callable[[], str]) -> str:
    """The id of the tracker's run, kept in a file. A training that starts at step 0 gets a new one."""
    path = run.folder / f"{tracker}-run.txt"
    if step == 0 or not path.is_file():
        atomic.write_text(path, create() + "\n")
    return path.read_text().strip()


def _name(run: Run) -> str:
    return f"{run.provenance.command} {run.folder.name}"
