"""Videos to tracks: decoding, times, motion, MOT files, resume, and every kind of bad input."""

import csv
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from amem_cli.artifacts.paths import GENERATED, is_generated
from amem_cli.cli.app import run
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import AmemError, BadData, InputMissing, OutputExists, UsageError
from amem_cli.runtime.progress import Silent
from amem_cli.video import crops, tracklets
from amem_cli.video.boxes import Boxes
from amem_cli.video.crops import coloured, split_at_edges, split_at_gaps
from amem_cli.video.decode import Camera, Picture
from amem_cli.video.motion import MotionBoxes
from amem_cli.video.options import FindOptions
from amem_cli.video.tracklets import TrackletOptions, Tracklets, cut_tracklets
from tests.videos import FIGURE, WIDTH, crossing, mot_lines, write_video

ONE = [crossing()]
TWO = [crossing(), crossing(first=10, top=60, speed=1.5)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "hall.mp4", ONE)


def cut(out: Path, *videos: Path, **options) -> tracklets.Tracklets:
    return cut_tracklets(TrackletOptions(videos=videos, out=out, **options), Silent())


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- from a video to a data set ----------------------------------------------------------------------------------------


def test_cut_tracklets_motion_one_person_one_track(video: Path, tmp_path: Path) -> None:
    result = cut(tmp_path / "out", video, boxes=("motion",))
    assert result.tracks == {"hall": 1}
    boxes = rows_of(tmp_path / "out/boxes.csv")
    assert len(boxes) >= 55
    for row in boxes:
        left, top = ONE[0](int(row["frame"]) - 1)
        assert abs(float(row["left"]) - left) < 6
        assert abs(float(row["top"]) - top) < 6
        assert abs(float(row["height"]) - FIGURE[0]) < 10
        assert float(row["seconds"]) == pytest.approx((int(row["frame"]) - 1) / 25, abs=2e-3)
    (track,) = rows_of(tmp_path / "out/tracks.csv")
    assert (track["tracklet"], track["camera"], track["video"]) == ("hall/0001", "hall", "hall.mp4")
    assert int(track["frames"]) == len(boxes)


@pytest.mark.slow
def test_cut_tracklets_motion_two_people_two_tracks(tmp_path: Path) -> None:
    result = cut(tmp_path / "out", write_video(tmp_path / "a.mp4", [crossing(), crossing(first=25)], frames=80))
    assert result.tracks == {"a": 2}


@pytest.mark.slow
def test_cut_tracklets_motion_no_track_of_a_hole(tmp_path: Path) -> None:
    """Somebody stands still, is background, and leaves: there is a track of the person and none of the place."""
    video = write_video(tmp_path / "a.mp4", [lambda frame: (80 + 3 * max(frame - 60, 0), 40)], frames=90)
    assert cut(tmp_path / "out", video, boxes=("motion",)).tracks == {"a": 1}
    (track,) = rows_of(tmp_path / "out/tracks.csv")
    boxes = rows_of(tmp_path / "out/boxes.csv")
    assert float(boxes[-1]["left"]) > 140
    assert int(track["last_frame"]) == 90


def test_cut_tracklets_is_a_data_set(video: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(mot_lines(TWO))
    result = cut(tmp_path / "out", video, boxes=(str(tmp_path / "a.txt"),), cameras=("door",))
    dataset = read_videos(load_manifest(str(result.manifest)), "data")
    assert [(t.name, t.camera_id, len(t)) for t in dataset.splits[0].test] == [
        ("door/0001", 1, 60),
        ("door/0002", 1, 50),
    ]
    frame = dataset.splits[0].test[0].frames[3]
    assert frame.name == "000004.jpg"
    left = ONE[0](3)[0]
    width = min(WIDTH, round(left + 1.05 * FIGURE[1])) - int(left - 0.05 * FIGURE[1])
    assert Image.open(frame).size == (width, round(40 + 1.05 * FIGURE[0]) - int(40 - 0.05 * FIGURE[0]))


@pytest.mark.slow
def test_cut_tracklets_one_leaves_and_another_enters_at_the_same_edge(tmp_path: Path) -> None:
    places = [lambda frame: (60 - 3 * frame, 40), lambda frame: (3 * frame - 82, 45)]  # overlap in picture 24
    result = cut(tmp_path / "out", write_video(tmp_path / "a.mp4", places), boxes=("motion",))
    assert result.tracks == {"a": 2}


def test_split_at_edges_by_hand() -> None:
    def track(lefts, width=30.0):
        edges = [(max(left, 0), min(left + width, 200)) for left in lefts]
        return np.array([[n, n / 10, a, 50, b - a, 80, 1] for n, (a, b) in enumerate(edges)])

    widths = np.full(30, 200.0)
    back = [20 - 4 * n for n in range(10)] + [4 * n - 16 for n in range(10)]
    for lefts, sizes in (
        (back, [9, 11]), ([170 - left for left in back], [9, 11]),  # at the left edge, at the right one
        ([left + 20 for left in back], [20]),  # turns round before the edge
        ([4 * n - 25 for n in range(20)], [20]), ([60 - 4 * n for n in range(20)], [20]),  # enters, leaves
        ([0] * 20, [20]),  # stands at the edge
    ):  # fmt: skip
        rows = track(lefts)
        pieces = split_at_edges(rows, widths[: len(rows)])
        assert [len(piece) for piece in pieces] == sizes
        assert np.array_equal(np.concatenate(pieces), rows)


def test_split_at_gaps_by_hand() -> None:
    def track(before, after, gap=0.8, red=0.0):
        """Two ways (left, pixels per second) of a second each; boxes are 90 high. The second person is redder."""
        times = np.concatenate([np.arange(25) / 25, 24 / 25 + gap + np.arange(25) / 25])
        ways = zip([before] * 25 + [after] * 25, times.tolist(), strict=True)
        lefts = [[n, t, left + speed * t] for n, ((left, speed), t) in enumerate(ways)]
        rows = np.array([[*place, 50, 30, 90, 1, *[0] * 9] for place in lefts])
        rows[25:, [9, 12, 15]] = red
        return rows

    on, back, later = (0, 60), (120, -60), (-60, 60)
    for rows, sizes in (
        (track(on, on), [50]), (track(on, back), [25, 25]), (track(on, later), [25, 25]),
        (track(on, on, red=12), [50]), (track(on, on, red=13), [25, 25]),  # the root of 3 / 9 of 12: 6.9
        (track(on, (25, 60)), [50]), (track(on, (29, 60)), [25, 25]),  # 27 pixels are 0.3 of the height
        (track(on, back, gap=0.12), [50]), (track(on, on)[::25], [2]), (track(on, on)[:1], [1]),
    ):  # fmt: skip
        pieces = split_at_gaps(rows)
        assert [len(piece) for piece in pieces] == sizes
        assert np.array_equal(np.concatenate(pieces), rows)


def test_coloured_parts_of_a_box() -> None:
    pixels = np.zeros((3, 120, 200), np.uint8)
    pixels[:, 20:100, 50:90] = [[[100]], [[30]], [[60]]]
    pixels[:, 80:100, 50:90] = [[[200]], [[90]], [[150]]]
    picture = SimpleNamespace(size=(240, 400), small_yuv={120: pixels}.__getitem__)
    boxes = np.array([[100.0, 40, 80, 160, 0.9, -1], [100, 40, 80, 160, 1, 7], [-300, 500, 80, 160, 1, -1]])
    rows = coloured(picture, boxes)
    assert np.array_equal(rows[:, :6], boxes)
    assert rows[0, 6:12].tolist() == [50, 45, 90] * 2
    assert rows[0, 12:] == pytest.approx([80, 99, 172], abs=1)  # 14 of its 23 rows are lighter
    assert not rows[1:, 6:].any()


@pytest.mark.slow
def test_cut_tracklets_one_leaves_by_a_door_and_another_comes_out(tmp_path: Path) -> None:
    """In the middle of the picture, half a second later, in another colour."""
    places = [lambda n: (3 * n, 40) if n < 30 else None, lambda n: (89 + n, 40) if n > 42 else None]
    result = cut(tmp_path / "out", write_video(tmp_path / "a.mp4", places, frames=80), boxes=("motion",))
    assert result.tracks == {"a": 2}


@pytest.mark.slow
def test_cut_tracklets_several_files_of_one_camera_continue(video: Path, tmp_path: Path) -> None:
    second = write_video(tmp_path / "later.mp4", [crossing(first=20)])
    result = cut(tmp_path / "out", video, second, cameras=("hall",), boxes=("motion",))
    assert result.tracks == {"hall": 2}
    first, last = rows_of(tmp_path / "out/tracks.csv")
    assert (first["video"], last["video"]) == ("hall.mp4", "later.mp4")
    assert int(last["first_frame"]) == pytest.approx(60 + 21, abs=2)
    assert float(last["first_seconds"]) == pytest.approx(60 / 25 + 20 / 25, abs=0.1)


@pytest.mark.slow
def test_cut_tracklets_two_runs_and_resume_same_bytes(video, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("amem_cli.video.boxes.PART", 20)
    monkeypatch.setattr(tracklets, "PART", 20)
    whole = cut(tmp_path / "a/out", video).folder

    class Stop(Exception):
        pass

    for owner, name, calls in ((MotionBoxes, "__call__", 45), (crops, "_jpeg", 30)):
        original, left = getattr(owner, name), iter(range(calls))

        def stopping(*arguments, original=original, left=left):
            if next(left, None) is None:
                raise Stop
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stopping)
            with pytest.raises(Stop):
                cut(tmp_path / "b/out", video)
        assert not (tmp_path / "b/out").exists()
    seen = []
    with monkeypatch.context() as patch:
        original = crops._jpeg
        patch.setattr(crops, "_jpeg", lambda *arguments: seen.append(1) or original(*arguments))
        patch.setattr(MotionBoxes, "__call__", lambda *arguments: pytest.fail("boxes are found again"))
        again = cut(tmp_path / "b/out", video).folder
    assert 0 < len(seen) < 45
    assert content_of(again) == content_of(whole)
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [".out.lock", "out"]


@pytest.mark.slow
def test_cut_tracklets_reused_and_refused(video: Path, tmp_path: Path) -> None:
    assert not cut(tmp_path / "out", video).reused
    assert cut(tmp_path / "out", video).reused
    with pytest.raises(OutputExists, match="min_frames: 8 there, 9 now"):
        cut(tmp_path / "out", video, min_frames=9)
    other = Path(shutil.copy(video, tmp_path / "other.mp4"))
    with pytest.raises(OutputExists, match=r"made from other videos \(hall.mp4 there, hall.mp4; other.mp4 now\)"):
        cut(tmp_path / "out", video, other)
    assert not cut(tmp_path / "out", video, min_frames=9, force=True).reused
    (tmp_path / "out/notes.txt").write_text("keep")
    with pytest.raises(OutputExists, match=r"it also has notes\.txt, which --force would remove"):
        cut(tmp_path / "out", video, force=True)
    (tmp_path / "out/notes.txt").unlink()
    (tmp_path / "out/.DS_Store").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("keep")
    with pytest.raises(OutputExists, match="not from amem tracklets"):
        cut(tmp_path / "mine", video, force=True)
    assert (tmp_path / "mine/letter.txt").exists()
    assert not is_generated(tmp_path / "out")
    (tmp_path / GENERATED).touch()
    assert is_generated(cut(tmp_path / "out", Path(shutil.copy(video, tmp_path)), force=True).folder)


def test_cut_tracklets_min_frames(video: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(mot_lines([*ONE, lambda frame: (5, 5) if frame < 7 else None]))
    result = cut(tmp_path / "out", video, boxes=(str(tmp_path / "a.txt"),))
    assert (result.tracks, result.dropped) == ({"hall": 1}, 1)


def test_cut_tracklets_detector_weights_from_file(video, tmp_path) -> None:
    model = "ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    network = torchvision.models.get_model(model, weights=None, weights_backbone=None)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    options = {"boxes": (f"torchvision:{model}",), "detector_weights": tmp_path / "weights.pth", "fps": 2.0}
    with pytest.raises(BadData, match="no person was seen"):  # random weights
        cut(tmp_path / "out", video, **options)
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(BadData, match=f"not the weights of {model}"):
        cut(tmp_path / "out", video, **options)


def test_cut_tracklets_detector_batches(video, tmp_path, monkeypatch) -> None:
    sizes = []

    def load(model, path, device):
        def detect(pictures):
            sizes.append(len(pictures))
            return [np.array([[10.0, 20, 18, 50, 0.9, -1]]) for _ in pictures]

        return detect

    monkeypatch.setattr("amem_cli.video.boxes._load", load)
    (tmp_path / "weights.pth").write_bytes(b"1")
    result = cut(tmp_path / "out", video, detector_weights=tmp_path / "weights.pth")
    assert result.tracks == {"hall": 1}
    assert sizes == [4] * 15


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b;c'd.mp4", "-i.mp4", "concat:x.mp4", "ünïcödé 人.mp4", "%d.mp4", "\udce9\n.mp4"])
def test_cut_tracklets_odd_names(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", ONE, frames=9).rename(tmp_path / name)
    (tmp_path / "boxes.txt").write_text(mot_lines(ONE, frames=9))
    result = cut(tmp_path / "out", path, boxes=(str(tmp_path / "boxes.txt"),))
    assert list(result.tracks.values()) == [1]
    assert len((tmp_path / "out/tracks.csv").read_text().splitlines()) == 2
    assert read_videos(load_manifest(str(result.manifest)), "data")


def test_import_av_missing(monkeypatch: pytest.MonkeyPatch, video: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(InputMissing, match="python -m pip install av"):
        cut(tmp_path / "out", video)


def test_cut_tracklets_boxes_of_another_video(video: Path, tmp_path: Path) -> None:
    path = tmp_path / "boxes.txt"
    path.write_text("".join(f"{frame},1,900,900,30,80\n" for frame in range(1, 50)))
    with pytest.raises(BadData, match="49 of 49 boxes are outside the picture"):
        cut(tmp_path / "out", video, boxes=(str(path),))
    path.write_text("".join(f"{frame},1,9,9,30,80\n" for frame in range(40, 400)))
    with pytest.raises(BadData, match=r"339 of 360 boxes are after the last picture \(60\)"):
        cut(tmp_path / "out", video, boxes=(str(path),))


def test_cut_tracklets_outside_boxes_and_jumps_are_told(video: Path, tmp_path: Path) -> None:
    lines = (
        mot_lines(ONE) + "5,7,500,10,18,50\n" + "".join(f"{f},8,{1 if f < 20 else 150},3,18,50\n" for f in range(1, 40))
    )
    (tmp_path / "boxes.txt").write_text(lines)
    result = cut(tmp_path / "out", video, boxes=(str(tmp_path / "boxes.txt"),))
    assert result.warnings == [
        "camera hall: 1 of 100 boxes are outside the picture or smaller than 4 pixels, they are left out",
        "camera hall: ids that jump across the picture: 8 in frame 20",
    ]
    options = TrackletOptions(videos=(video,), out=tmp_path / "out", boxes=(str(tmp_path / "boxes.txt"),))
    again = cut_tracklets(options, progress := Silent())
    assert (again.reused, again.warnings, progress.warnings) == (True, result.warnings, result.warnings)


def test_cut_tracklets_small_boxes_of_its_own(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are left out without a word: nobody has given them."""

    def find(camera: Camera, pictures: Iterator[Picture]) -> Iterator[tuple[Picture, np.ndarray]]:
        for picture in pictures:
            yield picture, np.array([[20, 10, 18, 50, 1, -1], [1, 1, 2, 2, 1, -1]][small:])

    small = 0
    monkeypatch.setattr(tracklets, "boxes_from", lambda *_: Boxes("motion", "motion", find))
    progress = Silent()
    progress.warn("of an earlier step")
    found = cut_tracklets(TrackletOptions(videos=(video,), out=tmp_path / "out"), progress)
    assert (found.tracks, found.warnings) == ({"hall": 1}, [])
    small = 1
    why = r"no person was seen in 1 picture or more\. Try --boxes \S+ or a MOTChallenge file\.$"
    with pytest.raises(BadData, match=why):
        cut(tmp_path / "none", video, min_frames=1, boxes=())
    assert not (tmp_path / ".none.parts").exists()


def test_tracklet_options_and_names(video: Path, tmp_path: Path) -> None:
    cases = [
        ({"fps": -1}, "--fps"), ({"fps": math.nan}, "--fps"), ({"min_frames": 0}, "--min-frames"),
        ({"cameras": ("a/b",)}, "plain name"),
        ({"cameras": ("a,b",)}, "a,b: one value with a comma for several videos. Repeat the"),
        ({"boxes": ("a.txt,b.txt",)}, "option: --boxes a.txt --boxes b.txt"),
        ({"cameras": ("a", "b", "c")}, "3 given for 2 videos"), ({"boxes": ("moton",)}, "Did you mean motion"),
        ({"boxes": ("torchvision:yolo",)}, "no detector of this name"), ({}, "several videos are called"),
        ({"boxes": ("absent.txt",)}, "not found"),
    ]  # fmt: skip
    (tmp_path / "a,b.txt").touch()
    for accepted in ({"cameras": ("Main St, north, 2",)}, {"boxes": (str(tmp_path / "a,b.txt"),)}):
        TrackletOptions(videos=(video, video), out=tmp_path / "x", **accepted)
    with pytest.raises(UsageError, match="--threshold 5: not a squared distance"):
        FindOptions(videos=(video,), out=tmp_path, threshold=5.0)
    for options, why in cases:
        with pytest.raises(AmemError, match=why):
            cut(tmp_path / "out", video, video, **({"cameras": ("a",)} if "boxes" in options else {}) | options)
    (tmp_path / "boxes.txt").write_text(mot_lines(ONE))
    with pytest.raises(UsageError, match="one file of boxes for 2 cameras"):
        cut(tmp_path / "out", video, video, cameras=("a", "b"), boxes=(str(tmp_path / "boxes.txt"),))


def test_tracklets_prints_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    found = Tracklets(Path("p"), Path("my p/p.toml"), {"hall": 3, "door": 1}, dropped=2, pictures=9, source="motion")
    monkeypatch.setattr(tracklets, "cut_tracklets", lambda *given: found)
    monkeypatch.setenv("AMEM_WORKSPACE", "runs")
    assert run(["tracklets", "a.mp4", "--out", "p"]) == 0
    command = "  next: amem extract-features --dataset 'my p/p.toml' --model"
    assert capsys.readouterr().out.splitlines() == [
        "tracklets: p (9 pictures)",
        "  tracks: hall 3, door 1; left out: 2 with fewer than 8 frames",
        f"{command} MODEL",
    ]
    model = Path("runs/amem/mars/amem-main.safetensors")
    model.parent.mkdir(parents=True)
    model.touch()
    assert run(["tracklets", "a.mp4", "--out", "p"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{command} {model}"
