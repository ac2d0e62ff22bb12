"""Market-1501 (Zheng et al., ICCV 2015): single images; the texture auto-encoder trains on the training images.

`bounding_box_train/0002_c1s1_000451_03.jpg` is person, camera and sequence, frame, box.
"""

import re
from pathlib import Path

from amem_cli.data.readers.files import BadRows, find_named, image_files, why_empty, why_missing
from amem_cli.data.readers.images import image_dataset
from amem_cli.data.tracklets import ImageDataset
from amem_cli.errors import BadData
from amem_cli.person_ids import DISTRACTOR, JUNK

WHAT, TRAIN = "Market-1501 folder", "bounding_box_train"
LAYOUT = "bounding_box_train/0002_c1s1_000451_03.jpg"
NUMBER = r"(-1|\d{1,15})"
# before the camera in the image's name, or the first folder's name, or before any name
PERSON = re.compile(rf"(?:.*/)?{NUMBER}_c\d[^/]*|{NUMBER}/.+|(?:.*/)?{NUMBER}_[^/]+")


def read(root: Path, name: str) -> ImageDataset:
    """The training images, without junk (-1). Raises `BadData` without any, `BadRows` for names of no person."""
    found, ignored = find_named(root, TRAIN), list[str]()
    if found is None:
        raise BadData(WHAT, root, why=why_missing(root, TRAIN), remedy=f"Expected {LAYOUT}")
    train = found.absolute()
    dataset = image_dataset(name, train, _people(train, ignored), ignored)
    if not dataset.paths:
        raise BadData(WHAT, train, why=why_empty(train), remedy=f"Expected {LAYOUT}")
    return dataset


def find(root: Path) -> Path | None:
    """The folder with `bounding_box_train`, if its images are in it or in folders of people."""
    found = find_named(root, TRAIN)
    first = next(image_files(found), "") if found else ""
    return found.parent if found and first.count("/") < 2 and (not first or PERSON.fullmatch(first)) else None


def extra_counts(root: Path) -> dict[str, int]:
    """Images in the test folders, for `amem data check`; nothing for folders that are missing."""
    test, query = find_named(root, "bounding_box_test"), find_named(root, "query")
    counts = {"query_images": len(_people(query))} if query else {}
    if test:
        people = list(_people(test).values())
        junk, distractors = people.count(JUNK), people.count(DISTRACTOR)
        counts |= {"test_images": len(people), "distractor_images": distractors, "junk_images": junk}
        counts["real_test_images"] = len(people) - distractors - junk
    return counts


def _people(folder: Path, ignored: list[str] | None = None) -> dict[str, int]:
    """Path in `folder` -> person, for every image in it and below; `ignored` gets the folders that are left out."""
    images = list(image_files(folder, ignored))
    matches = [(image, PERSON.fullmatch(image)) for image in images]
    if bad := [repr(image) for image, match in matches if match is None]:
        why, remedy = "names that begin with no person's number", 'Use layout = "images", which takes any names'
        raise BadRows(WHAT, folder, why=why, rows=bad, remedy=remedy)
    return {image: int(match[match.lastindex or 1]) for image, match in matches if match}
