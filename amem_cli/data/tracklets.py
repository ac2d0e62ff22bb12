"""Data sets in memory: tracklets, images, splits. No pixels, no torch."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amem_cli.artifacts.atomic import sha256_lines
from amem_cli.person_ids import UNKNOWN


@dataclass(frozen=True, slots=True)
class Tracklet:
    """The ordered frames of one person in front of one camera. `name` is unique in its data set; `folder` is absolute
    and `files` are names in it, in temporal order."""

    name: str
    person_id: int
    camera_id: int
    folder: str
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def frames(self) -> list[Path]:
        return [Path(self.folder, file) for file in self.files]


@dataclass(frozen=True, slots=True)
class Split:
    """Tracklets of the training people and of the test people; no person is in both.

    Row i of `test` is a query where `is_query[i]`, else of the gallery. `source` is the origin of the split
    ("official", "drawn with seed 0").
    """

    train: tuple[Tracklet, ...]
    test: tuple[Tracklet, ...]
    is_query: tuple[bool, ...]
    source: str


@dataclass(frozen=True, slots=True)
class VideoDataset:
    """Tracklets with splits; `numbered` ones have several and need `--split`. `notes`: what the reader left out."""

    name: str
    splits: tuple[Split, ...]
    numbered: bool
    notes: tuple[str, ...] = ()

    @property
    def tracklets(self) -> list[Tracklet]:
        """The tracklets of all splits, each once, by name."""
        named = {tracklet.name: tracklet for split in self.splits for tracklet in (*split.train, *split.test)}
        return [named[name] for name in sorted(named)]


@dataclass(frozen=True, slots=True)
class ImageDataset:
    """Single images, for the texture auto-encoder."""

    name: str
    paths: tuple[Path, ...]
    person_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttributeDataset:
    """N images with binary attributes (PETA): `labels` is (N, len(attributes)) uint8; `person_ids` (N,) int64 number
    the people. `partitions` are the official splits, each "train" | "val" | "test" -> row indices, none without
    PETA.mat; `evaluated` are the columns of the usual 35 attributes."""

    name: str
    paths: tuple[Path, ...]
    person_ids: np.ndarray
    labels: np.ndarray
    attributes: tuple[str, ...]
    partitions: tuple[dict[str, np.ndarray], ...]
    evaluated: tuple[int, ...]
    notes: tuple[str, ...] = ()


def people(tracklets: Sequence[Tracklet]) -> list[int]:
    """The person ids that occur, sorted."""
    return sorted({tracklet.person_id for tracklet in tracklets})


def frames_of(tracklets: Sequence[Tracklet]) -> Iterator[Path]:
    """The images of tracklets."""
    return (frame for tracklet in tracklets for frame in tracklet.frames)


def select_tracklets(dataset: VideoDataset, subset: str) -> list[Tracklet]:
    """The tracklets of a subset ("train", "test" or "all"), each once, in a fixed order. For a data set with several
    splits these are all tracklets: together its splits train on all people."""
    if dataset.numbered or subset == "all":
        return dataset.tracklets
    split = dataset.splits[0]
    return list(split.train if subset == "train" else split.test)


def known_people(tracklets: Sequence[Tracklet]) -> np.ndarray:
    """The person ids (N,) int64 for a file, empty for tracks without identities."""
    ids = np.array([tracklet.person_id for tracklet in tracklets], dtype=np.int64)
    return ids[:0] if (ids == UNKNOWN).any() else ids


def tracklets_digest(tracklets: Sequence[Tracklet]) -> str:
    """SHA-256 over names, people, cameras, file names and sizes, in order: another digest means other data."""

    def lines() -> Iterator[str]:
        for tracklet in tracklets:
            sizes = (str(file_size(f"{tracklet.folder}/{file}")) for file in tracklet.files)
            names = " ".join(tracklet.files)
            yield f"{tracklet.name}\t{tracklet.person_id}\t{tracklet.camera_id}\t{names}\t{' '.join(sizes)}"

    return sha256_lines(lines())


def images_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over names and sizes of images, in order."""
    return sha256_lines(f"{path.name} {file_size(path)}" for path in paths)


def attributes_digest(data: AttributeDataset, rows: Iterable[int]) -> str:
    """SHA-256 over names, sizes and labels of the `rows`."""
    paths, labels = data.paths, data.labels
    return sha256_lines(f"{paths[n].name} {file_size(paths[n])}\t{labels[n].tobytes().hex()}" for n in rows)


def file_size(path: Path | str) -> int:
    """The size in bytes, -1 without the file: with it a digest notices images that were replaced in place."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
