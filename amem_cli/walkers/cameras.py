"""Images of a walker from a camera: place, light, colour, scale, direction, occlusion, box around the person.

Camera k of a seed is the same in every data set. Images are painted a few times larger and averaged down, so that
edges are soft.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from amem_cli.randomness import keyed_generator
from amem_cli.walkers.canvas import View
from amem_cli.walkers.figure import paint_figure
from amem_cli.walkers.gait import stride_length
from amem_cli.walkers.people import Walker
from amem_cli.walkers.scenery import PANORAMA, draw_scenery

HEADINGS = (18.0, 152.0, 38.0, -158.0, 205.0, 62.0, -24.0, 128.0)  # degrees: 0 to the right, 90 towards the viewer


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A fixed camera: scenery, light and the direction of walks.

    `height` and `width` are those of the box in pixels; it is painted `oversampling` times larger. `heading`, `pitch`
    and `light` are as in `View`; `fill` is the body's fraction of the box height; `blur` is that of the lens, in
    pixels; `tone` is the table of 768 values that maps painted to recorded R, G and B; `grain` is (8, H, W, 1) int16
    noise; `wall` and `ground` are the scenery at the painted size, wider than the box.
    """

    height: int
    width: int
    oversampling: int
    heading: float
    pitch: float
    light: float
    fill: float
    blur: float
    tone: tuple[int, ...]
    grain: np.ndarray
    wall: Image.Image
    ground: Image.Image
    horizon: int


@dataclass(frozen=True, slots=True)
class Passage:
    """The walk of one person past one camera.

    `start` is the phase of the gait in the first frame (cycles), `place` the position along the scenery (box heights).
    `shift` (F, 3) moves the box right and down, in fractions of its height, and scales the person, frame by frame.
    `post` is the frame in which a post in the foreground hides the person (None: no post), `passer` another walker who
    crosses in front and is in the middle of the box in frame `meets`.
    """

    heading: float
    start: float
    place: float
    shift: np.ndarray
    post: float | None = None
    post_width: float = 0.08
    passer: Walker | None = None
    passer_start: float = 0.0
    meets: float = 0.0


def build_camera(seed: int, index: int, *, height: int = 128, width: int = 64) -> Camera:
    """Camera `index` (from 0) of a seed, for boxes of `height` x `width` pixels."""
    rng = keyed_generator(seed, "walker", "camera", index)
    oversampling = min(4, max(2, round(360 / height)))
    gain = rng.uniform(0.8, 1.12)
    contrast = rng.uniform(0.84, 1.08)
    warmth = rng.choice([-1.0, 1.0]) * rng.uniform(0.02, 0.1)
    cast = 1.0 + warmth * np.array([1.0, 0.1, -1.0]) + rng.normal(0.0, 0.015, 3)
    levels = np.arange(256) / 255.0
    gamma = rng.uniform(0.85, 1.18)
    tone = [np.clip(255 * ((levels**gamma - 0.45) * contrast + 0.45) * gain * channel, 0, 255) for channel in cast]
    grain = keyed_generator(seed, "walker", "grain", index).normal(0.0, rng.uniform(1.5, 4.0), (8, height, width, 1))
    pitch = rng.uniform(0.06, 0.2)
    horizon = int(height * oversampling * rng.uniform(0.42, 0.68))
    wall, ground = draw_scenery(rng, index, height * oversampling, horizon, width * oversampling)
    return Camera(
        height=height,
        width=width,
        oversampling=oversampling,
        heading=math.radians(HEADINGS[index % len(HEADINGS)] + rng.uniform(-8.0, 8.0)),
        pitch=float(pitch),
        light=float(rng.choice([-1.0, 1.0])),
        fill=float(rng.uniform(0.82, 0.9)),
        blur=float(rng.choice([0.0, 0.3, 0.6])),
        tone=tuple(int(value) for value in np.concatenate(tone).round()),
        grain=grain.round().astype(np.int16),
        wall=wall,
        ground=ground,
        horizon=horizon,
    )


def draw_passage(camera: Camera, frames: int, *key: int | str, passer: Walker | None = None) -> Passage:
    """The walk of one person past `camera` in `frames` frames; all random draws depend on `key` alone.

    One walk in five has the opposite direction. One in five passes behind a post; with a `passer`, one in five passes
    behind that person.
    """
    rng = keyed_generator(*key, "passage")
    heading = camera.heading + math.radians(rng.uniform(-9.0, 9.0))
    if rng.random() < 0.2:
        heading = math.pi - heading
    wander = rng.normal(0.0, 1.0, (frames, 3))
    shift = np.empty((frames, 3))
    state = rng.normal(0.0, 1.0, 3)
    for frame in range(frames):  # the box of a detector drifts slowly and jitters
        state = 0.9 * state + 0.44 * wander[frame]
        shift[frame] = state
    shift = (shift + 0.25 * rng.normal(0.0, 1.0, (frames, 3))) * (0.008, 0.006, 0.012)
    event, when = rng.random(), float(rng.uniform(0.2, 0.8) * frames)
    if frames == 1:  # a single image shows another moment of the meeting
        when = float(rng.uniform(-10.0, 10.0))
    passage = Passage(heading, float(rng.random()), float(rng.uniform(0.0, PANORAMA)), shift)
    size, phase = float(rng.uniform(0.05, 0.11)), float(rng.random())
    if event < 0.2:
        return replace(passage, post=when, post_width=size)
    if event < 0.4 and passer is not None:
        return replace(passage, passer=passer, passer_start=phase, meets=when)
    return passage


def wrong_detection(passage: Passage, rng: np.random.Generator) -> Passage:
    """The same walk with boxes that contain little of the person, or are much too large."""
    away = np.array([rng.choice([-0.24, 0.24]), rng.uniform(-0.35, 0.35), rng.uniform(-0.3, 0.5)])
    return replace(passage, shift=passage.shift + away)


def straight_passage(camera: Camera) -> Passage:
    """A walk in the camera's default direction, without jitter or occlusion."""
    return Passage(camera.heading, 0.0, 0.0, np.zeros((1, 3)))


def draw_scene(camera: Camera, place: float) -> Image.Image:
    """The box without a person, for distractors: scenery `place` box heights along."""
    image = Image.new("RGB", (camera.width * camera.oversampling, camera.height * camera.oversampling))
    _paste_scenery(image, camera, place)
    return record(image, camera, int(place * 97))


def draw_walker(walker: Walker, camera: Camera, frame: int, passage: Passage) -> Image.Image:
    """The box of `walker` in `camera`, `frame` frames (of 1/25 s) after the start of the passage; RGB."""
    high, wide = camera.height * camera.oversampling, camera.width * camera.oversampling
    right, down, nearer = passage.shift[min(frame, len(passage.shift) - 1)]
    phase = passage.start + frame / walker.gait.period
    size = high * camera.fill * (walker.body.stature / 1.72) ** 0.25 * (1.0 + nearer)
    step = stride_length(walker) / walker.gait.period * size / high  # box heights per frame
    along = step * math.cos(passage.heading) * frame
    image = Image.new("RGB", (wide, high))
    _paste_scenery(image, camera, passage.place + along + right)
    foot = (wide * 0.5 - right * high, high * (0.5 + 0.5 * camera.fill + 0.022) - down * high)
    _cast_shadow(image, foot, size, camera.light)
    view = View(passage.heading, foot, size, camera.pitch, camera.light)
    paint_figure(image, walker, phase, view)
    if passage.post is not None:
        travelled = 1.25 * step * math.cos(passage.heading) * (passage.post - frame)
        _paint_post(image, wide * 0.5 + travelled * high, passage.post_width * high, camera.light)
    if passage.passer is not None:
        _paint_passer(image, passage.passer, passage, frame, camera.fill, step, view)
    return record(image, camera, frame)


def _paste_scenery(image: Image.Image, camera: Camera, place: float) -> None:
    wide, high = image.size
    span = PANORAMA * high
    far = int(0.6 * place * high) % span
    near = int(place * high) % span
    image.paste(camera.wall.crop((far, 0, far + wide, camera.horizon)), (0, 0))
    image.paste(camera.ground.crop((near, 0, near + wide, high - camera.horizon)), (0, camera.horizon))


def _cast_shadow(image: Image.Image, foot: tuple[float, float], size: float, light: float) -> None:
    # The size varies from frame to frame: coarse steps keep the shadow steady and the cache small.
    mask = _shadow_mask(8 * round(size * 0.08), 4 * round(size * 0.021))
    left = round(foot[0] - mask.width / 2 - light * 0.12 * size)
    image.paste((22, 22, 26), (left, round(foot[1] - mask.height * 0.55)), mask)


@lru_cache(maxsize=64)
def _shadow_mask(wide: int, high: int) -> Image.Image:
    mask = Image.new("L", (wide, high))
    ImageDraw.Draw(mask).ellipse((wide * 0.14, high * 0.2, wide * 0.86, high * 0.8), fill=120)
    return mask.filter(ImageFilter.GaussianBlur(high * 0.13))


def _paint_post(image: Image.Image, centre: float, width: float, light: float) -> None:
    wide, high = image.size
    left = centre - width / 2
    if left > wide or left + width < 0:
        return
    draw = ImageDraw.Draw(image)
    for start, end, tone in ((0.0, 1.0, 58), (0.2, 0.85, 84), (0.3, 0.5, 112)):
        a, b = (start, end) if light < 0 else (1.0 - end, 1.0 - start)
        draw.rectangle((left + a * width, 0, left + b * width, high), fill=(tone, tone + 4, tone + 6))


def _paint_passer(
    image: Image.Image, other: Walker, passage: Passage, frame: int, fill: float, step: float, view: View
) -> None:
    """Paint another walker, who crosses in front of the person of `view` in the opposite direction."""
    wide, high = image.size
    others_step = stride_length(other) / other.gait.period * fill
    apart = (others_step + step) * abs(math.cos(passage.heading)) + 0.004
    heading = math.pi - passage.heading
    u = view.foot[0] + math.copysign(apart, math.cos(heading)) * (frame - passage.meets) * high
    if -0.3 * high < u < wide + 0.3 * high:
        phase = passage.passer_start + frame / other.gait.period
        foot = (u, view.foot[1] + 0.05 * high)
        paint_figure(image, other, phase, View(heading, foot, view.size * 1.06, view.pitch, view.light))


def record(image: Image.Image, camera: Camera, frame: int) -> Image.Image:
    """Average the painted image down, then apply the camera's colours, blur and grain."""
    small = image.reduce(camera.oversampling).point(camera.tone)
    if camera.blur:
        small = small.filter(ImageFilter.BoxBlur(camera.blur))
    pixels = np.asarray(small, dtype=np.int16) + camera.grain[frame % len(camera.grain)]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
