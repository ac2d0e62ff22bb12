"""Features that other programs wrote: .npz, .mat, .pt, .parquet, .npy with .csv, .h5, a folder of .npy files.

Variables are found by the names that torchreid, fast-reid, Video-Person-ReID, open-reid, layumi's baseline and the MARS
evaluation use. Nothing in a file is executed: no pickle is loaded, HDF5 and MATLAB files are read in a child process.
"""

import csv
import io
import itertools
import json
import re
import shlex
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import atomic, features
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.provenance import check_provenance
from amem_cli.data.readers.files import read_text, whole_numbers
from amem_cli.data.readers.matlab import UNREAD, read_arrays
from amem_cli.errors import AmemError, BadData, UsageError, listing, require_package
from amem_cli.options import DataOptions
from amem_cli.person_ids import DISTRACTOR, JUNK
from amem_cli.runtime.memory import free_memory, require_memory

WHAT = "features"
STEMS = {
    "features": "f feat feats feature features embedding embeddings vector vectors",
    "person_id": "pid pids id ids label labels person personid personids target targets",
    "camera_id": "cam cams camid camids camera cameras cameraid cameraids",
    "tracklet": "tracklet tracklets name names path paths imgpath imgpaths fname fnames",
    "is_query": "isquery",
    "queries": "numquery numqueries",
    "first_seconds": "firstseconds",
    "last_seconds": "lastseconds",
}
ROLES = {"query": ("q", "query"), "gallery": ("g", "gallery")}
KNOWN = {stem: ("", column) for column, stems in STEMS.items() for stem in stems.split()}
KNOWN |= {
    name: (role, column)
    for role, words in ROLES.items()
    for (stem, (_, column)), word in itertools.product(list(KNOWN.items()), words)
    for name in ((word + stem, stem + word) if word == role else (word + stem,))
}
NAME = re.compile(r"(-?\d+|00-1)(?:_c|C|_)(\d+)")  # of images of Market-1501, Duke, MARS and open-reid
Rows = dict[str, Any]  # column -> values, of the queries, of the gallery, or of both


def read_any(path: Path, dataset: str, remedy: str = features.WRITERS) -> tuple[Features, list[str]]:
    """Features with people: of amem (.h5) as `features.read` reads them, of another program as `read_foreign`, which
    are `BadData` without people, too."""
    if path.suffix.lower() in (".h5", ".hdf5", ""):
        return features.read(path, remedy=remedy), []
    table, notes = read_foreign(path, dataset)
    if not table.has_people:
        raise BadData(WHAT, path, why="it has no person_id, so its tracks have no identities", remedy="Add the column")
    return table, notes


def read_foreign(
    path: Path, dataset: str, *, gallery: Path | None = None, queries: str = ""
) -> tuple[Features, list[str]]:
    """Features of another program, and notes about what was changed or assumed.

    For files that do not say it themselves, `gallery` is the file of the gallery, and `queries` says which rows are
    queries: the number of rows at the beginning, or a text file of names, one a line. Rows become float32 of unit
    length. Text ids are numbered; `provenance` has the numbers. A query that is also in the gallery is kept once. A
    Parquet file of amem keeps its data set and its provenance.
    Raises `InputMissing`, `BadData` for damage and missing columns, `UsageError` when nothing says what is a query.
    """
    notes: list[str] = []
    groups = _groups(path, notes)
    if gallery is not None:
        if "gallery" in groups:
            raise UsageError("--gallery", gallery, why=f"{path} has a gallery", remedy="Leave --gallery out")
        more = _groups(gallery, notes)
        groups = {"query": groups.get("query") or groups[""], "gallery": more.get("gallery") or more.get("", {})}
    rows = groups.get("", {})
    known = "query" in groups or "gallery" in groups or "is_query" in rows
    if known and queries:
        raise UsageError("--queries", queries, why=f"{path} says which rows are queries", remedy="Leave it out")
    for role in ROLES if "query" in groups or "gallery" in groups else ():
        if "features" not in groups.get(role, {}):
            raise UsageError(WHAT, path, why=f"no features of the {role}", remedy="Give the other file with --gallery")
    if "query" in groups:
        rows, is_query = _joined(path, groups["query"], groups["gallery"], notes)
    else:
        number = rows.pop("queries", ())
        _same_length(path, rows, notes)
        is_query = _queries(path, rows, queries, number, notes, dataset)
    table = _table(path, dataset, rows, is_query, notes)
    return replace(table, **_recorded(path)) if path.suffix.lower() == ".parquet" else table, notes


# -- from a file to columns --------------------------------------------------------------------------------------------


def _groups(path: Path, notes: list[str]) -> dict[str, Rows]:
    """The columns of the queries, of the gallery, or ("") of rows of either kind."""
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        ".npz": _read_npz, ".npy": _read_npy, ".mat": read_arrays, ".h5": read_arrays, ".hdf5": read_arrays,
        ".pt": _read_torch, ".pth": _read_torch, ".parquet": _read_parquet,
    }  # fmt: skip
    reader = _read_folder if path.is_dir() else readers.get(path.suffix.lower())
    if reader is None:
        remedy = f"Known: {', '.join(readers)}, and folders"
        raise UsageError(WHAT, path, why=f"unknown kind of file '{path.suffix}'", remedy=remedy)
    if reader is not _read_folder:
        atomic.open_input(path, WHAT).close()
    try:
        variables = reader(path)
    except AmemError:
        raise
    except Exception as error:  # NumPy, zipfile, zlib, torch and Arrow raise many kinds for damaged files
        cause = " ".join(str(error).rpartition("WeightsUnpickler error: ")[2].split())  # torch's own begins with advice
        why = f"damaged, or not a {path.suffix} file of plain arrays ({type(error).__name__}: {cause})"
        raise BadData(WHAT, path, why=f"{why:.300}") from error
    unread = [name for name, value in variables.items() if getattr(value, "dtype", None) == UNREAD.dtype]
    variables = {name: value for name, value in variables.items() if name not in unread}
    groups: dict[str, Rows] = {}
    source: dict[tuple[str, str], str] = {}
    keys = {name: KNOWN.get(re.sub(r"[^a-z]", "", name.lower())) for name in variables}
    if "camera" in variables and "camera_id" in variables:
        keys["camera"] = ("", "camera")
    for name, key in keys.items():
        if key is None:
            continue
        if source.setdefault(key, name) != name:
            raise BadData(WHAT, path, why=f"'{source[key]}' and '{name}' are both {key[1]}", remedy="Leave one out")
        groups.setdefault(key[0], {})[key[1]] = variables[name]
    if not any("features" in group for group in groups.values()):
        distances = " Distances cannot be converted." if any("dist" in name for name in variables) else ""
        remedy = f"Name them qf and gf, query_f and gallery_f, or features.{distances}"
        found = listing([*map(str, variables), *unread], 8) or "no arrays at the top level"
        raise BadData(WHAT, path, why=f"no features in it, but {found}", remedy=remedy.rstrip("."))
    if unused := [name for name in variables if name not in source.values()] + unread:
        notes.append(f"not used: {listing(map(str, unused), 8)}")
    return groups


def _read_npz(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
        require_memory(WHAT, str(path), size, free_memory(), "Use a machine with more memory, or .npy with .csv")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_npy(path: Path) -> dict[str, Any]:
    """The features in `path` and the columns of the .csv file next to it."""
    values = {"features": np.load(path, mmap_mode="r", allow_pickle=False)}
    table = path.with_suffix(".csv")
    text = read_text(table, "table of the rows")
    separator = max(",;\t", key=text.partition("\n")[0].count)
    rows = filter(None, csv.reader(io.StringIO(text), delimiter=separator, strict=True))  # blank lines are empty
    header = next(rows, [])
    if len(set(header)) < len(header):
        raise ValueError(f"{table} has two columns of one name")
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    return values | dict(zip(header, map(np.array, columns), strict=True))


def _read_folder(path: Path) -> dict[str, Any]:
    """One .npy file per image or tracklet, as fast-reid's demo writes them."""
    files = sorted(path.glob("*.npy"))
    if not files:
        raise BadData(WHAT, path, why="no .npy files in it")
    rows = [np.load(file, allow_pickle=False).ravel() for file in files]
    return {"features": np.stack(rows), "names": [file.stem for file in files]}


def _read_torch(path: Path) -> dict[str, Any]:
    import torch

    from amem_cli.weights.files import scan_pickles

    scan_pickles(path, atomic.read_bytes(path, WHAT), {})
    allowed: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?", "U1"))]
    for name, function in (("_reconstruct", np.array(0).__reduce__()[0]), ("scalar", np.int64(0).__reduce__()[0])):
        allowed += [(function, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")]
    with torch.serialization.safe_globals(allowed):
        loaded = torch.load(path, map_location="cpu", weights_only=True)

    if not isinstance(loaded, dict):
        raise ValueError(f"a {type(loaded).__name__}, not a dict of arrays")
    if all(NAME.match(Path(str(name)).stem) for name in loaded):
        loaded = {"features": loaded}
    values: dict[str, Any] = {}
    for name, value in loaded.items():
        if isinstance(value, dict):  # open-reid's extract_features: file name -> vector
            values.setdefault("names", [str(key) for key in value])
            value = list(value.values())
        if isinstance(value, list | tuple) and value and isinstance(value[0], torch.Tensor):
            value = torch.stack(list(value))
        if isinstance(value, torch.Tensor):
            value = (value.detach().float() if value.is_floating_point() else value.detach()).numpy()
        values[str(name)] = value
    return values


def _read_parquet(path: Path) -> dict[str, Any]:
    require_package("pyarrow", "package")
    from pyarrow import parquet

    table = parquet.read_table(path)
    values: dict[str, Any] = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if not hasattr(column, "flatten") or not str(column.type).startswith(("fixed_size_list", "list", "large_list")):
            values[name] = column.to_numpy(zero_copy_only=False)
        elif column.null_count or len(set(column.value_lengths().to_pylist())) > 1:
            raise ValueError(f"the lists of '{name}' have several lengths")
        else:
            values[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return values


def _recorded(path: Path) -> dict[str, Any]:
    """What a Parquet file of amem says about its features besides the columns; empty for one of another program."""
    from pyarrow import parquet

    metadata = parquet.read_schema(path).metadata or {}
    try:
        provenance = json.loads(metadata.get(b"provenance", b""))
    except ValueError:
        return {}
    found = {name: metadata.get(name.encode(), b"").decode("utf-8", "replace") for name in ("dataset", "folder")}
    if not isinstance(provenance, dict) or "command" not in provenance or not found["dataset"]:
        return {}
    if "\0" in "".join(found.values()):
        raise BadData(WHAT, path, why="the name of its data set or folder contains a NUL character")
    return found | {"provenance": check_provenance(provenance, WHAT, path)}


# -- from columns to a table -------------------------------------------------------------------------------------------


def _joined(path: Path, query: Rows, gallery: Rows, notes: list[str]) -> tuple[Rows, np.ndarray]:
    """Queries and gallery below each other, without the gallery's copies of queries; and which rows are queries."""
    if query.keys() != gallery.keys():
        raise BadData(WHAT, path, why=f"queries have {listing(sorted(query))}, gallery {listing(sorted(gallery))}")
    for part in (query, gallery):
        _same_length(path, part, notes)
    number, *shapes = len(query["features"]), query["features"].shape, gallery["features"].shape
    if shapes[0][1] != shapes[1][1]:
        raise BadData(WHAT, path, why=f"queries have features {shapes[0]}, the gallery {shapes[1]}")
    rows = {name: np.concatenate([query[name], gallery[name]]) for name in query}
    compared = [rows[name] for name in ("person_id", "camera_id", "features") if name in rows]

    def key(row: int) -> tuple[bytes, ...]:
        return tuple(np.asarray(column[row]).tobytes() for column in compared)

    left = Counter(map(key, range(number)))
    kept = np.ones(len(rows["features"]), bool)
    for row in range(number, len(kept)):
        kept[row] = left[key(row)] == 0
        left[key(row)] -= not kept[row]
    if not kept.all():
        notes.append(f"{(~kept).sum()} rows of the gallery are queries, they are kept once")
    return {name: values[kept] for name, values in rows.items()}, np.arange(len(kept))[kept] < number


def _queries(path: Path, rows: Rows, queries: str, stated: Any, notes: list[str], dataset: str) -> np.ndarray:
    """Which rows of one table are queries, from the file or from the user."""
    if "is_query" in rows:
        texts = [str(value).lower() for value in rows["is_query"]]
        if odd := sorted(set(texts) - {"0", "1", "true", "false", "0.0", "1.0"}):
            raise BadData(WHAT, path, why=f"is_query holds {listing(odd, 3)}, not true and false")
        return np.array([text in ("1", "true", "1.0") for text in texts])
    count = len(rows["features"])
    if queries and not queries.isdigit():
        wanted = set(read_text(Path(queries), "--queries").split("\n")) - {""}
        if not wanted:
            raise BadData("--queries", queries, why="no names in it")
        names = [str(name) for name in rows.get("tracklet", [])]
        found = np.array([name in wanted or Path(name).stem in wanted for name in names], bool)
        if missing := wanted - set(names) - {Path(name).stem for name in names}:
            raise BadData("--queries", queries, why=f"not among the rows of {path}: {listing(sorted(missing), 3)}")
        return found
    number = queries or "".join(str(int(one)) for one in np.ravel(stated)[:1])
    if not number.isdigit() or int(number) > count:
        seen = "".join(f"; {note}" for note in notes)
        why = f"nothing says which of the {count} rows are queries{seen}" if not number else f"there are {count} rows"
        of = f" --dataset {shlex.quote(dataset)}" if dataset != DataOptions.dataset else ""
        command = f"amem features convert {shlex.quote(str(path))} OUT.h5{of} --queries N"
        remedy = f"Say it: {command} (the first N), or with --queries NAMES.txt or --gallery FILE"
        raise UsageError(WHAT, path, why=why, remedy=remedy)
    return np.arange(count) < int(number)


def _table(path: Path, dataset: str, rows: Rows, is_query: np.ndarray, notes: list[str]) -> Features:
    names = [str(name) for name in rows.get("tracklet", [])]
    _ids_of_names(rows, names, notes)
    if "camera_id" not in rows:
        raise BadData(WHAT, path, why="it has no cameras", remedy="Add camera_id, or q_camids and g_camids")
    numbered: dict[str, dict[str, int]] = {}
    cameras = _integers(path, rows["camera_id"], "camera_id", numbered)
    people = _integers(path, rows.get("person_id", np.zeros(0)), "person_id", numbered)
    for column, numbers in numbered.items():
        notes.append(f"{column} are texts, numbered: {listing((f'{text} = {n}' for text, n in numbers.items()), 6)}")
    if len(people) and "person_id" not in numbered and (people[is_query] == DISTRACTOR).any():
        notes.append("a query is of person 0: people are numbered from 0, 1 is added to each")
        people = np.where(people == JUNK, JUNK, people + 1)
    if len(set(names)) < len(is_query):
        notes += ["names repeat: rows are named by their number"] if names else []
        names = [f"{'query' if query else 'gallery'}-{row:07d}" for row, query in enumerate(is_query)]
    more: dict[str, Any] = {"camera": [str(name) for name in rows["camera"]]} if "camera" in rows else {}
    for name in {"first_seconds", "last_seconds"} & rows.keys():
        try:
            more[name] = rows[name].astype(np.float64)
        except ValueError as error:
            raise BadData(WHAT, path, why=f"{name} is not a number ({error})") from error
    values, provenance = _unit_length(path, rows["features"], notes), {"options": numbered} if numbered else {}
    return Features(dataset, names, people, cameras, is_query, values, provenance, **more)


def _same_length(path: Path, rows: Rows, notes: list[str]) -> None:
    """Columns as vectors, features as a matrix (N, D), all of one length; raises `BadData`."""
    for name in rows:
        try:
            rows[name] = np.asarray(rows[name]) if name == "features" else np.ravel(rows[name])
        except ValueError as error:  # lists of several lengths
            raise BadData(WHAT, path, why=f"{name} is not a table ({error})") from error
        if rows[name].dtype.kind == "S":
            rows[name] = np.char.decode(rows[name], "utf-8", "replace")
        if rows[name].dtype == object and any(value is None for value in rows[name].flat):
            raise BadData(WHAT, path, why=f"{name} has missing values")
        if rows[name].dtype.kind in "cmMV":
            raise BadData(WHAT, path, why=f"{name} holds {rows[name].dtype}, neither numbers nor texts")
    lengths = {name: len(values) for name, values in rows.items() if name != "features"}
    features = rows["features"]
    if features.ndim != 2 or features.dtype.kind not in "biuf":
        raise BadData(WHAT, path, why=f"features are {features.dtype} {features.shape}, not a matrix (rows, features)")
    if set(lengths.values()) == {features.shape[1]} != {len(features)}:
        rows["features"] = features = features.T
        notes.append("features are one column per row of the table, as in MATLAB: turned")
    if len(set(lengths.values()) | {len(features)}) > 1 or not len(features):
        columns = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise BadData(WHAT, path, why=f"the columns have {columns}{' and ' * bool(columns)}{len(features)} features")


def _ids_of_names(rows: Rows, names: list[str], notes: list[str]) -> None:
    """Absent ids from names like 0002_c1s1_000451_03, 0001C1T0001 and 00000001_00_0001."""
    matches = [NAME.match(Path(name).name) for name in names]
    absent = [(group, name) for group, name in ((1, "person_id"), (2, "camera_id")) if name not in rows]
    if absent and matches and all(matches):
        rows |= {name: np.array([match[group] for match in matches if match]) for group, name in absent}
        notes.append(f"{' and '.join(name for _, name in absent)} are taken from names such as {names[0]}")


def _integers(path: Path, values: np.ndarray, what: str, numbered: dict[str, dict[str, int]]) -> np.ndarray:
    """Ids as int64. Texts that are not all numbers are numbered from 1 in their order, but "0" and "-1" stay."""
    if values.dtype.kind in "biuf":
        return whole_numbers(values, path, what, WHAT)
    texts = [str(text).strip() for text in values]
    none = ("", "nan", "none", "null", "<na>")
    if missing := [f"row {row}" for row, text in enumerate(texts) if text.lower() in none]:
        raise BadData(WHAT, path, why=f"{what} has missing values: {listing(missing, 5)}")
    numbers = {text: re.sub(r"\.0*$", "", text).lstrip("0") or "0" for text in set(texts)}  # "7.0" of a data frame
    if all(re.fullmatch(r"-?\d{1,18}", number) for number in numbers.values()):
        return np.array([int(numbers[text]) for text in texts], np.int64)
    kept = {text: int(number) for text, number in numbers.items() if number in (str(JUNK), str(DISTRACTOR))}
    numbered[what] = kept | {text: n for n, text in enumerate(sorted(numbers.keys() - kept.keys()), 1)}
    return np.array([numbered[what][text] for text in texts], np.int64)


def _unit_length(path: Path, values: np.ndarray, notes: list[str]) -> np.ndarray:
    """(N, D) float32 rows of unit length."""
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.array(values, np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    if len(odd := np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))):
        raise BadData(WHAT, path, why=f"rows are zero, not finite or too large: {listing(map(str, odd))}")
    if (np.abs(lengths - 1) > 1e-3).any():
        rows /= lengths[:, None]
        notes.append("the features were not L2-normalised, they are now: distances between them have changed")
    return rows
