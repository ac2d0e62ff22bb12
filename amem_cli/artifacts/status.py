"""The chain of artifacts of a workspace: ready, missing, stale or damaged."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from amem_cli.artifacts import atomic
from amem_cli.artifacts.output import read_provenance, verify
from amem_cli.artifacts.paths import Workspace
from amem_cli.errors import AmemError, listing


@dataclass(frozen=True)
class ArtifactState:
    """One link of the chain: `state` and, unless it is ready, `why` and the `command` that comes next."""

    stage: str
    path: Path
    state: Literal["ready", "missing", "stale", "damaged", "unused"]
    why: str = ""
    command: str = ""
    provenance: dict[str, Any] | None = None


def state_of(stage: str, path: Path, command: str, parents: dict[str, Path], *, deep: bool = False) -> ArtifactState:
    """The state of one artifact whose parents (role -> path) are these; `deep` also verifies its seal, and those of
    the weights beside it."""
    if path.is_dir():
        return ArtifactState(stage, path, "damaged", why=f"{path} is a folder", command=command)
    if not path.is_file():
        return ArtifactState(stage, path, "missing", command=command)
    beside = sorted(path.parent.glob("*.safetensors")) if path.suffix == ".safetensors" else []
    try:
        for file in {path: None} | dict.fromkeys(beside) if deep else ():
            verify(file)
        provenance = read_provenance(path)
    except (AmemError, OSError, ValueError) as error:
        return ArtifactState(stage, path, "damaged", why=str(error), command=f"{command} --force")
    for role, parent in parents.items():
        recorded = provenance.get("parents", {}).get(role)
        if recorded is None or not parent.is_file():
            continue
        if recorded.get("sha256") != atomic.sha256_file(parent):
            why = f"made from another {role} than the one in {parent}"
            return ArtifactState(stage, path, "stale", why, f"{command} --force", provenance)
    return ArtifactState(stage, path, "ready", provenance=provenance)


def chain(
    root: Path, argument: str, dataset: str, split: int | None, protocol: str, splits: int | None, *, deep: bool = False
) -> list[ArtifactState]:
    """The six stages for one data set (and split), in order, each with its state and the command that makes it.

    `argument` is the data set as the user names it in commands, `dataset` its manifest's name; `splits` is how many
    the protocol has, None for one official split. What depends on something stale is stale too.
    """
    workspace = Workspace(root)
    at = "" if root == Path("workspace") else f" --workspace {shlex.quote(str(root))}"
    on = f" --dataset {shlex.quote(argument)}"
    part = "" if split is None else f" --split {split}"
    arm, tae, labels = workspace.arm, workspace.tae, workspace.labels(dataset)
    main = workspace.amem_main(dataset, split)
    features = workspace.features(dataset, split)
    scored = (
        {"features": features}
        if splits is None
        else {f"features {number}": workspace.features(dataset, number) for number in range(splits)}
    )
    evaluated = protocol if argument == dataset else argument
    links: list[tuple[str, Path, str, dict[str, Path]]] = [
        ("train-arm", arm, "amem train-arm", {}),
        ("label-videos", labels, f"amem label-videos{on}", {"arm": arm}),
        ("train-tae", tae, "amem train-tae", {}),
        ("train-amem", workspace.amem(dataset, split), f"amem train-amem{on}{part}", {"labels": labels, "tae": tae}),
        ("extract-features", features, f"amem extract-features{on}{part}", {"amem-main": main}),
        ("evaluate", workspace.results(protocol), f"amem evaluate --protocol {evaluated}", scored),
    ]
    made_by = {path: stage for stage, path, _, _ in links} | {main: "train-amem"}
    found: dict[str, ArtifactState] = {}
    for stage, path, command, parents in links:
        link = state_of(stage, path, command + at, parents, deep=deep)
        recorded = (link.provenance or {}).get("parents", {})
        above = [made_by[parent] for role, parent in parents.items() if role in recorded and parent in made_by]
        stale = [name for name in above if found[name].state == "stale"]
        if link.state == "ready" and stale:
            why = f"made from what is stale ({listing(stale)})"
            link = replace(link, state="stale", why=why, command=f"{command}{at} --force")
        found[stage] = link
    again = f"amem train-amem{on}{part}{at}"  # makes amem-main anew of the whole model
    if found["train-amem"].state == "ready" and not main.is_file():
        found["train-amem"] = replace(found["train-amem"], state="missing", why=f"{main} is gone", command=again)
    elif found["train-amem"].state == "damaged" and str(main) in found["train-amem"].why:
        found["train-amem"] = replace(found["train-amem"], command=again)
    if found["train-amem"].state == "ready":
        used = (found["train-amem"].provenance or {}).get("parents", {})
        spared = {"train-arm": "labels", "label-videos": "labels", "train-tae": "tae"}
        for stage, role in spared.items():
            if role not in used and found[stage].state == "missing":
                found[stage] = replace(found[stage], state="unused", why="the model was trained without it")
    without = [number for number in range(splits or 0) if not workspace.features(dataset, number).is_file()]
    if without and found["evaluate"].state == "missing":
        first = without[0]
        step = "extract-features" if workspace.amem_main(dataset, first).is_file() else "train-amem"
        why = f"{len(without)} of {splits} splits have no features"
        found["evaluate"] = replace(found["evaluate"], why=why, command=f"amem {step}{on} --split {first}{at}")
    return list(found.values())
