"""Linking: constraint, threshold, files."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amem_cli.errors import AmemError
from amem_cli.metrics.calibration import Probability
from amem_cli.runtime.progress import Silent
from amem_cli.video.gallery import Calibration, Gallery
from amem_cli.video.link import Linked, link, link_tracks, overlapping
from amem_cli.video.page import next_person
from tests.video.galleries import unit_rows, write_gallery


def three_people(place: Path, **more) -> list[Path]:
    """Three people, each once in each of two cameras, with a little noise; everybody alone in the picture."""
    rows, noise = unit_rows(3, 32), 0.05 * unit_rows(6, 32, seed=9)
    cameras = {"hall": rows + noise[:3], "door": rows[::-1] + noise[3:]}
    return [
        write_gallery(place / f"{name}.h5", values / np.linalg.norm(values, axis=1, keepdims=True), camera=name, **more)
        for name, values in cameras.items()
    ]


def test_link_tracks_three_people(tmp_path: Path) -> None:
    linked = link_tracks(Gallery(three_people(tmp_path)), 0.5, None)
    assert linked.person.tolist() == [1, 2, 3, 3, 2, 1]
    assert (linked.people, linked.in_several_cameras(), linked.forbidden) == (3, 3, 0)
    assert (linked.distance < 0.1).all()


def test_link_tracks_threshold_zero_and_four(tmp_path: Path) -> None:
    gallery = Gallery(three_people(tmp_path))
    assert link_tracks(gallery, 0.0, None).people == 6
    assert link_tracks(gallery, 4.0, None).people == 1


def test_link_tracks_overlap_is_never_joined(tmp_path: Path) -> None:
    rows = np.tile(unit_rows(1), (3, 1))  # three tracks that look the same; the first two overlap
    gallery = Gallery([write_gallery(tmp_path / "a.h5", rows, first_seconds=np.array([0.0, 0.5, 9.0]))])
    linked = link_tracks(gallery, 4.0, None)
    assert linked.forbidden == 1
    assert linked.people == 2
    assert linked.person[0] != linked.person[1]


def test_most_similar_brute_force(tmp_path: Path) -> None:
    rows = unit_rows(6, 32)
    rows[5] = rows[0] + 0.3 * rows[1]  # two people alike
    rows[5] /= np.linalg.norm(rows[5])
    gallery = Gallery([write_gallery(tmp_path / "a.h5", rows, first_seconds=np.array([0.0, 1, 4, 6, 8, 0.5]))])
    linked = Linked(gallery, np.array([1, 1, 2, 2, 3, 4]), np.zeros(6), 0.5, 0, None)
    for person in range(1, 5):
        far = {
            other: np.mean([((a - b) ** 2).sum() for a in rows[linked.person == person]
                            for b in rows[linked.person == other]])
            for other in range(1, 5) if other != person
        }  # fmt: skip
        other = min(far, key=far.__getitem__)
        assert linked.most_similar(person) == (other, pytest.approx(far[other], abs=1e-5))
    assert linked.most_similar(4)[0] == 1
    assert linked.together(1, 4)
    assert not linked.together(2, 3)
    assert next_person(linked, 4) == "Most similar is person 1, in view at the same time: another person."
    assert "not alike enough to count as the same" in next_person(linked, 2)
    assert "nearly alike enough" in next_person(replace(linked, threshold=linked.most_similar(2)[1] / 1.4), 2)
    alone = link_tracks(gallery, 4.0, None)
    assert alone.people == 2  # only the two that overlap are apart
    sure = Calibration(Probability(6.0, -10.0, None), 0.5, 0.001, "x")
    apart = Linked(gallery, np.array([1, 2, 3, 4, 5, 6]), np.zeros(6), 0.5, 0, sure)
    assert next_person(apart, 3).endswith("almost certainly another person (more than 99 %).")
    assert next_person(Linked(gallery, np.ones(6, int), np.zeros(6), 0.5, 0, None), 1) == ""


def test_overlapping_by_hand() -> None:
    seconds = np.array([[0, 2], [1.95, 3], [1, 4], [0, 9], [np.nan, np.nan]])
    apart = overlapping(["a", "a", "a", "b", "a"], seconds)
    assert np.argwhere(np.triu(apart)).tolist() == [[0, 2], [1, 2]]


def test_link_writes_numbers_and_mot_files(tmp_path: Path) -> None:
    (tmp_path / "people").mkdir()
    names = [f"{camera}/{n:04d}" for camera in ("hall", "door") for n in (1, 2, 3)]
    lines = [f"{name},{frame},0.0,{frame},2.0,3.0,4.0" for name in names for frame in (1, 2)]
    (tmp_path / "people/boxes.csv").write_text(
        "\n".join(["tracklet,frame,seconds,left,top,width,height", *lines]) + "\n"
    )
    link(tuple(three_people(tmp_path, folder=str(tmp_path / "people"))), tmp_path / "out", Silent(), threshold=0.5)
    with open(tmp_path / "out/identities.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["tracklet"], row["person"]) for row in rows] == list(zip(names, "123321", strict=True))
    assert (tmp_path / "out/door.txt").read_text().splitlines()[:3] == [
        "1,1,1.0,2.0,3.0,4.0,1,-1,-1,-1", "1,2,1.0,2.0,3.0,4.0,1,-1,-1,-1", "1,3,1.0,2.0,3.0,4.0,1,-1,-1,-1",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["door.txt", "hall.txt", "identities.csv"]


def test_link_without_boxes_says_so(tmp_path: Path) -> None:
    progress = Silent()
    link(tuple(three_people(tmp_path)), tmp_path / "out", progress, threshold=0.5)
    assert any("the features file does not name its folder" in line for line in progress.warnings)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "give either --threshold or --calibration"), ({"threshold": 5.0}, "from 0 to 4"),
        ({"threshold": 0.5, "calibration": Path("x")}, "both are given"),
        ({"threshold": 0.5, "tracks": (Path(),)}, "1 folders"),
    ],
)  # fmt: skip
def test_link_options(options: dict, why: str, tmp_path: Path) -> None:
    with pytest.raises(AmemError, match=why):
        link(tuple(three_people(tmp_path)), tmp_path / "out", Silent(), **options)
