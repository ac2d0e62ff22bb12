"""The features files of an evaluation."""

import re
from pathlib import Path

from amem_cli.artifacts.features import Features
from amem_cli.artifacts.paths import Workspace
from amem_cli.data.chain import command_of
from amem_cli.data.manifest import Manifest, protocol_of
from amem_cli.data.readers.features import read_any
from amem_cli.errors import BadData, InputMissing, UsageError, listing
from amem_cli.options import EvaluateOptions
from amem_cli.runtime.progress import Progress


def features_files(options: EvaluateOptions, manifest: Manifest) -> list[Path]:
    """The features files in split order. Raises `InputMissing` that lists the missing ones with commands."""
    single = protocol_of(manifest).kind == "single-split"
    wanted = 1 if single else protocol_of(manifest).splits
    files = list(options.features)
    if not files:
        workspace = Workspace(options.workspace)
        files = [workspace.features(manifest.name, None if single else number) for number in range(wanted)]
    matches = [re.search(r"-split(\d+)\.\w+$", path.name) for path in files]
    order = {int(match[1]): path for match, path in zip(matches, files, strict=True) if match}
    if all(matches) and not single:
        if len(order) < len(files):
            raise UsageError("--features", why="two files are for the same split", remedy="Give one for each split")
        beyond = listing(str(order[number]) for number in sorted(order) if number >= wanted)
        if beyond:
            why = f"{protocol_of(manifest).name} has the splits 0 to {wanted - 1}, but there is {beyond}"
            raise UsageError("--features", why=why, remedy="Give one for each split")
        folder = files[0].parent
        files = [order.get(number, folder / f"{manifest.name}-split{number}.h5") for number in range(wanted)]
    elif len(files) != wanted:
        why = f"{protocol_of(manifest).name} needs {wanted} features file(s), {len(files)} given"
        raise UsageError("--features", why=why, remedy="Give one for each split, in the order of the splits")
    missing = [number for number, path in enumerate(files) if not path.is_file()]
    if missing:
        named = listing((str(files[number]) for number in missing), 3)
        if options.features:
            raise InputMissing("--features", named, why="not found", remedy=f"Give {wanted}")
        remedy = features_remedy(options, manifest, missing[0])
        if single:
            raise InputMissing("features", files[0], why="not found", remedy=remedy)
        remedy = re.sub(r"--split \d+", "--split all", remedy)
        raise InputMissing("features", why=f"{len(missing)} of {wanted} files are missing ({named})", remedy=remedy)
    return files


def read_features(
    path: Path, number: int, options: EvaluateOptions, manifest: Manifest, progress: Progress
) -> Features:
    """The features of split `number`, written by amem or another program, with warnings about their conversion."""
    table, notes = read_any(path, manifest.name, features_remedy(options, manifest, number))
    for note in notes:
        progress.warn(f"{path}: {note}")
    if table.dataset != manifest.name:
        progress.warn(f"{path} has features of '{table.dataset}', but the protocol is for '{manifest.name}'")
    return table


def refuse_other_splits(tables: list[Features], files: list[Path]) -> None:
    """Raise `BadData` if the provenance of features names another split than their position."""
    for number, (table, path) in enumerate(zip(tables, files, strict=True)):
        recorded = table.provenance.get("options", {}).get("split")
        if isinstance(recorded, int) and recorded != number:
            why = f"it has features of split {recorded}, but is given for split {number}"
            raise BadData("features", path, why=why, remedy="Give one file for each split, in the order of the splits")


def features_remedy(options: EvaluateOptions, manifest: Manifest, number: int) -> str:
    """The remedy for features of a split that are missing or damaged."""
    if options.features:  # perhaps of another program
        return "Convert it with amem features convert, or write it as the documentation's page on files says"
    split = None if protocol_of(manifest).kind == "single-split" else number
    return f"Run: {command_of('extract-features', manifest, options.workspace, split)}"
