"""Decoding: presentation times, rotation, and videos that are damaged, cut off or none."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amem_cli.errors import BadData, InputMissing
from amem_cli.runtime.progress import Silent
from amem_cli.video import decode
from amem_cli.video.decode import Camera, sampled
from amem_cli.video.tracklets import TrackletOptions, cut_tracklets
from tests.videos import HEIGHT, WIDTH, crossing, write_sound, write_video

ONE = [crossing()]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "hall.mp4", ONE)


def test_pictures_presentation_times_of_variable_frame_rate(tmp_path: Path) -> None:
    times = [0, 40, 80, 200, 240, 900, 940, 1000]
    path = write_video(tmp_path / "phone.mp4", ONE, frames=8, times=times)
    pictures = list(Camera("a", [path]).pictures())
    assert [round(1000 * picture.seconds) for picture in pictures] == times
    assert [p.number for p in sampled(iter(pictures), 5)] == [1, 4, 6, 8]
    assert [p.number for p in sampled(iter(pictures), 0)] == list(range(1, 9))


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_pictures_rotated(rotation: int, tmp_path: Path) -> None:
    plain = next(Camera("a", [write_video(tmp_path / "a.mp4", ONE, frames=2)]).pictures())
    turned = next(Camera("a", [write_video(tmp_path / "b.mp4", ONE, frames=2, rotation=rotation)]).pictures())
    expected = np.rot90(plain.rgb(), rotation // 90)
    assert turned.size == expected.shape[:2] == turned.rgb().shape[:2]
    assert np.abs(turned.rgb().astype(int) - expected).mean() < 1
    assert turned.small_yuv(60).shape[1:] == (60, round(60 * turned.size[1] / turned.size[0]))


def test_camera_files_that_are_no_videos(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a b.MP4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    write_sound(tmp_path / "sound.mp4")
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (32, 64)).save(tmp_path / name)
    faults = {
        "empty.mp4": (BadData, "it is empty"),
        "noise.mp4": (BadData, "cannot be decoded"),
        "folder.mp4": (BadData, "it is a folder. Give videos; for folders of frames run: amem data check"),
        "videos": (BadData, r"it is a folder. Give its videos: '\S*/a b\.MP4'\.$"),
        "pipe.mp4": (BadData, "pipe, a device or a socket"),
        "sound.mp4": (BadData, "it has no pictures that can be decoded .audio only."),
        "a.png": (BadData, "it is one picture. Cut the person out of it, into a folder"),
        "a.jpg": (BadData, "it is one picture"),
        "absent.mp4": (InputMissing, r"not found\. Check the path\.$"),
        "nois.mp4": (InputMissing, rf"not found\. Did you mean {tmp_path}/noise\.mp4\? Check the path\.$"),
        "no folder/a.mp4": (InputMissing, r"not found\. Check the path\.$"),
    }
    for name, (kind, why) in faults.items():
        with pytest.raises(kind, match=why) as caught:
            Camera("a", [tmp_path / name])
        assert "\n" not in str(caught.value)
    with pytest.raises(BadData, match="pipe, a device"):
        Camera("a", [Path("/dev/zero")])
    with pytest.raises(InputMissing, match="Addresses are not read: download the video"):
        Camera("a", [Path("https://example.org/a.mp4")])


def test_pictures_damaged_in_the_middle_rest_is_kept(tmp_path: Path, video: Path) -> None:
    content = bytearray(video.read_bytes())
    middle = len(content) // 2
    content[middle - 600 : middle + 600] = np.random.default_rng(0).bytes(1200)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    camera = Camera("a", [path])
    numbers = [picture.number for picture in camera.pictures()]
    assert 20 <= len(numbers) < 60
    assert max(numbers) >= 55
    (fault,) = camera.faults
    assert f"video {path}: damaged or without pictures from" in fault
    options = TrackletOptions(videos=(path,), out=tmp_path / "out", boxes=("motion",))
    assert cut_tracklets(options, Silent()).faults == [fault]
    again = Silent()
    assert cut_tracklets(options, again).reused
    assert again.warnings == [fault]


@pytest.mark.parametrize("ending", ["mkv", "avi", "mp4"])
def test_pictures_cut_off_is_told(ending: str, tmp_path: Path, video: Path) -> None:
    whole = copy_packets(video, tmp_path / f"whole.{ending}")
    camera = Camera("a", [whole])
    assert len(list(camera.pictures())) == 60
    assert camera.faults == []
    cut_off = tmp_path / f"cut.{ending}"
    cut_off.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    camera = Camera("a", [cut_off])
    last = list(camera.pictures())[-1]
    assert 1 < last.number < 60
    (fault,) = camera.faults
    assert fault.endswith(f"damaged or without pictures from {last.seconds:.2f} s to its end; the rest is kept")


def test_pictures_missing_in_the_middle_are_told(tmp_path: Path, video: Path) -> None:
    path = copy_packets(video, tmp_path / "a.mkv", without=range(20, 30))  # pictures from 0.8 to 1.2 s, a whole group
    camera = Camera("a", [path, path])
    assert len(list(camera.pictures())) == 100
    assert [fault.partition("from ")[2] for fault in camera.faults] == [
        "0.76 s to 1.20 s; the rest is kept", "3.16 s to 3.60 s; the rest is kept",
    ]  # fmt: skip


def test_camera_nothing_can_be_decoded(tmp_path: Path, video: Path) -> None:
    path = copy_packets(video, tmp_path / "a.mp4")
    content = path.read_bytes()
    start = content.index(b"mdat") + 4
    path.write_bytes(content[:start] + bytes(len(content) - start))
    with pytest.raises(BadData, match="no picture could be decoded"):
        list(Camera("a", [path]).pictures())
    path = copy_packets(video, tmp_path / "b.mp4", movflags="frag_keyframe+empty_moov")
    content = path.read_bytes()
    whys = []
    for size in range(content.index(b"moov"), content.index(b"moof"), 16):
        path.write_bytes(content[:size])
        with pytest.raises(BadData) as caught:
            list(Camera("a", [path]).pictures())
        whys.append(caught.value.why)
    assert "it has no pictures that can be decoded (video only)" in whys


def test_camera_recording_without_index(tmp_path: Path, video: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(BadData, match=r"stopped before its index \(moov\) was written"):
        Camera("a", [tmp_path / "a.mp4"])


def test_camera_files_in_another_order_than_recorded(tmp_path: Path, video: Path) -> None:
    early = copy_packets(video, tmp_path / "early.mp4", created="2026-01-01T10:00:00Z")
    late = copy_packets(video, tmp_path / "late.mp4", created="2026-01-01T10:00:01Z")
    for files, told in (([early, video, late], []), ([late, video, early], [f"video {early}: recorded before {late}"])):
        camera = Camera("a", files)
        list(camera.pictures())
        assert [fault.partition(",")[0] for fault in camera.faults] == told


def test_pictures_joined_files_whose_clock_begins_again(tmp_path: Path, video: Path) -> None:
    path = tmp_path / "joined.ts"
    path.write_bytes(2 * copy_packets(video, tmp_path / "a.ts").read_bytes())
    camera = Camera("a", [path])
    times = [picture.seconds for picture in camera.pictures()]
    assert np.allclose(times, np.arange(120) / 25, atol=1e-3)
    assert camera.faults == []


def copy_packets(
    video: Path, target: Path, without: range = range(0), movflags: str = "+faststart", created: str = ""
) -> Path:
    """The pictures of a video in another container, without those numbers; an MP4 has its index first."""
    import av

    if target.suffix == ".avi":  # as MPEG-4: it cannot hold these packets
        with av.open(str(target), "w") as copy:
            stream = copy.add_stream("mpeg4", rate=25)
            stream.width, stream.height = WIDTH, HEIGHT
            for picture in Camera("a", [video]).pictures():
                copy.mux(stream.encode(av.VideoFrame.from_ndarray(picture.rgb(), "rgb24")))
            copy.mux(stream.encode())
        return target
    options = {"movflags": movflags} if target.suffix == ".mp4" else {}
    with av.open(str(video)) as source, av.open(str(target), "w", options=options) as copy:
        copy.metadata["creation_time"] = created
        stream = copy.add_stream_from_template(source.streams.video[0])
        for place, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.dts is not None and place not in without:
                packet.stream = stream
                copy.mux(packet)
    return target


def test_camera_huge_pictures(tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MOST_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(BadData, match="pictures of 200 x 120, more than"):
        Camera("a", [video])
