"""Checkpoints: tensors in safetensors with a JSON description and a checksum inside; the state of a stopped training.

The description holds kind, schema, model dimensions, options and parents, so no flag can contradict the weights.
"""

import contextlib
import itertools
import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amem_cli.artifacts import atomic
from amem_cli.artifacts.provenance import Provenance, check_provenance, head_of, kind_error, parse_json_object
from amem_cli.errors import BadData, DiskError, listing, out_of_memory

if TYPE_CHECKING:
    import torch

KINDS = {  # the remedy for a file that an option named
    "amem-arm": "amem train-arm writes such a file",
    "amem-tae": "amem train-tae writes such a file",
    "amem-model": "amem train-amem writes such a file",
    "amem-main": "amem train-amem writes such a file",
    "amem-state": "Use --resume auto or never",
    "amem-shard": "Run the same command again",
}
_HEADER_KEY = "amem"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file by name, and its description (kind, schema, created_by, model, provenance, ...)."""

    path: Path
    tensors: "dict[str, torch.Tensor]"
    description: dict[str, Any]


def save(path: Path, kind: str, tensors: "dict[str, torch.Tensor]", provenance: Provenance, **described: Any) -> Path:
    """Write a checkpoint; the same content gives the same bytes. `described` adds entries, such as `model`."""
    import safetensors.torch

    tail = {"provenance": provenance.as_json(), "checksum": atomic.CHECKSUM_BLANK.decode()}
    description = head_of(kind) | tail | described
    # one key, because safetensors writes several in no fixed order
    header = {_HEADER_KEY: json.dumps(description, sort_keys=True)}
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return atomic.write_bytes(path, atomic.fill_checksum(safetensors.torch.save(on_cpu, metadata=header)))


def load(path: Path, kind: str, *, remedy: str = "") -> Checkpoint:
    """Read a checkpoint of `kind` onto the CPU. Raises `InputMissing`, or `BadData` for a damaged file, another kind
    or schema, and values that are not finite; `remedy` replaces the one of `kind`."""
    import safetensors.torch

    remedy = remedy or KINDS[kind]
    content = atomic.read_checked(path, f"{kind} checkpoint", remedy=remedy)
    description = read_description(path)
    if why := kind_error(description, kind):
        raise BadData("checkpoint", path, why=why, remedy=remedy)
    try:
        tensors = safetensors.torch.load(content)
        odd = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    except Exception as error:
        if out_of_memory(error):  # the file is not at fault: nobody should start again
            raise
        raise BadData("checkpoint", path, why=f"its tensors cannot be read ({error})", remedy=remedy) from error
    if odd:
        raise BadData("checkpoint", path, why=f"NaN or infinity in {listing(odd)}", remedy=remedy)
    return Checkpoint(Path(path), tensors, description)


@contextlib.contextmanager
def described_by(saved: Checkpoint) -> Iterator[None]:
    """Turn any error inside, but for too little memory, into `BadData` about the description of `saved`."""
    try:
        yield
    except BadData:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        why = f"its description is malformed ({type(error).__name__}: {error})"
        raise BadData("checkpoint", saved.path, why=why, remedy=KINDS[saved.description["kind"]]) from error


def read_description(path: Path, *, remedy: str = "") -> dict[str, Any]:
    """The description alone: neither tensors nor checksum are read."""
    import safetensors

    atomic.open_input(path, "checkpoint", remedy=remedy).close()
    try:
        with safetensors.safe_open(path, "numpy") as file:
            text = file.metadata()[_HEADER_KEY]
    except safetensors.SafetensorError as error:
        raise BadData("checkpoint", path, why=f"not a complete safetensors file ({error})", remedy=remedy) from error
    except (KeyError, TypeError) as error:
        raise BadData("checkpoint", path, why="has no amem description", remedy=remedy) from error
    description = {"metrics": {}, "provenance": {}} | parse_json_object(text, "checkpoint", path)
    if not isinstance(description["metrics"], dict):
        raise BadData("checkpoint", path, why="its metrics are not a JSON object")
    provenance = check_provenance(description["provenance"], "checkpoint", path)
    return description | {"provenance": {"options": {}, "parents": {}} | provenance}


def load_into(module: "torch.nn.Module", checkpoint: Checkpoint, prefix: str = "") -> None:
    """Load the tensors whose names start with `prefix` into `module`; `BadData` names all that do not fit."""
    tensors = {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise BadData("checkpoint", checkpoint.path, why=textwrap.shorten(str(error), 1000)) from error


def prefixed(prefix: str, module: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """The module's tensors with `prefix` before each name."""
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


# -- training state ----------------------------------------------------------------------------------------------------


def save_state(
    folder: Path, step: int, modules: "dict[str, torch.nn.Module]", optimizers: "dict[str, torch.optim.Optimizer]",
    provenance: Provenance, position: dict[str, Any],
) -> Path:  # fmt: skip
    """Write weights, optimisers and position after `step`; keep this state and the newest of an earlier step."""
    tensors: dict[str, torch.Tensor] = {}
    groups: dict[str, Any] = {}
    for name, module in modules.items():
        tensors |= prefixed(f"{name}/", module)
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        groups[name] = state["param_groups"]
        for index, values in state["state"].items():
            tensors |= {f"{name}/{index}/{key}": value for key, value in values.items()}
    path = folder / f"state-{step:08d}.safetensors"
    save(path, "amem-state", tensors, provenance, position=position | {"step": step}, param_groups=groups)
    paths = states(folder)
    number = paths.index(path)
    for other in paths[: max(0, number - 1)] + paths[number + 1 :]:
        other.unlink()
    return path


def load_state(
    state: Checkpoint, modules: "dict[str, torch.nn.Module]", optimizers: "dict[str, torch.optim.Optimizer]"
) -> None:
    """Load a saved state into modules and optimisers."""
    for name, module in modules.items():
        load_into(module, state, f"{name}/")
    for name, optimizer in optimizers.items():
        values: dict[int, dict[str, torch.Tensor]] = {}
        for key in (key for key in state.tensors if key.startswith(f"{name}/")):
            _, index, entry = key.split("/")
            values.setdefault(int(index), {})[entry] = state.tensors[key]
        optimizer.load_state_dict({"state": values, "param_groups": state.description["param_groups"][name]})


def newest_state(folder: Path, warn: Callable[[str], object], use: Callable[[Checkpoint], Result]) -> Result | None:
    """What `use` makes of the newest undamaged state in `folder`, None without one; warns about each damaged state.
    Raises the error of the oldest, if `use` had begun with it or the disk refused it."""
    paths = states(folder)[::-1]
    for path, older in itertools.zip_longest(paths, paths[1:]):
        saved = None
        try:
            saved = load(path, "amem-state")
            return use(saved)
        except (BadData, DiskError) as error:
            if not older and (saved or isinstance(error, DiskError)):
                raise
            error.remedy = ""
            warn(f"{error} " + (f"Falling back to {older.name}." if older else "No state is left: starting again."))
    return None


def remove_states(folder: Path) -> None:
    """Delete the states of a finished or abandoned run."""
    for path in states(folder):
        path.unlink()


def states(folder: Path) -> list[Path]:
    """The saved states in `folder`, in the order of their steps."""
    return sorted(path for path in folder.glob("state-*.safetensors") if not path.is_dir())
