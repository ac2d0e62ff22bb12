"""Options of the generated data sets. Imports nothing heavy: the command line reads the defaults here."""

from dataclasses import dataclass

from amem_cli.errors import UsageError
from amem_cli.options import option

DATA_SETS = ("peta", "market1501", "mars", "ilids-vid", "prid2011")


@dataclass(frozen=True, kw_only=True)
class WalkerOptions:
    """Options of `write_walkers`; the same options give the same bytes.

    `people` is the number of training people and, again, of test people in MARS and Market-1501; the number of people
    in iLIDS-VID (rounded down to even) and in both cameras of PRID-2011 (200 or fewer); and of each of PETA's ten
    subsets (CUHK and MIT, with one image each: twice that). `cameras` and `tracklets_per_camera` are those of MARS,
    where every person passes two or more cameras; `frames` are the minimum and maximum length of its tracklets
    (iLIDS-VID: three quarters of that; PRID-2011: 27 to 32, and fewer for some people). `images_per_person` is
    Market-1501's, over all cameras, and that of PETA's TownCentre. `height` and `width` are the box in pixels; PETA's
    subsets resize it. `twins` is the fraction of people who share body and clothes with another one and differ in gait.
    `alike`: all people of the video data sets have the same body and clothes, and differ in gait.
    `data_sets` are those to write; what one holds does not depend on the others.
    Raises `UsageError` that lists every value out of range.
    """

    seed: int = option(0, "seed of all random numbers")
    people: int = option(24, "people to train on, and as many to test on")
    cameras: int = option(2, "cameras of the MARS-like set")
    tracklets_per_camera: int = 2
    frames: tuple[int, int] = (24, 40)
    images_per_person: int = 12
    height: int = option(128, "height of person boxes in pixels")
    width: int = option(64, "width of person boxes in pixels")
    twins: float = option(0.25, "fraction of people who look like another one and differ in gait")
    alike: bool = option(False, "the people of the video data sets look the same and differ in gait alone")
    data_sets: tuple[str, ...] = DATA_SETS

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
            ("fraction of twins", self.twins, 0, 1),
        ]
        outside = [(name, value, low, high) for name, value, low, high in ranges if not low <= value <= high]
        wrong = [f"{name} is {value}, not {low} to {high}" for name, value, low, high in outside]
        wrong += [f"{name!r} is none of {', '.join(DATA_SETS)}" for name in self.data_sets if name not in DATA_SETS]
        if wrong:
            raise UsageError("walkers", why="; ".join(wrong), remedy="Choose values in these ranges")
