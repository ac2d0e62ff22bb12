"""Folders, names and files that videos, searches and answers do not expect."""

import contextlib
import itertools
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amem_cli.cli.app import run
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData, OutputExists, UsageError
from amem_cli.models.config import ArmConfig
from amem_cli.runtime.progress import Silent
from amem_cli.video import decode, page
from amem_cli.video import find as find_module
from amem_cli.video.decode import Camera
from amem_cli.video.gallery import Gallery
from amem_cli.video.link import COLUMNS, Linked, write_links
from amem_cli.video.options import SearchOptions
from amem_cli.video.page import search_page
from amem_cli.video.search import Found, SearchResult, search
from amem_cli.video.tracklets import TrackletOptions, Tracklets, cut_tracklets
from tests.video.galleries import unit_rows, write_gallery
from tests.videos import av, crossing, mot_lines, write_video


@pytest.fixture
def hall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A video of nine pictures with its boxes, hall.txt, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("hall.txt").write_text(mot_lines([crossing()], frames=9))
    return write_video(Path("hall.mp4"), [crossing()], frames=9)


def cut(out: str, *videos: Path, **more: Any) -> Tracklets:
    return cut_tracklets(TrackletOptions(videos=videos, out=Path(out), **({"boxes": ("hall.txt",)} | more)), Silent())


# -- the folder of the data set ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ['{"parents": ["x"]}', "no JSON", '{"command": "tracklets"}', '{"command": "x", "result": {}}']
)
def test_cut_tracklets_keeps_the_folder_of_another_program(content: str, hall: Path) -> None:
    Path("out").mkdir()
    Path("out/provenance.json").write_text(content)
    Path("out/people.toml").touch()
    for force in (False, True):
        with pytest.raises(OutputExists, match="not from amem tracklets"):
            cut("out", hall, force=force)
    assert Path("out/provenance.json").read_text() == content


def test_cut_tracklets_out_is_a_link_or_a_mount_point(hall: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("real").mkdir()
    Path("link").symlink_to("real")
    found = cut("link", hall)
    assert (found.folder.name, found.manifest.name, Path("link").is_symlink()) == ("real", "real.toml", True)
    assert cut("link", hall).reused
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "disk")
    with pytest.raises(UsageError, match="a mount point cannot be replaced"):
        cut("disk", hall)


def test_cut_tracklets_moved_data_set_keeps_its_manifest(hall: Path) -> None:
    first = cut("people", hall).folder
    (first / "another.toml").touch()
    assert cut("people", hall).manifest.name == "people.toml"
    (first / "another.toml").unlink()
    first.rename("people2")
    found = cut("people2", hall)
    assert (found.reused, found.manifest.name, found.manifest.is_file()) == (True, "people.toml", True)
    assert cut("Büro", hall).manifest.name == "Buro.toml"
    assert cut("Straße", hall).manifest.name == "Strasse.toml"


# -- cameras -----------------------------------------------------------------------------------------------------------


def test_cut_tracklets_camera_that_a_reader_would_leave_out(hall: Path) -> None:
    with pytest.raises(UsageError, match="--camera '#1': not a plain name"):
        cut("out", hall, cameras=("#1",))
    found = cut("out", hall.rename("Recycled.mp4"))
    assert found.tracks == {"camera-Recycled": 1}
    (track,) = read_videos(load_manifest(str(found.manifest)), ".").tracklets
    assert track.name == "camera-Recycled/0001"


def test_cut_tracklets_one_video_with_two_files_of_boxes(hall: Path) -> None:
    Path("two.txt").write_text(mot_lines([crossing(), crossing(top=10)], frames=9))
    assert cut("out", hall, hall, cameras=("a", "b"), boxes=("hall.txt", "two.txt")).tracks == {"a": 1, "b": 2}
    with pytest.raises(UsageError, match="camera a has several sources"):
        cut("other", hall, hall, cameras=("a",), boxes=("hall.txt", "two.txt"))


def test_cut_tracklets_camera_without_people(hall: Path) -> None:
    write_video(Path("door.mp4"), [crossing()], frames=9)
    Path("few.txt").write_text(mot_lines([crossing()], frames=3))
    for reused in (False, True):
        progress = Silent()
        options = TrackletOptions(videos=(hall, Path("door.mp4")), out=Path("out"), boxes=("hall.txt", "few.txt"))
        found = cut_tracklets(options, progress)
        assert (found.reused, found.tracks) == (reused, {"hall": 1, "door": 0})
        assert found.faults == progress.warnings == ["camera door: no person in 8 pictures or more"]


def test_detector_weights_without_a_detector(hall: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for boxes in ("motion", "hall.txt"):
        with pytest.raises(UsageError, match=f"--detector-weights: {boxes} uses none"):
            cut("out", hall, boxes=(boxes,), detector_weights=Path("w.pth"))
    given = {}

    def boxes_from(choice: str, weights: Path | None, device: str) -> Any:
        given[choice] = weights
        return SimpleNamespace(name=choice, identity=choice)

    monkeypatch.setattr("amem_cli.video.tracklets.boxes_from", boxes_from)
    monkeypatch.setattr("amem_cli.video.tracklets._cut", lambda *_: pytest.skip("far enough"))
    write_video(Path("b.mp4"), [crossing()], frames=9)
    both = ("motion", "torchvision:retinanet_resnet50_fpn_v2")
    with pytest.raises(pytest.skip.Exception):
        cut("out", hall, Path("b.mp4"), boxes=both, detector_weights=Path("w.pth"))
    assert given == {both[0]: None, both[1]: Path("w.pth")}


def test_first_packet_of_a_video_cannot_be_read(hall: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    camera, opened = Camera("hall", [hall]), decode._open(hall)

    def demux(stream: Any) -> Any:
        raise av.InvalidDataError(1, "damaged")
        yield

    container = SimpleNamespace(streams=opened.streams, duration=opened.duration, format=opened.format, demux=demux)
    monkeypatch.setattr(decode, "_open", lambda file: contextlib.nullcontext(container))
    with pytest.raises(BadData, match="no picture could be decoded"):
        list(camera.pictures())
    opened.close()


# -- an answer ---------------------------------------------------------------------------------------------------------


def test_answer_keeps_the_boxes_of_the_user(hall: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    before = Path("hall.txt").read_text()
    loaded = "amem_cli.models.checkpoints.load_feature_model"
    monkeypatch.setattr(loaded, lambda *_, **__: (None, ArmConfig(backbone="resnet18", image_size="256x128")))
    monkeypatch.setattr(find_module, "cut_tracklets", lambda *_: pytest.fail("the check comes before"))
    Path("m").touch()
    assert run(["find", "hall.mp4", "--boxes", "hall.txt", "--out", ".", "--model", "m", "--device", "cpu"]) == 73
    assert "hall.txt: it exists and is not known to be of an earlier answer." in capsys.readouterr().err
    assert run(["find", "hall.mp4", "--out", "o", "--model", "m", "--device", "cpu", "--parts", "17"]) == 2
    assert "--parts 17: maps of 256x128 pixels have 16 rows" in capsys.readouterr().err
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(["find", "hall.mp4", "--out", "o", "--model", "m", "--device", "cuda"]) == 2
    assert "there is no CUDA device" in capsys.readouterr().err
    Path("workspace/arm").mkdir(parents=True)
    Path("workspace/arm/arm.safetensors").write_text("damaged")
    assert run(["find", "hall.mp4", "--out", "o", "--model", "m", "--device", "cpu"]) == 65
    assert "arm.safetensors" in capsys.readouterr().err
    Path("workspace/arm/arm.safetensors").unlink()
    Path("p/index.html").mkdir(parents=True)
    assert run(["find", "hall.mp4", "--out", "p", "--model", "m", "--device", "cpu"]) == 74
    assert "p/index.html" in capsys.readouterr().err
    linked = Linked(Gallery([write_gallery(Path("g.h5"), unit_rows(1))]), np.ones(1, int), np.zeros(1), 0.5, 0, None)
    own = "1,1,5.0,5.0,9.0,9.0,1,-1,-1,-1\n"
    for boxes, answered in ((before, False), (own, False), (before, True)):
        Path("hall.txt").write_text(boxes)
        if answered:
            Path("identities.csv").write_text(",".join(COLUMNS))
        with pytest.raises(OutputExists, match=r"hall\.txt"):
            write_links(linked, Path("."), (Path("none"),), Silent())
        assert Path("hall.txt").read_text() == boxes
        assert Path("identities.csv").exists() == answered
    Path("hall.txt").write_text(own)
    write_links(linked, Path("."), (Path("none"),), Silent())


def test_page_of_many_tracks_says_how_many_have_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (10, 20)).save(tmp_path / "1.jpg")
    frames = [tmp_path / "1.jpg"] * 5
    monkeypatch.setattr(page, "MOST_BYTES", 7 * page.BYTES_PER_FRAME)
    monkeypatch.setattr(page, "BYTES_PER_TRACK", 0)
    assert [len(one) for one in page._chosen([frames] * 2)] == [3, 3]
    assert [len(one) for one in page._chosen([frames] * 9)] == [1] * 7 + [0] * 2
    gallery = Gallery([write_gallery(tmp_path / "a.h5", unit_rows(9))])
    found = search(SearchOptions(query="hall/0001", gallery=(tmp_path / "a.h5",), top=4), Silent()).found[0].hits
    several = [Found(f"q{number}", found) for number in range(3)]  # the budget is that of the page
    text = search_page(SearchResult(several, gallery, None, 9, 0.0), dict.fromkeys(range(9), frames), [])
    assert "4 tracks without pictures" in text  # the same four of each query; the last two queries have no room


def test_page_of_many_tracks_leaves_room_for_the_text(tmp_path: Path) -> None:
    for tracks in (1, 100, 2000, 10_000, 20_000):
        shown = sum(map(len, page._chosen([[tmp_path] * 50] * tracks)))
        assert page.BYTES_PER_FRAME * shown + page.BYTES_PER_TRACK * tracks <= max(page.MOST_BYTES, 650 * tracks)
        assert shown or tracks == 20_000


def test_timeline_of_an_hour_covers_no_bar(tmp_path: Path) -> None:
    first = 12.0 * np.arange(300)
    path = write_gallery(tmp_path / "a.h5", unit_rows(300), first_seconds=first, last_seconds=first + 4)
    linked = Linked(Gallery([path]), np.arange(300), np.full(300, np.nan), 0.6, 0, None)
    (timeline,) = page.timelines(linked)
    for lane in range(timeline["lanes"]):
        bars = [bar for bar in timeline["bars"] if bar["lane"] == lane]
        assert all(a["left"] + a["width"] <= b["left"] + 0.02 for a, b in itertools.pairwise(bars))
    assert timeline["lanes"] == 2
    assert max(bar["left"] + bar["width"] for bar in timeline["bars"]) <= 100


def test_timeline_of_tracks_that_follow_one_another_has_one_lane(tmp_path: Path) -> None:
    ends = np.cumsum(np.random.default_rng(0).uniform(5, 30, 20))
    first = np.concatenate([[0.0], ends[:-1]])
    gallery = Gallery([write_gallery(tmp_path / "a.h5", unit_rows(20), first_seconds=first, last_seconds=ends)])
    (timeline,) = page.timelines(Linked(gallery, np.arange(20), np.full(20, np.nan), 0.6, 0, None))
    assert timeline["lanes"] == 1


def test_page_has_no_tags_of_gender_and_age() -> None:
    names = ("personalMale", "personalLess30", "upperBodyRed", "hairLong")
    labels = SimpleNamespace(tracklet=["a"], attributes=names, probabilities=np.array([[0.9, 0.8, 0.7, 0.4]]))
    assert page._tags(labels, ["a"], {1: [0]}) == {1: ["upper body red"]}


def test_page_of_a_description_says_what_was_asked_for() -> None:
    asked = Found("+upperBodyRed -personalMale", [], described=True)
    assert page.heading(asked) == "Fits the description: upper body red, not male"
    assert page.heading(Found("hall/0002", [])) == "Nearest to hall/0002"


# -- a search ----------------------------------------------------------------------------------------------------------


def test_search_tracklet_before_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hall/0001").mkdir(parents=True)
    gallery = (write_gallery(Path("g.h5"), unit_rows(3)),)
    (found,) = search(SearchOptions(query="hall/0001", gallery=gallery), Silent()).found
    assert (found.row, len(found.hits)) == (0, 2)
    with pytest.raises(UsageError, match="images can only be compared through a model"):
        search(SearchOptions(query="./hall/0001", gallery=gallery), Silent())
    with pytest.raises(UsageError, match="no tracklet of the gallery has this name"):
        search(SearchOptions(query="x" * 5000, gallery=gallery), Silent())


def test_search_options_without_effect() -> None:
    gallery = (Path("g.h5"),)
    for options, flag in (
        ({"with_": ("upperBodyRed",), "calibration": Path("r.json")}, "--calibration"),
        ({"query": "hall/0001", "labels": (Path("l.h5"),)}, "--labels"),
    ):
        with pytest.raises(UsageError, match=f"^{flag}: "):
            SearchOptions(gallery=gallery, **options)


def test_gallery_whose_first_file_does_not_name_its_model(tmp_path: Path) -> None:
    converted, one = (write_gallery(tmp_path / f"{name}.h5", unit_rows(2), model=name) for name in ("", "a"))
    assert Gallery([converted, one]).model == "a"
    other = write_gallery(tmp_path / "b.h5", unit_rows(2), model="b")
    with pytest.raises(UsageError, match=r"b\.h5: its features are of another model"):
        Gallery([converted, one, other])


def test_gallery_without_tracklets(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"g\.h5: it has no tracklets"):
        Gallery([write_gallery(tmp_path / "g.h5", unit_rows(0))])


def test_link_checks_the_places_of_its_files_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amem_cli.video.link.link_tracks", lambda *_: pytest.fail("linked"))
    gallery, out = write_gallery(tmp_path / "g.h5", unit_rows(2)), tmp_path / "out"
    command = ["link", str(gallery), "--threshold", "0.5", "--out", str(out)]
    (out / "identities.csv").mkdir(parents=True)
    assert run(command) == 74
    (out / "identities.csv").rmdir()
    (out / "hall.txt").write_text("mine")
    assert run(command) == 73


def test_link_cameras_whose_files_would_have_one_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    galleries = [
        write_gallery(tmp_path / f"{n}.h5", unit_rows(2), camera=camera) for n, camera in enumerate(("a/b", "a-b"))
    ]
    command = ["link", *map(str, galleries), "--threshold", "0.5", "--out", str(tmp_path / "out")]
    assert run(command) == 0  # their boxes are not known
    (tmp_path / "out/identities.csv").unlink()
    for camera in ("a/b", "a-b"):
        folder = tmp_path / camera.replace("/", "")
        folder.mkdir()
        (folder / "boxes.csv").write_text(f"tracklet,frame,seconds,left,top,width,height\n{camera}/0001,1,0,1,1,9,9\n")
        command += ["--tracks", str(folder)]
    capsys.readouterr()
    assert run(command) == 2
    assert "the boxes of 'a/b'; 'a-b' would be in a-b.txt. Give the cameras other names" in capsys.readouterr().err
    assert not (tmp_path / "out/identities.csv").exists()


def test_features_of_a_folder_that_cannot_be_stored(hall: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amem_cli.stages.extract_features import seen_in

    Path("p\udce9").mkdir()
    (Path("p\udce9") / "tracks.csv").write_text("tracklet,camera,first_seconds,last_seconds\n")
    assert seen_in(Path("p\udce9"), ())["folder"] == ""
    assert seen_in(Path("."), ())["folder"] == str(Path.cwd())


# -- several values after one flag -------------------------------------------------------------------------------------


def test_search_galleries_after_one_flag(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    hall, door = Path("hall.h5"), Path("door.H5")
    for words in (("./q", str(door)), (str(door), "./q")):  # the query before the option, and after its values
        options = SearchOptions(query=words[0], more=words[1:], gallery=(hall,))
        assert (options.query, options.gallery, options.more) == ("./q", (hall, door), ())
    assert SearchOptions(query="", more=(str(door),), gallery=(hall,), with_=("upperBodyRed",)).gallery == (hall, door)
    with pytest.raises(UsageError, match=r"query people: there is one already"):
        SearchOptions(query="q", more=("people",), gallery=(hall,))
    with pytest.raises(UsageError, match="no features file given"):
        SearchOptions(query="q.h5")
    rows = unit_rows(2)
    typed = [str(write_gallery(tmp_path / name, rows, model="m")) for name in ("a.h5", "b.h5")]
    assert run(["search", "people-2:hall/0001", "--gallery", *typed, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["searched"] == 4


def test_tracklets_cameras_after_one_flag(hall: Path, tmp_path: Path) -> None:
    door = tmp_path / "door.mp4"
    door.touch()

    def cameras(*words: str, given: tuple[str, ...]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        options = TrackletOptions(videos=tuple(map(Path, words)), out=tmp_path, cameras=given)
        return options.videos, options.cameras

    both = (hall, door)
    assert cameras("hall.mp4", str(door), "b", given=("a",)) == (both, ("a", "b"))
    assert cameras("hall.mp4", str(door), given=("a",)) == (both, ("a",))
    three = ("hall.mp4", str(door), "missing.mp4")  # an error later, no camera
    assert cameras(*three, given=("a",)) == (tuple(map(Path, three)), ("a",))
