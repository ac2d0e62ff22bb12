"""Functions that all readers use: folders, the order of frames, metadata files. No stat per image."""

import contextlib
import itertools
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from amem_cli.artifacts.atomic import input_error, read_bytes
from amem_cli.data.images import IMAGE_SUFFIXES
from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import BadData, InputMissing, counted, listing
from amem_cli.person_ids import UNKNOWN
from amem_cli.text import decode_text

MOST_BYTES_OF_METADATA = 256 * 2**20  # the largest metadata file of the five data sets has 16 MB
MOST_FOLDERS_SEARCHED = 2000
# Left behind by network drives, archivers and operating systems: these names, and all that begin with @, #, $ or ~.
SYSTEM_FOLDERS = {"__macosx", "lost+found", "system volume information", "network trash folder", "temporary items"}
SYSTEM_FOLDERS |= {"recycler", "recycled", "found.000", "lost.dir", "thevolumesettingsfolder", "__pycache__"}
IGNORED = "ignored, left by an operating system or without images at the place of the layout"
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar", ".xz", ".bz2", ".zst", ".z01", ".001")
OTHER_IMAGES = {".webp", ".tif", ".tiff", ".gif", ".heic", ".avif", ".jp2", ".ppm", ".pgm", ".jfif", ".jpe"}
YEAR_LAST = re.compile(r"(?<!\d)(\d\d?([-._ ])\d\d?\2|(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2]))(?:19|20)\d\d(?!\d)")
TWELVE_HOURS = re.compile(r"(?<!\d)(12|[01]?\d)(?:\D\d\d){0,2}[ _.-]?([ap])\.?m(?![a-z])", re.IGNORECASE)
EXPONENT = re.compile(r"[+]?\d+(?:\.\d+)?e[+-]?\d+", re.IGNORECASE)
FRACTION_STEM = re.compile(r"(.*?)(\d+)(?:[.,](\d+))?(\D*)")
COPY_STEM = re.compile(r"(.+?)(?: ?\(\d+\)| - (?:copy|kopie|copie|copia)(?: \(\d+\))?| copy(?: \d+)?)", re.IGNORECASE)
DIGITS_TO_ZERO = str.maketrans("123456789", "0" * 9)


class BadRows(BadData):
    """Bad data with the `reason` and every bad row in `rows`; the message shows the first 20 and the total."""

    def __init__(self, what: str, path: str | Path | None = None, *, why: str, rows: Iterable[str], remedy: str = ""):
        self.rows, self.reason = tuple(rows), why
        super().__init__(what, path, why=f"{why}: {listing(self.rows)}", remedy=remedy)


def list_folder(folder: Path, system: bool = False) -> tuple[list[str], list[str]]:
    """The names of the images (by their suffix) and of the subfolders of `folder`, each sorted, without hidden names;
    those of `SYSTEM_FOLDERS` with `system`. Raises `InputMissing` for a missing folder, `DiskError` for one that may
    not be read, `BadData` for what is no folder."""
    try:
        with os.scandir(folder) as entries:
            visible = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    except FileNotFoundError as error:
        raise InputMissing("folder", folder, why="not found") from error
    except PermissionError as error:
        raise input_error(error.filename or folder, error, "folder") from error
    except OSError as error:
        raise BadData("folder", error.filename or folder, why=(error.strerror or str(error)).lower()) from error
    images = sorted(name for name, is_folder in visible.items() if not is_folder and is_image_name(name))
    folders = (name for name, is_folder in visible.items() if is_folder)
    return images, sorted(name for name in folders if system or not is_system_folder(name))


def is_system_folder(name: str) -> bool:
    """Whether a network drive, an archiver or an operating system left this folder.

    >>> is_system_folder("@eaDir"), is_system_folder("__MACOSX"), is_system_folder("0001")
    (True, True, False)
    """
    return name.startswith(("@", "#", "$", "~")) or name.lower() in SYSTEM_FOLDERS


def image_folders(parent: Path, depth: int = 1) -> tuple[dict[str, list[str]], list[str]]:
    """The folders `depth` levels below `parent` that hold images, each with its image names; and the ignored folders,
    which have no images, lie deeper, or were left by an operating system. Names are relative to `parent`."""
    if depth == 0:
        images, deeper = list_folder(parent, system=True)
        return ({"": images}, deeper) if images else ({}, [])
    folders: dict[str, list[str]] = {}
    ignored = []
    for name in list_folder(parent, system=True)[1]:
        inner, others = ({}, []) if is_system_folder(name) else image_folders(parent / name, depth - 1)
        folders |= {f"{name}/{folder}".rstrip("/"): images for folder, images in inner.items()}
        ignored += [f"{name}/{folder}" for folder in others] if inner else [name]
    return folders, ignored


def note(what: str, rows: Collection[str], after: str = "") -> tuple[str, ...]:
    """One note of a reader about `rows`, with their number, the name of `what` and the first five; none without any.

    >>> note("people", ["7"], "not in splits.json")
    ('1 person not in splits.json: 7',)
    """
    return (f"{counted(len(rows), what)} {after}: {listing(rows, 5)}",) if rows else ()


def is_image_name(name: str) -> bool:
    """Whether a file name has an image's suffix and is not hidden.

    >>> is_image_name("0001.JPG"), is_image_name("._0001.jpg"), is_image_name("Thumbs.db")
    (True, False, False)
    """
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def why_empty(folder: Path) -> str:
    """The reason why a reader found no image in `folder`: they lie elsewhere in it, or it has other files."""
    suffixes: Counter[str] = Counter()
    for place, _, names in itertools.islice(walk(folder), MOST_FOLDERS_SEARCHED):
        if images := sorted(filter(is_image_name, names)):
            example = (place / images[0]).relative_to(folder)
            return f"no images at the expected place in it, but for example {example}"
        suffixes.update(os.path.splitext(name)[1].lower() for name in names if not name.startswith("."))
    kinds = f"it holds no images ({', '.join(IMAGE_SUFFIXES)})"
    if not suffixes:
        return kinds
    if packed := sorted(set(suffixes) & set(ARCHIVES)):
        return f"{kinds}, but an archive that is not unpacked ({', '.join(packed)})"
    suffix, count = suffixes.most_common(1)[0]
    convert = ", which must be converted" if suffix in OTHER_IMAGES else ""
    return f"{kinds}, but {count} {f'{suffix} files' if suffix else 'files without a suffix'}{convert}"


def why_missing(root: Path, what: str) -> str:
    """The reason why a reader found no `what` in `root`, with the archives that lie there."""
    packed = [str(path.relative_to(root)) for pattern in ("*", "*/*") for path in sorted(root.glob(pattern))
              if path.name.lower().endswith(ARCHIVES)]  # fmt: skip
    return f"no {what} in it" + (f", but archives that are not unpacked: {listing(packed, 3)}" if packed else "")


def image_files(root: Path, ignored: list[str] | None = None) -> Iterator[str]:
    """Paths of all image files below `root`, relative to it with `/`, in order of number; the folders that operating
    systems leave are skipped and added to `ignored`."""
    for place, system, names in walk(root, onerror=_refuse):
        if ignored is not None:
            ignored += [str((place / name).relative_to(root)) for name in system]
        for name in sorted(filter(is_image_name, names), key=lambda name: (natural_key(name), name)):
            yield (place / name).relative_to(root).as_posix()


def walk(root: Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder below `root` in order of number, also behind links, with the names of the folders in it that an
    operating system left and of its files. Links to a folder above them are skipped, as are hidden folders."""

    def enters(path: Path) -> bool:
        loop = path.is_symlink() and any(folder.resolve().is_relative_to(path.resolve()) for folder in path.parents)
        return not (loop or path.name.startswith(".") or is_system_folder(path.name))

    for place, folders, names in os.walk(root, onerror=onerror, followlinks=True):
        system = list(filter(is_system_folder, folders))
        folders[:] = sorted((name for name in folders if enters(Path(place, name))), key=natural_key)
        yield Path(place), system, names


def _refuse(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):
        raise InputMissing("folder", error.filename, why="not found") from error
    raise input_error(error.filename, error, "folder") from error


def folders_in(root: Path, depth: int) -> Iterator[Path]:
    """`root` itself, then its subfolders up to `depth` levels below it, level by level, each sorted."""
    queue = deque([(root, depth)])
    for _ in range(MOST_FOLDERS_SEARCHED):
        if not queue:
            return
        folder, remaining = queue.popleft()
        yield folder
        if remaining:
            with contextlib.suppress(BadData, InputMissing):
                queue += [(folder / name, remaining - 1) for name in list_folder(folder)[1]]


def find_folder(root: Path, accept: Callable[[Path], bool], depth: int = 3) -> Path | None:
    """The first of `folders_in` for which `accept` is true: archives often unpack into one or two folders."""
    return next(filter(accept, folders_in(root, depth)), None)


def find_named(root: Path, name: str) -> Path | None:
    """The first folder called `name`, in letters of any case, up to four levels down. Some archivers unpack a folder
    into one of its own name: then it is the inner one."""
    found = find_folder(root, lambda folder: folder.name.lower() == name, depth=4)
    while found and (inner := [folder for folder in list_folder(found)[1] if folder.lower() == name]):
        found = found / inner[0]
    return found


def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts names by the numbers in them: 2 before 10.

    >>> sorted(["f10", "f2", "f1"], key=natural_key)
    ['f1', 'f2', 'f10']
    """
    parts = re.split(r"(\d+)", name)
    return tuple((int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts))


def folder_tracklet(what: str, path: Path) -> Tracklet:
    """A folder of one person's frames as a tracklet; `what` names it in errors. Raises `BadData`."""
    images = list_folder(path)[0]
    if not images:
        raise BadData(what, path, why="the folder has no images", remedy="Give a folder of one person's frames")
    try:
        return Tracklet(path.name, UNKNOWN, 0, str(path.absolute()), frames_in_order(images))
    except ValueError as error:
        raise BadData(what, path, why=str(error)) from error


def frames_in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Frame names in order of time, by the numbers in them.

    Names that all are `<prefix><digits>.<digits>` with one prefix are decimal time stamps: 12.56 comes before 12.8.
    They are not if one of several decimals ends in 0, as in 1.9, 1.10. Raises `ValueError` naming frames whose order is
    unknown: two with the same number ("1.jpg" and "01.png"), negative numbers (t-1, t+1), dates that begin with the
    day, times of 12 hours.

    >>> frames_in_order(["10.jpg", "9.png"]), frames_in_order(["12.8.jpg", "12.56.jpg"])
    (('9.png', '10.jpg'), ('12.56.jpg', '12.8.jpg'))
    """
    ordered = sorted(names)
    shapes = {name.translate(DIGITS_TO_ZERO) for name in ordered}
    odd = any(re.search(form, ordered[0]) for form in (r"-\d", YEAR_LAST, TWELVE_HOURS, EXPONENT)) if ordered else False
    if len(shapes) == 1 and len(set(ordered)) == len(ordered) and not odd:
        return tuple(ordered)  # zero-padded, as in MARS, where natural keys would need ten seconds for a million names
    stems = [os.path.splitext(name)[0].casefold() for name in ordered]
    exponents = all(map(EXPONENT.fullmatch, stems))
    if not exponents and (why := _doubt(stems)):
        raise ValueError(f"{ordered[0]} ... {ordered[-1]} may be {why}")
    keys: list[Any] = [*map(Decimal, stems)] if exponents else _times(stems) or [*map(natural_key, stems)]
    keyed = sorted(zip(keys, ordered, strict=True))
    for (key, name), (next_key, next_name) in itertools.pairwise(keyed):
        if key == next_key:
            raise ValueError(f"{name} and {next_name} have the same number")
    return tuple(name for _, name in keyed)


def _doubt(stems: list[str]) -> str:
    """Why the numbers in file names may not be in order of time, and the remedy; empty without such a reason."""
    shapes = {re.sub(r"\d+", "0", stem) for stem in stems}
    both = any({shape.replace("-0", "+0"), shape.replace("-0", "0")} & shapes for shape in shapes if "-0" in shape)
    if both or any(re.search(r"(?:^|[^0-9a-z-])-0", shape) for shape in shapes):
        return "negative numbers; number the frames from 0"
    dates, times = ([match for stem in stems if (match := form.search(stem))] for form in (YEAR_LAST, TWELVE_HOURS))
    if len(dates) == len(stems) and len({match[1] for match in dates}) > 1:
        return "dates; write them as year-month-day"
    if len({(match[1] == "12", match[2]) for match in times}) > 1:
        return "times of 12 hours; write them with 24"
    return ""


def _times(stems: list[str]) -> list[Any] | None:
    """Prefix and decimal number of file names without suffixes, None if they are no decimals; `ValueError` in doubt."""
    matches = [match for stem in stems if (match := FRACTION_STEM.fullmatch(stem))]
    fractions = {match[3] for match in matches if match[3]}
    prefixes, ends = ({match[group] for match in matches} for group in (1, 4))
    inner = {len(digits) for prefix in prefixes for digits in re.findall(r"\d[.,](\d+)", prefix)}
    if len(prefixes) > 1 and len(inner) > 1:  # 12.8_f3, 12.56_f2
        raise ValueError(f"{min(stems)} and {max(stems)} have decimals and other numbers; write them with one length")
    if len(matches) < len(stems) or len(ends) > 1 or not fractions or "." in "".join(prefixes):
        return None
    times = [(natural_key(match[1]), Decimal(f"{match[2]}.{match[3] or 0}")) for match in matches]
    several_lengths = len(set(map(len, fractions))) > 1
    if several_lengths and any(len(f) > 1 and f.endswith("0") for f in fractions) and len(set(times)) == len(times):
        return None
    if several_lengths and (len(prefixes) > 1 or ("" not in prefixes and len({match[2] for match in matches}) == 1)):
        examples = f"{min(stems)} and {max(stems)}"
        raise ValueError(f"{examples} may be decimals or have two numbers; write them with one length")
    return times


def order_note(folders: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """A note about folders of frames whose names differ in more than their numbers.

    >>> order_note({"7/1": ["f1.png", "f2.png"], "7/2": ["a1.png", "b1.png", "a2.png"]})
    ('1 folder with frame names of several kinds, whose order may be wrong: 7/2 (a1.png, b1.png)',)
    """
    mixed = []
    for folder, images in folders.items():
        stems = {name: os.path.splitext(name)[0].casefold() for name in sorted(images, reverse=True)}
        own = {name: stem for name, stem in stems.items() if not COPY_STEM.fullmatch(stem)}
        kinds = {re.sub(r"\d+(?:[.,]\d+)?", "0", stem): name for name, stem in own.items()}
        if len(kinds) > 1:
            mixed.append(f"{folder} ({', '.join(sorted(kinds.values())[:2])})")
    return note("folders", mixed, "with frame names of several kinds, whose order may be wrong")


def copies_note(folders: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """A note about images whose names file managers and browsers give to a second copy.

    >>> copies_note({"7/2": ["1.png", "1 (1).png", "2 (1).png", "3.png", "3 - Copy.png"]})
    ('2 images with the name of a second copy: 7/2/1 (1).png; 7/2/3 - Copy.png',)
    """
    copies = []
    for folder, images in folders.items():
        for name in sorted(name for name in images if " " in name or "(" in name):
            stem, suffix = os.path.splitext(name)
            if (match := COPY_STEM.fullmatch(stem)) and match[1] + suffix in images:
                copies.append(f"{folder}/{name}")
    return note("images", copies, "with the name of a second copy")


def frame_notes(place: Path, folders: dict[str, list[str]], ignored: list[str], levels: str) -> tuple[str, ...]:
    """Notes about folders of frames (see `image_folders`): ignored ones, names in doubt, and images at other levels."""
    above = {str(one) for name in folders for one in PurePosixPath(name).parents[:-1]}.union(list_folder(place)[1])
    outside = sorted(one for one in above if list_folder(place / one)[0])
    deeper = [one for one in ignored if not is_system_folder(Path(one).name) and any(image_files(place / one))]
    notes = note("folders", [one for one in ignored if one not in deeper], IGNORED)
    notes += copies_note(folders) + order_note(folders)
    return notes + note("folders", outside + deeper, f"with images left out, not in <{levels.replace('/', '>/<')}>")


def read_tracklet(
    root: Path, name: str, images: Iterable[str], ids: tuple[int, int], bad: list[str]
) -> Tracklet | None:
    """The tracklet in folder `name`; `ids`: person, camera. None, and why in `bad`, if its frames' order is unknown."""
    try:
        return Tracklet(name, *ids, str((root / name).absolute()), frames_in_order(images))
    except ValueError as error:
        bad.append(f"{name}: {error}")
        return None


def read_text(path: Path, what: str, most: int = MOST_BYTES_OF_METADATA) -> str:
    """A text file as UTF-8; other bytes become surrogates, as in Python's file names, so that both compare equal."""
    return decode_text(read_bytes(path, what, most=most), "surrogateescape")


def whole_numbers(values: Any, path: Path, variable: str, what: str) -> np.ndarray:
    """(Nested lists of) numbers as int64, a scalar as (1,); `BadData` unless all are whole numbers."""
    try:
        array = np.atleast_1d(np.asarray(values))
    except ValueError as error:  # lists of different lengths
        raise BadData(what, path, why=f"{variable} is not a table") from error
    if array.size and array.dtype.kind not in "biuf":
        raise BadData(what, path, why=f"{variable} holds {array.dtype}, not numbers")
    as_float = array.astype(np.float64)
    if not np.all((as_float == np.floor(as_float)) & (np.abs(as_float) < 2**53)):
        raise BadData(what, path, why=f"{variable} holds values that are not whole numbers")
    return array.astype(np.int64)
