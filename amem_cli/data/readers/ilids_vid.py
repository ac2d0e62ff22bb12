"""iLIDS-VID (Wang et al., ECCV 2014): 300 people, two cameras of an airport hall, one tracklet each.

`i-LIDS-VID/sequences/cam1/person001/cam1_person001_00317.png`; people and frame numbers have gaps. The ten official
splits are in `train_test_splits_ilidsvid.mat`; other copies have them as `splits.json`.
"""

from pathlib import Path

from amem_cli.data.readers import two_cameras
from amem_cli.data.readers.files import why_missing
from amem_cli.data.readers.splits import Protocol, numbered_splits
from amem_cli.data.tracklets import VideoDataset
from amem_cli.errors import BadData

CAMERAS = ("cam1", "cam2")  # query, gallery
WHAT = "iLIDS-VID folder"
LAYOUT = "i-LIDS-VID/sequences/cam1/person001/*.png and cam2 likewise"


def read(root: Path, name: str, protocol: Protocol) -> VideoDataset:
    """The tracklets of the people seen by both cameras, in the splits of the split file or else in drawn ones. Query is
    cam1, gallery cam2. Raises `BadData` when there are no images and `BadRows` for splits that do not fit."""
    sequences = _find(root)
    if sequences is None:
        raise BadData(WHAT, root, why=why_missing(root, "sequences/cam1 and cam2"), remedy=f"Expected {LAYOUT}")
    tracklets_of, people, notes = two_cameras.two_camera_tracklets(sequences, CAMERAS, WHAT)
    file = two_cameras.find_split_file(root, sequences)
    listed = two_cameras.read_official_splits(file, people) if file else ()
    return numbered_splits(name, tracklets_of, protocol, notes, file, listed)


def find(root: Path) -> Path | None:
    """The folder with `cam1` and `cam2`, unless these seem to be somebody's own cameras."""
    return two_cameras.as_original(_find(root), "cam1", ("lids", "sequences"))


def _find(root: Path) -> Path | None:
    """`sequences` if there is one, not the single shots in `images`."""
    return two_cameras.find_cameras(root, CAMERAS, "sequences") or two_cameras.find_cameras(root, CAMERAS)
