"""What all generated data sets share: options, people's walks past cameras, images to paint and files to write."""

import io
from dataclasses import dataclass, field

import numpy as np
from scipy.io import savemat

from amem_cli.errors import UsageError
from amem_cli.randomness import keyed_generator
from amem_cli.walkers.cameras import Camera, Passage, build_camera, draw_passage
from amem_cli.walkers.people import Walker, draw_people

ILIDS_CAMERAS = (6, 7)  # also those of PETA's subset i-LID
PRID_CAMERAS = (8, 9)  # also those of PETA's subset PRID
SPLITS = 10


@dataclass(frozen=True, kw_only=True)
class WalkerOptions:
    """What `write_walkers` generates; the same options give the same bytes.

    `people` is the number of training people and, again, of test people in MARS and Market-1501; the number of people
    in iLIDS-VID (rounded down to even) and in both cameras of PRID-2011 (200 or fewer); and of each of PETA's ten
    subsets (CUHK and MIT, with one image each: twice that). `cameras` and `tracklets_per_camera` shape MARS, where
    every person passes two or more cameras; `frames` are the least and the greatest length of its tracklets (iLIDS-VID:
    three quarters of that; PRID-2011: 27 to 32, and fewer for some people). `images_per_person` is Market-1501's, over
    all cameras, and that of PETA's TownCentre. `height` and `width` are the box in pixels; PETA's subsets resize it.
    Raises `UsageError` that lists every value out of range.
    """

    seed: int = 0
    people: int = 24
    cameras: int = 2
    tracklets_per_camera: int = 2
    frames: tuple[int, int] = (24, 40)
    images_per_person: int = 12
    height: int = 128
    width: int = 64

    def __post_init__(self) -> None:
        ranges = [
            ("people", self.people, 2, 2000),
            ("cameras", self.cameras, 2, 6),
            ("tracklets per camera", self.tracklets_per_camera, 1, 100),
            ("shortest tracklet", self.frames[0], 1, 900),
            ("longest tracklet", self.frames[1], self.frames[0], 900),
            ("images per person", self.images_per_person, 1, 900),
            ("height", self.height, 32, 1024),
            ("width", self.width, 16, 512),
        ]
        outside = [(name, value, low, high) for name, value, low, high in ranges if not low <= value <= high]
        wrong = [f"{name} is {value}, not {low} to {high}" for name, value, low, high in outside]
        if wrong:
            raise UsageError("walkers", why="; ".join(wrong), remedy="Choose values in these ranges")


@dataclass(frozen=True, slots=True)
class Shot:
    """One image to paint: `walker` in `camera` at `frame` of `passage`; without a walker an empty box.

    `path` is relative to the root of all data sets; `size` (w, h) is what the image is resized to, None: not resized.
    """

    path: str
    walker: Walker | None
    camera: int
    frame: int
    passage: Passage
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class World:
    """The plan of all data sets: `shots` to paint and `files` (path: content) to write. Cameras are built once."""

    options: WalkerOptions
    shots: list[Shot] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    cameras: dict[int, Camera] = field(default_factory=dict)

    def camera(self, index: int) -> Camera:
        if index not in self.cameras:
            options = self.options
            self.cameras[index] = build_camera(options.seed, index, height=options.height, width=options.width)
        return self.cameras[index]

    def passage(self, frames: int, camera: int, *key: int | str, passer: Walker | None = None) -> Passage:
        return draw_passage(self.camera(camera), frames, self.options.seed, "walker", *key, passer=passer)

    def people(self, data_set: str, count: int) -> list[Walker]:
        return draw_people(self.options.seed, data_set, count)[0]

    def rng(self, *key: int | str) -> np.random.Generator:
        return keyed_generator(self.options.seed, "walker", *key)

    def add_lines(self, path: str, lines: list[str]) -> None:
        self.files[path] = ("\n".join(lines) + "\n").encode()

    def add_matlab(self, path: str, name: str, value: np.ndarray) -> None:
        """A MATLAB 5 file with one variable; its header has no date, so that equal values are equal bytes."""
        stream = io.BytesIO()
        savemat(stream, {name: value})
        header = b"MATLAB 5.0 MAT-file, generated walkers"
        self.files[path] = header.ljust(116) + stream.getvalue()[116:]
