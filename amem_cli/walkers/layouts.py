"""Generated people on disk, in the original layouts of PETA, Market-1501, MARS, iLIDS-VID and PRID-2011.

The data sets have different people but common cameras: MARS and Market-1501 use the same ones, and so do iLIDS-VID and
PRID-2011 with PETA's subsets i-LID and PRID.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import filelock

from amem_cli.artifacts import atomic
from amem_cli.artifacts.paths import GENERATED
from amem_cli.errors import Locked, OutputExists, UsageError
from amem_cli.walkers.cameras import build_camera, draw_walker, straight_passage
from amem_cli.walkers.image_sets import plan_market, plan_peta
from amem_cli.walkers.options import WalkerOptions
from amem_cli.walkers.painting import write_images
from amem_cli.walkers.people import draw_people
from amem_cli.walkers.video_sets import plan_ilids, plan_mars, plan_prid
from amem_cli.walkers.world import World

PLANS: dict[str, Callable[[World], None]] = {
    "peta": plan_peta,
    "market1501": plan_market,
    "mars": plan_mars,
    "ilids-vid": plan_ilids,
    "prid2011": plan_prid,
}


def write_walkers(
    out: Path, options: WalkerOptions, progress: Callable[[int, int], None] = lambda done, total: None,
    processes: int = 1,
) -> Path:  # fmt: skip
    """Write OUT/DATA-SET with generated people for each of `options.data_sets`; returns OUT.

    OUT is created when it is complete, with `GENERATED` in it. What a killed run left is completed or removed, and a
    complete OUT with the same options is kept. `progress(done, total)` is called after every image. With several
    `processes` the bytes are the same; a script that asks for them needs `if __name__ == "__main__":`. Raises
    `UsageError` when OUT has other content, `OutputExists` if that is walkers of other options, `Locked` when another
    run writes it, `Interrupted` and `DiskError`.
    """

    def write(root: Path) -> None:
        world = World(options)
        for data_set in options.data_sets:
            PLANS[data_set](world)
        for folder in {(root / path).parent for path in (*world.files, *(shot.path for shot in world.shots))}:
            folder.mkdir(parents=True, exist_ok=True)
        for name, content in world.files.items():
            (root / name).write_bytes(content)
        write_images(world, root, progress, processes)

    write_whole(out, f"These people are generated: amem data walkers, {options}\n", write)
    return out


def write_whole(out: Path, mark: str, write: Callable[[Path], None]) -> None:
    """Make the folder `out` of what `write` puts into an empty one, with `mark` in `GENERATED`; one with this mark is
    kept. What a killed run left is completed or removed. Raises as `write_walkers`."""
    if read_mark(out) == mark:
        return
    parent = out if out.is_dir() else out.parent  # it may be a mount point or the current directory: keep it
    work = parent / f".walkers-{out.absolute().name}"
    data = work / "data"
    try:
        work.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(work / "lock", timeout=0):
            if read_mark(data) != mark:
                require_empty(out, work)
                shutil.rmtree(data, ignore_errors=True)
                data.mkdir()
                write(data)
                atomic.write_text(data / GENERATED, mark)
            if not out.is_dir():
                data.rename(out)
            else:
                for path in sorted(data.iterdir(), key=lambda path: (path.name == GENERATED, path.name)):
                    path.rename(out / path.name)  # the mark last
            atomic.sync_folder(parent)
            shutil.rmtree(work)
    except filelock.Timeout as error:  # an OSError, too
        remedy = "Wait for it, or choose another folder"
        raise Locked("walkers", out, why="another run is writing it", remedy=remedy) from error
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, OSError):
            raise atomic.disk_error(out, error, "walkers") from error
        raise


def require_empty(out: Path, own: Path) -> None:
    """Raise `UsageError` if `out` exists and is no folder, or contains more than `own`; `OutputExists` for walkers."""
    if (out / GENERATED).is_file():
        why, remedy = "made with other options", "Choose a new or an empty folder, the same options, or delete it"
        raise OutputExists("walkers", out, why=why, remedy=remedy)
    if out.exists() and (not out.is_dir() or {*out.iterdir()} - {own}):
        why = "the folder is not empty" if out.is_dir() else "this is a file, not a folder"
        raise UsageError("walkers", out, why=why, remedy="Choose a new or an empty folder")


def read_mark(folder: Path) -> str:
    """How the people in `folder` were made, empty without walkers."""
    path = folder / GENERATED
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def write_clips(folder: Path, *, people: int = 8, frames: int = 8, height: int = 256, width: int = 128) -> list[Path]:
    """JPEG files of `frames` consecutive frames of each of some generated people, person by person."""
    camera = build_camera(0, 0, height=height, width=width)
    files = []
    for person, walker in enumerate(draw_people(0, "bench", people)):
        passage = straight_passage(camera)
        for frame in range(frames):
            files.append(folder / f"{person}-{frame}.jpg")
            draw_walker(walker, camera, frame, passage).save(files[-1], quality=90)
    return files
