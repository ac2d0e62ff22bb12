"""Paints the images of a plan and writes them, in this process or in several."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from pathlib import Path

from PIL import Image

from amem_cli.errors import SAME_COMMAND, Interrupted
from amem_cli.processes import end_with_main
from amem_cli.walkers.cameras import draw_scene, draw_walker
from amem_cli.walkers.options import WalkerOptions
from amem_cli.walkers.world import Shot, World

IMAGES_PER_TASK = 32
IMAGES_PER_PROCESS = 500  # for fewer it is not worth starting one


def write_images(world: World, root: Path, progress: Callable[[int, int], None], processes: int) -> None:
    """Write every image of the plan below `root`, whose folders exist. The bytes do not depend on `processes`.

    Raises `Interrupted` when one of several processes is killed.
    """

    def report(written: Iterable[None]) -> None:
        for done, _ in enumerate(written, 1):
            progress(done, len(world.shots))

    processes = min(processes, len(world.shots) // IMAGES_PER_PROCESS)
    if processes < 2:
        report(map(partial(_write_image, world, root), world.shots))
        return
    context = multiprocessing.get_context("spawn")  # the fork server is kept for the loader: it has torch imported
    with ProcessPoolExecutor(processes, context, _begin_child) as pool:
        try:
            report(pool.map(partial(_write_in_child, world.options, root), world.shots, chunksize=IMAGES_PER_TASK))
        except BrokenProcessPool as error:
            why = "a process that paints images was killed"
            raise Interrupted(signal.SIGTERM, why=why, remedy=SAME_COMMAND) from error
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure those that are not begun are dropped


def _begin_child() -> None:
    """Leave the signals of a terminal or batch queue, which all processes get, to the main process; end with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end_with_main()


_world_of_child = lru_cache(maxsize=1)(World)  # without a plan: its cameras are built once


def _write_in_child(options: WalkerOptions, root: Path, shot: Shot) -> None:
    _write_image(_world_of_child(options), root, shot)


def _write_image(world: World, root: Path, shot: Shot) -> None:
    paint(world, shot).save(root / shot.path, quality=92, compress_level=1)  # of a JPEG, of a PNG


def paint(world: World, shot: Shot) -> Image.Image:
    """One image of the plan."""
    camera = world.camera(shot.camera)
    if shot.walker is None:
        image = draw_scene(camera, shot.passage.place + 0.01 * shot.frame)
    else:
        image = draw_walker(shot.walker, camera, shot.frame, shot.passage)
    return image if shot.size is None else image.resize(shot.size, Image.Resampling.BILINEAR)
