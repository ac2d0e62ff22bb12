"""`amem data check`: compares a data set with its manifest and names every difference; the CLI prints the report."""

import contextlib
import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from amem_cli.artifacts.atomic import sha256_file, write_bytes
from amem_cli.data.datasets import READERS, Dataset, dataset_counts, existing_folder, read_dataset
from amem_cli.data.images import IMAGE_SUFFIXES, in_threads, open_image
from amem_cli.data.manifest import SHIPPED, Manifest, load_manifest
from amem_cli.data.readers import files
from amem_cli.data.readers import folder as folder_reader
from amem_cli.data.readers.files import BadRows, image_files
from amem_cli.data.readers.splits import IN_ONE_CAMERA, find_split_files
from amem_cli.data.tracklets import AttributeDataset, Tracklet, VideoDataset
from amem_cli.errors import AmemError, BadData, DiskError, InputMissing, counted, listing, printable
from amem_cli.text import ascii_name, toml_value

ONE_SPLIT = "splits = 1  # one training; 10 for figures to compare\ntrain_fraction = 0.5\nseed = 0"
MOST_PROBLEMS = 20  # in the report; `problem_count` is the total


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One line of the table: `expected` is None where the manifest has no value, `found` where it cannot be counted."""

    what: str
    expected: int | str | None
    found: int | str | None
    note: str
    ok: bool


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The first problems and the number of all; `remarks` are not faults. `looks_like` is the layout that the folder
    seems to have when it could not be read as the manifest's."""

    name: str
    title: str
    folder: Path
    rows: tuple[CheckRow, ...]
    problems: tuple[str, ...]
    problem_count: int
    remarks: tuple[str, ...]
    looks_like: str | None

    @property
    def ok(self) -> bool:
        return self.problem_count == 0


def check_dataset(
    manifest: Manifest,
    data_root: str | Path,
    *,
    deep: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CheckReport:
    """Compare a data set with its manifest: counts, tables, splits, hashes of metadata; `deep` decodes every image.

    A deep check writes `<name>-images.sha256` next to the data set's folder, a list for `sha256sum -c`, or, if images
    are damaged, their names and faults into `<name>-damaged.txt`. Raises `InputMissing` for a missing folder and
    `DiskError` for what cannot be read or written.
    """
    root = existing_folder(manifest, data_root)
    problems: list[str] = []
    remarks: list[str] = []
    counts: dict[str, int] = {}
    tracklets: list[Tracklet] = []
    try:
        dataset = read_dataset(manifest, data_root)
        tracklets = dataset.tracklets if isinstance(dataset, VideoDataset) else []
        remarks = _remarks(dataset)
        problems += [note for note in dataset.notes if note not in remarks]
        counts = dataset_counts(dataset)
        counts |= READERS[manifest.layout].extra_counts(root)
        problems += _other_images(root)
    except BadRows as error:
        problems += [f"{error.what}: {error.reason}: {row}" for row in error.rows]
        problems[-len(error.rows)] += f". {error.remedy}" if error.remedy else ""  # once, after the first row
    except DiskError:
        raise
    except AmemError as error:
        problems.append(str(error))
    guess = None if counts else guess_layout(root)
    looks_like = guess if guess not in (manifest.layout, "images") else None
    rows = _count_rows(manifest, counts, problems) + _metadata_rows(manifest, root, problems)
    if deep:
        row, digests, damaged = _check_images(root, root.absolute().parent / manifest.name, progress, remarks)
        rows.append(row)
        problems = damaged + problems
    else:
        digests = _digests_of_equal_starts(tracklets)
    problems += _repeated_images(tracklets, digests)
    name, title, shown = manifest.name, manifest.title, tuple(map(printable, problems[:MOST_PROBLEMS]))
    return CheckReport(name, title, root, tuple(rows), shown, len(problems), tuple(remarks), looks_like)


def guess_layout(root: Path) -> str | None:
    """The layout of an unknown folder, recognised by the names in it ("mars", ..., "folder"), or None."""
    for layout, reader in READERS.items():
        with contextlib.suppress(BadData, InputMissing):
            if reader.find(root) is not None:
                return layout
    return None


@dataclass(frozen=True, slots=True)
class FoundFolder:
    """A folder, the layout it seems to have, the command to continue, and the text of the .toml it needs, if any."""

    folder: Path
    layout: str
    command: str
    manifest: str = ""


def find_datasets(folder: Path) -> list[FoundFolder]:
    """The data sets in a data root, or the one that `folder` itself is, of `amem tracklets` and `amem find` by their
    .toml. Raises `BadData` when no layout fits."""
    for place in (folder, folder / "tracks"):
        manifests = sorted(place.glob("*.toml"))
        if manifests and (place / "provenance.json").is_file():
            return [FoundFolder(place, "tracks", f"amem data check {shlex.quote(str(manifests[0]))}")]
    shipped = {manifest.root: manifest for manifest in map(load_manifest, SHIPPED)}

    def as_shipped(place: Path, data_root: Path) -> FoundFolder:
        command = f"amem data check {shipped[place.absolute().name].name} --data-root {shlex.quote(str(data_root))}"
        return FoundFolder(place, shipped[place.absolute().name].layout, command)

    fitting = [root for root, manifest in shipped.items() if guess_layout(folder / root) == manifest.layout]
    if fitting:
        return [as_shipped(folder / root, folder) for root in fitting]
    layout = guess_layout(folder)
    if layout is None:
        remedy = "Give the folder that the data set's archives unpack to"
        raise BadData("folder", folder, why=files.why_empty(folder), remedy=remedy)
    place = folder.absolute()
    if place.name in shipped and shipped[place.name].layout == layout:
        return [as_shipped(folder, place.parent)]
    name = ascii_name(place.name) or "own"
    values = {"name": name, "layout": layout, "root": str(place)}
    if layout == "images":
        values["root"] = str(files.find_named(place, "train") or files.find_named(place, "bounding_box_train") or place)
    if layout == "folder" and (guessed := folder_reader.guess(place)):
        values |= {"root": str(guessed[0]), "folders": guessed[1]}
    text = "".join(f"{key} = {toml_value(value)}\n" for key, value in values.items())
    if layout == "folder" and "split" not in values.get("folders", "").split("/"):
        text += "# swap the levels in folders if people and cameras are mixed up\n"
        file = next(filter(Path.is_file, find_split_files(place)), None)
        how = f"file = {toml_value(str(file))}" if file else ONE_SPLIT
        text += f'\n[protocol]\nkind = "cross-camera-splits"\n{how}\n'
    return [FoundFolder(folder, layout, f"amem data check {name}.toml", text)]


def _digests_of_equal_starts(tracklets: list[Tracklet]) -> dict[Path, str]:
    """The SHA-256 of the frames of tracklets whose first frame is also that of another one."""

    def digests(paths: list[Path]) -> list[str]:
        return list(in_threads(lambda path: sha256_file(path) if path.is_file() else "", paths))

    firsts = digests([tracklet.frames[0] for tracklet in tracklets])
    times = Counter(firsts)
    frames = [frame for t, first in zip(tracklets, firsts, strict=True) if times[first] > 1 for frame in t.frames]
    return dict(zip(frames, digests(frames), strict=True))


def _other_images(root: Path) -> list[str]:
    """A line about images of formats that no reader takes, which would be left out."""
    names = (name for _, _, names in files.walk(root) for name in names)
    found = Counter(suffix for name in names if (suffix := os.path.splitext(name)[1].lower()) in files.OTHER_IMAGES)
    many = ", ".join(f"{count} {suffix}" for suffix, count in sorted(found.items()))
    return [f"{many} files are not read: convert them to one of {', '.join(IMAGE_SUFFIXES)}"] if found else []


def _remarks(dataset: Dataset) -> list[str]:
    """The origin of the splits, and the notes about ignored folders and people who are only in galleries."""
    remarks = [note for note in dataset.notes if files.IGNORED in note or IN_ONE_CAMERA in note]
    if isinstance(dataset, VideoDataset):
        remarks.insert(0, f"splits: {', '.join(sorted({split.source for split in dataset.splits}))}")
    if isinstance(dataset, AttributeDataset) and dataset.partitions:
        partitions, evaluated = counted(len(dataset.partitions), "random partitions"), len(dataset.evaluated)
        remarks.insert(0, f"{partitions} and {evaluated} evaluated attributes from PETA.mat")
    elif isinstance(dataset, AttributeDataset):
        remarks.insert(0, "no random partitions (PETA.mat is missing, does not fit or has none): split by person")
    return remarks


def _count_rows(manifest: Manifest, counts: dict[str, int], problems: list[str]) -> list[CheckRow]:
    """A row per count of the manifest, then the cameras and the counts with a note alone; all without a manifest's."""
    rows = []
    others = [key for key in (("cameras", *manifest.notes) if manifest.counts else counts) if key in counts]
    for key in dict.fromkeys((*manifest.counts, *others)):
        what, expected, found = key.replace("_", " "), manifest.counts.get(key), counts.get(key)
        rows.append(CheckRow(what, expected, found, manifest.notes.get(key, ""), expected in (None, found)))
        if not rows[-1].ok:
            problems.append(f"{what}: {'missing' if found is None else found} instead of {expected}")
    return rows


def _metadata_rows(manifest: Manifest, root: Path, problems: list[str]) -> list[CheckRow]:
    """A row per metadata file whose SHA-256 the manifest has."""
    rows = []
    for name, expected in manifest.sha256.items():
        place = files.find_folder(root, lambda folder: (folder / name).is_file())  # noqa: B023 (called at once)
        digest = sha256_file(place / name) if place else None
        if digest != expected:
            problems.append(f"{name}: {'not the official file' if digest else 'missing'}")
        shown = digest and digest[:12]
        rows.append(CheckRow(f"sha256 {name}", expected[:12], shown, "first 12 digits", digest == expected))
    return rows


def _check_images(
    root: Path, place: Path, progress: Callable[[int, int], None], remarks: list[str]
) -> tuple[CheckRow, dict[Path, str], list[str]]:
    """Decode every image below `root` and write the list for `sha256sum -c`, or that of damaged ones; returns the row,
    each image's SHA-256, and a line for each damaged one. `place` is the beginning of both lists' paths."""
    image_list, damaged_list = (place.with_name(f"{place.name}-{end}") for end in ("images.sha256", "damaged.txt"))
    paths = [f"{root.absolute().name}/{path}" for path in image_files(root)]
    lines, damaged, digests = [], list[str](), dict[Path, str]()
    results = in_threads(_hash_image, [image_list.parent / path for path in paths])
    for done, (path, (digest, fault)) in enumerate(zip(paths, results, strict=True), start=1):
        # as sha256sum writes it: a line with an escaped path begins with a backslash
        escaped = path.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r")
        lines.append(f"{chr(92) * (escaped != path)}{digest}  {escaped}\n")
        damaged += [f"{printable(path)}: {fault}"] if fault else []
        digests[image_list.parent / path] = digest
        progress(done, len(paths))
    with contextlib.suppress(OSError):  # there is none, or the folder is read-only
        damaged_list.unlink()
    if damaged:
        remarks.append(_written(damaged_list, "\n".join([*damaged, ""]), "damaged images"))
    if image_list.exists():
        folder, name = shlex.quote(str(image_list.parent)), shlex.quote(image_list.name)
        remarks.append(f"compare with the earlier list of images: cd {folder} && sha256sum --quiet -c {name}")
    elif not damaged:
        remarks.append(_written(image_list, "".join(lines), "images"))
    note = "every image file, also those that no stage reads"
    row = CheckRow("images decoded", len(paths), len(paths) - len(damaged), note, not damaged)
    return row, digests, damaged


def _written(path: Path, text: str, what: str) -> str:
    """Write a list; the remark that says where it is, or why it could not be written."""
    try:
        write_bytes(path, text.encode("utf-8", "surrogateescape"))
    except DiskError as error:
        return f"no list of {what}: {path}: {error.why}"
    return f"list of {what} written to {path}"


def _repeated_images(tracklets: list[Tracklet], digests: Mapping[Path, str]) -> list[str]:
    """Tracklets of repeated images, tracklets with the same images in any order, and images under two people."""
    first_of: dict[frozenset[str], Tracklet] = {}
    owner_of: dict[str, Tracklet] = {}
    problems, shared = [], []
    for tracklet in tracklets:
        times = Counter(digests.get(frame) or str(frame) for frame in tracklet.frames)
        if len(times) > 1 and min(times.values()) > 1:
            problems.append(f"{tracklet.name}: every image is there {min(times.values())} times, under different names")
        other = first_of.setdefault(frozenset(times), tracklet)
        problems += [f"{tracklet.name} has the same images as {other.name}"] if other is not tracklet else []
        owners = [owner_of.setdefault(digest, tracklet) for digest in times]
        others = {one.name for one in owners if one.person_id != tracklet.person_id and one.person_id > 0}
        shared += [f"{tracklet.name} and {name}" for name in sorted(others) if tracklet.person_id > 0]
    if shared:
        problems.append(f"tracklets of two people have images in common: {listing(shared, 5)}")
    return problems


def _hash_image(path: Path) -> tuple[str, str]:
    """The SHA-256 of an image file, and the reason why it cannot be read or decoded; one of the two is empty."""
    try:
        return hashlib.sha256(open_image(path)[0]).hexdigest(), ""
    except AmemError as error:
        return "", error.why
