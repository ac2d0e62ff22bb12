"""PRID-2011 (Hirzer et al., SCIA 2011), the multi-shot part: two outdoor cameras, a tracklet per person and camera.

`prid_2011/multi_shot/cam_a/person_0001/0001.png`; 385 people in a, 749 in b, and the first 200 are in both. Papers
use the 178 of those that have at least 27 frames in each camera (they write "more than 21", but that gives 183).
"""

from pathlib import Path

from amem_cli.data.readers.files import find_folder, list_folder
from amem_cli.data.readers.ilids_vid import find_split_file, numbered_splits, two_camera_tracklets
from amem_cli.data.readers.splits import read_split_file
from amem_cli.data.tracklets import Tracklet, VideoDataset
from amem_cli.errors import BadData, listing

CAMERAS = ("cam_a", "cam_b")  # query, gallery
LAYOUT = "prid_2011/multi_shot/cam_a/person_0001/*.png and cam_b likewise"
SPLIT_FILES = ("splits_prid2011.json",)
IN_BOTH_CAMERAS = 200  # persons 1 to 200 of a and b are the same people, later numbers are not
FEWEST_FRAMES = 27


def read(root: Path, name: str, *, splits: int = 10, train_fraction: float = 0.5, seed: int = 0) -> VideoDataset:
    """The people of `splits_prid2011.json`, or, without the file, those of the 27-frame rule in drawn splits.

    Drawn splits say so in `source`. Query is cam_a, gallery cam_b. Where rule and list name different people the
    difference is noted. Raises `BadData` when there are no images and `BadRows` for splits that do not fit them.
    """
    multi_shot = find(root)
    if multi_shot is None:
        why = "it holds no multi_shot/cam_a and cam_b"
        raise BadData("PRID-2011 folder", root, why=why, remedy=f"Expected {LAYOUT}")
    tracklets_of, notes = two_camera_tracklets(multi_shot, CAMERAS, "PRID-2011 folder", LAYOUT)
    shared = {person: pair for person, pair in tracklets_of.items() if pair[0].person_id <= IN_BOTH_CAMERAS}
    by_rule = people_by_rule(shared)
    file = find_split_file(root, multi_shot, SPLIT_FILES)
    if file is None:
        if len(by_rule) < 2:
            why = f"{len(by_rule)} people have {FEWEST_FRAMES} frames in both cameras, and no split file names others"
            raise BadData("PRID-2011 folder", root, why=why)
        shared = {person: shared[person] for person in by_rule}
    else:
        listed = {person for split in read_split_file(file) for person in (*split.train, *split.test)}
        unlisted = sorted(set(by_rule) - listed)
        short = sorted((listed & set(shared)) - set(by_rule))
        if unlisted:
            notes += (f"people of the {FEWEST_FRAMES}-frame rule who are not in {file.name}: {listing(unlisted, 5)}",)
        if short:
            notes += (f"people of {file.name} with fewer than {FEWEST_FRAMES} frames: {listing(short, 5)}",)
    return numbered_splits(name, shared, file, sorted(shared), notes, splits, train_fraction, seed)


def find(root: Path) -> Path | None:
    """The folder with `cam_a` and `cam_b`: `multi_shot`, not `single_shot`."""

    def has_people(folder: Path) -> bool:
        return all((folder / camera).is_dir() for camera in CAMERAS) and bool(list_folder(folder / "cam_a")[1])

    return find_folder(root, has_people)


def people_by_rule(tracklets_of: dict[str, list[Tracklet]]) -> list[str]:
    """The people with ids up to 200 and at least 27 frames in both cameras, sorted."""
    return sorted(
        person
        for person, pair in tracklets_of.items()
        if pair[0].person_id <= IN_BOTH_CAMERAS and min(map(len, pair)) >= FEWEST_FRAMES
    )


def extra_counts(root: Path) -> dict[str, int]:
    """How many people each camera has, and how many the 27-frame rule takes."""
    multi_shot = find(root)
    if multi_shot is None:
        return {}
    tracklets_of, _ = two_camera_tracklets(multi_shot, CAMERAS, "PRID-2011 folder", LAYOUT)
    return {
        "people_in_cam_a": len(list_folder(multi_shot / "cam_a")[1]),
        "people_in_cam_b": len(list_folder(multi_shot / "cam_b")[1]),
        "people_by_rule": len(people_by_rule(tracklets_of)),
    }
