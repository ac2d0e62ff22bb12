"""The chain of artifacts of a data set: its states, and warnings about stale ones."""

from pathlib import Path

from amem_cli.artifacts.status import ArtifactState, ChainOf, chain, stage_command
from amem_cli.data.manifest import Manifest, Protocol
from amem_cli.errors import UsageError
from amem_cli.options import DataOptions
from amem_cli.runtime.progress import Progress

DATA: Path = DataOptions.data_root


def chain_of(
    manifest: Manifest, workspace: Path, split: int | None, *, data_root: Path = DATA, deep: bool = False
) -> list[ArtifactState]:
    """The six stages of a data set, in order, for one split or all of several; `deep` also verifies checksums.

    Raises `UsageError` for a data set without tracklets.
    """
    return chain(_subject(manifest, workspace, split, data_root), deep=deep)


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
