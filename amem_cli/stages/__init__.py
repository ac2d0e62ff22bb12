"""The six stages, each a function in the module of its name. `run_stage` imports it, because all but one need torch."""

from importlib import import_module
from typing import Any

from amem_cli.runtime.progress import Progress


def run_stage(command: str, options: Any, progress: Progress) -> Any:
    """Run the stage that has the name of `command`, such as `train_amem` for "train-amem"."""
    name = command.replace("-", "_")
    return getattr(import_module(f"amem_cli.stages.{name}"), name)(options, progress)
