"""Generated walking people ("walkers"), for the demo and the tests: drawn by our own code, no image of a real person.

`write_walkers` writes them in the original layouts of the five data sets; `draw_people`, `build_camera` and
`draw_walker` give single pictures.
"""

from amem_cli.walkers.cameras import Camera, Passage, build_camera, draw_passage, draw_walker
from amem_cli.walkers.layouts import write_walkers
from amem_cli.walkers.people import Body, Clothes, Gait, Walker, draw_people, draw_person

__all__ = [
    "Body",
    "Camera",
    "Clothes",
    "Gait",
    "Passage",
    "Walker",
    "build_camera",
    "draw_passage",
    "draw_people",
    "draw_person",
    "draw_walker",
    "write_walkers",
]
