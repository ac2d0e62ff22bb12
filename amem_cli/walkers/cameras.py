"""What a camera does to a walker: place, light, colour, scale, direction, occlusion, and the box around the person.

A camera belongs to the generated world, not to a data set: camera k of a seed looks the same in all of them. Pictures
are painted a few times larger than they are kept and averaged down, so that edges are soft.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from amem_cli.randomness import keyed_generator
from amem_cli.walkers.figure import paint_figure
from amem_cli.walkers.gait import stride_length
from amem_cli.walkers.people import Walker

PANORAMA = 5  # width of the scenery in box heights; it repeats after that
HEADINGS = (18.0, 152.0, 38.0, -158.0, 205.0, 62.0, -24.0, 128.0)  # degrees: 0 to the right, 90 towards the viewer


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A fixed place: scenery, light and the way people walk past.

    `height` and `width` of the box in pixels; `oversampling` is how many times larger it is painted; `heading` in
    radians as for `paint_figure`; `pitch` how far it looks down; `light` -1 or 1, the lit side; `fill` the body's share
    of the box height; `blur` the lens's, in pixels; `tone` the (768,) table that maps painted to recorded R, G and B;
    `grain` (8, H, W, 1) int16 noise; `wall` and `ground` the scenery, wider than the box, at the painted size.
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
    """One person's walk past one camera.

    `start` is the phase of the gait in the first frame (cycles), `place` where along the scenery (box heights); `shift`
    (F, 3) moves the box right and down, in fractions of its height, and scales the person, frame by frame. `post` is
    where a post stands in the foreground (box heights along the walk, None: nowhere), `passer` another walker who
    crosses in front, at the box's middle in frame `meets`.
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
    """Camera `index` (from 0) of the world of `seed`, for boxes of `height` x `width` pixels."""
    rng = keyed_generator(seed, "walker", "camera", index)
    oversampling = min(4, max(2, round(360 / height)))
    gain = rng.uniform(0.8, 1.12)
    contrast = rng.uniform(0.84, 1.08)
    cast = (
        1.0 + rng.choice([-1.0, 1.0]) * rng.uniform(0.02, 0.1) * np.array([1.0, 0.1, -1.0]) + rng.normal(0.0, 0.015, 3)
    )
    levels = np.arange(256) / 255.0
    gamma = rng.uniform(0.85, 1.18)
    tone = [np.clip(255 * ((levels**gamma - 0.45) * contrast + 0.45) * gain * channel, 0, 255) for channel in cast]
    grain = keyed_generator(seed, "walker", "grain", index).normal(0.0, rng.uniform(1.5, 4.0), (8, height, width, 1))
    pitch = rng.uniform(0.06, 0.2)
    horizon = int(height * oversampling * rng.uniform(0.42, 0.68))
    wall, ground = _scenery(rng, index, height * oversampling, horizon, width * oversampling)
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
    """How one person walks past `camera` for `frames` frames; every draw depends on `key` alone.

    One walk in five goes the other way; one in five meets a post, and one in five, where `passer` is given, meets that
    person.
    """
    rng = keyed_generator(*key, "passage")
    heading = camera.heading + math.radians(rng.uniform(-9.0, 9.0))
    if rng.random() < 0.2:
        heading = math.pi - heading
    wander = rng.normal(0.0, 1.0, (frames, 3))
    shift = np.empty((frames, 3))
    state = rng.normal(0.0, 1.0, 3)
    for frame in range(frames):  # a detector's box: a slow drift and a little unrest
        state = 0.9 * state + 0.44 * wander[frame]
        shift[frame] = state
    shift = (shift + 0.25 * rng.normal(0.0, 1.0, (frames, 3))) * (0.008, 0.006, 0.012)
    event, when = rng.random(), float(rng.uniform(0.2, 0.8) * frames)
    if frames == 1:  # a single image catches the meeting at some other moment
        when = float(rng.uniform(-10.0, 10.0))
    passage = Passage(heading, float(rng.random()), float(rng.uniform(0.0, PANORAMA)), shift)
    size, phase = float(rng.uniform(0.05, 0.11)), float(rng.random())
    if event < 0.2:
        return replace(passage, post=when, post_width=size)
    if event < 0.4 and passer is not None:
        return replace(passage, passer=passer, passer_start=phase, meets=when)
    return passage


def draw_walker(walker: Walker, camera: Camera, frame: int = 0, passage: Passage | None = None) -> np.ndarray:
    """The box of `walker` in `camera` at `frame` frames after the start of the passage: (H, W, 3) uint8, RGB.

    Without a `passage` the person walks the camera's own way, without jitter or occlusion. Frames are 1/25 s apart.
    """
    return np.asarray(_render(walker, camera, frame, passage or _plain_passage(camera)))


def render_walker(walker: Walker, camera: Camera, frame: int, passage: Passage) -> Image.Image:
    """`draw_walker` as a Pillow image, for writing to a file."""
    return _render(walker, camera, frame, passage)


def draw_scene(camera: Camera, place: float) -> Image.Image:
    """The box with no person in it, for distractors: scenery `place` box heights along."""
    image = Image.new("RGB", (camera.width * camera.oversampling, camera.height * camera.oversampling))
    _paste_scenery(image, camera, place)
    return _record(image, camera, int(place * 97))


def _plain_passage(camera: Camera) -> Passage:
    return Passage(camera.heading, 0.0, 0.0, np.zeros((1, 3)))


def _render(walker: Walker, camera: Camera, frame: int, passage: Passage) -> Image.Image:
    high, wide = camera.height * camera.oversampling, camera.width * camera.oversampling
    right, down, nearer = passage.shift[min(frame, len(passage.shift) - 1)]
    phase = passage.start + frame / walker.gait.period
    size = high * camera.fill * (walker.body.stature / 1.72) ** 0.25 * (1.0 + nearer)
    step = stride_length(walker) / walker.gait.period * size / high  # box heights a frame
    along = step * math.cos(passage.heading) * frame
    image = Image.new("RGB", (wide, high))
    _paste_scenery(image, camera, passage.place + along + right)
    foot = (wide * 0.5 - right * high, high * (0.5 + 0.5 * camera.fill + 0.022) - down * high)
    _cast_shadow(image, foot, size, camera.light)
    paint_figure(
        image, walker, phase, heading=passage.heading, foot=foot, size=size, pitch=camera.pitch, light=camera.light
    )
    if passage.post is not None:
        travelled = 1.25 * step * math.cos(passage.heading) * (passage.post - frame)
        _stand_post(image, wide * 0.5 + travelled * high, passage.post_width * high, camera.light)
    if passage.passer is not None:
        _let_pass(image, camera, passage, passage.passer, frame, step, foot, size)
    return _record(image, camera, frame)


def _paste_scenery(image: Image.Image, camera: Camera, place: float) -> None:
    wide, high = image.size
    span = PANORAMA * high
    far = int(0.6 * place * high) % span
    near = int(place * high) % span
    image.paste(camera.wall.crop((far, 0, far + wide, camera.horizon)), (0, 0))
    image.paste(camera.ground.crop((near, 0, near + wide, high - camera.horizon)), (0, camera.horizon))


def _cast_shadow(image: Image.Image, foot: tuple[float, float], size: float, light: float) -> None:
    # The size varies a little from frame to frame: coarse steps keep the shadow steady and its cache small.
    mask = _shadow_mask(8 * round(size * 0.08), 4 * round(size * 0.021))
    left = round(foot[0] - mask.width / 2 - light * 0.12 * size)
    image.paste((22, 22, 26), (left, round(foot[1] - mask.height * 0.55)), mask)


@lru_cache(maxsize=64)
def _shadow_mask(wide: int, high: int) -> Image.Image:
    mask = Image.new("L", (wide, high))
    ImageDraw.Draw(mask).ellipse((wide * 0.14, high * 0.2, wide * 0.86, high * 0.8), fill=120)
    return mask.filter(ImageFilter.GaussianBlur(high * 0.13))


def _stand_post(image: Image.Image, centre: float, width: float, light: float) -> None:
    wide, high = image.size
    left = centre - width / 2
    if left > wide or left + width < 0:
        return
    draw = ImageDraw.Draw(image)
    for start, end, tone in ((0.0, 1.0, 58), (0.2, 0.85, 84), (0.3, 0.5, 112)):
        a, b = (start, end) if light < 0 else (1.0 - end, 1.0 - start)
        draw.rectangle((left + a * width, 0, left + b * width, high), fill=(tone, tone + 4, tone + 6))


def _let_pass(
    image: Image.Image,
    camera: Camera,
    passage: Passage,
    other: Walker,
    frame: int,
    step: float,
    foot: tuple[float, float],
    size: float,
) -> None:
    wide, high = image.size
    theirs = stride_length(other) / other.gait.period * camera.fill
    apart = (theirs + step) * abs(math.cos(passage.heading)) + 0.004
    heading = math.pi - passage.heading
    u = foot[0] + math.copysign(apart, math.cos(heading)) * (frame - passage.meets) * high
    if not -0.3 * high < u < wide + 0.3 * high:
        return
    near = size * 1.06
    at = (u, foot[1] + 0.05 * high)
    phase = passage.passer_start + frame / other.gait.period
    paint_figure(image, other, phase, heading=heading, foot=at, size=near, pitch=camera.pitch, light=camera.light)


def _record(image: Image.Image, camera: Camera, frame: int) -> Image.Image:
    """Average the painted picture down, then the camera's colours and grain."""
    small = image.reduce(camera.oversampling).point(camera.tone)
    if camera.blur:
        small = small.filter(ImageFilter.BoxBlur(camera.blur))
    pixels = np.asarray(small, dtype=np.int16) + camera.grain[frame % len(camera.grain)]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _scenery(
    rng: np.random.Generator, index: int, high: int, horizon: int, wide: int
) -> tuple[Image.Image, Image.Image]:
    """Wall and ground, `PANORAMA` box heights wide plus one box, so that a crop never runs over the end."""
    span = PANORAMA * high
    wall = _wall(rng, index, span, horizon, high)
    ground = _ground(rng, index, span, high - horizon, high)
    return _repeat(wall, wide), _repeat(ground, wide)


def _repeat(image: Image.Image, more: int) -> Image.Image:
    out = Image.new("RGB", (image.width + more, image.height))
    out.paste(image, (0, 0))
    out.paste(image.crop((0, 0, more, image.height)), (image.width, 0))
    return out


def _mottle(
    rng: np.random.Generator, wide: int, high: int, colour: np.ndarray, patches: float, speckle: float
) -> Image.Image:
    """A surface of one colour with large soft patches and fine speckle."""
    coarse = rng.normal(0.0, patches, (max(2, high // 90), max(4, wide // 90), 1))
    fine = rng.normal(0.0, speckle, (max(2, high // 6), max(4, wide // 6), 3))
    layers = []
    for layer in (coarse.repeat(3, axis=2), fine):
        around = np.concatenate([layer[:, -1:], layer, layer[:, :1]], axis=1)  # the scenery repeats without a seam
        tile = Image.fromarray(np.clip(128 + around, 0, 255).astype(np.uint8))
        box = (1, 0, 1 + layer.shape[1], layer.shape[0])
        tile = tile.resize((wide, high), Image.Resampling.BILINEAR, box=box)
        layers.append(np.asarray(tile, dtype=np.int16) - 128)
    return Image.fromarray(np.clip(colour.astype(np.int16) + layers[0] + layers[1], 0, 255).astype(np.uint8))


def _wall(rng: np.random.Generator, index: int, span: int, horizon: int, high: int) -> Image.Image:
    colour = np.array([(158, 140, 122), (168, 168, 164), (142, 106, 90), (122, 138, 146), (188, 178, 156)])[index % 5]
    wall = _mottle(rng, span, horizon, colour, 9.0, 7.0)
    draw = ImageDraw.Draw(wall)
    dark = tuple(int(value * 0.8) for value in colour)
    kind = index % 4
    if kind == 0:  # bricks
        row = max(4, high // 26)
        for k, v in enumerate(range(0, horizon, row)):
            draw.line((0, v, span, v), fill=dark, width=2)
            for u in range((k % 2) * row, span, 2 * row):
                draw.line((u, v, u, v + row), fill=dark, width=2)
    elif kind == 1:  # windows
        _windows(rng, draw, span, horizon, high, dark)
    elif kind == 2:  # a hedge under open ground
        draw.rectangle((0, horizon * 0.42, span, horizon), fill=(44, 66, 42))
        for _ in range(span // 2):
            u, v = rng.uniform(0, span), horizon * rng.uniform(0.36, 1.0)
            r = high * rng.uniform(0.008, 0.026)
            green = int(rng.uniform(60, 112))
            draw.ellipse((u - r, v - r, u + r, v + r), fill=(green // 2 + 12, green, green // 2))
    else:  # panels and doors
        u = 0.0
        while u < span:
            step = high * rng.uniform(0.3, 0.7)
            tint = tuple(int(value) for value in np.clip(colour * rng.uniform(0.72, 1.12), 0, 255))
            if rng.random() < 0.6:
                draw.rectangle((u, horizon * rng.uniform(0.0, 0.25), u + step * 0.8, horizon), fill=tint)
            draw.line((u, 0, u, horizon), fill=dark, width=3)
            u += step
    draw.rectangle((0, horizon - max(3, high // 50), span, horizon), fill=tuple(int(value * 0.62) for value in colour))
    return wall.filter(ImageFilter.GaussianBlur(high / 200))


def _windows(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, span: int, horizon: int, high: int, frame: tuple[int, ...]
) -> None:
    u = 0.0
    while u < span:
        wide = high * rng.uniform(0.22, 0.42)
        glass = int(rng.uniform(70, 130))
        draw.rectangle((u, horizon * 0.06, u + wide, horizon * 0.74), fill=frame)
        draw.rectangle(
            (u + 5, horizon * 0.06 + 5, u + wide - 5, horizon * 0.74 - 5), fill=(glass - 12, glass, glass + 12)
        )
        draw.polygon(
            (
                (u + 5, horizon * 0.5),
                (u + wide * 0.5, horizon * 0.08),
                (u + wide * 0.75, horizon * 0.08),
                (u + 5, horizon * 0.66),
            ),
            fill=(glass + 14, glass + 26, glass + 36),
        )
        u += wide + high * rng.uniform(0.08, 0.25)


def _ground(rng: np.random.Generator, index: int, span: int, deep: int, high: int) -> Image.Image:
    colour = np.array([(136, 134, 130), (112, 112, 116), (164, 154, 138), (128, 120, 108)])[index // 2 % 4]
    ground = _mottle(rng, span, deep, colour, 7.0, 6.0)
    draw = ImageDraw.Draw(ground)
    dark = tuple(int(value * 0.86) for value in colour)
    if rng.random() < 0.65:  # paving
        v, row = 2.0, deep * 0.1
        while v < deep:
            draw.line((0, v, span, v), fill=dark, width=2)
            for u in np.arange(rng.uniform(0, high * 0.3), span, high * 0.28):
                draw.line((u, v, u - 0.4 * row, v + row), fill=dark, width=2)
            v += row
            row *= 1.35
    else:  # a painted line
        v = deep * rng.uniform(0.12, 0.4)
        draw.rectangle((0, v, span, v + high * 0.018), fill=(206, 204, 190))
    return ground.filter(ImageFilter.GaussianBlur(high / 260))
