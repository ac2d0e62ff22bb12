"""Generated people who walk through the scenes of two cameras, as videos with their true boxes.

The same people pass both cameras, and their numbers are the same in both MOTChallenge files.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from amem_cli.errors import UsageError
from amem_cli.randomness import keyed_generator
from amem_cli.walkers.cameras import build_camera, record
from amem_cli.walkers.canvas import View
from amem_cli.walkers.figure import paint_figure
from amem_cli.walkers.gait import stride_length
from amem_cli.walkers.layouts import write_whole
from amem_cli.walkers.people import Walker, draw_person
from amem_cli.walkers.scenery import draw_scenery

CAMERAS, FPS, HEIGHT, WIDTH = 2, 25, 480, 854
OVERSAMPLING = 2
# one thread, without the two rate controls whose vector code is not reproducible
ENCODER = {"crf": "18", "preset": "veryfast", "x264-params": "threads=1:lookahead-threads=1:mbtree=0:aq-mode=0"}
HORIZON = 0.36  # of the picture's height
APART = 2.6  # seconds between two people who enter a scene


@dataclass(frozen=True, slots=True)
class Crossing:
    """The walk of one person through a scene: `foot` (u, v) in pixels at frame `begin`, `step` pixels per frame."""

    person: int
    walker: Walker
    begin: int
    end: int
    foot: tuple[float, float]
    step: float
    size: float
    heading: float
    phase: float


def write_videos(
    out: Path, *, seed: int = 0, people: int = 6, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Path]:
    """Write OUT/camera{1,2}.mp4 and the true boxes OUT/camera{1,2}.txt; returns the videos. Needs PyAV.

    OUT is complete or absent; a complete one of the same options is kept. Raises as `write_walkers`, and `UsageError`
    when `people` is below 1.
    """
    videos = [out / f"camera{camera + 1}.mp4" for camera in range(CAMERAS)]
    if people < 1:
        raise UsageError("walkers", why=f"{people} people for the videos", remedy="Raise --people")
    mark = f"These people are generated: amem data walkers --videos, {people} people, seed {seed}\n"
    scenes = [_crossings(seed, camera, people) for camera in range(CAMERAS)]
    total, done = sum(max(one.end for one in scene) for scene in scenes), itertools.count(1)

    def write(folder: Path) -> None:
        for camera, video in enumerate(videos):
            _write_video(folder / video.name, seed, camera, scenes[camera], lambda: progress(next(done), total))

    write_whole(out, mark, write)
    return videos


def _crossings(seed: int, camera: int, people: int) -> list[Crossing]:
    """Everybody's walk through one scene, in another order for each camera."""
    rng = keyed_generator(seed, "walker", "videos", camera)
    walkers = [draw_person(seed, "videos", person) for person in range(people)]
    crossings = []
    for place, person in enumerate(rng.permutation(people).tolist()):
        walker = walkers[person]
        depth = float(rng.uniform(0.3, 0.95))  # 0 at the horizon, 1 at the lower edge
        size = HEIGHT * (0.2 + 0.24 * depth) * (walker.body.stature / 1.72)
        right = bool(rng.random() < 0.5)
        heading = math.radians(float(rng.uniform(-14, 14)) + (0 if right else 180))
        step = stride_length(walker) / walker.gait.period * size * math.cos(heading)
        begin = round(FPS * (0.5 + APART * place + float(rng.uniform(0, 1))))
        margin = 0.35 * size
        frames = math.ceil((WIDTH + 2 * margin) / abs(step))
        foot = (-margin if right else WIDTH + margin, HEIGHT * (HORIZON + (0.97 - HORIZON) * depth))
        phase = float(rng.random())
        crossings.append(Crossing(person + 1, walker, begin, begin + frames, foot, step, size, heading, phase))
    return crossings


def _write_video(path: Path, seed: int, number: int, scene: list[Crossing], report: Callable[[], None]) -> None:
    """One video and, next to it, its boxes: `frame,id,left,top,width,height,1,1,1`."""
    import av

    grain = keyed_generator(seed, "walker", "video grain", number).normal(0, 2.0, (4, HEIGHT, WIDTH, 1)).round()
    camera = replace(build_camera(seed, number), oversampling=OVERSAMPLING, blur=0.0, grain=grain.astype(np.int16))
    high = HEIGHT * OVERSAMPLING
    horizon = int(high * HORIZON)
    wall, ground = draw_scenery(keyed_generator(seed, "walker", "scene", number), number, high, horizon, 1)
    background = Image.new("RGB", (WIDTH * OVERSAMPLING, high))
    background.paste(wall, (0, 0))
    background.paste(ground, (0, horizon))
    rows = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in range(max(one.end for one in scene)):
            image = background.copy()
            # people who are nearer to the camera are painted last
            for one in sorted(scene, key=lambda one: one.foot[1]):
                if one.begin <= frame < one.end and (box := _paint(image, one, frame, camera.pitch, camera.light)):
                    rows.append((frame + 1, one.person, box))
            pixels = np.asarray(record(image, camera, frame))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            report()
        container.mux(stream.encode())
    lines = [f"{frame},{person},{','.join(f'{side:.1f}' for side in box)},1,1,1\n" for frame, person, box in rows]
    path.with_suffix(".txt").write_text("".join(lines))


def _paint(
    image: Image.Image, one: Crossing, frame: int, pitch: float, light: float
) -> tuple[float, float, float, float] | None:
    """Paint a person; returns the box (left, top, width, height) in pixels of the video, None outside the picture."""
    passed = frame - one.begin
    foot = ((one.foot[0] + one.step * passed) * OVERSAMPLING, one.foot[1] * OVERSAMPLING)
    size = one.size * OVERSAMPLING
    left, top = int(foot[0] - 0.8 * size), int(foot[1] - 1.25 * size)
    area = (left, top, left + int(1.6 * size), top + int(1.45 * size))
    part = image.crop(area)
    before = part.copy()
    view = View(one.heading, (foot[0] - left, foot[1] - top), size, pitch, light)
    paint_figure(part, one.walker, one.phase + passed / one.walker.gait.period, view)
    changed = ImageChops.difference(part, before).getbbox() or (0, 0, 0, 0)
    image.paste(part, (left, top))
    a, b, c, d = (side / OVERSAMPLING for side in changed)
    x, y = left / OVERSAMPLING + a, top / OVERSAMPLING + b
    width, height = c - a, d - b
    visible = min(x + width, WIDTH) - max(x, 0)
    return (x, y, width, height) if visible > 0.3 * width else None
