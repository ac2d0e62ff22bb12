"""Generated people: fixed bytes, correct labels, moving legs, original layouts, complete or absent output."""

import hashlib
import multiprocessing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import filelock
import numpy as np
import PIL
import pytest
from PIL import Image

from amem_cli.artifacts.paths import GENERATED
from amem_cli.attributes import ATTRIBUTES, COLOURS
from amem_cli.data.datasets import dataset_counts, read_dataset
from amem_cli.data.manifest import SHIPPED, load_manifest
from amem_cli.errors import DiskError, Interrupted, Locked, OutputExists, UsageError
from amem_cli.walkers import layouts, painting, videos
from amem_cli.walkers.cameras import build_camera, draw_passage, draw_scene, draw_walker, straight_passage
from amem_cli.walkers.gait import pose_at, stride_length
from amem_cli.walkers.layouts import write_clips, write_walkers
from amem_cli.walkers.options import WalkerOptions
from amem_cli.walkers.people import draw_people, draw_person
from amem_cli.walkers.video_sets import plan_mars
from amem_cli.walkers.world import World

TINY = WalkerOptions(people=2, frames=(1, 2), images_per_person=1, height=32, width=16)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def pixels(walker, camera, frame=0):
    return np.asarray(draw_walker(walker, camera, frame, straight_passage(camera)), dtype=float)


# -- the same seed, the same bytes -------------------------------------------------------------------------------------


def test_plan_fixed_digest():
    world = World(WalkerOptions(people=12, cameras=3, frames=(2, 4), images_per_person=4, height=32, width=16))
    for data_set in world.options.data_sets:
        layouts.PLANS[data_set](world)
    digest = hashlib.sha256()
    for shot in world.shots:
        attributes = shot.walker.attributes if shot.walker else None
        digest.update(repr((shot.path, attributes, shot.camera, shot.frame, shot.size)).encode())
    for path, content in world.files.items():
        digest.update(path.encode() + content)
    assert digest.hexdigest() == "c1a96e290aaa22672d850909656b1c332e49cbcd7a4abdb44035c3c7f70f78f7"


@pytest.mark.skipif(PIL.__version__.split(".")[0] != "13", reason="edges differ between versions of Pillow")
def test_draw_walker_fixed_digest():
    digest = hashlib.sha256()
    cameras = [build_camera(4, index, height=48, width=24) for index in range(8)]
    passer = draw_person(4, "passers", 0)
    for k in range(160):
        camera = cameras[k % 8]
        passage = draw_passage(camera, 9, 4, "digest", k, passer=passer)
        digest.update(draw_walker(draw_person(4, "digest", k), camera, k % 11, passage).tobytes())
    for camera in cameras:
        digest.update(draw_scene(camera, 1.5).tobytes())
    assert digest.hexdigest() == "923f7a16789eeaca0fc41d0a8659c5436116acdb2a328e32dadc87b89b8b7fa5"


# -- people ------------------------------------------------------------------------------------------------------------


def test_draw_people_pairs_differ_in_gait_alone():
    people = draw_people(0, "mars-train", 24)
    assert people[:6] == draw_people(0, "mars-train", 64)[:6]
    looks = [[one.body for one in draw_people(0, "mars-train", 24, twins)] for twins in (0.0, 0.01, 0.1, 0.25, 1.0)]
    assert [24 - len(set(bodies)) for bodies in looks] == [0, 1, 1, 3, 12]
    first, *pair = draw_people(0, "mars-train", 3, 1.0)
    assert (first.body == pair[0].body, pair[0].body == pair[1].body) == (False, True)  # nobody is in two pairs
    for a, b in zip(people[-6::2], people[-5::2], strict=True):
        assert replace(a, gait=b.gait) == b
        assert abs(a.gait.stride - b.gait.stride) == pytest.approx(0.28, abs=1e-6)
        assert abs(a.gait.period - b.gait.period) == pytest.approx(4.0, abs=1e-6)


def test_world_alike_differs_in_gait_alone():
    plain, alike = World(WalkerOptions(people=6)), World(WalkerOptions(people=6, alike=True))
    for data_set in ("mars-train", "mars-test", "ilids", "prid", "prid-only-a"):
        people, others = alike.people(data_set, 6), plain.people(data_set, 6)
        assert [person.gait for person in people] == [person.gait for person in others]
        assert len({person.gait for person in people}) == 6
        assert {replace(person, gait=people[0].gait) for person in people} == {people[0]}
        assert len({replace(person, gait=people[0].gait) for person in others}) > 3
    for data_set in ("mars-passers", "market-train", "peta-CUHK"):
        assert alike.people(data_set, 6) == plain.people(data_set, 6)


def test_draw_person_attributes_consistent():
    counts = dict.fromkeys(ATTRIBUTES, 0)
    for index in range(300):
        walker = draw_person(5, "labels", index)
        has = set(walker.attributes)
        assert list(walker.attributes) == [name for name in ATTRIBUTES if name in has]
        for name in has:
            counts[name] += 1
        exactly_one = [
            ("personal", ("Male", "Female")),
            ("personal", ("Less15", "Less30", "Less45", "Less60", "Larger60")),
            ("hair", ("Bald", "Long", "Short")),
            ("upperBody", ("LongSleeve", "ShortSleeve", "NoSleeve")),
            ("lowerBody", ("Trousers", "Jeans", "Suits", "Shorts", "HotPants", "Capri", "ShortSkirt", "LongSkirt")),
            ("lowerBody", COLOURS),
            ("footwear", COLOURS),
        ]
        for start, ends in exactly_one:
            assert len(has & {f"{start}{end}" for end in ends}) == 1
        assert len(has & {f"hair{colour}" for colour in COLOURS}) == (0 if "hairBald" in has else 1)
        assert len(has & {f"upperBody{colour}" for colour in COLOURS}) in (1, 2)
        assert {f"hair{walker.body.hair}", f"carrying{walker.clothes.carrying}"} <= has
        assert ("upperBodySuit" in has) == ("lowerBodySuits" in has)
    assert sum(count > 0 for count in counts.values()) >= 75
    assert max(counts.values()) < 0.9 * 300


# -- gait and cameras --------------------------------------------------------------------------------------------------


def test_pose_at_cycle_and_ground():
    walker = draw_person(0, "gait", 2)
    walker = replace(walker, gait=replace(walker.gait, asymmetry=0.0))
    assert np.allclose(pose_at(walker, 0.25).legs[0].knee, pose_at(walker, 1.25).legs[0].knee)
    assert pose_at(walker, 0.1).legs[0].knee[0] == pytest.approx(pose_at(walker, 0.6).legs[1].knee[0])
    for phase in np.linspace(0.0, 1.0, 9):
        pose = pose_at(walker, float(phase))
        assert min(point[2] for leg in pose.legs for point in (leg.heel, leg.toe)) == pytest.approx(0.0, abs=1e-9)
        assert 0.95 < pose.head[2] + 0.068 * walker.body.head < 1.06


def test_draw_walker_legs_move_smoothly():
    walker, camera = draw_person(0, "move", 3), build_camera(0, 0)
    wall, ground = (Image.new("RGB", image.size, (128, 128, 128)) for image in (camera.wall, camera.ground))
    still = replace(camera, grain=np.zeros_like(camera.grain), wall=wall, ground=ground)  # only the person moves
    frames = [pixels(walker, still, k)[70:] for k in range(12)]
    steps = [np.abs(a - b).mean() for a, b in pairwise(frames)]
    assert min(steps) > 1.0  # of 255
    assert max(steps) < 2.0 * np.abs(frames[0] - frames[11]).mean()


def test_data_set_does_not_depend_on_the_others():
    alone, together = World(TINY), World(TINY)
    plan_mars(alone)
    for data_set in TINY.data_sets:
        layouts.PLANS[data_set](together)
    shots = {shot.path: shot for shot in together.shots}
    assert {path: content for path, content in together.files.items() if path.startswith("mars/")} == alone.files
    for shot in alone.shots:
        same = shots.pop(shot.path)
        image, other = (painting.paint(world, one) for world, one in ((alone, shot), (together, same)))
        assert image.tobytes() == other.tobytes()
    assert not [path for path in shots if path.startswith("mars/")]


# -- writing -----------------------------------------------------------------------------------------------------------


def test_write_walkers_interrupted_then_complete(tmp_path):
    options = replace(TINY, data_sets=("peta", "market1501", "mars", "ilids-vid"))  # PRID-2011 has most of the images
    out, calls = tmp_path / "below" / "out", []

    def interrupt(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_walkers(out, options, interrupt)
    assert list(out.parent.iterdir()) == []
    assert write_walkers(out, options, lambda *call: calls.append(call)) == out
    written = sum(path.suffix in SUFFIXES for path in out.rglob("*"))
    assert calls == [(k, written) for k in range(1, written + 1)]
    assert sorted(path.name for path in out.iterdir()) == ["GENERATED.txt", "ilids-vid", "market1501", "mars", "peta"]
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("at", ["drawing", "moving"])
def test_write_walkers_after_a_kill(existing, at, tmp_path, monkeypatch):
    """SIGKILL runs no cleanup; the same command then completes the data sets, and after that changes nothing."""
    options = replace(TINY, data_sets=("ilids-vid",))
    out, moved = tmp_path / "out", []
    if existing:
        out.mkdir()
    rename = Path.rename

    def killed(*call):
        raise KeyboardInterrupt

    def second_move(path, target):
        moved.append(path)
        return rename(path, target) if len(moved) < 2 and existing else killed()

    with monkeypatch.context() as patch:
        patch.setattr(layouts.shutil, "rmtree", lambda *path, **how: None)
        if at == "moving":
            patch.setattr(Path, "rename", second_move)
        with pytest.raises(KeyboardInterrupt):
            write_walkers(out, options, killed if at == "drawing" else lambda *call: None)
    drawn = []
    assert write_walkers(out, options, lambda *call: drawn.append(call)) == out
    assert bool(drawn) is (at == "drawing")  # what was complete is only moved
    assert sorted(path.name for path in out.iterdir()) == ["GENERATED.txt", "ilids-vid"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert write_walkers(out, options, killed) == out  # complete
    with pytest.raises(OutputExists, match="made with other options"):
        write_walkers(out, replace(options, seed=1))


@pytest.fixture
def two_processes(monkeypatch):
    """Options with enough images for two processes."""
    monkeypatch.setattr(painting, "IMAGES_PER_PROCESS", 50)
    return replace(TINY, data_sets=("ilids-vid", "prid2011"))


def test_write_walkers_in_processes_gives_the_same_bytes(two_processes, tmp_path):
    calls = []
    write_walkers(tmp_path / "one", two_processes)
    write_walkers(tmp_path / "two", two_processes, lambda *call: calls.append(call), processes=2)
    one, two = (
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two
    images = sum(path.suffix in SUFFIXES for path in one)
    assert calls == [(k, images) for k in range(1, images + 1)]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_write_walkers_in_processes_stops_at_a_failure(failure, two_processes, tmp_path):
    def fail(done, total):
        raise failure

    with pytest.raises((KeyboardInterrupt, DiskError)):
        write_walkers(tmp_path / "out", two_processes, fail, processes=2)
    assert not list(tmp_path.iterdir())
    assert not multiprocessing.active_children()


def test_write_walkers_when_a_process_is_killed(two_processes, tmp_path):
    def kill(done, total):
        for child in multiprocessing.active_children():
            child.kill()
            child.join()

    options = replace(two_processes, people=8)
    with pytest.raises(Interrupted, match="a process that paints images was killed"):
        write_walkers(tmp_path / "out", options, kill, processes=2)
    assert not list(tmp_path.iterdir())


def test_write_walkers_while_another_run_writes(tmp_path):
    work = tmp_path / ".walkers-out"
    work.mkdir()
    with filelock.FileLock(work / "lock"), pytest.raises(Locked, match="another run is writing it"):
        write_walkers(tmp_path / "out", TINY)
    assert work.is_dir()


def test_write_videos_into_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "_write_video", lambda path, *scene: path.write_text("x"))
    monkeypatch.chdir(tmp_path)
    Path(f".walkers-{tmp_path.name}/videos").mkdir(parents=True)  # of a killed run
    made = videos.write_videos(Path("."), seed=0, people=1)
    assert sorted(Path(".").iterdir()) == [Path(GENERATED), *made]


def test_write_videos_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "_write_video", lambda path, *scene: path.write_text("x"))
    left = tmp_path / ".walkers-out" / "videos"
    left.mkdir(parents=True)
    (left / "camera9.mp4").write_text("half")
    made = videos.write_videos(tmp_path / "out", seed=0, people=1)
    assert made == [tmp_path / "out" / "camera1.mp4", tmp_path / "out" / "camera2.mp4"]
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "out", tmp_path / "out" / GENERATED, *made]
    monkeypatch.setattr(videos, "_write_video", None)  # a complete folder of the same options is kept
    assert videos.write_videos(tmp_path / "out", seed=0, people=1) == made
    for write in (lambda out: videos.write_videos(out, seed=1, people=1), lambda out: write_walkers(out, TINY)):
        with pytest.raises(OutputExists, match="made with other options"):
            write(tmp_path / "out")


@pytest.mark.parametrize("camera", [0, 1])
def test_crossings_lead_through_the_picture(camera):
    scene = videos._crossings(3, camera, 9)
    assert sorted(one.person for one in scene) == list(range(1, 10))
    assert [one.person for one in scene] != [one.person for one in videos._crossings(3, 1 - camera, 9)]
    assert {one.step > 0 for one in scene} == {True, False}
    for place, one in enumerate(scene):
        assert one.walker == draw_person(3, "videos", one.person - 1)
        assert one.begin / videos.FPS == pytest.approx(1 + videos.APART * place, abs=0.5 + 0.5 / videos.FPS)
        outside = -0.35 * one.size, videos.WIDTH + 0.35 * one.size
        begin, end = outside if one.step > 0 else outside[::-1]
        assert one.foot[0] == pytest.approx(begin)
        assert 0 <= (one.foot[0] + one.step * (one.end - one.begin) - end) / one.step < 1
        # a cycle of the gait moves the feet by one stride, seen from the side
        stride = one.step * one.walker.gait.period / one.size
        assert stride == pytest.approx(stride_length(one.walker) * np.cos(one.heading))
        assert abs(stride) > 0.97 * stride_length(one.walker)
        depth = one.foot[1] / videos.HEIGHT
        assert videos.HORIZON + 0.3 * (0.97 - videos.HORIZON) <= depth <= 0.97
        # the nearer, the larger, and as large as the person is tall
        tall = one.size / videos.HEIGHT * 1.72 / one.walker.body.stature
        assert tall == pytest.approx(np.interp(depth, (videos.HORIZON, 0.97), (0.2, 0.44)))
    assert max(one.foot[1] for one in scene) > 1.2 * min(one.foot[1] for one in scene)


def test_paint_box_and_what_is_visible(monkeypatch):
    monkeypatch.setattr(videos, "WIDTH", 200)
    walker = draw_person(0, "videos", 0)

    def painted(at):  # the third frame of a walk
        image = Image.new("RGB", (200 * videos.OVERSAMPLING, 112 * videos.OVERSAMPLING), (255, 0, 255))
        one = videos.Crossing(1, walker, 5, 99, (at - 8, 90), 4, 40, 0.0, 0.3)
        box = videos._paint(image, one, 7, 0.0, 1.0)
        return box, np.nonzero((np.array(image) != (255, 0, 255)).any(2))

    (left, top, width, height), (rows, columns) = painted(100)
    sides = np.array([left, top, left + width, top + height]) * videos.OVERSAMPLING
    assert sides.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert (left + width / 2, top + height, height) == (
        pytest.approx(100, abs=6), pytest.approx(90, abs=4), pytest.approx(40, abs=4),
    )  # fmt: skip
    for at in range(-20, 221, 3):
        x = left + at - 100
        visible = min(x + width, 200) - max(x, 0) > 0.3 * width
        assert painted(at)[0] == ((x, top, width, height) if visible else None)


def test_write_walkers_folder_not_empty(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        write_walkers(tmp_path, TINY)
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.txt"]
    for write in (lambda out: write_walkers(out, TINY), videos.write_videos):
        with pytest.raises(UsageError, match="this is a file, not a folder"):
            write(tmp_path / "mine.txt")


def test_walker_options_lists_all_values_out_of_range():
    with pytest.raises(UsageError) as caught:
        WalkerOptions(people=1, cameras=7, frames=(9, 8), height=8, data_sets=("mars", "duke"))
    for wrong in ("'duke' is none of peta, mar", "people is 1", "cameras is 7", "longest tracklet is 8", "height is 8"):
        assert wrong in str(caught.value)


def test_write_clips_people_and_frames(tmp_path):
    files = write_clips(tmp_path, people=2, frames=2, height=64, width=32)
    frames = [np.asarray(Image.open(file), dtype=int) for file in files]
    assert [frame.shape for frame in frames] == [(64, 32, 3)] * 4
    assert 0 < np.abs(frames[0] - frames[1]).mean() < np.abs(frames[0] - frames[2]).mean()


# -- layouts -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_layouts_read_as_the_original_data_sets(walkers):
    counts = {name: dataset_counts(read_dataset(load_manifest(name), walkers)) for name in SHIPPED}
    names = ("train_people", "test_people", "query_tracklets", "junk_tracklets", "distractor_tracklets")
    assert [counts["mars"][name] for name in names] == [4, 4, 8, 2, 2]
    assert counts["mars"]["queries_unmatched_without_queries"] == 0
    for name, people in {"ilids-vid": 4, "prid2011": 2}.items():  # two people of PRID-2011 have too few frames
        assert [counts[name][key] for key in ("splits", "people", "tracklets")] == [10, people, 2 * people]
    assert counts["prid2011"]["shortest"] >= 27
    assert (counts["market1501"]["people"], counts["market1501"]["images"]) == (4, 4 * 3)
    assert (counts["peta"]["people"], counts["peta"]["attributes"]) == (48, 105)
    junk = {path.name.split("_")[0] for path in (walkers / "market1501" / "bounding_box_test").iterdir()}
    assert junk > {"-1", "0000"}
