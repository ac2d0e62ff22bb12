"""Where each stage's output lives, who may write it, and whether it is there, missing or stale."""

import contextlib
import json
import math
import os
import re
import shlex
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import filelock

from amem_cli.artifacts import atomic
from amem_cli.artifacts.provenance import Provenance, check_provenance, parse_json_object
from amem_cli.errors import AmemError, BadData, DiskError, Locked, listing

LEAST_SPACE = 10 << 20  # bytes without which no stage begins; those that write more ask for more


@dataclass(frozen=True)
class Workspace:
    """The folder of `--workspace`; every path of every artifact is made here."""

    root: Path

    @property
    def arm(self) -> Path:
        return self.root / "arm" / "arm.safetensors"

    @property
    def tae(self) -> Path:
        return self.root / "tae" / "tae.safetensors"

    def labels(self, dataset: str) -> Path:
        return self.root / "labels" / f"{dataset}.h5"

    def amem(self, dataset: str, split: int | None) -> Path:
        """The training model's checkpoint; `amem-main.safetensors` stands beside it."""
        return self.root / "amem" / _numbered(dataset, split) / "amem.safetensors"

    def amem_main(self, dataset: str, split: int | None) -> Path:
        return self.amem(dataset, split).with_name("amem-main.safetensors")

    def features(self, dataset: str, split: int | None) -> Path:
        return self.root / "features" / f"{_numbered(dataset, split)}.h5"

    def results(self, protocol: str) -> Path:
        return self.root / "results" / f"{protocol}.json"


def _numbered(dataset: str, split: int | None) -> str:
    return dataset if split is None else f"{dataset}-split{split}"


@contextlib.contextmanager
def locked(output: Path, *, owner: bool = True) -> Iterator[None]:
    """Hold the right to write `output` (a file); raise `Locked` naming the holder when another run has it.

    The lock belongs to the process, so one that died holds nothing. Temporaries that crashed writers left beside the
    output are swept, and `DiskError` is raised when the disk is as good as full. Without `owner` (all but the first of
    several processes) nothing is locked.
    """
    if not owner:
        yield
        return
    name = atomic.lock_path(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(name, timeout=0)
        lock.acquire()
    except filelock.Timeout as error:
        holder = _read_holder(name)
        why = f"another run writes it ({holder})"
        raise Locked("output", output, why=why, remedy="Wait for it, or use another --workspace") from error
    except OSError as error:
        raise atomic.disk_error(output, error, "output") from error
    try:
        try:
            name.with_suffix(".holder").write_text(f"process {os.getpid()} on {socket.gethostname()}")
            atomic.sweep_temporaries(output)
            atomic.require_free_space(output.parent, LEAST_SPACE)
        except OSError as error:
            raise atomic.disk_error(output, error, "output") from error
        yield
    finally:
        with contextlib.suppress(OSError):  # only a name in a message; the lock must be released
            name.with_suffix(".holder").unlink()
        lock.release()


def _read_holder(lock: Path) -> str:
    try:
        return lock.with_suffix(".holder").read_text()[:200]
    except OSError:
        return "unknown"


def already_made(kind: str, output: Path, provenance: Provenance, *, resume: str, force: bool) -> bool:
    """Whether `output` stands there, whole, from this very provenance, so that nothing is left to do.

    With `resume` "never" the work is done again. Raises `OutputExists` naming every difference when it was made
    otherwise, and `BadData` when it is damaged, unless `force` says to overwrite it.
    """
    if not output.is_file():
        return False
    if force:
        return False
    try:
        verify(output)
    except BadData as error:
        raise BadData(kind, output, why=error.why, remedy="Use --force to make it again") from error
    provenance.check_same(kind, output, read_provenance(output))
    return resume != "never"


# -- the chain ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArtifactState:
    """One link of the chain: `state` and, unless it is ready, `why` and the `command` that comes next."""

    stage: str
    path: Path
    state: Literal["ready", "missing", "stale", "damaged", "unused"]
    why: str = ""
    command: str = ""
    provenance: dict[str, Any] | None = None


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance inside any artifact (safetensors, HDF5, JSON), without reading the rest where that is possible."""
    from amem_cli.artifacts import checkpoint

    if path.suffix == ".safetensors":
        return check_provenance(checkpoint.read_description(path).get("provenance", {}), "checkpoint", path)
    if path.suffix == ".h5":
        import h5py

        try:
            with h5py.File(path, "r") as file:
                text = file.attrs.get("provenance", "{}")
        except Exception as error:  # h5py raises nearly every kind for damaged files
            raise BadData("file", path, why=f"not a readable HDF5 file ({error})") from error
        return check_provenance(parse_json_object(text, "file", path), "file", path)
    document = parse_json_object(atomic.read_bytes(path, "result"), "result", path)
    return check_provenance(document.get("provenance", {}), "result", path)


def verify(path: Path) -> None:
    """Compare an artifact with its seal; raise `BadData` when it is damaged."""
    if path.suffix == ".h5":
        from amem_cli.artifacts import hdf5

        hdf5.read_sealed(path, "file")
    else:
        atomic.read_sealed(path, "artifact")


def is_whole(path: Path) -> bool:
    """Whether an artifact is there and matches its seal."""
    try:
        verify(path)
    except AmemError:
        return False
    return True


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


def metrics_path(output: Path) -> Path:
    """The metrics.jsonl of an artifact: of a training in its folder, else beside the file, under its name."""
    trained = output.suffix == ".safetensors"
    return output.with_name("metrics.jsonl") if trained else output.with_suffix(".metrics.jsonl")


def recorded_seconds(path: Path) -> float:
    """How long a stage has worked on its artifact by its metrics.jsonl, over all runs; 0 when nothing is recorded."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return 0.0
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a crash tore it
            seconds = float(json.loads(line)["seconds"])
            if math.isfinite(seconds):
                return seconds
    return 0.0


def append_metrics(path: Path, record: dict[str, Any]) -> None:
    """Add one line to a stage's metrics.jsonl; the one file that grows in place, a torn last line is harmless."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash tore the last line: do not glue this one to it
                    file.write(b"\n")
            file.write(json.dumps(record).encode() + b"\n")
    except OSError as error:
        raise DiskError("file", path, why=(error.strerror or str(error)).lower(), remedy="Free some space") from error


def sample_path(folder: Path, step: int) -> Path:
    """The picture of what the model of a training's `folder` made of held-out people after `step` steps."""
    return folder / "samples" / f"step-{step:06d}.png"


def sample_pictures(folder: Path) -> list[tuple[int, Path]]:
    """The sample pictures of a training by their steps."""
    found = ((re.fullmatch(r"step-(\d+)\.png", path.name), path) for path in (folder / "samples").glob("step-*.png"))
    return sorted((int(match[1]), path) for match, path in found if match)


def keep_samples(folder: Path, last_step: int) -> None:
    """Keep the sample pictures up to `last_step`, where a run continues: those of an abandoned run go."""
    atomic.sweep_temporaries(sample_path(folder, 0))
    for step, path in sample_pictures(folder):
        if step > last_step:
            path.unlink(missing_ok=True)


def keep_metrics(path: Path, last_step: int) -> None:
    """Keep the lines of metrics.jsonl up to `last_step`, where a run continues: what was undone is written again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] < last_step:
                kept.append(line)
    atomic.write_text(path, "".join(line + "\n" for line in kept))
