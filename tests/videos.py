"""Small videos for tests: dark figures that walk in front of a textured wall, encoded with PyAV."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

HEIGHT, WIDTH, FPS = 120, 200, 25
FIGURE = (50, 18)  # height, width
Place = Callable[[int], tuple[int, int] | None]  # frame (from 0) -> left, top


def crossing(first: int = 0, speed: float = 2.0, top: int = 40, left: int = 5) -> Place:
    """A figure that walks to the right from frame `first` on."""
    return lambda frame: (round(left + speed * (frame - first)), top) if frame >= first else None


def paint(frame: int, places: Sequence[Place], colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """(H, W, 3) uint8."""
    wall = np.random.default_rng(0).integers(120, 150, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    pixels = wall.repeat(4, axis=0).repeat(4, axis=1)
    for place, colour in zip(places, colours, strict=True):
        if at := place(frame):
            left, top = at
            pixels[max(top, 0) : top + FIGURE[0], max(left, 0) : max(left + FIGURE[1], 0)] = colour
    return pixels


def write_video(
    path: Path,
    places: Sequence[Place],
    *,
    frames: int = 60,
    colours: Sequence[tuple[int, int, int]] = ((20, 20, 30), (160, 20, 20), (20, 40, 150)),
    times: Sequence[int] | None = None,
    rotation: int = 0,
) -> Path:
    """A video of `frames` pictures; `times` are their presentation times in milliseconds, at 25 per second without."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "12", "g": "10", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(paint(number, places, colours[: len(places)]), "rgb24")
            frame.pts, frame.time_base = (times[number] if times else number * 1000 // FPS), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A file without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def mot_lines(places: Sequence[Place], frames: int = 60) -> str:
    """The true boxes as a MOTChallenge file."""
    rows = []
    for frame in range(frames):
        for person, place in enumerate(places, start=1):
            if at := place(frame):
                rows.append(f"{frame + 1},{person},{at[0]},{at[1]},{FIGURE[1]},{FIGURE[0]},1,-1,-1,-1")
    return "\n".join(rows) + "\n"
