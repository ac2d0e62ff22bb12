"""The numbers of a data set, under the names that manifests use in `[counts]`."""

from collections import defaultdict
from typing import Any

import numpy as np

from amem_cli.data.manifest import Manifest
from amem_cli.data.tracklets import AttributeDataset, ImageDataset, VideoDataset
from amem_cli.person_ids import DISTRACTOR, JUNK

Dataset = VideoDataset | ImageDataset | AttributeDataset


def dataset_counts(dataset: Dataset) -> dict[str, int]:
    """Images and people of any data set, attributes of PETA, tracklets of a video data set.

    For videos `people`, `tracklets`, `images`, `shortest` and `longest` (frames) are over all splits, the others are
    of split 0. Galleries are counted without junk, once with the queries and once without them.
    """
    if isinstance(dataset, VideoDataset):
        return _video_counts(dataset)
    counts = {"images": len(dataset.paths), "people": len(set(map(int, dataset.person_ids)))}
    if isinstance(dataset, AttributeDataset):
        counts |= {
            "attributes": len(dataset.attributes),
            "evaluated_attributes": len(dataset.evaluated),
            "partitions": len(dataset.partitions),
        }
    return counts


def _video_counts(dataset: VideoDataset) -> dict[str, int]:
    split = dataset.splits[0]
    every = dataset.tracklets
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
    """The `protocol_counts` of features that differ from the manifest's, as {"count", "expected", "found"}.

    Junk is left out: no figure depends on it, and many programs drop it.
    """
    return [
        {"count": key, "expected": expected, "found": counts[key]}
        for key, expected in manifest.counts.items()
        if key in counts and key != "junk_tracklets" and counts[key] != expected
    ]


def count_differences(manifest: Manifest, dataset: Dataset) -> list[str]:
    """The counts that differ from the manifest's, one line each ("train_tracklets: 300 instead of 8298").

    Empty for a complete data set and for a manifest without counts. Counts of `amem data check` alone (images of
    folders that no stage reads) are left out.
    """
    counts = dataset_counts(dataset)
    return [
        f"{key}: {counts[key]} instead of {expected}"
        for key, expected in manifest.counts.items()
        if key in counts and counts[key] != expected
    ]
