"""Decodes the videos of one camera as a stream of pictures with their presentation times."""

import contextlib
import itertools
import math
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts.atomic import input_error, open_regular
from amem_cli.errors import BadData, InputMissing, did_you_mean, listing, printable

MOST_PIXELS = 50_000_000  # of one picture
LEAST_STEP = 1e-3  # seconds between pictures whose stored times do not increase
RESTART = 1.0  # seconds back: the clock began again, as in files that were joined
MISSING, SHORT = 5, 0.12  # mean steps between pictures, seconds; more time without a picture is reported
VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv")  # to suggest them
CUT_OUT = "Cut the person out of it, into a folder: a folder of one image works as a query of amem search"
INSTALL = "Run: python -m pip install av"


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a camera. `number` counts all its pictures from 1, over all its files, as MOTChallenge files do;
    `seconds` is the presentation time, which continues from file to file. `frame` is PyAV's, not rotated."""

    number: int
    seconds: float
    file: int
    frame: Any

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as displayed."""
        turned = self._quarter_turns % 2
        return (self.frame.width, self.frame.height) if turned else (self.frame.height, self.frame.width)

    @property
    def _quarter_turns(self) -> int:
        return round(self.frame.rotation / 90) % 4

    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8, rotated as the video says."""
        return np.rot90(_converter(0).reformat(self.frame, format="rgb24", threads=1).to_ndarray(), self._quarter_turns)

    def small_yuv(self, height: int) -> np.ndarray:
        """(3, height, w) uint8: luma and the two colour differences, reduced by averaging, rotated."""
        full_height, full_width = self.size
        size = height, max(16, round(full_width * height / full_height))
        if self._quarter_turns % 2:
            size = size[::-1]
        small = _converter(height).reformat(self.frame, *size[::-1], "yuv444p", interpolation="AREA", threads=1)
        return np.rot90(small.to_ndarray(), self._quarter_turns, axes=(1, 2))


@lru_cache(maxsize=8)
def _converter(height: int) -> Any:
    """FFmpeg's converter for pictures of a height, kept: to set one up takes longer than to convert. So do threads."""
    return import_av().video.reformatter.VideoReformatter()


class Camera:
    """The videos of one camera, in order.

    After `pictures()`, `last` is the number of the last one, and `faults` are lines about what could not be decoded.
    Raises `InputMissing` or `BadData` for a file that is missing, no regular file, or without video.
    """

    def __init__(self, name: str, files: list[Path]):
        self.name, self.files = name, files
        self.faults: list[str] = []
        self.last = 0
        heads = [_head(file) for file in files]
        self.expected = sum(count for count, _ in heads)  # as the files say; 0: unknown
        created = [(at, file) for (_, at), file in zip(heads, files, strict=True) if at]
        self._disorder = [
            f"video {file}: recorded before {other}, but given after it; the times follow the given order"
            for (before, other), (at, file) in itertools.pairwise(created)
            if at < before
        ]

    def pictures(self) -> Iterator[Picture]:
        """All pictures in order of presentation.

        Damaged ones are left out but counted in the numbers; their times are added to `faults`.
        """
        self.faults, self.last, number, offset, step = [*self._disorder], 0, 0, 0.0, LEAST_STEP
        for place, file in enumerate(self.files):
            last = offset
            for seconds, frame in self._decoded(file, offset):
                number += 1
                step, last = seconds - last, seconds
                if not frame.is_corrupt:
                    self.last = number
                    yield Picture(number, round(seconds, 6), place, frame)
            if number:
                offset = last + max(step, LEAST_STEP)
        if not self.last:
            why = "no picture could be decoded"
            raise BadData("video", listing(map(str, self.files), 3), why=why, remedy="Check that a player shows it")

    def _decoded(self, file: Path, offset: float) -> Iterator[tuple[float, Any]]:
        """(seconds, frame) of one file, times increasing and continuing at `offset`."""
        av = import_av()
        last = offset - LEAST_STEP
        gap_from: float | None = None
        gaps: list[tuple[float, float]] = []
        waits: list[tuple[float, float]] = []  # between two pictures
        count = 0
        with _open(file) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            step = float(1 / stream.average_rate) if stream.average_rate else 0.04
            begin = float((stream.start_time or 0) * stream.time_base)
            stated = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1e6
            if container.format.name == "avi":  # its duration is that of what is there
                stated = stream.frames * step
            packet, packets = None, container.demux(stream)
            while True:
                frames: list[Any] = []
                try:
                    packet = next(packets, None)
                    if packet is None:
                        break
                    frames = packet.decode()
                except av.FFmpegError as error:
                    gap_from = last if gap_from is None else gap_from
                    if packet is None or isinstance(error, av.EOFError):
                        break
                for frame in frames:
                    if frame.width * frame.height > MOST_PIXELS:
                        raise _too_large(file, frame)
                    seconds = offset + (frame.time - begin if frame.time is not None else last - offset + step)
                    if seconds < last - RESTART:
                        begin, seconds = begin - (last + step - seconds), last + step
                    seconds = max(seconds, last + LEAST_STEP)
                    if frame.is_corrupt:
                        gap_from = last if gap_from is None else gap_from
                    elif gap_from is not None:
                        gaps.append((gap_from, seconds))
                        gap_from = None
                    elif seconds - last > SHORT:
                        waits.append((last, seconds))
                    last, count = seconds, count + 1
                    yield seconds, frame
        waits.append((last, offset + float(stated)))
        usual = max(SHORT, (last - offset) / max(count - 1, 1) * MISSING)
        gaps += [wait for wait in waits if wait[1] - wait[0] > usual]
        gaps += [(gap_from, math.inf)] if gap_from is not None else []
        self._add_gaps(file, gaps, last)

    def _add_gaps(self, file: Path, gaps: list[tuple[float, float]], last: float) -> None:
        """One line about all gaps of a file; gaps that follow each other are one."""
        joined: list[tuple[float, float]] = []
        for begin, end in sorted(gaps):
            if joined and joined[-1][1] >= begin:
                begin = joined.pop()[0]
            joined.append((begin, end))
        parts = [f"{max(a, 0):.2f} s to {'its end' if b > last else f'{b:.2f} s'}" for a, b in joined]
        if parts:
            self.faults.append(f"video {file}: damaged or without pictures from {listing(parts, 5)}; the rest is kept")


def import_av() -> Any:
    """PyAV; `InputMissing` with the install command without it."""
    try:
        import av
    except ImportError as error:
        raise InputMissing("package av", why="it decodes videos and is not installed", remedy=INSTALL) from error
    return av


def _open(file: Path) -> Any:
    """An open container of one regular file, whatever its name; protocols other than files are not used."""
    av = import_av()
    try:
        open_regular(file).close()
        # the absolute path with "file:", so that no name is taken for a protocol or an option
        path = "file:" + os.path.abspath(file)
        return av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except FileNotFoundError as error:
        raise missing(file) from error
    except av.FFmpegError as error:
        reason = (error.strerror or str(error) or type(error).__name__).lower()
        why = "it is empty" if not file.stat().st_size else f"cannot be decoded ({reason})"
        if _lacks_index(file):
            why = "the recording stopped before its index (moov) was written, and without it no picture can be decoded"
            raise BadData("video", file, why=why, remedy="Copy it again from the camera, or repair it") from error
        raise BadData("video", file, why=why, remedy="Check that a player shows it") from error
    except IsADirectoryError as error:
        videos = [shlex.quote(str(one)) for one in _videos_in(file)]
        remedy = f"Give its videos: {listing(videos, 3)}" if videos else ""
        remedy = remedy or f"Give videos; for folders of frames run: amem data check {shlex.quote(str(file))}"
        raise BadData("video", file, why="it is a folder", remedy=remedy) from error
    except OSError as error:
        raise input_error(file, error, "video") from error
    except ValueError as error:
        raise BadData("video", file, why=str(error), remedy="Copy it to a file first") from error


def _videos_in(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [one for one in sorted(folder.iterdir()) if one.suffix.lower() in VIDEOS]
    return []


def missing(file: Path) -> InputMissing:
    """The error for a video that does not exist."""
    if re.match(r"\w\w+:/", str(file)):
        remedy = "Addresses are not read: download the video and give the file"
        address = str(file).replace(":/", "://", 1)  # a Path has one slash
        return InputMissing("video", address, why="not found", remedy=remedy)
    prefix = "" if file.parent == Path() else f"{file.parent}/"
    near = did_you_mean(file.name, [one.name for one in _videos_in(file.parent)], prefix, 0.8)
    return InputMissing("video", file, why="not found", remedy=f"{near}Check the path")


def _head(file: Path) -> tuple[int, str]:
    """The number of pictures by the file's header, roughly, 0 if it does not say, and the ISO time of the recording,
    empty if it does not say. Raises `BadData` without video."""
    with _open(file) as container:
        if not container.streams.video or not container.streams.video[0].codec_context:
            kinds = sorted({stream.type for stream in container.streams}) or ["no stream"]
            why = f"it has no pictures that can be decoded ({printable(', '.join(kinds))} only)"
            raise BadData("video", file, why=why, remedy="Give a video")
        if container.format.name.endswith("_pipe"):  # png_pipe, jpeg_pipe, ...
            raise BadData("video", file, why="it is one picture", remedy=CUT_OUT)
        stream = container.streams.video[0]
        if stream.codec_context.width * stream.codec_context.height > MOST_PIXELS:
            raise _too_large(file, stream.codec_context)
        duration = float(container.duration or 0) / 1e6
        count = stream.frames or round(duration * float(stream.average_rate or 0))
        return count, container.metadata.get("creation_time", "")


def _lacks_index(file: Path) -> bool:
    """Whether a file is an MP4 (or MOV) without its box "moov"."""
    names: set[bytes] = set()
    with open(file, "rb") as stream:
        while len(names) < 100 and len(head := stream.read(8)) == 8:
            names.add(head[4:])
            size = int.from_bytes(head[:4])
            size = int.from_bytes(stream.read(8)) - 8 if size == 1 else size
            if size < 8:
                break
            stream.seek(size - 8, os.SEEK_CUR)
    return b"ftyp" in names and b"moov" not in names


def _too_large(file: Path, picture: Any) -> BadData:
    why = f"pictures of {picture.width} x {picture.height}, more than {MOST_PIXELS // 10**6} megapixels"
    return BadData("video", file, why=why, remedy="Make it smaller")


def sampled(pictures: Iterator[Picture], fps: float) -> Iterator[Picture]:
    """The first picture in each 1 / `fps` seconds, all pictures with 0."""
    last = -1
    for picture in pictures:
        slot = int(picture.seconds * fps + 1e-6)
        if not fps or slot > last:
            last = slot
            yield picture
