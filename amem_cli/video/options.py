"""The options of the commands from videos to an answer, from which their flags are made. Imports nothing heavy."""

import math
import os
import shlex
from dataclasses import MISSING, dataclass
from pathlib import Path

from amem_cli.errors import UsageError, counted
from amem_cli.option_values import check_device, check_parts
from amem_cli.options import DEVICE_HELP, option, workspace_option

BOXES = (
    "motion | torchvision[:MODEL] | MOT file; once, or once per video; empty: torchvision if its weights are on this "
    "machine, else motion"
)
DETECTOR_WEIGHTS = "file of torchvision's weights for --boxes torchvision"
THRESHOLD = "squared distance (0 to 4) up to which tracks are one person"
CALIBRATION = "result of amem evaluate --calibrate"


def suggested_features(*folders: Path) -> str:
    """`Did you mean FILE? ` with the first features file of answers of `amem find`, or of workspaces, in these folders;
    empty if there is none."""
    places = ("*.h5", "features/*.h5", "workspace/features/*.h5")
    features = [folder for folder in folders if folder.name != "labels"]
    found = (file for folder in features for place in places for file in sorted(folder.glob(place)))
    return next((f"Did you mean {shlex.quote(str(file))}? " for file in found), "")


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and not 0 <= threshold <= 4:
        raise UsageError("--threshold", f"{threshold:g}", why="not a squared distance of unit vectors, from 0 to 4")


@dataclass(frozen=True, kw_only=True)
class TrackletOptions:
    """`amem tracklets`. Raises `UsageError` for values out of range."""

    videos: tuple[Path, ...] = option(MISSING, "video files; with --camera several of one, in order", argument=True)
    out: Path = option(MISSING, "folder to make")
    boxes: tuple[str, ...] = option((), BOXES)
    detector_weights: Path | None = option(None, DETECTOR_WEIGHTS)
    cameras: tuple[str, ...] = option(
        (), "name of each video's camera, or one for all; empty: the files' names", flag="--camera"
    )
    fps: float = option(0.0, "pictures used per second; 0: all")
    min_frames: int = option(8, "shorter tracks are left out")
    device: str = option("auto", DEVICE_HELP)
    force: bool = option(False, "replace the output of other videos or options")

    def __post_init__(self) -> None:
        check_device(self.device)
        names = tuple(str(path) for path in self.videos if self.cameras and not (path.suffix or os.path.exists(path)))
        if names and len(self.videos) - len(names) == len(self.cameras) + len(names):  # --camera hall door
            object.__setattr__(self, "videos", tuple(path for path in self.videos if str(path) not in names))
            object.__setattr__(self, "cameras", self.cameras + names)
        if not 0 <= self.fps < float("inf"):
            raise UsageError("--fps", f"{self.fps:g}", why="must be a number from 0")
        if self.min_frames < 1:
            raise UsageError("--min-frames", str(self.min_frames), why="must be at least 1")
        for flag, values in (("--boxes", self.boxes), ("--camera", self.cameras)):
            if len(values) not in (0, 1, len(self.videos)):
                why = f"{len(values)} given for {counted(len(self.videos), 'videos')}"
                raise UsageError(flag, why=why, remedy="Give one for all, or one for each in their order")
            parts = "".join(values).split(",")
            if len(values) == 1 < len(parts) == len(self.videos) and not os.path.exists(values[0]):
                remedy = f"Repeat the option: {' '.join(f'{flag} {shlex.quote(part.strip())}' for part in parts)}"
                raise UsageError(flag, values[0], why="one value with a comma for several videos", remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class FindOptions(TrackletOptions):
    """`amem find`."""

    model: Path | None = option(None, "amem-main or amem-arm checkpoint; empty: the workspace's amem-main")
    arm: Path | None = option(None, "attribute model; empty: the workspace's, if there is one")
    threshold: float | None = option(None, THRESHOLD)
    calibration: Path | None = option(None, CALIBRATION)
    adapt_cameras: bool = option(False, "batch norm of each camera, as in extract-features; a calibration sets it")
    parts: int = option(1, "horizontal parts of the maps, as in extract-features; a calibration sets it")
    dataset: str = option("mars", "data set of the workspace's model: a shipped name, or the path of your own .toml")
    workspace: Path = workspace_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_threshold(self.threshold)
        check_parts(self.parts)
        if self.threshold is not None and self.calibration is not None:
            raise UsageError("threshold", why="--threshold and --calibration exclude each other", remedy="Give one")


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """`amem link`. Raises `UsageError` without a threshold and a calibration."""

    files: tuple[Path, ...] = option(MISSING, "features files of one model", argument=True)
    out: Path = option(MISSING, "folder for identities.csv and a MOTChallenge file per camera")
    threshold: float | None = option(None, THRESHOLD)
    calibration: Path | None = option(None, CALIBRATION)
    tracks: tuple[Path, ...] = option((), "folder of each file's tracks; empty: where the features file says")

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.calibration is None):
            why = "give either --threshold or --calibration" if self.threshold is None else "both are given"
            result = "a result of amem evaluate --calibrate on the model's data set"
            remedy = f"--calibration is {result}; --threshold is a squared distance, 0 to 4; 0.6 is a start"
            raise UsageError("threshold", why=why, remedy=remedy)
        _check_threshold(self.threshold)
        if self.tracks and len(self.tracks) != len(self.files):
            why = f"{counted(len(self.tracks), 'folders')} for {counted(len(self.files), 'files')}"
            raise UsageError("--tracks", why=why, remedy="Give one for each")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """`amem search`; `query` is empty for a search by description alone. Raises `UsageError`."""

    query: str = option("", "tracklet of the gallery, folder of frames, or video; empty with --with", argument=True)
    more: tuple[str, ...] = option((), "further features files, after --gallery FILE.h5", argument=True)
    gallery: tuple[Path, ...] = option((), "features file, at least one; repeatable")
    top: int = option(10, "tracklets to list")
    calibration: Path | None = option(None, CALIBRATION)
    cameras: tuple[str, ...] = option((), "only this camera; repeatable", flag="--camera")
    after: float | None = option(None, "only tracklets in view after this second of the video")
    before: float | None = option(None, "only tracklets in view before this second of the video")
    with_: tuple[str, ...] = option((), "attributes the person has: upperBodyRed,carryingBackpack", flag="--with")
    without: tuple[str, ...] = option((), "attributes the person does not have")
    labels: tuple[Path, ...] = option((), "pseudo-labels file; empty: the workspace's")
    workspace: Path = workspace_option()
    model: Path | None = option(None, "checkpoint that made the gallery, for a folder or a video")
    boxes: tuple[str, ...] = option((), BOXES)
    detector_weights: Path | None = option(None, DETECTOR_WEIGHTS)
    device: str = option("auto", DEVICE_HELP)

    def __post_init__(self) -> None:
        check_device(self.device)
        words = [self.query, *self.more]
        files = [word for word in words if self.gallery and word.lower().endswith(".h5")]
        words = [word for word in words if word not in files]
        if len(words) > 1:
            raise UsageError("query", words[1], why="there is one already", remedy=f"Search {words[0]} first")
        object.__setattr__(self, "query", "".join(words))
        object.__setattr__(self, "gallery", (*self.gallery, *map(Path, files)))
        object.__setattr__(self, "more", ())  # so that `replace` does not add them again
        for name in ("with_", "without"):
            given = ",".join(getattr(self, name)).split(",")
            object.__setattr__(self, name, tuple(filter(None, given)))
        if not self.gallery:
            answers = sorted(path.parent for path in Path().glob("*/workspace"))
            remedy = f"{suggested_features(self.workspace, *answers)}Give workspace/features/NAME.h5"
            raise UsageError("--gallery", why="no features file given", remedy=remedy)
        described = bool(self.with_ or self.without)
        if not (self.query or described):
            raise UsageError("query", why="nothing to search for", remedy="Give a tracklet, folder, video or --with")
        if self.calibration and not self.query:
            why = "a search by description alone has no distances"
            raise UsageError("--calibration", why=why, remedy="Leave it out, or give a query")
        if self.labels and not described:
            remedy = "Leave it out, or give --with or --without"
            raise UsageError("--labels", why="no attribute is given", remedy=remedy)
        for flag, value in (("--after", self.after), ("--before", self.before)):
            if value is not None and math.isnan(value):
                raise UsageError(flag, "nan", why="must be a number of seconds")
        if self.top < 1:
            raise UsageError("--top", str(self.top), why="must be at least 1")
