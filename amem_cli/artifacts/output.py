"""Reuse of an existing output, and the provenance and checksum inside any artifact."""

from pathlib import Path
from typing import Any

from amem_cli.artifacts import atomic
from amem_cli.artifacts.provenance import Provenance, check_provenance, parse_json_object
from amem_cli.errors import AmemError, BadData


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

        hdf5.read_checked(path, "file")
    else:
        atomic.read_checked(path, "artifact")


def is_complete(path: Path) -> bool:
    """Whether an artifact is there and matches its seal."""
    try:
        verify(path)
    except AmemError:
        return False
    return True
