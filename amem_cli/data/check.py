"""`amem data check`: a data set compared with its manifest, every difference named; the CLI prints the report."""

import hashlib
import json
import os
import re
import shlex
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from amem_cli.artifacts.atomic import sha256_file, write_text
from amem_cli.data import manifest as manifests
from amem_cli.data.counts import dataset_counts
from amem_cli.data.datasets import READERS, existing_folder, read_dataset
from amem_cli.data.images import open_image
from amem_cli.data.manifest import Manifest
from amem_cli.data.readers.files import BadRows, find_folder, is_image_name, natural_key, read_text
from amem_cli.data.tracklets import AttributeDataset, VideoDataset
from amem_cli.errors import AmemError, BadData, DiskError

MOST_PROBLEMS = 20  # shown; the total is always told
IMAGES_AT_ONCE = 4096  # handed to the threads together, so that a million images are no million futures
LIST_HEADER = "# amem image list 1: path, size in bytes, sha256, width, height\n"

LAYOUT_FINDERS = {layout: reader.find for layout, reader in READERS.items()}


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One line of the table: `expected` is None where the manifest does not say, `found` where it cannot be counted."""

    what: str
    expected: int | str | None
    found: int | str | None
    note: str
    ok: bool


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found. `problems` are at most 20 of the `problem_count`; `ok` when there are none.

    `remarks` are facts to know that are no faults. `image_list` is the list that a deep check wrote (`list_written`)
    or compared with. `looks_like` is another layout that the folder seems to have, when it could not be read.
    """

    name: str
    title: str
    folder: Path
    rows: tuple[CheckRow, ...]
    problems: tuple[str, ...]
    problem_count: int
    remarks: tuple[str, ...]
    looks_like: str | None
    image_list: Path | None
    list_written: bool

    @property
    def ok(self) -> bool:
        return self.problem_count == 0


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image as a deep check saw it: bytes, SHA-256 of the file, and pixels."""

    size: int
    sha256: str
    width: int
    height: int


def check_dataset(
    manifest: Manifest,
    data_root: str | Path,
    *,
    deep: bool = False,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    list_path: Path | None = None,
) -> CheckReport:
    """Compare a data set with its manifest: counts, tables, splits, hashes of metadata; `deep` decodes every image.

    A deep check writes `list_path` (by default `<name>-images.tsv` beside the data set's folder), or, where that file
    is there, compares every image with it. `workers` threads decode (0: one per CPU); `progress(done, total)` is
    called from this thread. Raises `InputMissing` when the folder is not there and `DiskError` when the list cannot be
    written; everything else that is wrong is in the report.
    """
    root = existing_folder(manifest, data_root)
    problems: list[str] = []
    remarks: list[str] = []
    found: dict[str, int] = {}
    looks_like = None
    try:
        found, notes, remarks = _read(manifest, data_root)
        problems += notes
    except BadRows as error:
        problems += [f"{error.what}: {row}" for row in error.rows]
    except AmemError as error:
        problems.append(str(error))
    if not found:
        guess = guess_layout(root)
        looks_like = guess if guess != manifest.layout else None
    try:
        found |= READERS[manifest.layout].extra_counts(root)
    except AmemError as error:
        if str(error) not in problems and not isinstance(error, BadRows):
            problems.append(str(error))

    rows = _count_rows(manifest, found, problems)
    rows += _metadata_rows(manifest, root, problems)
    written = False
    if deep:
        list_path = list_path or root.absolute().parent / f"{manifest.name}-images.tsv"
        row, written = _deep(root, list_path, workers, progress, problems)
        rows.append(row)
    return CheckReport(
        name=manifest.name,
        title=manifest.title,
        folder=root,
        rows=tuple(rows),
        problems=tuple(problems[:MOST_PROBLEMS]),
        problem_count=len(problems),
        remarks=tuple(remarks),
        looks_like=looks_like,
        image_list=list_path if deep else None,
        list_written=written,
    )


def guess_layout(root: Path) -> str | None:
    """Which layout an unknown folder looks like ("mars", ..., "folder"), from the names in it; None for none of them.

    >>> guess_layout(Path("/nowhere")) is None
    True
    """
    for layout, find in LAYOUT_FINDERS.items():
        try:
            if find(Path(root)) is not None:
                return layout
        except AmemError:
            continue
    return None


@dataclass(frozen=True, slots=True)
class FoundFolder:
    """A folder that looks like `layout`, and the command that goes on with it.

    `manifest` is the text of the .toml that the command wants written first; empty where a shipped one fits.
    """

    folder: Path
    layout: str
    command: str
    manifest: str = ""


def find_datasets(folder: Path) -> list[FoundFolder]:
    """What `folder` holds: the data sets in it when it is a data root, else the one that it is itself.

    Raises `BadData` when neither it nor a folder in it looks like a layout.
    """
    shipped = {manifest.root: manifest for manifest in map(manifests.load_manifest, manifests.SHIPPED)}
    inside = [
        FoundFolder(folder / root, manifest.layout, f"amem data check {manifest.name} --data-root {_quoted(folder)}")
        for root, manifest in shipped.items()
        if guess_layout(folder / root) == manifest.layout
    ]
    if inside:
        return inside
    layout = guess_layout(folder)
    if layout is None:
        why = "it looks like none of the layouts " + ", ".join(LAYOUT_FINDERS)
        raise BadData("folder", folder, why=why, remedy="Give the folder that the data set's archives unpack to")
    place = folder.absolute()
    if place.name in shipped and shipped[place.name].layout == layout:
        data_root = _quoted(place.parent)
        return [FoundFolder(folder, layout, f"amem data check {shipped[place.name].name} --data-root {data_root}")]
    name = re.sub(r"[^A-Za-z0-9._-]", "-", place.name).strip("._-")[:100] or "own"
    text = "".join(
        f"{key} = {json.dumps(value)}\n" for key, value in {"name": name, "layout": layout, "root": str(place)}.items()
    )
    return [FoundFolder(folder, layout, f"amem data check {name}.toml", text)]


def _quoted(folder: Path) -> str:
    return shlex.quote(str(folder))


def _read(manifest: Manifest, data_root: str | Path) -> tuple[dict[str, int], list[str], list[str]]:
    """Counts, notes (problems here) and remarks of the data set that the layout's reader gives."""
    dataset = read_dataset(manifest, data_root)
    remarks = []
    if isinstance(dataset, VideoDataset):
        remarks.append(f"splits: {', '.join(sorted({split.source for split in dataset.splits}))}")
    if isinstance(dataset, AttributeDataset):
        remarks.append(
            f"{len(dataset.partitions)} random partitions of PETA.mat, whose labels are those of Label.txt in every row"
            if dataset.partitions
            else "no random partitions (PETA.mat is not there or does not fit): split by person"
        )
    return dataset_counts(dataset), list(dataset.notes), remarks


def _count_rows(manifest: Manifest, found: dict[str, int], problems: list[str]) -> list[CheckRow]:
    rows = []
    for key, expected in manifest.counts.items():
        what, note, value = key.replace("_", " "), manifest.notes.get(key, ""), found.get(key)
        ok = value == expected
        rows.append(CheckRow(what, expected, value, note, ok))
        if not ok:
            told = "not there" if value is None else str(value)
            problems.append(f"{what}: {told} instead of {expected}")
    rows += [
        CheckRow(key.replace("_", " "), None, value, "", True)
        for key, value in found.items()
        if not manifest.counts and key not in manifest.counts
    ]
    return rows


def _metadata_rows(manifest: Manifest, root: Path, problems: list[str]) -> list[CheckRow]:
    """A row per metadata file whose SHA-256 the manifest knows."""
    rows = []
    for name, expected in manifest.sha256.items():
        place = find_folder(root, lambda folder, name=name: (folder / name).is_file())
        found = sha256_file(place / name) if place else None
        ok = found == expected
        if found is None:
            problems.append(f"{name}: not there")
        elif not ok:
            problems.append(
                f"{name}: another file than the official one (sha256 {found[:12]}..., not {expected[:12]}...)"
            )
        rows.append(CheckRow(f"sha256 {name}", expected[:12], found[:12] if found else None, "first 12 digits", ok))
    return rows


# ---- every image ----------------------------------------------------------------------------------------------------


def _deep(
    root: Path,
    list_path: Path,
    workers: int,
    progress: Callable[[int, int], None] | None,
    problems: list[str],
) -> tuple[CheckRow, bool]:
    """Decode every image below `root`, then write the list or compare with the one that is there."""
    known = read_image_list(list_path) if list_path.exists() else None
    if known is None and not os.access(list_path.parent, os.W_OK):
        raise DiskError("image list", list_path, why="its folder cannot be written to", remedy="Choose another place")
    paths = list(image_files(root))
    records: dict[str, ImageRecord] = {}
    bad: list[str] = []
    for done, (path, record) in enumerate(_decode_all(root, paths, workers), start=1):
        if isinstance(record, str):
            bad.append(f"{ascii(path)[1:-1]}: {record}")
        else:
            records[path] = record
        if progress is not None:
            progress(done, len(paths))
    problems += bad
    row = CheckRow("images decoded", len(paths), len(records), "every image file, also those no stage reads", not bad)
    if known is not None:
        problems += _list_differences(known, records, {path for path in paths if path not in records})
        return row, False
    if bad:
        return row, False  # a list without them would call them new once they are repaired
    write_image_list(list_path, records)
    return row, True


def image_files(root: Path) -> Iterator[str]:
    """Paths of all image files below `root`, relative to it with `/`, in order of number; links to folders are not
    followed."""
    for folder_path, folders, files in os.walk(root):
        folders.sort(key=lambda name: (natural_key(name), name))
        relative = os.path.relpath(folder_path, root).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        for name in sorted(filter(is_image_name, files), key=lambda name: (natural_key(name), name)):
            yield prefix + name


def decode_image(path: Path) -> ImageRecord | str:
    """The record of an image that decodes whole, or why it does not."""
    try:
        content, image = open_image(path)
    except BadData as error:
        return error.why
    return ImageRecord(len(content), hashlib.sha256(content).hexdigest(), image.width, image.height)


def _decode_all(root: Path, paths: list[str], workers: int) -> Iterator[tuple[str, ImageRecord | str]]:
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or os.cpu_count() or 1) as threads:
        warnings.simplefilter("ignore")  # Pillow's words about large images; the limit here is lower
        for start in range(0, len(paths), IMAGES_AT_ONCE):
            block = paths[start : start + IMAGES_AT_ONCE]
            yield from zip(block, threads.map(lambda path: decode_image(root / path), block), strict=True)


def write_image_list(path: Path, records: dict[str, ImageRecord]) -> Path:
    """A line per image, tabs between, in the order of `records`; odd characters of paths as Python escapes."""
    lines = [
        f"{name.encode('unicode_escape').decode()}\t{record.size}\t{record.sha256}\t{record.width}\t{record.height}\n"
        for name, record in records.items()
    ]
    return write_text(path, LIST_HEADER + "".join(lines))


def read_image_list(path: Path) -> dict[str, ImageRecord]:
    """The records of `write_image_list`; `BadData` when the file is none of its lists."""
    text = read_text(path, "image list")
    if not text.startswith(LIST_HEADER):
        raise BadData("image list", path, why="it is not a list that amem wrote", remedy="Move it away")
    records = {}
    for number, line in enumerate(text[len(LIST_HEADER) :].splitlines(), start=2):
        try:
            name, size, sha256, width, height = line.split("\t")
            records[name.encode().decode("unicode_escape")] = ImageRecord(int(size), sha256, int(width), int(height))
        except ValueError as error:
            why = f"line {number} is damaged"
            raise BadData("image list", path, why=why, remedy="Delete it to make a new one") from error
    return records


def _list_differences(known: dict[str, ImageRecord], found: dict[str, ImageRecord], undecoded: set[str]) -> list[str]:
    differences = []
    for name, record in known.items():
        shown = ascii(name)[1:-1]
        if name in undecoded:
            continue  # told already
        if name not in found:
            differences.append(f"{shown}: in the image list, but not there")
        elif found[name] != record:
            fields = [field for field in ("size", "sha256", "width", "height") if _differs(record, found[name], field)]
            differences.append(f"{shown}: not what the image list says ({', '.join(fields)})")
    differences += [f"{ascii(name)[1:-1]}: not in the image list" for name in found if name not in known]
    return differences


def _differs(one: ImageRecord, other: ImageRecord, field: str) -> bool:
    return getattr(one, field) != getattr(other, field)
