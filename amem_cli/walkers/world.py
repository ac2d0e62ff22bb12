"""Common parts of all generated data sets: walks past cameras, images to paint and files to write."""

import io
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.io import savemat

from amem_cli.randomness import keyed_generator
from amem_cli.walkers.cameras import Camera, Passage, build_camera, draw_passage
from amem_cli.walkers.options import WalkerOptions
from amem_cli.walkers.people import Walker, draw_people, draw_person

ILIDS_CAMERAS = (6, 7)  # also those of PETA's subset i-LID
PRID_CAMERAS = (8, 9)  # also those of PETA's subset PRID
SPLITS = 10


@dataclass(frozen=True, slots=True)
class Shot:
    """One image to paint: `walker` in `camera` at `frame` of `passage`; without a walker an empty box.

    `path` is relative to the root of all data sets; the image is resized to `size` (w, h), None: not resized.
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
        """The people of a data set, or of one of its parts. With `alike`, those of MARS, iLIDS-VID and PRID-2011 have
        the body, the clothes and the attributes of one person, and differ in gait alone."""
        people = draw_people(self.options.seed, data_set, count, self.options.twins)
        if self.options.alike and data_set.startswith(("mars-", "ilids", "prid")) and "passers" not in data_set:
            one = draw_person(self.options.seed, "alike", 0)
            return [replace(one, gait=person.gait) for person in people]
        return people

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
