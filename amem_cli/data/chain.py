"""The chain of artifacts of a data set: its states, and warnings about stale ones."""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from amem_cli.artifacts.output import newer_images
from amem_cli.artifacts.status import ArtifactState, ChainOf, chain, stage_command
from amem_cli.data import tracklets
from amem_cli.data.counts import Dataset
from amem_cli.data.datasets import read_dataset
from amem_cli.data.manifest import Manifest, load_manifest, protocol_of
from amem_cli.errors import AmemError
from amem_cli.options import DataOptions
from amem_cli.runtime.progress import Progress

DATA: Path = DataOptions.data_root


def chain_of(
    manifest: Manifest, workspace: Path, split: int | None, *, data_root: Path = DATA, deep: bool = False
) -> list[ArtifactState]:
    """The six stages of a data set, in order, for one split or all of several; `deep` also verifies checksums
    and compares the images.

    Raises `UsageError` for a data set without tracklets.
    """
    of = _subject(manifest, workspace, split, data_root)
    states = chain(of, deep=deep)
    if not deep:
        return states
    found: dict[str, Dataset] = {}  # by name, each read once
    for place, state in enumerate(states):
        with contextlib.suppress(AmemError, KeyError, IndexError):  # without the data set nothing can be compared
            name = state.provenance["options"]["dataset"]
            if name not in found:
                found[name] = read_dataset(manifest if name == manifest.name else load_manifest(name), data_root)
            states[place] = _compared_with_images(state, found[name], of)
    return states


def _compared_with_images(state: ArtifactState, dataset: Dataset, of: ChainOf) -> ArtifactState:
    """The state, stale if it was made from other images than those of the data set now; why says if some are newer.

    Artifacts that were made from a part of the images are not compared.
    """
    options, recorded = state.provenance["options"], state.provenance.get("data")
    part = options.get("clips") or options.get("frames") or options.get("on_bad_image") == "skip"
    if state.state != "ready" or part or not recorded:
        return state
    digest, images = _images_of(state, dataset)
    if digest == recorded:
        return dataclasses.replace(state, why=newer_images(images, state.path))
    command = f"{stage_command(state.stage, dataclasses.replace(of, split=state.split))} --force"
    return dataclasses.replace(state, state="stale", why="made from other images than those now there", command=command)


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


def command_of(stage: str, manifest: Manifest, workspace: Path, split: int | None, data_root: Path = DATA) -> str:
    """The command that makes the artifact of a stage, with the options of what was made before it."""
    return stage_command(stage, _subject(manifest, workspace, split, data_root))


def _subject(manifest: Manifest, workspace: Path, split: int | None, data_root: Path) -> ChainOf:
    protocol = protocol_of(manifest)
    argument = manifest.name if manifest.shipped else str(manifest.path)
    splits = None if protocol.kind == "single-split" else protocol.splits
    return ChainOf(workspace, argument, manifest.name, split, protocol.name, splits, data_root)


def warn_about_stale(
    manifest: Manifest, workspace: Path, split: int | None, stage: str, progress: Progress, data_root: Path = DATA
) -> None:
    """Warn about each artifact of an earlier stage that was made from other inputs than the current ones.

    A damaged artifact is not reported here: loading it fails.
    """
    for link in chain_of(manifest, workspace, split, data_root=data_root):
        if link.stage == stage:
            return
        if link.state == "stale":
            progress.warn(f"{link.path} is stale: {link.why}. To update it: {link.command}")
