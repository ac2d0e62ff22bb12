"""The chain of artifacts of a data set: ready, unfinished, missing, stale or damaged, and the command for each."""

import contextlib
import dataclasses
import functools
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from amem_cli.artifacts import atomic, checkpoint
from amem_cli.artifacts.output import newer_images, read_provenance, verify
from amem_cli.artifacts.paths import Workspace, features_role
from amem_cli.data import tracklets
from amem_cli.data.datasets import Dataset, read_dataset
from amem_cli.data.manifest import SHIPPED, Manifest, load_manifest, protocol_of
from amem_cli.errors import AmemError, DiskError, counted, listing
from amem_cli.options import COMMANDS, PRESETS, DataOptions, Schedule, TrainAmemOptions, flag_of, preset_value
from amem_cli.resolve import folder_flags
from amem_cli.runtime.progress import Progress


@dataclass(frozen=True)
class ArtifactState:
    """The state of one artifact and, unless it is ready, `why` and the `command` that makes it."""

    stage: str
    path: Path
    state: Literal["ready", "unfinished", "missing", "stale", "damaged", "unused"]
    why: str = ""
    command: str = ""
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    split: int | None = None


@dataclass(frozen=True)
class _Link:
    """One stage of the chain: `flags` select its data set and split, `parents` are paths by role."""

    of: "Chain"
    stage: str
    path: Path
    flags: str
    parents: dict[str, Path]
    folders: str  # the flags; empty for the defaults
    split: int | None = None

    def command(self, provenance: dict[str, Any], end: str = " --force") -> str:
        """The command that makes the artifact again with the options in its `provenance`. Of the user's own data sets
        only the names are recorded: one that is not the chain's is taken to be in NAME.toml."""
        options = dict(provenance.get("options", {}))
        if (name := options.get("dataset", "")) and name not in SHIPPED:
            options["dataset"] = self.of.argument if name == self.of.manifest.name else f"{name}.toml"
        flags = repeated_flags(self.stage, self.flags, provenance | {"options": options})
        return f"amem {self.stage}{self.flags}{flags}{self._other_model(provenance)}{self.folders}{end}"

    def _other_model(self, provenance: dict[str, Any]) -> str:
        """`--model` of features that another model than the data set's `amem-main.safetensors` made: its path if it is
        in the workspace, else the name of the file, whose folder is not recorded."""
        if self.stage != "extract-features" or not (made_by := provenance.get("parents", {})):
            return ""
        usual, main = self.parents["amem-main"], made_by.get("amem-main", {})
        recorded = made_by.get("amem-arm", main)
        own = main.get("dataset") in (None, provenance.get("options", {}).get("dataset"))
        if not recorded or (recorded is main and own and main.get("name") == usual.name):
            return ""
        name = recorded.get("name", "MODEL")
        there = (path for path in (Workspace(self.of.workspace).arm, usual.with_name(name)) if path.is_file())
        found = next((path for path in there if atomic.sha256_file(path) == recorded.get("sha256")), name)
        return f" --model {shlex.quote(str(found))}"


@dataclass(frozen=True)
class Chain:
    """The artifacts of a data set in a workspace, for one split (None: the official one, or all)."""

    manifest: Manifest
    workspace: Path
    split: int | None = None
    data_root: Path | None = None

    @property
    def argument(self) -> str:
        """The data set as commands name it."""
        return self.manifest.name if self.manifest.shipped else str(self.manifest.path)

    def states(self, *, deep: bool = False) -> list[ArtifactState]:
        """The six stages of a data set, in order, with several splits each stage for all of them or for one; of tracks
        without identities the four that do not need people, of which only the features have to be there.

        An artifact with a stale parent is stale too; `deep` also verifies checksums and compares the images. Raises
        `UsageError` for a data set without tracklets.
        """

        @functools.cache
        def dataset(name: str) -> Dataset:
            manifest = self.manifest if name == self.manifest.name else load_manifest(name)
            return read_dataset(manifest, self.data_root or DataOptions.data_root)

        def compared(state: ArtifactState) -> ArtifactState:
            with contextlib.suppress(AmemError, KeyError, IndexError):  # without the data set nothing can be compared
                return _compared_with_images(state, dataset(state.provenance["options"]["dataset"]), self)
            return state

        states = _states(self, deep, compared if deep else lambda state: state)
        if self.manifest.layout == "tracks":
            return [_of_tracks(state, self) for state in states if state.stage not in ("train-amem", "evaluate")]
        return states

    def command(self, stage: str) -> str:
        """The command that makes the artifact of a stage, with the options of what was made before it."""
        link = next(link for link in _links(self) if link.stage == stage)
        return link.command(_options_to_repeat(link), end="")

    def remedy(self, stage: str) -> str:
        """The remedy for a missing artifact of a stage."""
        return f"Run: {self.command(stage)}"

    def warn_about_stale(self, stage: str, progress: Progress) -> None:
        """Warn about each stale artifact of an earlier stage. Damaged ones are not reported: loading them fails."""
        for link in self.states():
            if link.stage == stage:
                return
            if link.state == "stale":
                progress.warn(f"{link.path} is stale: {link.why}. To update it: {link.command}")


def _of_tracks(state: ArtifactState, of: Chain) -> ArtifactState:
    if state.state != "missing" or "--model" in state.command:
        return state
    if state.stage != "extract-features":
        return replace(state, state="unused", why="features by --model do not need it")
    arm = Workspace(of.workspace).arm
    model = shlex.quote(str(arm)) if arm.is_file() else "MODEL"
    why = "MODEL: an amem-main of a data set with labelled people, or an amem-arm" if model == "MODEL" else ""
    return replace(state, why=why, command=f"{state.command} --model {model}")


def _compared_with_images(state: ArtifactState, dataset: Dataset, of: Chain) -> ArtifactState:
    """The state, stale if made from other images than those now there. One made from a part is not compared."""
    options, recorded = state.provenance["options"], state.provenance.get("data")
    part = options.get("clips") or options.get("frames") or options.get("on_bad_image") == "skip"
    if state.state != "ready" or part or not recorded:
        return state
    digest, images = _images_of(state, dataset)
    if digest == recorded:
        return replace(state, why=newer_images(images, state.path))
    command = f"{replace(of, split=state.split).command(state.stage)} --force"
    why = "made from other images than those now there"
    if isinstance(dataset, tracklets.VideoDataset) and state.stage == "extract-features":
        then, now = options.get("split_source"), dataset.splits[state.split or 0].source
        why = f"made with another split ({then} there, {now} now)" if then and then != now else why
    return replace(state, state="stale", why=why, command=command)


def _images_of(state: ArtifactState, dataset: Dataset) -> tuple[str, Iterable[Path]]:
    """The digest and the images of what a stage would read now."""
    if not isinstance(dataset, tracklets.VideoDataset):
        if state.stage == "train-arm" and isinstance(dataset, tracklets.AttributeDataset):
            return tracklets.attributes_digest(dataset, range(len(dataset.paths))), dataset.paths
        return tracklets.images_digest(dataset.paths), dataset.paths
    split = dataset.splits[state.split or 0]
    chosen: Sequence[tracklets.Tracklet] = split.test if state.stage == "extract-features" else split.train
    if state.stage == "label-videos":
        chosen = tracklets.select_tracklets(dataset, state.provenance["options"]["subset"])
    images = list(tracklets.frames_of(chosen))
    return tracklets.images_digest(images) if state.stage == "train-tae" else tracklets.tracklets_digest(chosen), images


# -- the states --------------------------------------------------------------------------------------------------------


def _states(of: Chain, deep: bool, compared: Callable[[ArtifactState], ArtifactState]) -> list[ArtifactState]:
    links, states = _links(of), dict[Path, ArtifactState]()
    for link in links:
        state = compared(_state(link, deep))
        used = [path for role, path in link.parents.items() if role in state.provenance.get("parents", {})]
        stale = [states[path].stage for path in used if path in states and states[path].state == "stale"]
        if state.state == "ready" and stale:
            why = f"a parent is stale ({listing(stale)})"
            state = replace(state, state="stale", why=why, command=link.command(state.provenance))
        if link.stage == "train-amem":
            main = link.path.with_name("amem-main.safetensors")
            state = states[main] = _with_main(state, link, main)
        states[link.path] = state
    found = [states[link.path] for link in links]
    models = [state for state in found if state.stage == "train-amem" and state.state in ("ready", "unfinished")]
    needed = {role for state in models for role in state.provenance.get("parents", {})}
    for place, state in enumerate(found) if models else ():  # a baseline needs neither labels nor TAE
        role = {"train-arm": "labels", "label-videos": "labels", "train-tae": "tae"}.get(state.stage, "")
        if role and role not in needed and state.state == "missing":
            found[place] = replace(state, state="unused", why="the model was trained without it")
    made = [state.provenance.get("parents", {}) for state in found if state.stage == "extract-features"]
    by_arm = any(made) and all("amem-arm" in parents for parents in made if parents)
    for place, state in enumerate(found) if by_arm else ():
        if state.state == "missing" and state.stage in ("label-videos", "train-tae", "train-amem"):
            found[place] = replace(state, state="unused", why="the features of an attribute recogniser do not need it")
    several = Counter(state.stage for state in found if state.state == "missing")
    for place, state in enumerate(found):
        if state.state == "missing" and several[state.stage] > 1:
            found[place] = replace(state, command=re.sub(r"--split \d+", "--split all", state.command))
    return found


def _links(of: Chain) -> list[_Link]:
    place, folders = Workspace(of.workspace), folder_flags(workspace=of.workspace, data_root=of.data_root)
    name, on = of.manifest.name, f" --dataset {shlex.quote(of.argument)}"
    protocol = protocol_of(of.manifest)
    numbers = protocol.numbers if of.split is None else [of.split]
    flags = {number: on if number is None else f"{on} --split {number}" for number in numbers}
    main = {number: {"amem-main": place.amem_main(name, number)} for number in numbers}
    labels, trained = place.labels(name), {"labels": place.labels(name), "tae": place.tae}
    rated = f" --protocol {shlex.quote(protocol.name if of.manifest.shipped else of.argument)}"
    features = {features_role(number): place.features(name, number) for number in protocol.numbers}
    return [
        _Link(of, "train-arm", place.arm, "", {}, folders),
        _Link(of, "label-videos", labels, on, {"arm": place.arm}, folders),
        _Link(of, "train-tae", place.tae, "", {}, folders),
        *(_Link(of, "train-amem", place.amem(name, n), flags[n], trained, folders, n) for n in numbers),
        *(_Link(of, "extract-features", place.features(name, n), flags[n], main[n], folders, n) for n in numbers),
        _Link(of, "evaluate", place.results(protocol.name), rated, features, folder_flags(workspace=of.workspace)),
    ]


def _state(link: _Link, deep: bool) -> ArtifactState:
    """The state of one artifact, compared with its parents; `deep` verifies it and the weights next to it."""
    path, state = link.path, ArtifactState(link.stage, link.path, "ready", split=link.split)
    if not path.is_file():
        state = replace(state, state="missing", command=link.command(_options_to_repeat(link), end=""))
        if os.path.lexists(path):
            why = f"{path} is {'a folder' if path.is_dir() else 'a pipe or a broken link'}: move it away"
            return replace(state, state="damaged", why=why)
        done, provenance = _unfinished(path), _intact_provenance(_parts(path), verified=False)
        return replace(state, state="unfinished", why=done, provenance=provenance) if done else state
    files = [path, *sorted(path.parent.glob("*.safetensors"))] if path.suffix == ".safetensors" else [path]
    try:
        for file in files if deep else ():
            verify(file)
        state = replace(state, provenance=read_provenance(path))
    except DiskError:
        raise
    except (AmemError, OSError, ValueError) as error:
        provenance = _intact_provenance(files) or _options_to_repeat(link)
        return replace(state, state="damaged", why=str(error), command=link.command(provenance))
    for role, parent in link.parents.items():
        recorded = state.provenance.get("parents", {}).get(role)
        if recorded and parent.is_file() and recorded.get("sha256") != atomic.sha256_file(parent):
            why = f"made from another {role} than {parent}"
            return replace(state, state="stale", why=why, command=link.command(state.provenance))
    return state


def _parts(path: Path) -> list[Path]:
    """What an unfinished run left for the artifact `path`: saved states, the newest first, or shards."""
    if path.suffix == ".safetensors":
        return checkpoint.states(path.parent)[::-1]
    return sorted(path.parent.glob(f".{path.name}.parts/*/*.safetensors"))


def _unfinished(path: Path) -> str:
    """How far the unfinished run of an artifact is; empty without one."""
    parts = _parts(path)
    if parts and path.suffix == ".safetensors":
        with contextlib.suppress(AmemError, OSError, KeyError, TypeError):
            position = checkpoint.read_description(parts[0])["position"]
            return f"{position['step']} of {position.get('total') or '?'} steps"
    return f"{counted(len(parts), 'parts')} finished" if parts else ""


def _options_to_repeat(link: _Link) -> dict[str, Any]:
    """The provenance whose options a missing artifact should have: of its unfinished run, else of another split, else
    preset, image size and seed of another training."""
    links = _links(replace(link.of, split=None))
    for one in (link, *(other for other in links if other.stage == link.stage)):
        if provenance := _intact_provenance([one.path, *_parts(one.path)], verified=False):
            return provenance
    for one in links:
        files = [one.path, *_parts(one.path)] if one.stage.startswith("train-") else []
        provenance = _intact_provenance(files, verified=False)
        if recorded := provenance.get("options"):
            names = ("image_size", "seed") if issubclass(COMMANDS[link.stage], Schedule) else ("seed",)
            common = {name: recorded[name] for name in names if name in recorded}
            return {"options": common, "preset": _preset(one.stage, one.flags, provenance)}
    return {}


def _intact_provenance(files: list[Path], *, verified: bool = True) -> dict[str, Any]:
    """The provenance in the first undamaged file (all of a training have the same), `verified` by its checksum."""
    for file in files:
        with contextlib.suppress(AmemError, OSError, ValueError):
            if verified:
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


def repeated_flags(stage: str, given: str, provenance: dict[str, Any]) -> str:
    """The flags that repeat the options in an artifact's `provenance`, relative to the preset with fewer differences.
    Options named in `given` are left out. For a file of `--weights` only the name is recorded."""
    preset = _preset(stage, given, provenance)
    return "".join(f" {shlex.quote(word)}" for word in _flags_under(preset, stage, given, provenance))


def _preset(stage: str, given: str, provenance: dict[str, Any]) -> str:
    """The preset in `provenance`, else the one under which fewest flags repeat its options."""
    recorded: str = provenance.get("preset", "")
    return recorded or min(PRESETS, key=lambda preset: len(_flags_under(preset, stage, given, provenance)))


def _flags_under(preset: str, stage: str, given: str, provenance: dict[str, Any]) -> list[str]:
    """The flags that repeat the options in `provenance` under a preset."""
    recorded, fields = dict(provenance.get("options", {})), dataclasses.fields(COMMANDS[stage])
    if recorded and "parents" in provenance:
        name = str(provenance["parents"].get("weights", {}).get("name", ""))
        recorded["weights"] = re.sub(r"^(imagenet|kinetics|auto) \(.*\)$", r"\1", name)
    matters = any(preset in field.metadata["presets"] for field in fields)
    words = ["--preset", preset] if matters else []
    for field in fields:
        default = preset_value(field, preset)
        if field.name == "image_size":
            default = default or TrainAmemOptions.image_size  # extract-features follows the model
        value = recorded.get(field.name, default)
        empty = value is None or (value == "" and field.name != "weights")
        if value != default and not empty and flag_of(field.name) not in given.split():
            if isinstance(value, bool):
                words.append(flag_of(field.name) if value else f"--no-{flag_of(field.name)[2:]}")
            else:
                words += [flag_of(field.name), str(value)]
    return words
