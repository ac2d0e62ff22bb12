"""From manifest to data set: missing folders, other kinds, warnings about counts, `--split`, digests."""

import os
from pathlib import Path

import numpy as np
import pytest

from amem_cli.artifacts.paths import GENERATED
from amem_cli.data import datasets
from amem_cli.data.manifest import SHIPPED, load_manifest
from amem_cli.data.tracklets import ImageDataset, Split, Tracklet, VideoDataset, people, tracklets_digest
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.runtime.progress import Silent


def tracklet(person: int, camera: int, frames: int = 1) -> Tracklet:
    return Tracklet(f"{person}-{camera}-{frames}", person, camera, "/x", tuple(f"{n}.jpg" for n in range(frames)))


def video(numbered: bool, splits: int) -> VideoDataset:
    return VideoDataset("shop", (Split((), (), (), ""),) * splits, numbered=numbered)


def test_read_dataset_missing_folder(tmp_path):
    asked = r"Else ask for the data: .*amem data walkers OUT"
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputMissing, match=rf"have it: --data-root FOLDER that contains mars/\. {asked}"):
            datasets.read_videos(load_manifest("mars"), root)
    (tmp_path / "MARS").mkdir()
    with pytest.raises(InputMissing, match=rf"mars: not found\. Rename {tmp_path / 'MARS'} to mars\. {asked}"):
        datasets.read_videos(load_manifest("mars"), tmp_path)
    (tmp_path / "own.toml").write_text('name = "own"\nlayout = "folder"\n')
    with pytest.raises(InputMissing, match="Check root in"):
        datasets.read_videos(load_manifest(tmp_path / "own.toml"), tmp_path)
    (tmp_path / "mars").write_text("a file")
    with pytest.raises(BadData, match="not a folder"):
        datasets.read_videos(load_manifest("mars"), tmp_path)


def test_read_dataset_folder_without_images(tmp_path):
    for name in SHIPPED:
        (tmp_path / name / "something").mkdir(parents=True)
        with pytest.raises(BadData):
            datasets.read_dataset(load_manifest(name), tmp_path)


def test_read_dataset_other_kind(tmp_path):
    for read, other, fitting in (
        (datasets.read_videos, "peta", "mars, ilids-vid, prid2011"),
        (datasets.read_attributes, "mars", "peta"),
    ):
        with pytest.raises(UsageError, match=f"Choose {fitting}"):
            read(load_manifest(other), tmp_path)


def test_dataset_counts_video():
    train = (tracklet(1, 1, 15), tracklet(1, 2, 16), tracklet(2, 1, 31), tracklet(2, 1, 32))
    # queries: 5 has a match in camera 2, 6 only in the same camera, 7 only in another query
    test = (
        tracklet(5, 1, 2), tracklet(6, 1, 3), tracklet(7, 1, 4), tracklet(7, 2, 5),
        tracklet(5, 2, 6), tracklet(6, 1, 7), tracklet(0, 1, 8), tracklet(-1, 1, 9), tracklet(-1, 2, 10),
    )  # fmt: skip
    is_query = (True,) * 4 + (False,) * 5
    counts = datasets.dataset_counts(VideoDataset("x", (Split(train, test, is_query, ""),), numbered=False))
    expected = {
        "splits": 1, "people": 5, "tracklets": 13, "images": 148, "shortest": 2, "longest": 32,
        "train_people": 2, "train_tracklets": 4, "train_images": 94, "train_shortest": 15, "train_longest": 32,
        "train_under_32_frames": 3, "train_under_16_frames": 1, "test_people": 3, "test_tracklets": 9,
        "test_images": 54, "test_shortest": 2, "test_longest": 10, "junk_tracklets": 2, "distractor_tracklets": 1,
        "real_test_tracklets": 6, "query_people": 3, "query_tracklets": 4, "query_images": 14,
        "gallery_tracklets": 7, "gallery_tracklets_without_queries": 3, "queries_unmatched_without_queries": 3,
    }  # fmt: skip
    assert {key: counts[key] for key in expected} == expected


def test_count_differences_and_warning(tmp_path):
    manifest = load_manifest("market1501")
    dataset = ImageDataset("market1501", (Path("a"), Path("b")), (1, 1), ("3 junk images left out",))
    assert datasets.count_differences(manifest, dataset) == ["images: 2 instead of 12936", "people: 1 instead of 751"]
    progress = Silent()
    datasets.warn_about_counts(manifest, dataset, progress, tmp_path)
    assert len(progress.warnings) == 2
    assert "images: 2 instead of 12936; people: 1 instead of 751" in progress.warnings[0]
    assert progress.warnings[1] == "market1501: 3 junk images left out"
    (tmp_path / GENERATED).write_text("by a test")
    datasets.warn_about_counts(manifest, dataset, progress := Silent(), tmp_path)
    assert progress.warnings[0] == "market1501: generated people, not the data set (images: 2 instead of 12936)"


def test_warn_about_counts_shows_four():
    progress = Silent()
    datasets.warn_about_counts(load_manifest("mars"), video(False, 1), progress, Path("data"))
    assert progress.warnings[0].count("instead of") == 4
    assert progress.warnings[0].endswith(" in all)")
    empty = datasets.dataset_counts(video(False, 1))
    assert (empty["shortest"], empty["longest"]) == (0, 0)


def test_generated_people(tmp_path):
    """Known by the file that `data walkers` writes next to the data sets."""
    assert datasets.generated_people(load_manifest("mars"), tmp_path) == {}
    (tmp_path / GENERATED).touch()
    assert datasets.generated_people(load_manifest("mars"), tmp_path) == {"generated": True}


def test_split_numbers():
    assert datasets.split_numbers(video(False, 1), "") == [None]
    assert datasets.split_numbers(video(True, 3), "all") == [0, 1, 2]
    assert datasets.split_numbers(video(True, 3), "2") == [2]
    assert datasets.split_numbers(video(True, 3), "") == [0]
    with pytest.raises(UsageError, match="splits 0 to 2"):
        datasets.split_numbers(video(True, 3), "3")
    with pytest.raises(UsageError, match="one official split"):
        datasets.split_numbers(video(False, 1), "0")


def test_tracklets_digest_known_value_and_every_field():
    tracklet = Tracklet("a", 1, 2, "/x", ("1.jpg", "2.jpg"))
    # printf 'a\t1\t2\t1.jpg 2.jpg\t-1 -1\n' | sha256sum
    assert tracklets_digest([tracklet]) == "b41b7359148561c8bf01b17478368ad4a550022d5132e4226aaf673eb3f3c206"
    others = [
        Tracklet("b", 1, 2, "/x", tracklet.files), Tracklet("a", 2, 2, "/x", tracklet.files),
        Tracklet("a", 1, 1, "/x", tracklet.files), Tracklet("a", 1, 2, "/x", tracklet.files[::-1]),
    ]  # fmt: skip
    assert len({tracklets_digest([other]) for other in (*others, tracklet)}) == 5
    assert tracklets_digest([Tracklet("a", 1, 2, "/elsewhere", tracklet.files)]) == tracklets_digest([tracklet])


def test_tracklets_digest_image_replaced_in_place(tmp_path):
    tracklet = Tracklet("a", 1, 2, str(tmp_path), ("1.jpg",))
    digests = {tracklets_digest([tracklet])}
    for content in (b"", b"1", b"22"):
        (tmp_path / "1.jpg").write_bytes(content)
        digests.add(tracklets_digest([tracklet]))
    assert len(digests) == 4
    os.utime(tmp_path / "1.jpg", (1, 1))  # a copy has other times
    assert tracklets_digest([tracklet]) in digests


def test_people_sorted_once():
    assert people([tracklet(7, 1), tracklet(-1, 1), tracklet(7, 2), tracklet(0, 1)]) == [-1, 0, 7]


def test_missing_tracklets_of_a_protocol():
    """PRID-2011: 89 people in two cameras; a person less, and one of the gallery that is a distractor instead."""
    manifest = load_manifest("prid2011")
    ids, cameras, is_query = np.tile(np.arange(1, 90), 2), np.repeat([1, 2], 89), np.arange(178) < 89
    whole = datasets.protocol_counts(ids, cameras, is_query)
    assert datasets.missing_tracklets(manifest, whole) == []
    junk = datasets.protocol_counts(np.append(ids, -1), np.append(cameras, 2), np.append(is_query, False))
    assert datasets.missing_tracklets(manifest, junk) == []
    kept = (ids != 5) | ~is_query
    assert datasets.missing_tracklets(manifest, datasets.protocol_counts(ids[kept], cameras[kept], is_query[kept])) == [
        {"count": "query_tracklets", "expected": 89, "found": 88}
    ]
    assert datasets.protocol_counts(np.where(np.arange(178) == 100, 0, ids), cameras, is_query) == {
        "test_people": 89, "query_people": 89, "query_tracklets": 89, "junk_tracklets": 0, "distractor_tracklets": 1,
        "real_test_tracklets": 177, "gallery_tracklets": 178, "gallery_tracklets_without_queries": 89,
        "queries_unmatched_without_queries": 1,
    }  # fmt: skip
    assert datasets.protocol_counts(np.array([-1, 0, 3]), np.ones(3, int), np.ones(3, bool))["query_people"] == 1
