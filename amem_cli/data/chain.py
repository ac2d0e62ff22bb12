"""The chain of artifacts of a data set: its states, and warnings about stale ones."""

import contextlib
import dataclasses
from pathlib import Path

from amem_cli.artifacts.status import ArtifactState, ChainOf, chain, stage_command
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import Manifest, Protocol
from amem_cli.data.tracklets import VideoDataset, tracklets_digest
from amem_cli.errors import AmemError, UsageError
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
    with contextlib.suppress(AmemError):  # without the data set nothing can be compared
        dataset = read_videos(manifest, data_root) if deep else None
        return [_compared_with_images(state, dataset, of) for state in states]
    return states


def _compared_with_images(state: ArtifactState, dataset: VideoDataset | None, of: ChainOf) -> ArtifactState:
    """The state, stale if model or features were made from other images than those of the data set now.

    Artifacts that were made from a part of the tracklets are not compared.
    """
    options = state.provenance.get("options", {})
    part = options.get("clips") or options.get("on_bad_image") == "skip"
    recorded = state.provenance.get("data") if state.state == "ready" and not part else ""
    if dataset is None or not recorded or state.stage not in ("train-amem", "extract-features"):
        return state
    one = dataset.splits[state.split or 0]
    if tracklets_digest(one.train if state.stage == "train-amem" else one.test) == recorded:
        return state
    command = f"{stage_command(state.stage, dataclasses.replace(of, split=state.split))} --force"
    return dataclasses.replace(state, state="stale", why="made from other images than those now there", command=command)


def command_of(stage: str, manifest: Manifest, workspace: Path, split: int | None, data_root: Path = DATA) -> str:
    """The command that makes the artifact of a stage, with the options of what was made before it."""
    return stage_command(stage, _subject(manifest, workspace, split, data_root))


def _subject(manifest: Manifest, workspace: Path, split: int | None, data_root: Path) -> ChainOf:
    protocol = protocol_of(manifest)
    argument = manifest.name if manifest.shipped else str(manifest.path)
    splits = None if protocol.kind == "single-split" else protocol.splits
    return ChainOf(workspace, argument, manifest.name, split, protocol.name, splits, data_root)


def protocol_of(manifest: Manifest) -> Protocol:
    """The protocol of a video data set. Raises `UsageError` for a data set without tracklets."""
    if manifest.protocol is None:
        raise UsageError("data set", manifest.name, why="it has no tracklets, so stages 2 and 4 to 6 do not apply")
    return manifest.protocol


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
