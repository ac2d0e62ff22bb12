"""`amem tracklets`: cuts people out of videos into a data set of the layout "tracks".

Boxes are stored in parts of `PART` pictures and crops are counted, so that an interrupted run continues; the result
is the same. The folder appears when it is complete.
"""

import contextlib
import io
import json
import os
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import atomic
from amem_cli.artifacts.output import locked
from amem_cli.artifacts.paths import GENERATED, is_generated
from amem_cli.artifacts.provenance import Provenance, check_provenance
from amem_cli.data.readers.files import is_system_folder
from amem_cli.data.readers.splits import is_plain_name
from amem_cli.data.readers.tracks import BOX_COLUMNS, TRACK_COLUMNS
from amem_cli.errors import BadData, OutputExists, UsageError, counted, listing, printable
from amem_cli.runtime.progress import Progress
from amem_cli.text import ascii_name
from amem_cli.video.boxes import PART, Boxes, boxes_from, detects, part_of
from amem_cli.video.crops import coloured, cut_crops, inside, split_at_edges, split_at_gaps
from amem_cli.video.decode import Camera, import_av, sampled
from amem_cli.video.options import TrackletOptions
from amem_cli.video.tracks import Tracker

SAMPLED_BYTES = 1 << 20  # at both ends of a video, for its identity
MOST_OUTSIDE = 0.5  # of the boxes of a file; more: it belongs to another video
SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
OWN_FILES = ("tracks.csv", "boxes.csv", "provenance.json", GENERATED)


@dataclass(frozen=True)
class Tracklets:
    """What was cut: the data set's folder and manifest, `tracks` per camera, tracks that were `dropped` as too short,
    the `source` of the boxes, what could not be decoded (`faults`), whether the folder existed already, and the
    `warnings` of the run that made it."""

    folder: Path
    manifest: Path
    tracks: dict[str, int]
    dropped: int
    pictures: int
    source: str
    reused: bool = False
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def cut_tracklets(options: TrackletOptions, progress: Progress) -> Tracklets:
    """Cut people out of videos; returns the data set. Raises `AmemError`s."""
    import_av()
    cameras = cameras_of(options)
    sources = _sources(options, cameras)
    progress.log(f"boxes: {'; '.join(sorted({source.name for source in sources.values()}))}")
    provenance = _provenance(options, cameras, sources)
    out = options.out.resolve()  # a link to an empty folder is kept
    if os.path.ismount(out):
        raise UsageError("--out", out, why="a mount point cannot be replaced", remedy="Use a folder inside it")
    with locked(out):
        if done := _existing(out, provenance, options.force):
            for warning in done.warnings or done.faults:  # an earlier version stored these alone
                progress.warn(warning)
            return done
        work, name = out.parent / f".{out.name}.parts" / provenance.fingerprint(), manifest_name(out)
        try:
            (work / "data").mkdir(parents=True, exist_ok=True)
            result = _cut(options, cameras, sources, work, progress)
            manifest = f'name = {json.dumps(name)}\nlayout = "tracks"\nroot = "."\n'
            atomic.write_text(work / "data" / f"{name}.toml", manifest)
            document = provenance.as_json() | {"result": result}
            atomic.write_text(work / "data" / "provenance.json", json.dumps(document, indent=1))
            if all(is_generated(video.parent) for video in options.videos):
                atomic.write_text(work / "data" / GENERATED, "These people are generated\n")
            if hasattr(os, "sync"):  # not on Windows
                os.sync()  # the crops were written without
            if out.exists():
                shutil.rmtree(out) if out.is_dir() else out.unlink()
            (work / "data").rename(out)
            atomic.sync_folder(out.parent)
            shutil.rmtree(work.parent)
        except OSError as error:
            raise atomic.disk_error(out, error, "tracklets") from error
    return Tracklets(folder=out, manifest=out / f"{name}.toml", **result)


def manifest_name(folder: Path) -> str:
    """The data set's name: the folder's, as far as a name can be."""
    return ascii_name(folder.name) or "tracks"


def cameras_of(options: TrackletOptions) -> list[Camera]:
    """The cameras in order; videos with the same `--camera` are one."""
    files: dict[str, list[Path]] = defaultdict(list)
    for name, path in zip(_camera_names(options), options.videos, strict=True):
        files[name].append(path)
    return [Camera(name, paths) for name, paths in files.items()]


def _camera_names(options: TrackletOptions) -> tuple[str, ...]:
    """The camera of each video. Raises `UsageError` for names that a data set of tracks cannot have."""
    names = options.cameras * (len(options.videos) if len(options.cameras) == 1 else 1)
    if bad := [repr(name) for name in names if not is_plain_name(name) or is_system_folder(name)]:
        raise UsageError("--camera", listing(bad), why="not a plain name", remedy="Use letters, digits, - and _")
    if not names:
        names = tuple(re.sub(r"[^\w.-]", "-", path.stem).strip("._-") or "camera" for path in options.videos)
        names = tuple(f"camera-{name}" if is_system_folder(name) else name for name in names)
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            why = f"several videos are called {listing(doubled)}"
            raise UsageError("videos", why=why, remedy="Name the camera of each: --camera A --camera B")
    return names


def _sources(options: TrackletOptions, cameras: list[Camera]) -> dict[str, Boxes]:
    choices, weights = options.boxes or ("",), options.detector_weights
    if weights and not any(map(detects, choices)):
        why = f"{listing(dict.fromkeys(choices), 3)} uses none"
        raise UsageError("--detector-weights", why=why, remedy="Leave it out, or use --boxes torchvision")
    made = {one: boxes_from(one, weights if detects(one) else None, options.device) for one in dict.fromkeys(choices)}
    if len(choices) == 1:
        if made[choices[0]].identity.startswith("mot ") and len(cameras) > 1:
            why = f"one file of boxes for {len(cameras)} cameras"
            raise UsageError("--boxes", choices[0], why=why, remedy="Give one for each video, in their order")
        return {camera.name: made[choices[0]] for camera in cameras}
    sources: dict[str, Boxes] = {}
    for name, choice in zip(_camera_names(options), choices, strict=True):
        if sources.setdefault(name, made[choice]) is not made[choice]:
            why = f"camera {name} has several sources"
            raise UsageError("--boxes", why=why, remedy="Give one file whose frames count over all its videos")
    return sources


def _provenance(options: TrackletOptions, cameras: list[Camera], sources: dict[str, Boxes]) -> Provenance:
    """Videos are identified by size and both ends: to read long recordings whole would take minutes."""
    parents = {}
    for camera in cameras:
        for place, file in enumerate(camera.files):
            with open(file, "rb") as stream:
                size = file.stat().st_size
                head = stream.read(SAMPLED_BYTES)
                stream.seek(max(0, size - SAMPLED_BYTES))
                digest = atomic.sha256_lines([str(size), head.hex(), stream.read().hex()])
            parents[f"{camera.name} {place}"] = {"name": file.name, "sha256": digest}
    settings = {"fps": options.fps, "min_frames": options.min_frames}
    boxes = {camera.name: sources[camera.name].identity for camera in cameras}
    return Provenance("tracklets", settings | {"boxes": boxes}, parents)


def _existing(out: Path, provenance: Provenance, force: bool) -> Tracklets | None:
    """The data set in `out` if it has this provenance; None if there is none, or with `force` another one. Raises
    `OutputExists` for anything else in its place or in it, and for another one without `force`."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    file, usual = out / "provenance.json", out / f"{manifest_name(out)}.toml"
    manifests = [usual] if usual.is_file() else sorted(out.glob("*.toml"))  # the folder has been renamed
    document: dict[str, Any] = {}
    if file.is_file():
        with contextlib.suppress(BadData):
            document = check_provenance(atomic.read_bytes(file, "provenance"), "provenance", file)
    if document.get("command") != "tracklets" or not isinstance(document.get("result"), dict) or not manifests:
        # also with --force: it would remove files of others
        raise OutputExists("--out", out, why="it exists and is not from amem tracklets", remedy="Choose another folder")
    if force:
        own = {*document["result"].get("tracks", ()), *OWN_FILES, *(path.name for path in manifests)}
        names = sorted(entry.name for entry in out.iterdir() if not is_system_folder(entry.name))
        if foreign := [name for name in names if name not in own and name not in SYSTEM_FILES]:
            why = f"it also has {listing(foreign)}, which --force would remove"
            raise OutputExists("--out", out, why=why, remedy="Move that away, or choose another folder")
        return None
    videos = (document.get("parents", {}), provenance.parents)
    then, now = ([str(one.get("name")) for one in parents.values()] for parents in videos)
    if then != now:
        why = f"made from other videos ({listing(then)} there, {listing(now)} now)"
        raise OutputExists("--out", out, why=why, remedy="Choose another folder, or --force to replace it")
    if differences := provenance.differences(document):
        why = f"made from other videos or options ({listing(differences, 4)})"
        raise OutputExists("--out", out, why=why, remedy="Choose another folder, or --force to replace it")
    return Tracklets(folder=out, manifest=manifests[0], reused=True, **document["result"])


def _cut(
    options: TrackletOptions, cameras: list[Camera], sources: dict[str, Boxes], work: Path, progress: Progress
) -> dict[str, Any]:
    """The crops and tables in `work`/data; returns the figures of `Tracklets`."""
    data, dropped, pictures, earlier = work / "data", 0, 0, len(progress.all_warnings)
    tracks: dict[str, dict[str, np.ndarray]] = {}
    tables: dict[str, BoxTable] = {}
    empty = []
    for number, camera in enumerate(cameras):
        if len(camera.files) > 1:
            files = listing(str(file.name) for file in camera.files)
            progress.log(f"camera {camera.name}: {len(camera.files)} videos, one after another: {files}")
        table = _boxes(camera, sources[camera.name], options.fps, work / f"boxes-{number}", progress)
        for fault in table.faults:
            progress.warn(fault)
        pictures += len(table.numbers)
        tables[camera.name] = table
        given = sources[camera.name].given
        beyond = sum(frame > table.last for frame in given)
        _leave_out(beyond, len(given), f"after the last picture ({table.last})", camera, progress)
        found, short = _tracks(camera, sources[camera.name], table, options, progress)
        tracks[camera.name] = found
        dropped += short
        empty += [] if found else [f"camera {camera.name}: no person in {options.min_frames} pictures or more"]
        _crops(camera, found, data / camera.name, work / f"{number}-crops.json", progress)
    if not any(tracks.values()):
        why = f"no person was seen in {counted(options.min_frames, 'pictures')} or more"
        lower = ", or a lower --min-frames" if options.min_frames > 1 else ""
        remedy = f"Try --boxes torchvision or a MOTChallenge file{lower}"
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):  # parts of other options are in it
            work.parent.rmdir()
        raise BadData("videos", listing(str(v) for v in options.videos), why=why, remedy=remedy)
    _write_tables(data, cameras, tables, tracks)
    counts = {name: len(found) for name, found in tracks.items()}
    for each in empty:
        progress.warn(each)
    faults = [fault for table in tables.values() for fault in table.faults] + empty
    named = "; ".join(sorted({source.name for source in sources.values()}))
    figures: dict[str, Any] = {"tracks": counts, "dropped": dropped, "pictures": pictures, "source": named}
    return figures | {"faults": faults, "warnings": list(dict.fromkeys(progress.all_warnings[earlier:]))}


@dataclass(frozen=True)
class BoxTable:
    """All boxes of a camera: `numbers`, `seconds` (P,) and `sizes` (P, 2) of the pictures used; `rows` (n, 17) of
    picture number, seconds, left, top, width, height, score, id, and nine for the colours of boxes without an id."""

    numbers: np.ndarray
    seconds: np.ndarray
    sizes: np.ndarray
    files: np.ndarray
    rows: np.ndarray
    last: int
    faults: list[str]


def _boxes(camera: Camera, source: Boxes, fps: float, folder: Path, progress: Progress) -> BoxTable:
    """The boxes of a camera; parts that an earlier run has stored are read."""
    folder.mkdir(exist_ok=True)
    done = folder / "done.json"
    if not done.exists():
        number = stored = len(list(folder.glob("part-*.npz")))
        part: list[tuple[Any, np.ndarray]] = []
        with progress.loop(f"boxes of {camera.name}", camera.expected, unit="pictures") as bar:
            wanted = (picture for picture in sampled(camera.pictures(), fps) if part_of(picture) >= stored)
            for picture, boxes in source.find(camera, wanted):
                while part_of(picture) > number:
                    _write_part(folder, number, part)
                    number, part = number + 1, []
                part.append(((picture.number, picture.seconds, *picture.size, picture.file), coloured(picture, boxes)))
                bar.show(picture.number, max(bar.total, picture.number))
            _write_part(folder, number, part)
            bar.show(camera.last, camera.last)
        atomic.write_text(done, json.dumps({"parts": number + 1, "last": camera.last, "faults": camera.faults}))
    document = json.loads(done.read_text())
    parts = [np.load(folder / f"part-{number:06d}.npz") for number in range(document["parts"])]
    heads, rows = (np.concatenate([part[name] for part in parts]) for name in ("heads", "rows"))
    numbers, seconds, files = heads[:, 0].astype(int), heads[:, 1], heads[:, 4].astype(int)
    return BoxTable(numbers, seconds, heads[:, 2:4], files, rows, document["last"], document["faults"])


def _write_part(folder: Path, number: int, part: list[tuple[Any, np.ndarray]]) -> None:
    heads = np.array([head for head, _ in part], float).reshape(-1, 5)
    rows = [np.concatenate([np.tile(head[:2], (len(boxes), 1)), boxes], axis=1) for head, boxes in part]
    content = io.BytesIO()
    np.savez(content, heads=heads, rows=np.concatenate([np.zeros((0, 17)), *rows]))
    atomic.write_bytes(folder / f"part-{number:06d}.npz", content.getvalue())


def _leave_out(number: int, of: int, where: str, camera: Camera, progress: Progress) -> None:
    """Boxes that are not in the video: a warning, or `BadData` if they are so many that it is another video."""
    if number > MOST_OUTSIDE * of:
        why = f"{number} of {of} boxes are {where} of camera {camera.name}"
        raise BadData("boxes", why=why, remedy="Give the boxes of this video")
    if number:
        progress.warn(f"camera {camera.name}: {number} of {of} boxes are {where}, they are left out")


def _tracks(
    camera: Camera, source: Boxes, table: BoxTable, options: TrackletOptions, progress: Progress
) -> tuple[dict[str, np.ndarray], int]:
    """The tracks (n, 7) with enough frames by their names, and the number of those that are too short."""
    visible = inside(table.rows, table.sizes[np.searchsorted(table.numbers, table.rows[:, 0])])
    if source.given:
        outside = "outside the picture or smaller than 4 pixels"
        _leave_out(int((~visible).sum()), len(visible), outside, camera, progress)
    rows = table.rows[visible]
    if (rows[:, 7] >= 0).any():
        people = [int(person) for person in np.unique(rows[:, 7]) if person >= 0]
        given = {f"{person:04d}": rows[rows[:, 7] == person, :7] for person in people}
        _warn_about_jumps(camera, given, progress)
        kept = {name: track for name, track in given.items() if len(track) >= options.min_frames}
        return kept, len(given) - len(kept)
    tracker, bounds = Tracker(split_crossings=source.identity == "motion"), np.searchsorted(rows[:, 0], table.numbers)
    for number, seconds, boxes in zip(table.numbers, table.seconds, np.split(rows[:, 2:], bounds[1:]), strict=True):
        tracker.step(int(number), float(seconds), np.delete(boxes, 5, axis=1))
    widths = dict(zip(table.numbers.tolist(), table.sizes[:, 1].tolist(), strict=True))
    tracks = [np.stack(track.rows) for track in tracker.finish()]
    tracks = [piece[:, :7] for rows in tracks for piece in split_at_gaps(rows)]
    pieces = [piece for rows in tracks for piece in split_at_edges(rows, np.array([widths[n] for n in rows[:, 0]]))]
    long = sorted((rows for rows in pieces if len(rows) >= options.min_frames), key=lambda rows: rows[0, 0])
    return {f"{number:04d}": rows for number, rows in enumerate(long, start=1)}, len(pieces) - len(long)


def _warn_about_jumps(camera: Camera, given: dict[str, np.ndarray], progress: Progress) -> None:
    """A warning about ids whose box moves by more than twice its height from one picture to the next."""
    jumps = []
    for name, track in given.items():
        centres = track[:, 2:4] + track[:, 4:6] / 2
        moved = np.linalg.norm(np.diff(centres, axis=0), axis=1) / np.maximum(np.diff(track[:, 0]), 1)
        at = np.flatnonzero(moved > 2 * track[1:, 5])
        jumps += [f"{int(name)} in frame {int(track[at[0] + 1, 0])}"] if len(at) else []
    if jumps:
        progress.warn(f"camera {camera.name}: ids that jump across the picture: {listing(jumps, 5)}")


def _crops(camera: Camera, tracks: dict[str, np.ndarray], folder: Path, marker: Path, progress: Progress) -> None:
    """The crops of a camera; `marker` holds the number of the last picture whose crops are written."""
    last = max((int(rows[-1, 0]) for rows in tracks.values()), default=0)
    done = json.loads(marker.read_text())["done"] if marker.exists() else 0
    if done >= last:
        return
    with progress.loop(f"crops of {camera.name}", last, done=done, unit="pictures") as bar:
        for number in cut_crops(camera, tracks, folder, done + 1):
            bar.advance(number - bar.done)
            if number % PART == 0 or number == last:
                atomic.write_text(marker, json.dumps({"done": number}))
            if number == last:
                break


def _write_tables(
    data: Path, cameras: list[Camera], tables: dict[str, BoxTable], tracks: dict[str, dict[str, np.ndarray]]
) -> None:
    """tracks.csv and boxes.csv."""
    summary, boxes = [], []
    for camera in cameras:
        for track, rows in tracks[camera.name].items():
            tracklet, first, last = f"{camera.name}/{track}", rows[0], rows[-1]
            at = np.searchsorted(tables[camera.name].numbers, first[0])
            video = printable(camera.files[tables[camera.name].files[at]].name)
            times = [int(first[0]), int(last[0]), f"{first[1]:.3f}", f"{last[1]:.3f}"]
            summary.append([tracklet, camera.name, video, *times, len(rows), f"{rows[:, 6].mean():.3f}"])
            boxes += [[tracklet, int(row[0]), f"{row[1]:.3f}", *(f"{v:.1f}" for v in row[2:6])] for row in rows]
    atomic.write_csv(data / "tracks.csv", TRACK_COLUMNS, summary)
    atomic.write_csv(data / "boxes.csv", BOX_COLUMNS, boxes)
