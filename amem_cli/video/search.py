"""`amem search`: the tracklets of a gallery that are nearest to a query, or that fit a description."""

import os
import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import pseudo_labels
from amem_cli.artifacts.atomic import sha256_file
from amem_cli.artifacts.features import FEW_TRACKLETS, Features
from amem_cli.artifacts.paths import Workspace
from amem_cli.data.images import open_rgb
from amem_cli.data.manifest import SHIPPED, load_manifest
from amem_cli.data.readers.files import folder_tracklet
from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import BadData, InputMissing, UsageError, counted, listing, require_known
from amem_cli.options import flag_of
from amem_cli.resolve import folder_flags
from amem_cli.runtime.progress import Progress
from amem_cli.video.decode import VIDEOS, missing
from amem_cli.video.gallery import Calibration, Gallery
from amem_cli.video.options import SearchOptions, TrackletOptions

BATCH = 64  # queries searched together
OF_IMAGES = ("model", "boxes", "detector_weights")  # options for queries from outside the gallery


@dataclass(frozen=True, slots=True)
class Hit:
    """A tracklet of the gallery. `distance` is the squared one to the query, `probability` that of being the same
    person, if there is a calibration; `fits` is the probability of the described attributes."""

    rank: int
    tracklet: str
    dataset: str
    camera: str
    first_seconds: float | None
    last_seconds: float | None
    distance: float | None
    probability: float | None
    fits: float | None
    row: int


@dataclass(frozen=True)
class Found:
    """The hits of one query, nearest first; `row` is the query's own in the gallery, if it is there. A description has
    those that fit best."""

    query: str
    hits: list[Hit]
    row: int | None = None
    described: bool = False


@dataclass(frozen=True)
class SearchResult:
    """`seconds` is the time of the search itself, without reading files; `searched` the rows that the filters left."""

    found: list[Found]
    gallery: Gallery
    calibration: Calibration | None
    searched: int
    seconds: float


def search(options: SearchOptions, progress: Progress) -> SearchResult:
    """Search a gallery. Raises `AmemError`s."""
    gallery = Gallery(options.gallery)
    calibration = gallery.calibration(options.calibration)
    keep = _filter(gallery, options)
    fits = None
    if options.with_ or options.without:
        fits = description(gallery, options)
        if unlabelled := int(np.isnan(fits[keep]).sum()):
            progress.warn(f"{unlabelled} of {counted(int(keep.sum()), 'tracklets')} have no labels, they are left out")
            keep &= ~np.isnan(fits)
        if not keep.any():
            why = "no tracklet that passes the filters has labels"
            raise BadData("gallery", why=why, remedy="Widen them, or run amem label-videos --subset all")
    if not options.query:
        _warn_about_unused(options, progress, *OF_IMAGES, why="a description has no images")
        began = time.perf_counter()
        assert fits is not None
        kept = np.flatnonzero(keep)
        order = kept[np.argsort(-fits[kept], kind="stable")[: options.top]]
        hits = [_hit(gallery, rank, int(row), None, None, fits) for rank, row in enumerate(order, start=1)]
        words = " ".join([*(f"+{name}" for name in options.with_), *(f"-{name}" for name in options.without)])
        return SearchResult([Found(words, hits, described=True)], gallery, None, len(kept), time.perf_counter() - began)
    if fits is not None:
        keep &= fits >= 0.5
        if not keep.any():
            raise BadData("gallery", why="no tracklet fits the description", remedy="Leave attributes out")
    names, rows, own = _queries(gallery, options, progress)
    if own is None and gallery.extraction.adapt_cameras and len(rows) < FEW_TRACKLETS:
        why = f"the gallery is adapted to its cameras, and the query's camera has too few tracks for that ({len(rows)})"
        progress.warn(f"{why}. For such queries make the gallery by amem extract-features --no-adapt-cameras")
        calibration = None  # it is of pairs that are both adapted
    for line in gallery.doubts(calibration):
        progress.warn(line)
    known = None if own is not None and gallery.uncertain[own] else calibration
    began, found = time.perf_counter(), []
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        nearest, distances = gallery.nearest(rows[part], options.top + (own is not None), keep)
        for name, near, far in zip(names[part], nearest, distances, strict=True):
            pairs = [(row, d) for row, d in zip(near.tolist(), far.tolist(), strict=True) if row != own]
            ranked = enumerate(pairs[: options.top], start=1)
            hits = [_hit(gallery, rank, row, d, known, fits) for rank, (row, d) in ranked]
            found.append(Found(name, hits, own))
    return SearchResult(found, gallery, calibration, int(keep.sum()), time.perf_counter() - began)


def _hit(
    gallery: Gallery, rank: int, row: int, distance: float | None, calibration: Calibration | None, fits: Any
) -> Hit:
    first, last = (None if np.isnan(value) else round(float(value), 3) for value in gallery.seconds[row])
    known = calibration if distance is not None and not gallery.uncertain[row] else None
    sure = float(known.probability(np.array(distance))) if known else None
    table = gallery.tables[gallery.file_of(row)]
    return Hit(
        rank, gallery.tracklets[row], table.dataset, gallery.cameras[row], first, last, distance,
        sure, None if fits is None else float(fits[row]), row,
    )  # fmt: skip


def _filter(gallery: Gallery, options: SearchOptions) -> np.ndarray:
    """(N,) bool. Tracklets without times do not pass a filter of time."""
    keep = np.ones(len(gallery), bool)
    if options.cameras:
        require_known("--camera", options.cameras, sorted(set(gallery.cameras)), "the gallery has no such camera")
        keep = np.isin(np.array(gallery.cameras), options.cameras)
    if options.after is not None or options.before is not None:
        if np.isnan(gallery.seconds).all():
            why = "the gallery has no times"
            raise UsageError("--after" if options.after is not None else "--before", why=why, remedy="Leave it out")
        with np.errstate(invalid="ignore"):
            keep &= gallery.seconds[:, 1] >= (-np.inf if options.after is None else options.after)
            keep &= gallery.seconds[:, 0] <= (np.inf if options.before is None else options.before)
    if not keep.any():
        raise BadData("gallery", why="no tracklet passes the filters", remedy="Widen them")
    return keep


def description(gallery: Gallery, options: SearchOptions) -> np.ndarray:
    """(N,) the probability that a tracklet fits: the geometric mean over the attributes, NaN without labels.

    Raises `UsageError` for unknown attributes, `InputMissing` without a labels file, `BadData` if it has none of them.
    """
    if gallery.renamed:
        raise UsageError("--gallery", why="two files are of data sets with one name", remedy="Search in one at a time")
    pairs = zip(gallery.paths, gallery.tables, strict=True)
    files = options.labels or tuple(_labels_of(path, table, options.workspace) for path, table in pairs)
    first = gallery.tables[0]
    name = first.dataset if first.dataset in SHIPPED else Path(first.folder, f"{first.dataset}.toml")
    at = f"{shlex.quote(str(name))}{folder_flags(workspace=options.workspace)}"
    remedy = f"Give --labels, or run: amem label-videos --dataset {at} --subset all"
    of_tracklet: dict[tuple[str, str], np.ndarray] = {}
    for path in dict.fromkeys(files):
        table = pseudo_labels.read(path, remedy=remedy)
        wanted = [*options.with_, *options.without]
        require_known("attribute", wanted, table.attributes, f"not in {path}")
        columns = table.probabilities[:, [table.attributes.index(name) for name in wanted]].astype(np.float64)
        columns[:, len(options.with_) :] = 1 - columns[:, len(options.with_) :]
        fits = np.exp(np.log(columns.clip(1e-9)).mean(axis=1))
        of_tracklet |= {(table.dataset, name): value for name, value in zip(table.tracklet, fits, strict=True)}
    values = np.array([of_tracklet.get((t.dataset, name), np.nan) for t in gallery.tables for name in t.tracklet])
    if np.isnan(values).all():
        raise BadData("labels", listing(map(str, files)), why="none of the gallery's tracklets", remedy=remedy)
    return values


def _labels_of(file: Path, table: Features, workspace: Path) -> Path:
    """The labels next to a features file, as `amem find` leaves them, or else those of the workspace; not for tracks,
    because those of two `amem find` have the same names."""
    own = Workspace(file.absolute().parent.parent).labels(table.dataset)
    return own if own.is_file() or table.folder else Workspace(workspace).labels(table.dataset)


# -- queries -----------------------------------------------------------------------------------------------------------

Queries = tuple[list[str], np.ndarray, int | None]


def _queries(gallery: Gallery, options: SearchOptions, progress: Progress) -> Queries:
    """Names, features (Q, D), the query's own row in the gallery: of a tracklet, or else of a folder or a video."""
    is_folder, is_file = os.path.isdir(options.query), os.path.isfile(options.query)
    known, path = bool(gallery.rows_of(options.query)), Path(options.query)
    if not (known or os.path.exists(path)) and ("://" in options.query or path.suffix.lower() in VIDEOS):
        raise missing(path)
    if known or not (is_folder or is_file):
        row = gallery.row_of(options.query)
        _warn_about_unused(options, progress, *OF_IMAGES, why="the query is a tracklet of the gallery")
        return [options.query], gallery.row(row)[None], row
    check_model(options.model, gallery)  # before a long video is processed
    if is_file:
        return _video_queries(path, gallery, options, progress)
    why = "the query is a folder of frames, which are people already"
    _warn_about_unused(options, progress, *OF_IMAGES[1:], why=why)
    tracklet = folder_tracklet("query", path)
    readable = tuple(file for file in tracklet.files if _is_readable(Path(tracklet.folder, file), progress))
    tracklet = replace(tracklet, files=readable or tracklet.files)  # without a readable one `embed` reports the fault
    return [path.name], embed([tracklet], gallery, options, progress), None


def _is_readable(frame: Path, progress: Progress) -> bool:
    """Whether a frame can be decoded; a warning if not."""
    try:
        open_rgb(frame)
    except BadData as error:
        progress.warn(f"{frame} is left out: {error.why}")
        return False
    return True


def _warn_about_unused(options: SearchOptions, progress: Progress, *names: str, why: str) -> None:
    for name in names:
        if getattr(options, name):
            progress.warn(f"{flag_of(name)} has no effect: {why}")


def _video_queries(path: Path, gallery: Gallery, options: SearchOptions, progress: Progress) -> Queries:
    from amem_cli.data.datasets import read_videos
    from amem_cli.video.tracklets import cut_tracklets

    with tempfile.TemporaryDirectory(prefix="amem-query-") as folder:
        cutting = TrackletOptions(
            videos=(path,), out=Path(folder, "query"), boxes=options.boxes, device=options.device,
            detector_weights=options.detector_weights, min_frames=1,
        )  # fmt: skip
        cut = cut_tracklets(cutting, progress)
        tracklets = list(read_videos(load_manifest(str(cut.manifest)), folder).splits[0].test)
        rows = embed(tracklets, gallery, options, progress)
    return [tracklet.name for tracklet in tracklets], rows, None


def check_model(model: Path | None, gallery: Gallery) -> Path:
    """The model for images of the query. Raises `UsageError` without one and for another one than the gallery's, and
    `InputMissing` without its file."""
    if model is None:
        remedy = "Give the model that made the gallery's features: --model amem-main.safetensors"
        raise UsageError("--model", why="images can only be compared through a model", remedy=remedy)
    if not model.is_file():
        raise InputMissing("--model", model, why="not found")
    if gallery.model and sha256_file(model) != gallery.model:
        why = "the gallery's features are of another model"
        raise UsageError("--model", model, why=why, remedy="Give that model, or extract the gallery again")
    return model


def embed(tracklets: Sequence[Tracklet], gallery: Gallery, options: SearchOptions, progress: Progress) -> np.ndarray:
    """The features (Q, D) of tracklets of one camera by `--model`, which must be that of the gallery, extracted as the
    gallery's."""
    from amem_cli.models.checkpoints import load_feature_model
    from amem_cli.runtime.distributed import process_group
    from amem_cli.runtime.engine import prepare, resolve_engine, resolve_precision
    from amem_cli.stages.extract_features import camera_engines, extract_tracklets

    model, config = load_feature_model(check_model(options.model, gallery), parts=gallery.extraction.parts)
    config = replace(config, image_size=gallery.image_size or config.image_size)
    with process_group(options.device) as processes:
        device = processes.device
        precision = resolve_precision("auto", device)
        name = resolve_engine("auto", device, precision, clips=True)
        make = partial(prepare, device=device, precision=precision, engine=name, warn=progress.warn)
        clip_shape = (config.clip_frames, *config.height_width)
        if gallery.extraction.adapt_cameras:
            engine_of = camera_engines(model, make, tracklets, clip_shape=clip_shape, device=device)
            engine = engine_of(tracklets[0].camera_id)
        else:
            engine = make(model)
        clips = sum(-(-len(tracklet) // config.clip_frames) for tracklet in tracklets)
        with progress.loop("query", clips, unit="clips") as bar:
            rows = extract_tracklets(tracklets, bar, clip_shape=clip_shape, engine=engine, device=device)["features"]
    if rows.shape[1] != len(gallery.row(0)):
        why = f"it has {len(gallery.row(0))} numbers a row, the model gives {rows.shape[1]}"
        raise BadData("gallery", gallery.paths[0], why=why, remedy="Extract it again")
    return rows
