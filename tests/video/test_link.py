"""Linking: constraint, threshold, files."""

import csv
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from amem_cli.artifacts.features import Extraction
from amem_cli.errors import AmemError, OutputExists, UsageError
from amem_cli.metrics.calibration import Probability
from amem_cli.runtime.progress import Silent
from amem_cli.video.gallery import Calibration, Gallery, read_calibration
from amem_cli.video.link import COLUMNS, WRITTEN, Linked, file_name, limits_of, link, link_tracks, overlapping
from amem_cli.video.options import LinkOptions, SearchOptions
from amem_cli.video.page import next_person, seen_by, sureness
from amem_cli.video.search import search
from tests.video.galleries import unit_rows, write_calibration, write_gallery


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
    one = link_tracks(Gallery([write_gallery(tmp_path / "one.h5", unit_rows(1))]), 0.5, None)
    assert (one.person.tolist(), np.isnan(one.distance).all()) == ([1], True)
    assert link_tracks(Gallery([write_gallery(tmp_path / "two.h5", unit_rows(1)[[0, 0]])]), 0.5, None).people == 1


def average_linkage(far: np.ndarray, threshold: float) -> list[list[int]]:
    """In plain loops: join the two groups with the smallest mean distance while it is not above `threshold`."""
    groups = [[row] for row in range(len(far))]
    while len(groups) > 1:
        pairs = [(far[np.ix_(groups[i], groups[j])].mean(), i, j) for i in range(len(groups)) for j in range(i)]
        nearest, i, j = min(pairs)
        if nearest > threshold:
            break
        groups[j] += groups.pop(i)
    return [sorted(group) for group in groups]


@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.7, 1.5])
@pytest.mark.filterwarnings("error")  # also where a distance is 0 / 0
def test_link_tracks_average_linkage(threshold: float, tmp_path: Path) -> None:
    rows = unit_rows(3)[np.arange(12) % 3] + 0.5 * unit_rows(12, seed=9)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    start = np.array([0.0, 9, 0.5, 3, 8.5, 6])  # in each camera 0 overlaps 2, and 1 overlaps 4
    paths = [
        write_gallery(tmp_path / f"{camera}.h5", half, camera=camera, first_seconds=start)
        for camera, half in (("hall", rows[:6]), ("door", rows[6:]))
    ]
    sure = Calibration(Probability(6.0, -10.0, None), 0.5, 0.001, "x")
    linked = link_tracks(Gallery(paths), threshold, sure)
    far = ((rows[:, None] - rows) ** 2).sum(2).astype(float)
    distance = np.full(12, np.nan)
    far[[0, 2, 1, 4, 6, 8, 7, 10], [2, 0, 4, 1, 8, 6, 10, 7]] = np.inf
    groups = average_linkage(far, threshold)
    found = [np.flatnonzero(linked.person == person).tolist() for person in range(1, linked.people + 1)]
    assert found == sorted(groups)
    for group in groups:
        for row in group if len(group) > 1 else ():
            distance[row] = far[row, [other for other in group if other != row]].mean()
    np.testing.assert_allclose(linked.distance, distance, atol=1e-5)
    np.testing.assert_allclose(linked.probability, 1 / (1 + np.exp(10 * distance - 6)), atol=1e-4)
    assert linked.forbidden == 4
    assert linked.in_several_cameras() == sum(min(group) < 6 <= max(group) for group in groups)


def test_limits_of_by_hand() -> None:
    distances = np.array([[0, 1, 1.2, 0.5], [1, 0, 0.2, 0.5], [1.2, 0.2, 0, 0.5], [0.5, 0.5, 0.5, 0.0]])
    apart = np.zeros((4, 4), bool)
    assert (limits_of(distances, apart) == 0.6).all()  # nobody is in view with another
    apart[0, 1] = apart[1, 0] = True
    assert np.allclose(limits_of(distances, apart), 0.5)
    apart[1, 2] = apart[2, 1] = True  # nearest others: 1, 0.2, 0.2, and for the last the median of these
    limits = limits_of(distances, apart)
    assert limits[0, 0] == 0.5
    assert (limits[1:, 1:] == 0.25).all()  # not 0.1
    assert (limits_of(9 * distances, apart)[0, 0], limits_of(9 * distances, apart)[0, 1]) == (0.7, 0.7)


def test_link_tracks_without_a_threshold_relative_to_people_in_view_together(tmp_path: Path) -> None:
    """One person in two cameras at 0.6, where others are at 1.3 and at 1.1."""
    for far, people in ((1.3, [1, 2, 1]), (1.1, [1, 2, 3])):
        angles = 2 * np.arcsin(np.sqrt(np.array([0, far, 0.6])) / 2) * [1, 1, -1]
        rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        paths = [write_gallery(tmp_path / "a.h5", rows[:2], first_seconds=np.array([0.0, 0.5])),
                 write_gallery(tmp_path / "b.h5", rows[2:], camera="door")]  # fmt: skip
        linked = link_tracks(Gallery(paths), None, None)
        assert linked.person.tolist() == people
        assert linked.threshold == pytest.approx(0.5 * far)
        assert linked.distance[0] == pytest.approx(0.6, abs=1e-5) or people[2] == 3


def test_link_tracks_without_a_threshold_each_pair_has_its_limit(tmp_path: Path) -> None:
    """People in view together are at 1.3 in two cameras and at 0.6 in the third, so the limits are 0.65 and 0.3."""
    wide, near, close = (2 * np.arcsin(np.sqrt(far) / 2) for far in (1.3, 0.5, 0.6))
    angles = np.array([0, wide, -near, -near - wide, 0, close])
    rows = np.zeros((6, 4))
    rows[:4, 0], rows[:4, 1] = np.cos(angles[:4]), np.sin(angles[:4])
    rows[4:, 2], rows[4:, 3] = np.cos(angles[4:]), np.sin(angles[4:])
    together = np.array([0.0, 0.5])
    paths = [write_gallery(tmp_path / f"{name}.h5", rows[at : at + 2], camera=name, first_seconds=together)
             for name, at in (("a", 0), ("b", 2), ("c", 4))]  # fmt: skip
    linked = link_tracks(Gallery(paths), None, None)
    assert linked.threshold == pytest.approx(0.3)
    assert linked.person.tolist() == [1, 2, 1, 3, 4, 5]


def test_link_tracks_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = Gallery(three_people(tmp_path))
    monkeypatch.setattr("amem_cli.video.link.free_memory", lambda: 6 * 6 * 32)
    link_tracks(gallery, 0.5, None)
    monkeypatch.setattr("amem_cli.video.link.free_memory", lambda: 6 * 6 * 32 - 1)
    with pytest.raises(UsageError, match=r"of 6 tracks: needs at least .* Link shorter parts of the videos"):
        link_tracks(gallery, 0.5, None)


def test_most_similar_brute_force(tmp_path: Path) -> None:
    rows = unit_rows(6, 32)
    rows[5] = rows[0] + 0.3 * rows[1]  # two people alike
    rows[5] /= np.linalg.norm(rows[5])
    gallery = Gallery([write_gallery(tmp_path / "a.h5", rows, first_seconds=np.array([0.0, 1.1, 4, 6, 8, 0.5]))])
    linked = Linked(gallery, np.array([1, 1, 2, 2, 3, 4]), np.zeros(6), 0.5, 0, None)
    for person in range(1, 5):
        far = {
            other: np.mean([((a - b) ** 2).sum() for a in rows[linked.person == person]
                            for b in rows[linked.person == other]])
            for other in range(1, 5) if other != person
        }  # fmt: skip
        apart = [other for other in far if not linked.together(person, other)]
        other = min(apart or far, key=far.__getitem__)
        assert linked.most_similar(person) == (other, pytest.approx(far[other], abs=1e-5))
    assert linked.most_similar(4)[0] == 2  # person 1 is more similar, but in view at the same time
    assert linked.together(1, 4)
    assert not linked.together(2, 3)
    together = "Most similar is person 1, in view at the same time: another person."
    two = Gallery([write_gallery(tmp_path / "b.h5", rows[[0, 5]], first_seconds=np.array([0.0, 0.5]))])
    assert next_person(Linked(two, np.array([1, 2]), np.zeros(2), 0.5, 0, None), 2) == (together, False)
    assert "not alike enough to be the same" in next_person(linked, 2)[0]
    text, doubtful = next_person(replace(linked, threshold=linked.most_similar(2)[1] / 1.4), 2)
    assert ("could be the same" in text, "(difference 140 % of the usual limit)" in text, doubtful) == (True,) * 3
    alone = link_tracks(gallery, 4.0, None)
    assert alone.people == 2  # only the two that overlap are apart
    sure = Calibration(Probability(6.0, -10.0, None), 0.5, 0.001, "x")
    apart = Linked(gallery, np.array([1, 2, 3, 4, 5, 6]), np.zeros(6), 0.5, 0, sure)
    assert next_person(apart, 3)[0].endswith("almost certainly another person (more than 99 %).")
    near = replace(apart, calibration=replace(sure, probability=Probability(6.0, -3.8, None)))
    assert [next_person(one, 3)[1] for one in (apart, near)] == [False, True]
    assert Linked(gallery, np.array([1, 1, 1, 1, 1, 2]), np.zeros(6), 0.5, 0, None).most_similar(2)[0] == 1
    assert next_person(Linked(gallery, np.ones(6, int), np.zeros(6), 0.5, 0, None), 1) == ("", False)


@pytest.mark.parametrize(
    ("far", "chance", "text", "doubtful"),
    [
        (0.1, None, "The 2 tracks look very much alike (difference 20 % of the usual limit).", False),
        (0.3, None, "The 2 tracks look alike (difference 60 % of the usual limit).", False),
        (0.45, None, "The 2 tracks look only just alike enough (difference 90 % of the usual limit).", True),
        (0.1, 5.0, "The 2 tracks are almost certainly one person (98 %).", False),
        (0.45, 5.0, "The 2 tracks are probably one person (62 %).", True),
    ],
)
def test_sureness_of_two_tracks(far: float, chance: float | None, text: str, doubtful: bool, tmp_path: Path) -> None:
    gallery = Gallery([write_gallery(tmp_path / "a.h5", unit_rows(3, 32))])
    known = Calibration(Probability(chance, -10.0, None), 0.5, 0.001, "x") if chance else None
    linked = Linked(gallery, np.array([1, 1, 2]), np.array([far, far, np.nan]), 0.5, 0, known)
    assert sureness(linked, [0, 1]) == (text, doubtful)
    assert sureness(linked, [2]) == ("", False)
    assert seen_by(["a"], 1, 2) == "Seen by a only: nobody in another camera is alike enough to count as the same."
    assert seen_by(["a"], 3, 1) == "Seen 3 times."


def test_overlapping_by_hand() -> None:
    """Also two that share a single picture: it shows two people."""
    seconds = np.array([[0, 2], [2.04, 3], [2, 4], [0, 9], [np.nan, np.nan], [0, 0.1], [0, 5]])
    apart = overlapping([*"aaabacc"], seconds)
    assert np.argwhere(np.triu(apart)).tolist() == [[0, 2], [1, 2], [5, 6]]
    assert np.array_equal(apart, apart.T)


@pytest.mark.parametrize("told", [True, False])
def test_link_writes_numbers_and_mot_files(told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "people").mkdir()
    names = [f"{camera}/{n:04d}" for camera in ("hall", "door") for n in (1, 2, 3)]
    lines = [f"{name},{frame},0.0,{frame},{name[-1]},3.0,4.0" for name in names for frame in (2, 1)]
    people = tmp_path / "people"
    (people / "boxes.csv").write_text("\n".join(["tracklet,frame,seconds,left,top,width,height", *lines]) + "\n")
    files = tuple(three_people(tmp_path, folder="" if told else str(people)))
    monkeypatch.chdir(people)
    tracks = (people, Path()) if told else ()
    link(LinkOptions(files=files, out=tmp_path / "out", threshold=0.5, tracks=tracks), Silent())
    with open(tmp_path / "out/identities.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["tracklet"], row["person"]) for row in rows] == list(zip(names, "123321", strict=True))
    assert (tmp_path / "out/door.txt").read_text().splitlines() == [
        "1,1,1.0,3.0,3.0,4.0,1,-1,-1,-1", "1,2,1.0,2.0,3.0,4.0,1,-1,-1,-1", "1,3,1.0,1.0,3.0,4.0,1,-1,-1,-1",
        "2,1,2.0,3.0,3.0,4.0,1,-1,-1,-1", "2,2,2.0,2.0,3.0,4.0,1,-1,-1,-1", "2,3,2.0,1.0,3.0,4.0,1,-1,-1,-1",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["door.txt", "hall.txt", "identities.csv"]


def test_link_removes_the_files_of_cameras_of_the_earlier_answer(tmp_path: Path) -> None:
    people, out = tmp_path / "people", tmp_path / "out"
    people.mkdir()
    lines = [f"{camera}/0001,1,0.0,1.0,2.0,3.0,4.0" for camera in ("hall", "door")]
    (people / "boxes.csv").write_text("\n".join(["tracklet,frame,seconds,left,top,width,height", *lines]) + "\n")
    hall, door = three_people(tmp_path, folder=str(people))
    link(LinkOptions(files=(hall, door), out=out, threshold=0.5), Silent())
    (out / "notes.txt").write_text("mine")
    link(LinkOptions(files=(hall,), out=out, threshold=0.5), Silent())
    assert sorted(path.name for path in out.glob("[!.]*")) == ["hall.txt", "identities.csv", "notes.txt"]
    (out / "identities.csv").write_text(",".join(COLUMNS) + "\n,,hall\n,,door\n")
    (out / "door.txt").write_text("1,-1,5.0,5.0,9.0,9.0,0.9,-1,-1,-1\n")  # the user's detections
    link(LinkOptions(files=(hall,), out=out, threshold=0.5), Silent())
    assert (out / "door.txt").is_file()
    (out / "identities.csv").write_bytes(",".join(COLUMNS).encode() + b"\n\xff\x00\n")
    link(LinkOptions(files=(hall,), out=out, threshold=0.5), Silent())
    assert (out / "hall.txt").is_file()
    (out / WRITTEN).unlink()
    for foreign in (b"name,born\nAda,1815\n", b"", b"camera\n\xff\x00\n"):
        (out / "identities.csv").write_bytes(foreign)
        with pytest.raises(OutputExists, match=r"identities\.csv; \S*hall\.txt: it exists and is not known"):
            link(LinkOptions(files=(hall,), out=out, threshold=0.5), Silent())
        assert (out / "identities.csv").read_bytes() == foreign
    assert file_name("../../a:b") == "..-..-a-b"


def test_link_keeps_an_edited_table(tmp_path: Path) -> None:
    out, progress = tmp_path / "out", Silent()
    options = LinkOptions(files=tuple(three_people(tmp_path)), out=out, threshold=0.5)
    for one in (options, replace(options, threshold=0.0), options):
        link(one, progress)
    table = (out / "identities.csv").read_text()
    for edit, name in (("7", "identities-edited.csv"), ("8", "identities-edited-2.csv")):
        (out / "identities.csv").write_text(table.replace(",1,", f",{edit},"))
        assert not (out / name).exists()
        link(options, progress)
        assert (out / name).read_text() == table.replace(",1,", f",{edit},")
        assert (out / "identities.csv").read_text() == table
        why = "was edited, or written by an earlier version"
        assert progress.warnings[-1].endswith(f"{why}: a copy of it is kept in {out / name}")
    assert (out / "identities-edited.csv").read_text() == table.replace(",1,", ",7,")
    (out / "identities.csv").write_text(semicolons := table.replace(",", ";"))  # saved by a spreadsheet
    link(options, progress)
    assert (out / "identities-edited-3.csv").read_text() == semicolons


def test_link_below_the_calibrated_threshold(tmp_path: Path) -> None:
    """The threshold is the distance of two different people, which another rounding must not join."""
    rows = unit_rows(2, 64, seed=3)
    distance = 2 - 2 * float(rows[0].astype(np.float64) @ rows[1])
    gallery = Gallery([write_gallery(tmp_path / "a.h5", rows)])
    for threshold in (distance, float(np.float32(distance)), distance + 1e-7):
        known = Calibration(Probability(6.0, -10.0, None), threshold, 0.001, "x")
        assert link_tracks(gallery, threshold, known).people == 2
    assert link_tracks(gallery, distance + 1e-9, None).people == 1


def test_calibration_of_another_model(tmp_path: Path) -> None:
    for models, fits in ((["1" * 64, "2" * 64], True), ([], True), (["2" * 64], False)):
        path = write_calibration(tmp_path / "r.json", models=models)
        if fits:
            assert read_calibration(path, "1" * 64).threshold == 0.5
        else:
            message = "measured with another model than the one that is used"
            gallery = write_gallery(tmp_path / "a.h5", unit_rows(2), model="1" * 64)
            with pytest.raises(UsageError, match=message):
                link(LinkOptions(files=(gallery,), out=tmp_path / "out", calibration=path), Silent())
            with pytest.raises(UsageError, match=message):
                search(SearchOptions(query="hall/0001", gallery=(gallery,), calibration=path), Silent())


def test_calibration_of_another_extraction(tmp_path: Path) -> None:
    kinds = (Extraction(), Extraction(adapt_cameras=True), Extraction(True, 4))
    for kind in kinds:
        recorded = {"extraction": asdict(kind), "genuine_pairs": 3} if kind != Extraction() else {}  # older: neither
        path = write_calibration(tmp_path / "r.json", **recorded)
        known = read_calibration(path)
        assert (known.extraction, known.genuine_pairs) == (kind, 3 if recorded else float("inf"))
        for other in kinds:
            gallery = write_gallery(tmp_path / "a.h5", unit_rows(2), extraction=other)
            options = LinkOptions(files=(gallery,), out=tmp_path / "out", calibration=path)
            if other == kind:
                assert link(options, Silent()).threshold == 0.5
                continue
            message = f"its features were extracted with {kind}, those to compare with {other}"
            with pytest.raises(UsageError, match=message):
                link(options, Silent())
            with pytest.raises(UsageError, match=message):
                search(SearchOptions(query="hall/0001", gallery=(gallery,), calibration=path), Silent())


def test_calibration_of_another_image_size(tmp_path: Path) -> None:
    path = write_calibration(tmp_path / "r.json", image_size="64x32")
    for size in ("64x32", "", "128x64"):
        gallery = write_gallery(tmp_path / "a.h5", unit_rows(2), image_size=size)
        options = LinkOptions(files=(gallery,), out=tmp_path / "out", calibration=path)
        if size != "128x64":
            assert link(options, Silent()).threshold == 0.5
            continue
        with pytest.raises(UsageError, match="of images of 64x32 pixels, those to compare of 128x64"):
            link(options, Silent())


def test_link_without_boxes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "boxes.csv").write_text("tracklet,frame,seconds,left,top,width,height\n")  # of other tracks
    monkeypatch.chdir(tmp_path)
    progress = Silent()
    link(LinkOptions(files=tuple(three_people(tmp_path)), out=tmp_path / "out", threshold=0.5), progress)
    assert any("the features file does not name its folder" in line for line in progress.warnings)
    for limit in (0.0, 4.0):
        options = LinkOptions(files=tuple(three_people(tmp_path)), out=tmp_path / "out", threshold=limit)
        assert link(options, progress).threshold == limit


def test_link_with_calibration_writes_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Calibration(Probability(6.0, -10.0, None), 0.5, 0.001, "x", genuine_pairs=19)
    monkeypatch.setattr("amem_cli.video.gallery.read_calibration", lambda *_, **__: known)
    rows = np.array([[1, 0], [0.8, 0.6], [-1, 0]], np.float32)  # the first two are at 2 - 2 * 0.8
    paths = (
        write_gallery(tmp_path / "a.h5", rows[:2]),
        write_gallery(tmp_path / "b.h5", rows[2:], camera="yard", first_seconds=None),
    )
    progress = Silent()
    options = LinkOptions(files=paths, out=tmp_path / "out", calibration=Path("x"))
    assert link(options, progress).threshold == 0.5
    assert (tmp_path / "out/identities.csv").read_text().splitlines()[1:] == [
        "hall/0001,people,hall,1,0.000,1.000,0.4,0.8808",  # 1 / (1 + exp(-(6 - 10 * 0.4)))
        "hall/0002,people,hall,1,2.000,3.000,0.4,0.8808",
        "yard/0001,people,yard,2,,,,",
    ]
    few = "the calibration x is of only 19 pairs of one person: threshold and probabilities are rough"
    assert progress.warnings[:2] == [
        "some tracks have no times, so two of them that overlap can become one person", few,
    ]  # fmt: skip
    assert not Gallery(paths).doubts(replace(known, genuine_pairs=20))


def test_link_no_probability_for_cameras_of_few_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Calibration(Probability(6.0, -10.0, None), 0.5, 0.001, "x")
    monkeypatch.setattr("amem_cli.video.gallery.read_calibration", lambda *_, **__: known)
    rows, adapted = unit_rows(9, 32), Extraction(adapt_cameras=True)
    hall = write_gallery(tmp_path / "a.h5", rows[[0, 1, 1, 2, 3, 4, 5, 6]], extraction=adapted)
    door = write_gallery(tmp_path / "b.h5", rows[[0, 8]], camera="door", extraction=adapted)
    linked = link(LinkOptions(files=(hall, door), out=tmp_path, calibration=Path("x")), progress := Silent())
    assert linked.person.tolist() == [1, 2, 2, 3, 4, 5, 6, 7, 1, 8]
    assert np.flatnonzero(~np.isnan(linked.probability)).tolist() == [1, 2]  # not the first, with a track at the door
    assert "fewer than 8 tracklets say little about a camera (camera door: 2)" in progress.warnings[0]
    assert progress.warnings[1] == "no probabilities for the tracks of these cameras"
    assert sureness(linked, [0, 8])[0].startswith("The 2 tracks look very much alike")
    assert ["%)" in next_person(linked, person)[0] for person in (2, 8)] == [True, False]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "give either --threshold or --calibration.*; 0.6 is a start"), ({"threshold": 5.0}, "from 0 to 4"),
        ({"threshold": -0.1}, "from 0 to 4"),
        ({"threshold": 0.5, "calibration": Path("x")}, "both are given"),
        ({"threshold": 0.5, "tracks": (Path(),)}, "1 folder for"),
    ],
)  # fmt: skip
def test_link_options(options: dict, why: str, tmp_path: Path) -> None:
    with pytest.raises(AmemError, match=why):
        LinkOptions(files=(Path("a.h5"), Path("b.h5")), out=tmp_path / "out", **options)
