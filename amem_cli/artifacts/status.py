"""The chain of artifacts in a workspace: ready, missing, stale or damaged, and the command for each."""

import contextlib
import dataclasses
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from amem_cli.artifacts import atomic
from amem_cli.artifacts.output import read_provenance, verify
from amem_cli.artifacts.paths import Workspace
from amem_cli.errors import AmemError, listing
from amem_cli.options import COMMANDS, PRESETS, TrainAmemOptions, flag_of, preset_value


@dataclass(frozen=True)
class ChainOf:
    """The subject of a chain: `argument` is the data set in commands, `dataset` its manifest's name, `splits` the
    number of splits of the protocol (None: one official split)."""

    workspace: Path
    argument: str
    dataset: str
    split: int | None
    protocol: str
    splits: int | None


@dataclass(frozen=True)
class ArtifactState:
    """The state of one artifact and, unless it is ready, `why` and the `command` that makes it."""

    stage: str
    path: Path
    state: Literal["ready", "missing", "stale", "damaged", "unused"]
    why: str = ""
    command: str = ""
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class _Link:
    """One stage of the chain: `flags` select its data set and split, `parents` are paths by role."""

    stage: str
    path: Path
    flags: str
    parents: dict[str, Path]
    workspace: str  # the flag; empty for the default

    def command(self, provenance: dict[str, Any], end: str = " --force") -> str:
        """The command that makes the artifact again with the options in its `provenance`."""
        return f"amem {self.stage}{self.flags}{repeated_flags(self.stage, self.flags, provenance)}{self.workspace}{end}"


def chain(of: ChainOf, *, deep: bool = False) -> list[ArtifactState]:
    """The six stages in order. An artifact whose parent is stale is stale too; `deep` also verifies checksums."""
    links = _links(of)
    main = Workspace(of.workspace).amem_main(of.dataset, of.split)
    made_by = {link.path: link.stage for link in links} | {main: "train-amem"}
    states: dict[str, ArtifactState] = {}
    for link in links:
        state = _state(link, deep)
        used = [path for role, path in link.parents.items() if role in state.provenance.get("parents", {})]
        stale = [stage for path in used if (stage := made_by.get(path)) and states[stage].state == "stale"]
        if state.state == "ready" and stale:
            why = f"a parent is stale ({listing(stale)})"
            state = replace(state, state="stale", why=why, command=link.command(state.provenance))
        states[link.stage] = _with_main(state, link, main) if link.stage == "train-amem" else state
    if states["train-amem"].state == "ready":  # a baseline needs neither labels nor TAE
        parents = states["train-amem"].provenance.get("parents", {})
        for stage, role in {"train-arm": "labels", "label-videos": "labels", "train-tae": "tae"}.items():
            if role not in parents and states[stage].state == "missing":
                states[stage] = replace(states[stage], state="unused", why="the model was trained without it")
    return [*list(states.values())[:-1], _without_features(states["evaluate"], of, links[-1].workspace)]


def stage_command(stage: str, of: ChainOf) -> str:
    """The command that makes the artifact of a stage, with default options."""
    return next(link for link in _links(of) if link.stage == stage).command({}, end="")


def _links(of: ChainOf) -> list[_Link]:
    place = Workspace(of.workspace)
    at = "" if of.workspace == Path("workspace") else f" --workspace {shlex.quote(str(of.workspace))}"
    on = f" --dataset {shlex.quote(of.argument)}"
    split = on if of.split is None else f"{on} --split {of.split}"
    labels, main = place.labels(of.dataset), place.amem_main(of.dataset, of.split)
    features = place.features(of.dataset, of.split)
    numbered = {f"features {number}": place.features(of.dataset, number) for number in range(of.splits or 0)}
    protocol = f" --protocol {shlex.quote(of.protocol if of.argument == of.dataset else of.argument)}"
    return [
        _Link("train-arm", place.arm, "", {}, at),
        _Link("label-videos", labels, on, {"arm": place.arm}, at),
        _Link("train-tae", place.tae, "", {}, at),
        _Link("train-amem", place.amem(of.dataset, of.split), split, {"labels": labels, "tae": place.tae}, at),
        _Link("extract-features", features, split, {"amem-main": main}, at),
        _Link("evaluate", place.results(of.protocol), protocol, numbered or {"features": features}, at),
    ]


def _state(link: _Link, deep: bool) -> ArtifactState:
    """The state of one artifact, compared with its parents; `deep` verifies it and the weights next to it."""
    path, state = link.path, ArtifactState(link.stage, link.path, "ready")
    if path.is_dir():
        return replace(state, state="damaged", why=f"{path} is a folder", command=link.command({}))
    if not path.is_file():
        return replace(state, state="missing", command=link.command({}, end=""))
    files = [path, *sorted(path.parent.glob("*.safetensors"))] if path.suffix == ".safetensors" else [path]
    try:
        for file in files if deep else ():
            verify(file)
        state = replace(state, provenance=read_provenance(path))
    except (AmemError, OSError, ValueError) as error:
        return replace(state, state="damaged", why=str(error), command=link.command(_intact_provenance(files)))
    for role, parent in link.parents.items():
        recorded = state.provenance.get("parents", {}).get(role)
        if recorded and parent.is_file() and recorded.get("sha256") != atomic.sha256_file(parent):
            why = f"made from another {role} than {parent}"
            return replace(state, state="stale", why=why, command=link.command(state.provenance))
    return state


def _intact_provenance(files: list[Path]) -> dict[str, Any]:
    """The provenance in the first undamaged file; all files of a training have the same."""
    for file in files:
        with contextlib.suppress(AmemError, OSError, ValueError):
            verify(file)
            return read_provenance(file)
    return {}


def _with_main(state: ArtifactState, link: _Link, main: Path) -> ArtifactState:
    """Include amem-main, which `train-amem` writes again from an undamaged amem-model without training."""
    if state.state == "ready" and not main.is_file():
        return replace(state, state="missing", why=f"{main} is missing", command=link.command(state.provenance, end=""))
    if state.state == "damaged" and str(main) in state.why:
        return replace(state, command=state.command.removesuffix(" --force"))
    return state


def _without_features(evaluated: ArtifactState, of: ChainOf, at: str) -> ArtifactState:
    """If splits have no features, the command for the first of them comes before `evaluate`."""
    place = Workspace(of.workspace)
    without = [number for number in range(of.splits or 0) if not place.features(of.dataset, number).is_file()]
    if not without or evaluated.state != "missing":
        return evaluated
    stage = "extract-features" if place.amem_main(of.dataset, without[0]).is_file() else "train-amem"
    command = f"amem {stage} --dataset {shlex.quote(of.argument)} --split {without[0]}{at}"
    return replace(evaluated, why=f"{len(without)} of {of.splits} splits have no features", command=command)


def repeated_flags(stage: str, given: str, provenance: dict[str, Any]) -> str:
    """The flags that repeat the options in an artifact's `provenance`, relative to the preset with fewer differences.

    Options named in `given` are left out. For a file of `--weights` only the name is recorded.
    """
    recorded = dict(provenance.get("options", {}))
    if weights := provenance.get("parents", {}).get("weights"):
        recorded["weights"] = re.sub(r"^(imagenet|kinetics|auto) \(.*\)$", r"\1", str(weights.get("name", "")))
    choices = []
    for preset in PRESETS if recorded else ():
        words = [] if preset == PRESETS[0] else ["--preset", preset]
        for field in dataclasses.fields(COMMANDS[stage]):
            default = preset_value(field, preset)
            if field.name == "image_size":
                default = default or TrainAmemOptions.image_size  # extract-features follows the model
            value = recorded.get(field.name, default)
            if value not in (default, None, "") and flag_of(field.name) not in given.split():
                words += [flag_of(field.name)] if value is True else [flag_of(field.name), str(value)]
        choices.append(words)
    return "".join(f" {shlex.quote(word)}" for word in min(choices, key=len, default=[]))
