"""PRID-2011 (Hirzer et al., SCIA 2011), the multi-shot part: two outdoor cameras, a tracklet per person and camera.

`prid_2011/multi_shot/cam_a/person_0001/0001.png`; 385 people in a, 749 in b, and the first 200 are in both. Papers
use the 178 of those that have at least 27 frames in each camera (they write "more than 21", but that gives 183).
"""

from pathlib import Path

from amem_cli.data.readers import two_cameras
from amem_cli.data.readers.files import image_folders, note, why_missing
from amem_cli.data.readers.splits import Protocol, listed_people, numbered_splits
from amem_cli.data.tracklets import Tracklet, VideoDataset
from amem_cli.errors import BadData

CAMERAS = ("cam_a", "cam_b")  # query, gallery
WHAT = "PRID-2011 folder"
LAYOUT = "prid_2011/multi_shot/cam_a/person_0001/*.png and cam_b likewise"
IN_BOTH_CAMERAS = 200  # persons 1 to 200 of a and b are the same people, later numbers are not
FEWEST_FRAMES = 27


def read(root: Path, name: str, protocol: Protocol) -> VideoDataset:
    """The people of the split file, or, without one, those of the 27-frame rule in drawn splits. Query is cam_a,
    gallery cam_b. Raises `BadData` when there are no images and `BadRows` for splits that do not fit."""
    multi_shot = two_cameras.find_cameras(root, CAMERAS)
    if multi_shot is None:
        raise BadData(WHAT, root, why=why_missing(root, "multi_shot/cam_a and cam_b"), remedy=f"Expected {LAYOUT}")
    tracklets_of, _, notes = two_cameras.two_camera_tracklets(multi_shot, CAMERAS, WHAT)
    shared = {person: pair for person, pair in tracklets_of.items() if pair[0].person_id <= IN_BOTH_CAMERAS}
    by_rule = people_by_rule(shared)
    file = two_cameras.find_split_file(root, multi_shot)
    listed = two_cameras.read_official_splits(file, by_rule) if file else ()
    kept = listed_people(listed) if file else set(by_rule)
    if file:
        different = sorted((kept & set(shared)) ^ set(by_rule))
        notes += note("people", different, f"in {file.name} or of the {FEWEST_FRAMES}-frame rule, not both")
    elif not kept:
        why = f"no person up to {IN_BOTH_CAMERAS} has {FEWEST_FRAMES} frames in both cameras"
        remedy = 'Add its split file; for own cameras use layout = "folder", folders = "camera/person"'
        raise BadData(WHAT, multi_shot, why=why, remedy=remedy)
    shared = {person: pair for person, pair in shared.items() if person in kept}
    return numbered_splits(name, shared, protocol, notes, file, listed)


def find(root: Path) -> Path | None:
    """The folder with `cam_a` and `cam_b`, unless these seem to be somebody's own cameras."""
    return two_cameras.as_original(two_cameras.find_cameras(root, CAMERAS), "cam_a", ("prid", "multi_shot"))


def people_by_rule(tracklets_of: dict[str, list[Tracklet]]) -> list[str]:
    """The people with ids up to 200 and at least 27 frames in both cameras, sorted."""
    long = {person: pair[0].person_id for person, pair in tracklets_of.items() if min(map(len, pair)) >= FEWEST_FRAMES}
    return sorted(person for person, number in long.items() if number <= IN_BOTH_CAMERAS)


def extra_counts(root: Path) -> dict[str, int]:
    """The number of people in each camera, and of those that the 27-frame rule selects."""
    multi_shot = two_cameras.find_cameras(root, CAMERAS) or root  # `read` has found them
    tracklets_of, _, _ = two_cameras.two_camera_tracklets(multi_shot, CAMERAS, WHAT)
    return {
        "people_in_cam_a": len(image_folders(multi_shot / "cam_a")[0]),
        "people_in_cam_b": len(image_folders(multi_shot / "cam_b")[0]),
        "people_by_rule": len(people_by_rule(tracklets_of)),
    }
