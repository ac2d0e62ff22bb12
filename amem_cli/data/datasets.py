"""From a manifest and a data root to a data set: `read_videos`, `read_images`, `read_attributes`.

`READERS` has one reader for each `layout` that a manifest can name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from amem_cli.artifacts.paths import is_generated
from amem_cli.data.counts import Dataset, count_differences
from amem_cli.data.manifest import Manifest, protocol_of, require_kind
from amem_cli.data.readers import folder, ilids_vid, images, market1501, mars, peta, prid2011, tracks
from amem_cli.data.tracklets import AttributeDataset, ImageDataset, VideoDataset
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.runtime.progress import Progress

MOST_DIFFERENCES = 4  # in the warning of a stage; `amem data check` lists all


@dataclass(frozen=True, slots=True)
class Reader:
    """`read` parses a folder, `find` recognises it, `extra_counts` counts what only `amem data check` reads."""

    read: Callable[[Path, Manifest], Dataset]
    find: Callable[[Path], Path | None]
    extra_counts: Callable[[Path], dict[str, int]] = lambda root: {}


READERS: dict[str, Reader] = {
    "mars": Reader(lambda root, own: mars.read(root, own.name), mars.find),
    "ilids-vid": Reader(lambda root, own: ilids_vid.read(root, own.name, protocol_of(own)), ilids_vid.find),
    "prid2011": Reader(
        lambda root, own: prid2011.read(root, own.name, protocol_of(own)), prid2011.find, prid2011.extra_counts
    ),
    "market1501": Reader(lambda root, own: market1501.read(root, own.name), market1501.find, market1501.extra_counts),
    "peta": Reader(lambda root, own: peta.read(root, own.name), peta.find, peta.extra_counts),
    "tracks": Reader(lambda root, own: tracks.read(root, own.name), tracks.find),
    "folder": Reader(lambda root, own: folder.read(root, own.name, protocol_of(own), own.folders), folder.find),
    "images": Reader(lambda root, own: images.read(root, own.name), images.find),
}


def read_dataset(manifest: Manifest, data_root: str | Path) -> Dataset:
    """The data set; `InputMissing` if its folder is missing, `BadData` if the folder does not contain it."""
    return READERS[manifest.layout].read(existing_folder(manifest, data_root), manifest)


def read_videos(manifest: Manifest, data_root: str | Path) -> VideoDataset:
    """The tracklets and splits of a video data set; raises as `read_dataset`, `UsageError` for another kind."""
    require_kind(manifest, "video")
    return cast(VideoDataset, read_dataset(manifest, data_root))


def read_images(manifest: Manifest, data_root: str | Path) -> ImageDataset:
    """The training images of a data set of single images; raises as `read_videos`."""
    require_kind(manifest, "images")
    return cast(ImageDataset, read_dataset(manifest, data_root))


def read_attributes(manifest: Manifest, data_root: str | Path) -> AttributeDataset:
    """The images and labels of an attribute data set; raises as `read_videos`."""
    require_kind(manifest, "attributes")
    return cast(AttributeDataset, read_dataset(manifest, data_root))


def existing_folder(manifest: Manifest, data_root: str | Path) -> Path:
    """The data set's folder; if it is missing, raises `InputMissing` with the source of the data."""
    root = manifest.folder(data_root)
    if root.is_dir():
        return root
    if root.exists():
        raise BadData(f"{manifest.title} folder", root, why="not a folder")
    if not manifest.shipped:
        raise InputMissing(f"{manifest.name} folder", root, why="not found", remedy=f"Check root in {manifest.path}")
    remedy = f"Ask for the data: {manifest.request}; or generate people: amem data walkers OUT, then --data-root OUT"
    raise InputMissing(f"{manifest.title} folder", root, why="not found", remedy=remedy)


def warn_about_counts(manifest: Manifest, dataset: Dataset, progress: Progress, data_root: Path) -> None:
    """One warning when the folder has other counts than the manifest, and one for each note of the reader."""
    differences = count_differences(manifest, dataset)
    if differences and is_generated(manifest.folder(data_root).parent):
        progress.warn(f"{manifest.name}: generated people, not the data set ({differences[0]})")
    elif differences:
        shown = "; ".join(differences[:MOST_DIFFERENCES]) + ("; ..." if len(differences) > MOST_DIFFERENCES else "")
        progress.warn(f"{manifest.name} is incomplete or has other counts than its manifest: {shown}")
    for note in dataset.notes:
        progress.warn(f"{manifest.name}: {note}")


def split_numbers(dataset: VideoDataset, split: str) -> list[int | None]:
    """The splits that `--split` selects ("0", "all", ""), [None] for one official split; `UsageError` for others."""
    if not dataset.numbered:
        if split:
            raise UsageError("--split", split, why=f"{dataset.name} has one official split", remedy="Leave --split out")
        return [None]
    if split == "all":
        return list(range(len(dataset.splits)))
    number = int(split or 0)
    if number >= len(dataset.splits):
        raise UsageError("--split", split, why=f"{dataset.name} has the splits 0 to {len(dataset.splits) - 1}")
    return [number]
