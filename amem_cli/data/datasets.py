"""From a manifest and a data root to a data set and its counts; `READERS` has one reader for each `layout`."""

import contextlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from amem_cli.artifacts.paths import is_generated
from amem_cli.data.manifest import Manifest, protocol_of, require_kind
from amem_cli.data.readers import folder, ilids_vid, images, market1501, mars, peta, prid2011, tracks
from amem_cli.data.tracklets import AttributeDataset, ImageDataset, VideoDataset, people, tracklets_digest
from amem_cli.errors import BadData, InputMissing, UsageError, counted, listing
from amem_cli.person_ids import DISTRACTOR, JUNK
from amem_cli.runtime.progress import Progress

Dataset = VideoDataset | ImageDataset | AttributeDataset


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
    """The tracklets and splits of a video data set; raises as `read_dataset`, `UsageError` for another kind, and
    `BadData` for another number of splits than the protocol's, with which it could not be evaluated."""
    require_kind(manifest, "video")
    dataset = cast(VideoDataset, read_dataset(manifest, data_root))
    wanted, found = len(protocol_of(manifest).numbers), len(dataset.splits)
    if dataset.numbered and found != wanted:
        why = f"{dataset.splits[0].source} has {counted(found, 'splits')}, and the protocol has {wanted}"
        remedy = f"Write a .toml with the same layout and [protocol] splits = {found}; give it as --dataset"
        raise BadData("data set", manifest.name, why=why, remedy=remedy)
    return dataset


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
    own = f"If you have it: --data-root FOLDER that contains {root.name}/"
    with contextlib.suppress(OSError):  # there is no such data root
        alike = (one for one in sorted(root.parent.iterdir()) if one.name.lower() == root.name and one.is_dir())
        own = next((f"Rename {one} to {root.name}" for one in alike), own)
    asked = (
        f"Else ask for the data: {manifest.request}; or generate people: amem data walkers OUT, then --data-root OUT"
    )
    raise InputMissing(f"{manifest.title} folder", root, why="not found", remedy=f"{own}. {asked}")


def warn_about_counts(manifest: Manifest, dataset: Dataset, progress: Progress, data_root: Path) -> None:
    """One warning when the folder has other counts than the manifest, and one for each note of the reader."""
    differences = count_differences(manifest, dataset)
    if differences and is_generated(manifest.folder(data_root).parent):
        progress.warn(f"{manifest.name}: generated people, not the data set ({differences[0]})")
    elif differences:
        progress.warn(f"{manifest.name} is incomplete or has other counts than its manifest: {listing(differences, 4)}")
    for note in dataset.notes:
        progress.warn(f"{manifest.name}: {note}")


def generated_people(manifest: Manifest, data_root: Path) -> dict[str, bool]:
    """The entry of a training's provenance that says that its people are generated, for those of `data walkers`."""
    return {"generated": True} if is_generated(manifest.folder(data_root).parent) else {}


def split_numbers(dataset: VideoDataset, split: str) -> list[int | None]:
    """`choose_splits` of a data set that was read."""
    return choose_splits(dataset.name, list(range(len(dataset.splits))) if dataset.numbered else [None], split)


def choose_splits(name: str, numbers: list[int | None], split: str) -> list[int | None]:
    """Those of `numbers` that `--split` selects ("0", "all", ""); [None]: one official split. Raises `UsageError`."""
    if numbers == [None] and split:
        raise UsageError("--split", split, why=f"{name} has one official split", remedy="Leave --split out")
    if numbers == [None] or split == "all":
        return numbers
    number = int(split or 0)
    if number not in numbers:
        raise UsageError("--split", split, why=f"{name} has the splits 0 to {len(numbers) - 1}")
    return [number]


def trained_test_people(provenance: dict[str, Any], dataset: VideoDataset, number: int | None) -> int | None:
    """How many test people of split `number` a model of this provenance was trained on; None if that is not known,
    because it was trained on other data than these."""
    trained_on = provenance["options"].get("split")
    known = trained_on is None or trained_on < len(dataset.splits)
    train = dataset.splits[trained_on or 0].train if known else ()
    digests = provenance["options"].get("all_images"), provenance.get("data", "")
    if not train or tracklets_digest(train) not in digests:
        return None
    return len({*people(train)}.intersection(people(dataset.splits[number or 0].test)))


# -- counts ------------------------------------------------------------------------------------------------------------


def dataset_counts(dataset: Dataset) -> dict[str, int]:
    """Images and people of any data set, attributes of PETA, tracklets of a video data set.

    Of the latter `people`, `tracklets`, `images`, `shortest` and `longest` (frames) are over all splits, the others of
    split 0. Galleries are counted without junk, once with the queries and once without them.
    """
    if not isinstance(dataset, VideoDataset):
        counts = {"images": len(dataset.paths), "people": len(set(map(int, dataset.person_ids)))}
        if isinstance(dataset, AttributeDataset):
            counts |= {"attributes": len(dataset.attributes), "evaluated_attributes": len(dataset.evaluated)}
            counts["partitions"] = len(dataset.partitions)
        return counts
    split, every = dataset.splits[0], dataset.tracklets
    queries = [tracklet for tracklet, is_query in zip(split.test, split.is_query, strict=True) if is_query]
    counts = {"splits": len(dataset.splits), "cameras": len({tracklet.camera_id for tracklet in every})}
    groups = {"": every, "train_": split.train, "test_": split.test, "query_": queries}
    for prefix, tracklets in groups.items():
        lengths = [len(tracklet) for tracklet in tracklets]
        counts |= {
            f"{prefix}people": len({tracklet.person_id for tracklet in tracklets if tracklet.person_id > 0}),
            f"{prefix}tracklets": len(lengths),
            f"{prefix}images": sum(lengths),
            f"{prefix}shortest": min(lengths, default=0),
            f"{prefix}longest": max(lengths, default=0),
            f"{prefix}under_32_frames": sum(length < 32 for length in lengths),
            f"{prefix}under_16_frames": sum(length < 16 for length in lengths),
        }
    people, cameras = ([getattr(t, name) for t in split.test] for name in ("person_id", "camera_id"))
    return counts | protocol_counts(np.array(people), np.array(cameras), np.array(split.is_query, bool))


def protocol_counts(person_ids: np.ndarray, camera_ids: np.ndarray, is_query: np.ndarray) -> dict[str, int]:
    """The counts of test tracklets, (N,) each, that the figures of a protocol depend on; and of junk."""
    junk, distractors = (int((person_ids == number).sum()) for number in (JUNK, DISTRACTOR))
    cameras: dict[int, set[int]] = defaultdict(set)
    for person, camera in zip(person_ids[~is_query].tolist(), camera_ids[~is_query].tolist(), strict=True):
        cameras[person].add(camera)
    queries = list(zip(person_ids[is_query].tolist(), camera_ids[is_query].tolist(), strict=True))
    gallery = len(person_ids) - junk
    return {
        "test_people": len(set(person_ids[person_ids > 0].tolist())),
        "query_people": len({person for person, _ in queries if person > 0}),
        "query_tracklets": len(queries),
        "junk_tracklets": junk,
        "distractor_tracklets": distractors,
        "real_test_tracklets": gallery - distractors,
        "gallery_tracklets": gallery,
        "gallery_tracklets_without_queries": gallery - len(queries),
        "queries_unmatched_without_queries": sum(cameras[person] <= {camera} for person, camera in queries),
    }


def missing_tracklets(manifest: Manifest, counts: dict[str, int]) -> list[dict[str, Any]]:
    """The `protocol_counts` of features that differ from the manifest's, as {"count", "expected", "found"}. Junk is
    left out: no figure depends on it, and many programs drop it."""
    expected = {key: number for key, number in manifest.counts.items() if key != "junk_tracklets"}
    differing = {key: number for key, number in expected.items() if counts.get(key, number) != number}
    return [{"count": key, "expected": number, "found": counts[key]} for key, number in differing.items()]


def count_differences(manifest: Manifest, dataset: Dataset) -> list[str]:
    """The counts that differ from the manifest's, one line each ("train_tracklets: 300 instead of 8298")."""
    counts = dataset_counts(dataset)
    expected = {key: number for key, number in manifest.counts.items() if counts.get(key, number) != number}
    return [f"{key}: {counts[key]} instead of {number}" for key, number in expected.items()]
