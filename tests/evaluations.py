"""Features files of another program for `evaluate`, and its options."""

import json
from pathlib import Path

import h5py
import numpy as np

from amem_cli.options import EvaluateOptions


def write_features(
    path: Path,
    angles: list[float],
    people: list[int],
    cameras: list[int],
    queries: list[bool],
    dataset: str = "mars",
    **attributes: object,
) -> Path:
    """A features file of unit vectors in the plane, written with h5py: nearer angles (degrees) are nearer features."""
    path.parent.mkdir(parents=True, exist_ok=True)
    radians = np.deg2rad(np.array(angles))
    with h5py.File(path, "w") as file:
        head = {"kind": "amem-features", "schema": 1, "dataset": dataset, "created_by": "another model 2.0"}
        for name, value in (head | {"provenance": "{}"} | attributes).items():
            file.attrs[name] = value
        file["tracklet"] = [f"tracklet-{row}" for row in range(len(angles))]
        file["person_id"] = np.array(people, dtype=np.int64)
        file["camera_id"] = np.array(cameras, dtype=np.int64)
        file["is_query"] = np.array(queries, dtype=bool)
        file["features"] = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    return path


def mars_like(path: Path, **changed: object) -> Path:
    """Two queries; worked out by hand:

    query 0 (person 1, camera 1, at 0 degrees): 5 is person 2 (camera 1), 10 its own camera (ignored), 15 person 1
    camera 2 (hit at rank 2), 20 junk (ignored), 30 a distractor (rank 3), 40 person 1 camera 3 (hit at rank 4), then
    query 1's own row. AP = (1/2 + 2/4) / 2 = 1/2.
    query 1 (person 2, camera 2, at 100 degrees): 40, 30, 15, 10 come first (ranks 1 to 4; 20 is junk), then 5, person 2
    camera 1 (hit at rank 5), then query 0's row. AP = 1/5.
    """
    how = {
        "angles": [0, 5, 10, 15, 20, 30, 40, 100],
        "people": [1, 2, 1, 1, -1, 0, 1, 2],
        "cameras": [1, 1, 1, 2, 2, 2, 3, 2],
        "queries": [True, False, False, False, False, False, False, True],
    } | changed
    return write_features(path, **how)  # type: ignore[arg-type]


def options(tmp_path: Path, *files: Path, protocol: str = "mars", **changed: object) -> EvaluateOptions:
    how = {"bootstrap": 0} | changed
    return EvaluateOptions(protocol=protocol, features=files, workspace=tmp_path, **how)  # type: ignore[arg-type]


def split_file(path: Path, right: int, dataset: str = "ilids-vid", people: int = 4) -> Path:
    """One query and one gallery tracklet of each of `people`; `right` of them match best, the others come second."""
    gallery = [100 * person for person in range(1, people + 1)]
    # 10 degrees from its own gallery tracklet, or from that of another person
    queries = [g + 10 if n < right else gallery[(n + 1) % people] + 10 for n, g in enumerate(gallery)]
    return write_features(
        path,
        [float(a) for a in queries + gallery],
        [*range(1, people + 1)] * 2,
        [1] * people + [2] * people,
        [True] * people + [False] * people,
        dataset,
        provenance=json.dumps({"options": {"split_source": "drawn with seed 0"}}),
    )


def three_splits(folder: Path) -> str:
    """A manifest like that of iLIDS-VID, with three splits."""
    protocol = 'kind = "cross-camera-splits"\nsplits = 3\n'
    (folder / "own.toml").write_text(f'name = "own"\nlayout = "folder"\n[protocol]\n{protocol}')
    return str(folder / "own.toml")
