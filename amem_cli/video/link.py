"""`amem link`: one number for one person over all cameras, by agglomerative clustering under constraints."""

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np

from amem_cli.artifacts import atomic
from amem_cli.artifacts.output import locked
from amem_cli.data.readers.tracks import read_boxes
from amem_cli.errors import OutputExists, UsageError, listing
from amem_cli.runtime.memory import free_memory, require_memory
from amem_cli.runtime.progress import Progress
from amem_cli.video.gallery import Calibration, Gallery
from amem_cli.video.options import LinkOptions

PAIR_BYTES = 32  # memory that a pair of tracks takes at most at one time: four numbers of 8 bytes
APART = 1e9  # distance of two tracks that cannot be one person
MOT_ROW = re.compile(rb"\d+,[1-9]\d*(,-?\d+\.\d){4},1,-1,-1,-1\n")
BELOW = 1 - 1e-6  # a calibrated threshold is the distance of two different people, here with other rounding
PART, LIMITS, UNKNOWN = 0.5, (0.25, 0.7), 0.6  # of `limits_of`
WRITTEN = ".identities.csv.sha256"  # of identities.csv as it was written, without later changes
COLUMNS = ("tracklet", "dataset", "camera", "person", "first_seconds", "last_seconds", "distance", "probability")


@dataclass(frozen=True)
class Linked:
    """`person` (N,) from 1, in order of the gallery. `distance` (N,) is the mean squared distance to the person's
    other tracks, NaN for a single track; `forbidden` pairs of tracks cannot be one person. `threshold` is the squared
    distance up to which tracks are one person, the median of `limits_of` if none was given."""

    gallery: Gallery
    person: np.ndarray
    distance: np.ndarray
    threshold: float
    forbidden: int
    calibration: Calibration | None

    @property
    def people(self) -> int:
        return int(self.person.max(initial=0))

    @property
    def probability(self) -> np.ndarray:
        """(N,) that a track is the same person as the person's other tracks, NaN if unknown."""
        if self.calibration is None:
            return np.full(len(self.person), np.nan)
        return np.where(np.isin(self.person, [*self.uncertain]), np.nan, self.calibration.probability(self.distance))

    @cached_property
    def uncertain(self) -> set[int]:
        """People with a track of which the calibration says nothing."""
        return {*self.person[self.gallery.uncertain].tolist()}

    @cached_property
    def _means(self) -> np.ndarray:
        """(P, D) the mean features of each person."""
        rows = np.concatenate([table.features for table in self.gallery.tables], dtype=np.float64)
        return np.stack([rows[self.person == person].mean(0) for person in range(1, self.people + 1)])

    def most_similar(self, person: int) -> tuple[int, float]:
        """The most similar person who is never in view at the same time, or the most similar one if all others are, and
        the mean squared distance between the tracks of both; 0 without others."""
        distances = np.maximum(2 - 2 * self._means @ self._means[person - 1], 0)
        nearest = [other for other in np.argsort(distances, kind="stable").tolist() if other != person - 1]
        others = (other for other in nearest if not self.together(person, other + 1))
        other = next(others, nearest[0] if nearest else -1)
        return other + 1, float(distances[other])

    def together(self, one: int, other: int) -> bool:
        """Whether two people are in view of one camera at the same time."""
        rows = np.flatnonzero((self.person == one) | (self.person == other))
        apart = overlapping([self.gallery.cameras[row] for row in rows], self.gallery.seconds[rows])
        return bool(apart.any())

    def in_several_cameras(self) -> int:
        seen = set(zip(self.person.tolist(), self.gallery.cameras, strict=True))
        return sum(cameras > 1 for cameras in Counter(person for person, _ in seen).values())


def link_tracks(gallery: Gallery, threshold: float | None, calibration: Calibration | None) -> Linked:
    """Average linkage (SciPy) of squared distances up to `threshold`, below it if it is that of a `calibration`, and up
    to `limits_of` without one; tracks that are in one picture are never joined, also not through others. Raises
    `UsageError` for tracks whose pairs do not fit into the memory."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    count = len(gallery)
    needed = PAIR_BYTES * count**2
    require_memory("features", f"of {count} tracks", needed, free_memory(), "Link shorter parts of the videos")
    rows = np.concatenate([table.features for table in gallery.tables], dtype=np.float64)
    distances = np.maximum(2 - 2 * rows @ rows.T, 0)
    apart = overlapping(gallery.cameras, gallery.seconds)
    labels, scale = np.ones(count, int), np.ones(1)
    if threshold is None:
        limits = limits_of(distances, apart)
        threshold = float(np.median(limits))
        scale = threshold / limits
    if count > 1:
        constrained = np.where(apart, APART, (distances + distances.T) / 2 * scale)
        limit = threshold * BELOW if calibration else threshold
        labels = fcluster(linkage(squareform(constrained, checks=False), "average"), limit, "distance")
    number: dict[int, int] = {}
    person = np.array([number.setdefault(label, len(number) + 1) for label in labels.tolist()])
    same = (person[:, None] == person) & ~np.eye(count, dtype=bool)
    with np.errstate(invalid="ignore"):  # 0 / 0 for a single track
        mean = (distances * same).sum(1) / same.sum(1)
    return Linked(gallery, person, mean, threshold, int(np.triu(apart).sum()), calibration)


def limits_of(distances: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """(N, N) the squared distance up to which two tracks are one person, for a model without a calibration.

    Tracks that are in view together are surely two people, so their distance says how far apart this model sees people
    in this camera. The limit of two tracks is half of the smaller distance to such another, from 0.25 to 0.7. A track
    that is in view alone has the median of the others; if there are no others, the limit is 0.6.
    """
    nearest = distances.min(axis=1, where=apart, initial=np.inf)
    known = np.isfinite(nearest)
    nearest[~known] = np.median(nearest[known]) if known.any() else UNKNOWN / PART
    return np.clip(PART * np.minimum(nearest[:, None], nearest), *LIMITS)


def overlapping(cameras: list[str], seconds: np.ndarray) -> np.ndarray:
    """(N, N) bool: in one picture of the same camera, if only in a single one; never where times are unknown."""
    _, camera = np.unique(np.array(cameras), return_inverse=True)
    first, last = seconds.T
    shared = np.minimum(last[:, None], last) - np.maximum(first[:, None], first)
    apart = (camera[:, None] == camera) & (shared >= 0)
    np.fill_diagonal(apart, False)
    return apart


def link(options: LinkOptions, progress: Progress) -> Linked:
    """Link the tracks of features files and write OUT/identities.csv and OUT/<camera>.txt (MOTChallenge)."""
    gallery = Gallery(options.files)
    require_own(options.out, gallery.cameras)
    atomic.require_writable(options.out / "identities.csv")
    known = gallery.calibration(options.calibration)
    linked = link_tracks(gallery, known.threshold if known else options.threshold, known)
    folders = tuple(path.absolute() for path in options.tracks)
    with locked(options.out / "identities.csv"):
        write_links(linked, options.out, folders or tuple(Path(table.folder) for table in gallery.tables), progress)
    return linked


def write_links(linked: Linked, out: Path, folders: tuple[Path, ...], progress: Progress) -> None:
    """identities.csv, and a MOTChallenge file per camera with the people's numbers as ids, where boxes are known."""
    gallery = linked.gallery
    if np.isnan(gallery.seconds).any():
        progress.warn("some tracks have no times, so two of them that overlap can become one person")
    for line in gallery.doubts(linked.calibration):
        progress.warn(line)
    numbers = zip((*gallery.seconds.T, linked.distance, linked.probability), (".3f", ".3f", ".4g", ".4g"), strict=True)
    texts = [["" if np.isnan(value) else format(value, form) for value in column] for column, form in numbers]
    datasets = [table.dataset for table in gallery.tables for _ in table.tracklet]
    lines = zip(gallery.tracklets, datasets, gallery.cameras, linked.person, *texts, strict=True)
    require_own(out, gallery.cameras)
    boxes: dict[str, list[tuple[int, int, np.ndarray]]] = defaultdict(list)
    for file, (features, folder) in enumerate(zip(gallery.tables, folders, strict=True)):
        if not (folder / "boxes.csv").is_file() or not folder.name:
            why = f"{folder / 'boxes.csv'} not found" if folder.name else "the features file does not name its folder"
            progress.warn(f"no MOT files for {gallery.paths[file]}: {why}; --tracks names it")
            continue
        start = int(gallery.starts[file])
        for tracklet, rows in read_boxes(folder, features.tracklet).items():
            row = start + features.tracklet.index(tracklet)
            boxes[gallery.cameras[row]] += [(int(box[0]), int(linked.person[row]), box[2:]) for box in rows]
    named = Counter(map(file_name, boxes))
    if bad := [camera for camera in boxes if named[file_name(camera)] > 1 or not file_name(camera)]:
        why = f"the boxes of {listing(map(repr, bad))} would be in {file_name(bad[0])}.txt"
        raise UsageError("cameras", why=why, remedy="Give the cameras other names, with --camera of amem tracklets")
    earlier = _camera_files(out)
    _keep_edited(out / "identities.csv", progress)
    text = atomic.csv_text(COLUMNS, lines)
    atomic.write_text(out / WRITTEN, sha256(text.encode()).hexdigest())
    atomic.write_text(out / "identities.csv", text)  # before the others: it says that they are of an answer
    for camera, found in boxes.items():
        text = "".join(
            f"{frame},{person},{','.join(f'{value:.1f}' for value in box)},1,-1,-1,-1\n"
            for frame, person, box in sorted(found, key=lambda item: item[:2])
        )
        atomic.write_text(out / f"{file_name(camera)}.txt", text)
    for path in earlier - {out / f"{file_name(camera)}.txt" for camera in boxes}:
        path.unlink()  # with other numbers


def require_own(out: Path, cameras: Iterable[str]) -> None:
    """Raise `OutputExists` if `out` has an identities.csv, or a file of the name of a camera's MOTChallenge file, that
    is of no answer."""
    table = out / "identities.csv"
    head = table.read_bytes().split(b"\n")[0] if table.is_file() else b""
    own_head = head.strip() == ",".join(COLUMNS).encode()
    answered = own_head or (out / WRITTEN).is_file()  # edited, with other columns
    files = [out / f"{file_name(camera)}.txt" for camera in sorted(set(cameras))]
    foreign = [str(path) for path in files if os.path.lexists(path) and not (answered and _is_mot_file(path))]
    if foreign := [str(table)] * (table.is_file() and not answered) + foreign:
        why = "it exists and is not known to be of an earlier answer"
        raise OutputExists("--out", listing(foreign, 3), why=why, remedy="Choose another folder, or move it away")


def _keep_edited(table: Path, progress: Progress) -> None:
    """Copy an identities.csv that was changed since `write_links` wrote it, and warn."""
    written = table.with_name(WRITTEN)
    if not table.is_file() or (written.is_file() and written.read_bytes() == atomic.sha256_file(table).encode()):
        return
    numbers = ("", *map("-{}".format, range(2, 1000)))
    kept = next(path for n in numbers if not (path := table.with_name(f"identities-edited{n}.csv")).exists())
    atomic.write_bytes(kept, table.read_bytes())
    progress.warn(f"{table} was edited, or written by an earlier version: a copy of it is kept in {kept}")


def _camera_files(out: Path) -> set[Path]:
    """The MOTChallenge files of the answer in `out`, if there is a readable one: those of its cameras that begin with a
    row as `write_links` writes it, and not, for example, boxes that the user gave."""
    try:
        with open(out / "identities.csv", newline="", encoding="utf-8") as file:
            names = {file_name(row["camera"]) for row in csv.DictReader(file) if row.get("camera")}
    except (FileNotFoundError, ValueError, csv.Error):
        return set()
    paths = {out / f"{name}.txt" for name in names}
    return set(filter(_is_mot_file, paths))


def _is_mot_file(path: Path) -> bool:
    """Whether a file begins with a row as `write_links` writes it."""
    return path.is_file() and bool(MOT_ROW.match(path.read_bytes()))


def file_name(camera: str) -> str:
    """The name of a camera's MOTChallenge file, without its suffix."""
    return re.sub(r"[:/\\]", "-", camera)
