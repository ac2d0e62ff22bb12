"""`amem features convert`: features of other programs as our HDF5, and features as a file for other programs."""

import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from amem_cli.artifacts import atomic, features, hdf5
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.provenance import Provenance, identities, parent, require_same
from amem_cli.data.readers.features import read_foreign
from amem_cli.errors import BadData, DiskError, OutputExists, UsageError, require_package
from amem_cli.options import DataOptions

BLOCK_ROWS = 65536
HDF5 = (".h5", ".hdf5")
FORMATS = (".h5", ".parquet", ".npy", ".npz", ".mat")
NAMES = {  # of queries and gallery: features, people, cameras
    ".npz": (("qf", "q_pids", "q_camids"), ("gf", "g_pids", "g_camids")),  # torchreid's
    ".mat": (("query_f", "query_label", "query_cam"), ("gallery_f", "gallery_label", "gallery_cam")),  # layumi's
}


def convert(
    source: Path, out: Path, dataset: str = "", *, gallery: Path | None = None, queries: str = "", force: bool = False
) -> dict[str, Any]:
    """Write the features in `source` to `out`, in the format of its name; returns counts and notes.

    `dataset` is the name for features of another program, empty for mars; amem's own have theirs. `.npy` gets a `.csv`
    with the other columns. Raises `OutputExists`, `UsageError` for another format, and as `read_foreign`.
    """
    kind = out.suffix.lower()
    if kind not in FORMATS:
        raise UsageError("OUT", out, why=f"unknown format '{kind}'", remedy=f"Known: {', '.join(FORMATS)}")
    if dataset and kind not in (".h5", ".parquet"):
        why = f"{kind} files do not hold the name of a data set"
        raise UsageError("--dataset", dataset, why=why, remedy="Leave it out")
    outputs = [out.with_suffix(".csv"), out] if kind == ".npy" else [out]
    for path in outputs:
        if path.exists() and not force:
            raise OutputExists("OUT", path, why="it exists", remedy="Choose another name, or --force to replace it")
        atomic.require_writable(path)
    files = [path for path in (source, gallery) if path is not None and path.is_file()]
    as_read = identities(*files)
    table, notes = _read(source, dataset, gallery, queries, kind)
    recorded = table.provenance
    if kind == ".h5":
        parents = {f"features {number}": parent(path) for number, path in enumerate(files)}
        require_same(as_read)
        options = {"dataset": table.dataset, "notes": notes} | recorded.get("options", {})
        command = str(recorded.get("command", "features convert"))
        data = str(recorded.get("data", ""))
        features.write(out, table, Provenance(command, options, recorded.get("parents", {}) | parents, data))
    elif kind == ".parquet":
        _write_parquet(out, table)
    elif kind == ".npy":
        columns = {name: np.asarray(values).tolist() for name, values in _columns(table).items()}
        atomic.write_csv(outputs[0], columns, zip(*columns.values(), strict=True))
        try:
            atomic.write_stream(out, lambda file: np.save(file, np.asarray(table.features)))
        except DiskError:
            outputs[0].unlink()  # one without the other would be refused
            raise
    else:
        _write_two_sets(out, table)
    if kind not in (".h5", ".parquet") and recorded.get("parents"):
        notes.append(f"{kind} files do not say which model made the features, nor with which options")
    counts = {"rows": len(table.tracklet), "queries": int(table.is_query.sum()), "dimensions": table.features.shape[1]}
    numbered = {} if "command" in recorded else recorded.get("options", {})
    return {"out": [str(path) for path in outputs], **counts, "notes": notes, "numbered": numbered}


def _read(source: Path, dataset: str, gallery: Path | None, queries: str, kind: str) -> tuple[Features, list[str]]:
    if source.suffix.lower() in HDF5:
        with atomic.open_input(source, "features") as file:
            ours = file.read(len(atomic.CHECKSUM_MARK)) == atomic.CHECKSUM_MARK
        if ours or "kind" in hdf5.read_attributes(source, "features"):  # another program may write this form
            if gallery or queries or kind == ".h5":
                raise UsageError("features", source, why="this is a features file of amem", remedy="Use it as it is")
            if dataset:
                raise UsageError("--dataset", dataset, why=f"{source} holds its data set's name", remedy="Leave it out")
            return features.read(source, people=False), []
    table, notes = read_foreign(source, dataset or DataOptions.dataset, gallery=gallery, queries=queries)
    if dataset and table.dataset != dataset:
        raise UsageError("--dataset", dataset, why=f"{source} holds its data set's name", remedy="Leave it out")
    return table, notes


def _columns(table: Features) -> dict[str, Any]:
    """All columns but the features."""
    columns = {"tracklet": table.tracklet} | ({"person_id": table.person_id} if table.has_people else {})
    columns |= {"camera_id": table.camera_id, "is_query": table.is_query}
    seen = {name: getattr(table, name) for name in features.SEEN}
    return columns | {name: values for name, values in seen.items() if values is not None}


def _write_parquet(out: Path, table: Features) -> None:
    """Id columns and `features` as fixed-size lists of float32, in row groups of 65,536."""
    require_package("pyarrow", "package")
    import pyarrow as arrow
    from pyarrow import parquet

    columns = {name: arrow.array(values) for name, values in _columns(table).items()}
    dimensions = table.features.shape[1]
    fields = [(name, column.type) for name, column in columns.items()]
    metadata = {"dataset": table.dataset, "provenance": json.dumps(table.provenance, sort_keys=True)}
    metadata |= {"folder": table.folder} if table.folder else {}
    schema = arrow.schema([*fields, ("features", arrow.list_(arrow.float32(), dimensions))], metadata=metadata)

    def write(file: BinaryIO) -> None:
        with parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:
            for start in range(0, len(table.tracklet), BLOCK_ROWS):
                rows = np.ascontiguousarray(table.features[start : start + BLOCK_ROWS])
                lists = arrow.FixedSizeListArray.from_arrays(arrow.array(rows.ravel()), dimensions)
                ids = [column.slice(start, BLOCK_ROWS) for column in columns.values()]
                writer.write_batch(arrow.record_batch([*ids, lists], schema=schema))

    atomic.write_stream(out, write)


def _write_two_sets(out: Path, table: Features) -> None:
    """Queries and the other rows as arrays of their own, under the names of torchreid (.npz) or layumi (.mat)."""
    if not table.has_people:
        raise BadData("features", why="they have no person_id", remedy="Write .parquet or .npy instead")
    arrays: dict[str, Any] = {}
    for names, rows in zip(NAMES[out.suffix.lower()], (table.is_query, ~table.is_query), strict=True):
        columns = (table.features[rows], table.person_id[rows], table.camera_id[rows])
        arrays |= dict(zip(names, columns, strict=True))
    if out.suffix.lower() == ".npz":
        atomic.write_stream(out, lambda file: np.savez(file, **arrays))
        return
    from scipy.io import savemat

    atomic.write_stream(out, lambda file: savemat(file, arrays, oned_as="row"))
