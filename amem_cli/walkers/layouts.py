"""Generated people on disk, in the original layouts of PETA, Market-1501, MARS, iLIDS-VID and PRID-2011.

The data sets have different people but common cameras: MARS and Market-1501 use the same ones, and so do iLIDS-VID and
PRID-2011 with PETA's subsets i-LID and PRID.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from amem_cli.artifacts import atomic
from amem_cli.errors import DiskError, UsageError
from amem_cli.walkers.cameras import build_camera, draw_scene, draw_walker, straight_passage
from amem_cli.walkers.image_sets import plan_market, plan_peta
from amem_cli.walkers.options import WalkerOptions
from amem_cli.walkers.people import draw_people
from amem_cli.walkers.video_sets import plan_ilids, plan_mars, plan_prid
from amem_cli.walkers.world import Shot, World

IMAGE_FORMATS: dict[str, dict[str, Any]] = {
    ".jpg": {"format": "JPEG", "quality": 92},
    ".jpeg": {"format": "JPEG", "quality": 92},
    ".png": {"format": "PNG", "compress_level": 1},
    ".bmp": {"format": "BMP"},
}


def write_walkers(
    out: Path, options: WalkerOptions | None = None, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write OUT/{peta,market1501,mars,ilids-vid,prid2011} with generated people; returns OUT.

    OUT is created when it is complete; an interrupted run leaves nothing. `progress(done, total)` is called after every
    image. Raises `UsageError` when OUT is not empty, and `DiskError`.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("walkers", out, why="the folder is not empty", remedy="Choose a new or an empty folder")
    world = World(options or WalkerOptions())
    for plan in (plan_peta, plan_market, plan_mars, plan_ilids, plan_prid):
        plan(world)
    try:
        parent = out if out.is_dir() else out.parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".walkers-") as temporary:
            data = Path(temporary) / "data"
            _write(world, data, progress)
            if parent is out:  # it may be a mount point or the current directory: keep it and move the content into it
                for folder in sorted(data.iterdir()):
                    folder.rename(out / folder.name)
            else:
                data.rename(out)
        atomic.sync_folder(parent)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise DiskError("walkers", out, why=why, remedy="Free some space or choose another folder") from error
    return out


def write_clips(folder: Path, *, people: int = 8, frames: int = 8, height: int = 256, width: int = 128) -> list[Path]:
    """JPEG files of `frames` consecutive frames of each of some generated people, person by person."""
    camera = build_camera(0, 0, height=height, width=width)
    files = []
    for person, walker in enumerate(draw_people(0, "bench", people)[0]):
        passage = straight_passage(camera)
        for frame in range(frames):
            files.append(folder / f"{person}-{frame}.jpg")
            draw_walker(walker, camera, frame, passage).save(files[-1], quality=90)
    return files


def _write(world: World, root: Path, progress: Callable[[int, int], None] | None) -> None:
    for folder in sorted({str(Path(path).parent) for path in (*world.files, *(shot.path for shot in world.shots))}):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, content in world.files.items():
        (root / name).write_bytes(content)
    for done, shot in enumerate(world.shots, 1):
        path = root / shot.path
        _paint(world, shot).save(path, **IMAGE_FORMATS[path.suffix])
        if progress is not None:
            progress(done, len(world.shots))


def _paint(world: World, shot: Shot) -> Image.Image:
    camera = world.camera(shot.camera)
    if shot.walker is None:
        image = draw_scene(camera, shot.passage.place + 0.01 * shot.frame)
    else:
        image = draw_walker(shot.walker, camera, shot.frame, shot.passage)
    return image if shot.size is None else image.resize(shot.size, Image.Resampling.BILINEAR)
