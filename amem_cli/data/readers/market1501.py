"""Market-1501 (Zheng et al., ICCV 2015): single images; the texture auto-encoder trains on the training images.

`bounding_box_train/0002_c1s1_000451_03.jpg` is person, camera and sequence, frame, box.
"""

import re
from pathlib import Path

from amem_cli.data.readers.files import BadRows, find_folder, image_folders, list_folder, why_empty
from amem_cli.data.readers.images import image_dataset
from amem_cli.data.tracklets import ImageDataset
from amem_cli.errors import BadData
from amem_cli.person_ids import DISTRACTOR, JUNK

WHAT = "Market-1501 folder"
LAYOUT = "bounding_box_train/0002_c1s1_000451_03.jpg"
IMAGE_NAME = re.compile(r"(-1|\d{1,15})_.+")
PERSON = re.compile(r"(-1|\d{1,15})/")


def read(root: Path, name: str) -> ImageDataset:
    """The training images, without junk (-1). Raises `BadData` without any, `BadRows` for names of no person."""
    folder = find(root)
    if folder is None:
        raise BadData(WHAT, root, why="no bounding_box_train in it", remedy=f"Expected {LAYOUT}")
    train = (folder / "bounding_box_train").absolute()
    dataset = image_dataset(name, train, _people(train), image_folders(train)[1])
    if not dataset.paths:
        raise BadData(WHAT, train, why=why_empty(train), remedy=f"Expected {LAYOUT}")
    return dataset


def find(root: Path) -> Path | None:
    """The folder with `bounding_box_train`, up to three levels down."""
    return find_folder(root, lambda folder: (folder / "bounding_box_train").is_dir())


def extra_counts(root: Path) -> dict[str, int]:
    """Images in the test folders, for `amem data check`; nothing for folders that are missing."""
    folder = find(root)
    counts: dict[str, int] = {}
    if folder and (folder / "bounding_box_test").is_dir():
        people = list(_people(folder / "bounding_box_test").values())
        junk, distractors = people.count(JUNK), people.count(DISTRACTOR)
        counts = {"test_images": len(people), "distractor_images": distractors, "junk_images": junk}
        counts["real_test_images"] = len(people) - distractors - junk
    if folder and (folder / "query").is_dir():
        counts["query_images"] = len(_people(folder / "query"))
    return counts


def _people(folder: Path) -> dict[str, int]:
    """Path in `folder` -> person, for every image in it or in its person folders."""
    images = list_folder(folder)[0]
    images += [f"{person}/{image}" for person, names in image_folders(folder)[0].items() for image in names]
    matches = [(image, IMAGE_NAME.fullmatch(image.rpartition("/")[2]) or PERSON.match(image)) for image in images]
    if bad := [repr(image) for image, match in matches if match is None]:
        raise BadRows(WHAT, folder, why="names that begin with no person's number", rows=bad)
    return {image: int(match[1]) for image, match in matches if match}
