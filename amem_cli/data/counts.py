"""The numbers of a data set, under the names that manifests use in `[counts]`."""

from collections import defaultdict

from amem_cli.data.manifest import Manifest
from amem_cli.data.tracklets import AttributeDataset, ImageDataset, Tracklet, VideoDataset
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
    every = {tracklet.name: tracklet for one in dataset.splits for tracklet in (*one.train, *one.test)}
    queries = [tracklet for tracklet, is_query in zip(split.test, split.is_query, strict=True) if is_query]
    counts = {"splits": len(dataset.splits), "cameras": len({tracklet.camera_id for tracklet in every.values()})}
    groups = {"": every.values(), "train_": split.train, "test_": split.test, "query_": queries}
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
    junk, distractors = (sum(t.person_id == number for t in split.test) for number in (JUNK, DISTRACTOR))
    gallery = len(split.test) - junk
    return counts | {
        "junk_tracklets": junk,
        "distractor_tracklets": distractors,
        "real_test_tracklets": len(split.test) - junk - distractors,
        "gallery_tracklets": gallery,
        "gallery_tracklets_without_queries": gallery - len(queries),
        "queries_unmatched_without_queries": _unmatched(queries, split.test, split.is_query),
    }


def _unmatched(queries: list[Tracklet], test: tuple[Tracklet, ...], is_query: tuple[bool, ...]) -> int:
    """How many queries have no match in another camera among the tracklets that are not queries."""
    cameras: dict[int, set[int]] = defaultdict(set)
    for tracklet, query in zip(test, is_query, strict=True):
        if not query:
            cameras[tracklet.person_id].add(tracklet.camera_id)
    return sum(cameras[query.person_id] <= {query.camera_id} for query in queries)


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
