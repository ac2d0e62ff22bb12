"""Weights in safetensors with a sealed JSON description inside, and the state that a stopped training resumes from.

A checkpoint describes itself: its kind, schema, model dimensions, options and parents travel with the tensors, so no
flag can disagree with the weights. Nothing is ever unpickled.
"""

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amem_cli.artifacts import atomic
from amem_cli.artifacts.provenance import CREATED_BY, SCHEMA, Provenance, other_schema, parse_json_object
from amem_cli.errors import BadData, listing

if TYPE_CHECKING:
    import torch

KINDS = {
    "amem-arm": "amem train-arm",
    "amem-tae": "amem train-tae",
    "amem-model": "amem train-amem",
    "amem-main": "amem train-amem",
    "amem-state": "the training command again with --resume never",
    "amem-shard": "the same command again",
}
_HEADER_KEY = "amem"
_LARGEST_HEADER = 64 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors by name and its description (kind, schema, created_by, model, provenance, ...)."""

    path: Path
    tensors: "dict[str, torch.Tensor]"
    description: dict[str, Any]


def save(path: Path, kind: str, tensors: "dict[str, torch.Tensor]", provenance: Provenance, **described: Any) -> Path:
    """Write a checkpoint whole or not at all; the same content always gives the same bytes.

    `described` are further JSON values of the description, such as `model` (the dimensions that rebuild it).
    """
    import safetensors.torch

    description = {
        "kind": kind,
        "schema": SCHEMA,
        "created_by": CREATED_BY,
        "provenance": provenance.as_json(),
        "checksum": atomic.CHECKSUM_BLANK.decode(),
        **described,
    }
    # one key only: safetensors writes several in no fixed order
    header = {_HEADER_KEY: json.dumps(description, sort_keys=True)}
    own_memory = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return atomic.write_bytes(path, atomic.fill_checksum(safetensors.torch.save(own_memory, metadata=header)))


def load(path: Path, kind: str, *, remedy: str = "") -> Checkpoint:
    """Read a checkpoint of `kind`, its seal verified; tensors on the CPU.

    Raises `InputMissing` with the command that makes it, or `BadData` for a damaged file, another kind or schema.
    `remedy` names that command where the caller knows it better.
    """
    import safetensors.torch

    remedy = remedy or f"Run: {KINDS[kind]}"
    content = atomic.read_checked(path, f"{kind} checkpoint", remedy=remedy)
    description = _description(content, path)
    if description.get("kind") != kind:
        raise BadData("checkpoint", path, why=f"is of kind {description.get('kind')}, not {kind}", remedy=remedy)
    if description.get("schema") != SCHEMA:
        raise BadData("checkpoint", path, why=other_schema(description.get("schema")), remedy=remedy)
    try:
        tensors = safetensors.torch.load(content)
        odd = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    except Exception as error:
        raise BadData("checkpoint", path, why=f"its tensors cannot be read ({error})", remedy=remedy) from error
    if odd:
        raise BadData("checkpoint", path, why=f"NaN or infinity in {listing(odd)}", remedy=remedy)
    return Checkpoint(Path(path), tensors, description)


@contextlib.contextmanager
def described_by(saved: Checkpoint) -> Iterator[None]:
    """What fails inside fails for a description that names no model of ours: `BadData`."""
    try:
        yield
    except BadData:
        raise
    except Exception as error:  # whatever the odd value led to
        why = f"its description is of no model of ours ({type(error).__name__}: {error})"
        remedy = f"Run: {KINDS[saved.description['kind']]}"
        raise BadData("checkpoint", saved.path, why=why, remedy=remedy) from error


def read_description(path: Path) -> dict[str, Any]:
    """The description alone, without tensors and without checking the seal."""
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if length > _LARGEST_HEADER:
            raise BadData("checkpoint", path, why="not a safetensors file")
        return _description(start + file.read(length), path)


def load_into(module: "torch.nn.Module", checkpoint: Checkpoint, prefix: str = "") -> None:
    """Load the tensors under `prefix` into `module`; every key must fit, else `BadData` names those that do not."""
    wanted = module.state_dict()
    found = {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
    wrong = [f"missing {prefix}{name}" for name in wanted.keys() - found.keys()]
    wrong += [f"left over {prefix}{name}" for name in found.keys() - wanted.keys()]
    wrong += [
        f"{prefix}{name} is {tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted.keys() & found.keys()
        if found[name].shape != wanted[name].shape
    ]
    if wrong:
        raise BadData("checkpoint", checkpoint.path, why=f"its tensors do not fit the model ({listing(sorted(wrong))})")
    module.load_state_dict(found)


def prefixed(prefix: str, module: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """The module's tensors with `prefix` before each name."""
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


def _description(content: bytes, path: Path) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 + length:
        raise BadData("checkpoint", path, why="not a safetensors file, or cut short")
    try:
        text = json.loads(content[8 : 8 + length])["__metadata__"][_HEADER_KEY]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadData("checkpoint", path, why="carries no amem description") from error
    return parse_json_object(text, "checkpoint", path)


# -- training state ----------------------------------------------------------------------------------------------------


def save_state(
    folder: Path,
    step: int,
    modules: "dict[str, torch.nn.Module]",
    optimizers: "dict[str, torch.optim.Optimizer]",
    provenance: Provenance,
    position: dict[str, Any],
) -> Path:
    """Write everything a run needs to go on after `step`: weights, optimisers, position. This state and the one
    before it are kept; states of later steps are damaged or abandoned ones, which must not win at the next resume.

    Draws need no state: they are keyed by (seed, epoch, index).
    """
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
    states = sorted(folder.glob("state-*.safetensors"))
    before = [state for state in states if state.name < path.name]
    for state in states:
        if state not in (path, *before[-1:]):
            state.unlink()
    return path


def load_state(
    state: Checkpoint, modules: "dict[str, torch.nn.Module]", optimizers: "dict[str, torch.optim.Optimizer]"
) -> dict[str, Any]:
    """Put a saved state back into modules and optimisers; returns its position."""
    for name, module in modules.items():
        load_into(module, state, f"{name}/")
    for name, optimizer in optimizers.items():
        values: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in state.tensors.items():
            if key.startswith(f"{name}/"):
                _, index, entry = key.split("/")
                values.setdefault(int(index), {})[entry] = tensor
        optimizer.load_state_dict({"state": values, "param_groups": state.description["param_groups"][name]})
    return state.description["position"]


def newest_state(folder: Path, warn: Any) -> Checkpoint | None:
    """The newest readable state in `folder`; a damaged one is passed over with a warning. None when there is none."""
    paths = sorted(folder.glob("state-*.safetensors"), reverse=True)
    for path, older in itertools.zip_longest(paths, paths[1:]):
        try:
            return load(path, "amem-state")
        except BadData as error:
            warn(f"{error} " + (f"Falling back to {older.name}." if older else "No state is left: starting anew."))
    return None


def remove_states(folder: Path) -> None:
    """Delete the states of a finished or abandoned run."""
    for path in sorted(folder.glob("state-*.safetensors")):
        path.unlink()
