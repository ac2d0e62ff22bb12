"""The benchmarks: their arithmetic by hand, agreement of what they compare, and the page that they write."""

import copy
import datetime
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import load_manifest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
MACHINE = {"processor": "a processor", "threads": 2, "python": "3.11.0", "torch": "2.14", "numpy": "2.4"}


@pytest.fixture
def load(monkeypatch):
    """Import a benchmark as its command does."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module


def figures():
    seconds = {"baseline fp32": 10.0, "torch fp32": 4.0, "openvino fp32": 2.5, "baseline bf16": 6.0, "torch bf16": 2.0}
    ranks = {"amem": 0.1, "torchreid Python": 20.0, "torchreid Cython": 0.4}
    steps = {"baseline fp32": 4.0, "amem fp32": 2.0, "amem bf16": 1.6}
    methods = {name: {"wall": wall, "of_ceiling": 0.5} for name, wall in seconds.items()}
    return {
        "training": {"clips": 8, "steps": [{"method": m, "threads": 2, "seconds": s} for m, s in steps.items()]},
        "decoding": {"microseconds": {"256x128": {"baseline": 400.0, "amem": 250.0, "amem + device": 320.0}}},
        "labelling": {"items": 20, "baseline": "torchvision's ResNet-50, eager", "methods": methods},
        "ranking": {"methods": {n: {"seconds": s, "memory": 64e6} for n, s in ranks.items()}, "notes": ["a note"]},
        "growth tracklets": [{"x": x, "seconds": 5 + x / 100, "memory": 1e9} for x in (100, 1000)],
    }


def test_comparisons_ratios(load):
    rows = {row[0]: row for row in (row.cells() for row in load("side_by_side").comparisons(figures()))}
    assert rows["JPEG of 256x128, normalised"][4] == "1.25"
    assert rows["labelling, fp32, engine torch"] == (
        "labelling, fp32, engine torch", "50%", "2 images/s", "5 images/s", "2.50"
    )  # fmt: skip
    assert rows["labelling, bf16, torchvision's ResNet-50, eager"][4] == "1.67"
    assert rows["labelling, bf16, engine torch"][4] == "5.00"  # to the baseline in fp32
    assert rows["training step of the baseline, 8 clips, fp32"][4] == "2.00"
    assert rows["training step of the baseline, 8 clips, bf16"][4] == "2.50"
    assert rows["CMC and mAP, torchreid Python"][4] == "200.00"
    assert rows["CMC and mAP, torchreid Cython"][4] == "4.00"


def test_side_by_side_adds_figures_and_drops_those_of_another_machine(load, tmp_path, monkeypatch, capsys):
    module = load("side_by_side")
    for name in ("FIGURES", "PAGE", "PLOT"):
        monkeypatch.setattr(module, name, tmp_path / name)
    monkeypatch.setattr(module, "machine", lambda: MACHINE)
    monkeypatch.setattr(module, "measure", lambda part, runs, folder: figures()[part])

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["side_by_side.py", *arguments])
        module.main()
        return set(json.loads((tmp_path / "FIGURES").read_text())["figures"])

    assert run("decoding") == {"decoding"}
    assert run("ranking", "labelling", "training") == {"decoding", "ranking", "labelling"}
    assert "training is left out: no pytorch-i3d in --peers" in capsys.readouterr().err
    text = (tmp_path / "PAGE").read_text()
    assert "a processor, 2 threads, python 3.11.0, torch 2.14, numpy 2.4." in text
    assert f"Measured on {datetime.date.today()}." in text
    assert "a note\n\nNot measured, or without other projects' code: extraction, " in text
    monkeypatch.setattr(module, "machine", lambda: MACHINE | {"torch": "2.15"})
    assert run("decoding") == {"decoding"}


def test_page_matches_the_figures_in_docs(load):
    module = load("side_by_side")
    saved = json.loads(module.FIGURES.read_text("utf-8"))
    assert module.page(saved["machine"], saved["figures"], saved["days"]) == module.PAGE.read_text("utf-8")


def test_decoding_methods_agree(load, tmp_path):
    from amem_cli.walkers.layouts import write_clips

    decoding = load("decoding")
    files = write_clips(tmp_path, people=1, frames=2, height=128, width=64)
    results = {name: method(files).numpy() for name, method in decoding.METHODS.items() if name != "amem"}
    decoding.check_agreement(results, 1e-5)
    with pytest.raises(ValueError, match="differ"):
        decoding.check_agreement(results | {"zero": np.zeros(1)}, 1e-5)


def test_ranking_methods_agree(load):
    ranking = load("ranking")
    inputs = ranking.random_inputs(20, 200, 8)
    assert ranking.amem(*inputs) == pytest.approx(ranking.brute_force(*inputs))


def test_extraction_baseline_of_the_image_networks(load, one_thread):
    import torch

    extraction, images = load("extraction"), torch.randint(256, (2, 8, 32, 32, 3), dtype=torch.uint8)
    expected = extraction.build("small").eval()(images.movedim(-1, 1) / 255)
    found = extraction.baseline("small", "fp32", "")(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert extraction.flop("small", images[:1]) * 2 == extraction.flop("small", images)


def test_with_peer_modules_replaces_units_and_poolings(load, one_thread):
    """With a stand-in for the peer's file: plain modules of the same interface."""
    import torch

    from amem_cli.models.i3d import I3D, MaxPoolSame, Unit3D

    class Pool(MaxPoolSame):
        def __init__(self, kernel, stride, padding):
            super().__init__(tuple(kernel), stride)

    peer = type("peer", (), {"Unit3D": staticmethod(lambda *how: Unit3D(*how[:2], tuple(how[2]), how[3]))})
    peer.MaxPool3dSamePadding = Pool
    torch.manual_seed(0)
    ours, clip = I3D().eval(), torch.rand(1, 3, 8, 32, 32)
    theirs = load("peers").with_peer_modules(copy.deepcopy(ours), peer)
    assert sum(isinstance(module, Pool) for module in theirs.modules()) == 13
    with torch.inference_mode():
        torch.testing.assert_close(theirs(clip), ours(clip))


def test_peers_without_checkouts(load, tmp_path):
    peers = load("peers")
    assert peers.peer_i3d("") is None
    assert peers.peer_i3d(str(tmp_path)) is None


def test_training_memory_by_hand(load):
    import torch

    training = load("training")
    layer, x = torch.nn.Linear(10, 20), torch.zeros(4, 10)
    step = lambda: torch.relu(layer(x)).sum().backward()  # noqa: E731
    assert training.kept_for_backward(step, (layer, None)) == 4 * 4 * 10 + 4 * 4 * 20  # input and output, no weights
    with training.LiveBytes() as counter:
        kept = torch.zeros(10)
        torch.zeros(100)
        torch.zeros(50)
    assert (counter.live, counter.peak) == (kept.nbytes, kept.nbytes + 400)


@pytest.mark.slow
def test_training_bytes_of_a_step(load):
    found = load("training").bytes_of_step(4, (32, 32), "baseline", "fp32", again=False)
    assert found["weights"] == found["gradients"] == found["moments"] // 2
    assert found["peak"] > found["weights"] + found["gradients"] + found["moments"] + found["kept"] // 2


def counter(start):
    numbers = iter(range(start, 100, 2))
    return lambda: next(numbers)


def fails():
    raise ValueError("no such method")


@pytest.mark.slow
def test_take_turns_in_separate_processes(load):
    timing = load("timing")
    timed = timing.take_turns({str(start): timing.Method(counter, (start,)) for start in (0, 1)}, 3)
    assert {name: side.result for name, side in timed.items()} == {"0": 0, "1": 1}
    assert all(len(side.wall) == len(side.cpu) == 3 and min(side.wall) > 0 for side in timed.values())
    with pytest.raises(ValueError, match="no such method"):
        timing.take_turns({"bad": timing.Method(fails, ())}, 1)


# -- gait --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread", "tiny_backbone")
def test_parts_of_sum_to_the_feature(load):
    """f_s of two clips, the model's, differs by the sum of the differences of its parts; the bias is common."""
    import torch

    from amem_cli.models.amem import build_main_model
    from amem_cli.models.config import model_config
    from amem_cli.options import TrainAmemOptions
    from amem_cli.runtime.engine import as_pixels

    torch.manual_seed(0)
    options = TrainAmemOptions(modules="amem", neck="bn", branch="conv2d", image_size="32x32", mirror="on")
    model = build_main_model(model_config(options, 2)).eval()
    model.neck.running_var.uniform_(0.5, 2)
    model.neck.weight.data.uniform_(0.5, 2)
    clips = torch.randint(256, (2, 8, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        parts = load("gait").parts_of(model, clips)
        torch.testing.assert_close(parts["f_s"], model(as_pixels(clips, torch.device("cpu"))))
    assert set(parts) == {"f_s", "f_B", "f_A", "f_M"}
    differences = {name: rows[0] - rows[1] for name, rows in parts.items()}
    assert all(difference.abs().max() > 0 for difference in differences.values())
    whole = differences.pop("f_s")
    torch.testing.assert_close(sum(differences.values()), whole, rtol=1e-4, atol=1e-6)


def test_in_random_order_keeps_the_frames(load):
    from amem_cli.data.tracklets import Tracklet

    tracklet = Tracklet("a", 1, 1, "", tuple("abcdefghij"))
    shuffled = load("gait").in_random_order(tracklet, 0)
    assert sorted(shuffled.files) == list(tracklet.files) != list(shuffled.files)
    assert load("gait").in_random_order(tracklet, 0) == shuffled


def test_torchreid_rank_of_a_checkout_with_its_extension(load, tmp_path):
    metrics = tmp_path / "deep-person-reid" / "torchreid" / "metrics"
    (metrics / "rank_cylib").mkdir(parents=True)
    (metrics.parent / "__init__.py").write_text("raise RuntimeError('the package imports too much')")
    (metrics / "rank_cylib" / "rank_cy.py").write_text("evaluate_cy = 'compiled'")
    (metrics / "rank.py").write_text("from torchreid.metrics.rank_cylib.rank_cy import evaluate_cy")
    try:
        assert load("peers").torchreid_rank(str(tmp_path)).evaluate_cy == "compiled"
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchreid"]:
            del sys.modules[name]


def test_real_people_halves(load, tmp_path):
    module, peta = load("real_people"), tmp_path / "PETA dataset"
    frames = {"TownCentre": {1: 20, 2: 18, 3: 17, 4: 20}, "CAVIAR4REID": {7: 20, 8: 19}, "GRID": {1: 1}}
    for folder, people in frames.items():
        (peta / folder / "archive").mkdir(parents=True)
        for person, count in people.items():
            for number in range(count):
                (peta / folder / "archive" / f"{person}_{9 * number}.jpg").write_text(f"{folder} {person} {number}")
    module.write_half(peta, tmp_path / "half0", 0)
    # 17 frames and 19 frames are too few for two tracklets; every second person of an archive is in the other half
    people = tmp_path / "half0" / "people"
    assert {split.name: sorted(path.name for path in split.iterdir()) for split in people.iterdir()} == {
        "train": ["1001", "1004", "2007"], "test": ["1002"],
    }  # fmt: skip
    last = people / "train" / "1001" / "2"
    assert [path.read_text() for path in sorted(last.iterdir())] == [f"TownCentre 1 {n}" for n in range(11, 20)]
    kept = {path.name.split("_")[0] for path in (tmp_path / "half0/peta/PETA dataset/TownCentre/archive").iterdir()}
    assert kept == {"1", "3", "4"}  # the recogniser does not see person 2, who is in the test


def test_real_people_of_new_cameras(load, tmp_path):
    """The people of the videos train; the first and the last image of each person of an image archive are the test."""
    module, peta = load("real_people"), tmp_path / "PETA dataset"
    for folder in ("TownCentre", "CAVIAR4REID", "VIPeR", "GRID", "PRID", "i-LID", "CUHK"):
        (peta / folder / "archive").mkdir(parents=True)
    files = [f"TownCentre/archive/1_{number}.png" for number in range(20)]
    files += [f"VIPeR/archive/002_{name}.png" for name in ("45_1", "90_2", "60_1")]
    files += ["VIPeR/archive/003_45_1.png", "GRID/archive/0009_1_25.png", "CUHK/archive/0016.png", "CUHK/Label.txt"]
    for number, file in enumerate(files):
        Image.new("RGB", (8, 16), (number, 100, 200)).save(peta / file) if file.endswith("png") else (
            peta / file
        ).touch()
    module.write_new_cameras(peta, tmp_path)
    (split,) = read_videos(load_manifest(str(tmp_path / "people.toml")), tmp_path).splits
    assert [(t.person_id, t.camera_id, len(t)) for t in split.train] == [(1001, 1, 9), (1001, 2, 9)]
    assert [(t.person_id, t.camera_id, len(t)) for t in split.test] == [(3002, 5, 1), (3002, 6, 1)]
    last = peta / "VIPeR/archive/002_90_2.png"
    assert split.test[1].frames[0].read_bytes() == last.read_bytes()
    kept = sorted(str(path.relative_to(tmp_path / "peta/PETA dataset")) for path in (tmp_path / "peta").rglob("*.*"))
    assert kept == sorted(file for file in files if file.startswith(("TownCentre", "CUHK")))  # for the recogniser
    values, people, cameras = module.average_pixels(tmp_path / "people.toml")
    assert (values.shape, people.tolist(), cameras.tolist()) == ((2, 384), [3002, 3002], [5, 6])
    assert np.allclose(values.mean(axis=1), 0, atol=1e-6)
    assert np.allclose(np.linalg.norm(values, axis=1), 1)


def test_fewer_real_people_to_train_on(load, tmp_path):
    module = load("real_people")
    for person, split in [(1001, "train"), (1003, "train"), (1005, "train"), (2007, "train"), (1002, "test")]:
        for camera in "12":
            frame = tmp_path / "people" / split / str(person) / camera / "00001.png"
            frame.parent.mkdir(parents=True)
            frame.write_text("")
    manifest = load_manifest(str(module.few_people(tmp_path, 2)))
    (split,) = read_videos(manifest, tmp_path).splits
    assert {tracklet.person_id for tracklet in split.train} == {1001, 1005}  # every second one
    assert {tracklet.person_id for tracklet in split.test} == {1002}
    (tmp_path / "people2" / "train" / "1005").unlink()
    module.few_people(tmp_path, 2)  # a killed run continues
    assert (tmp_path / "people2" / "train" / "1005" / "2" / "00001.png").is_file()


def test_real_people_rank1_between_cameras(load):
    """The nearest tracklet of all is of the query's own camera, which is not searched."""
    degrees = np.radians([0, 20, 5, 60, 0, 10])  # 1001 in cameras 1 and 2, 1002, 2001
    values = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    people, cameras = np.array([1001, 1001, 1002, 1002, 2001, 2001]), np.array([1, 2, 1, 2, 3, 4])
    # from camera 1 to 2: 0 -> 20 right, 5 -> 20 wrong; from 2 to 1: 20 -> 5 wrong, 60 -> 5 right
    module = load("real_people")
    hits = module.hits_of(values, people, cameras)
    assert hits == {"TownCentre": {"1001": [1, 0], "1002": [0, 1]}, "CAVIAR": {"2001": [1, 1]}}
    assert module.rate(hits["TownCentre"]) == "2 of 4 (50.0 %)"


def test_real_people_differences(load, capsys):
    """Means over the seeds of each row; rows of other people are left out."""
    people = {str(person): [0, 1] for person in range(50)}
    better = people | {str(person): [1, 1] for person in range(25)}
    figures = {"small/baseline/seed0": people, "small/amem/seed0": people, "small/amem/seed1": better}
    figures = {name: {"CAVIAR": hits} for name, hits in figures.items()} | {"other/amem/seed0": {"GRID": better}}
    load("real_people").print_differences(figures, "small/baseline")
    (line,) = capsys.readouterr().out.splitlines()
    start, _, interval = line.partition(" (")
    assert start == "small/amem minus small/baseline: CAVIAR +12.5"
    # half of the people gain 25 points: the standard error is 12.5 / sqrt(50) = 1.77
    low, high = (float(each) for each in interval.strip(")").split(" to "))
    assert (low, high) == pytest.approx((12.5 - 1.96 * 1.77, 12.5 + 1.96 * 1.77), abs=0.6)


def test_real_people_results_of_several_runs(load, tmp_path):
    module = load("real_people")
    (tmp_path / "results.json").write_text('{"small/amem/seed0": {"CAVIAR": [3, 4]}}')  # of an earlier version
    hits = {"CAVIAR": {"2001": [1, 0]}}
    assert module.add_results(tmp_path, {"small/aem/seed0": hits}) == {"small/aem/seed0": hits}
    assert module.add_results(tmp_path, {"small/mem/seed0": hits}).keys() == {"small/aem/seed0", "small/mem/seed0"}
    with pytest.raises(SystemExit, match="--minus amem: not among the results: small/aem, small/mem"):
        module.print_differences(module.read_results(tmp_path), "amem")


def test_real_people_in_large_galleries(load, tmp_path):
    """The training people are test people, too; what is kept of a killed run stays."""
    for place in ("train/1001/1", "train/1001/2", "test/1002/1", "test/1002/2"):
        frame = tmp_path / "people" / place / "00001.png"
        frame.parent.mkdir(parents=True)
        frame.write_text("")
    module = load("real_people")
    (tmp_path / "people.toml").write_text(module.MANIFEST)
    for _ in range(2):
        manifest = module.large_galleries(tmp_path / "people.toml")
        (split,) = read_videos(load_manifest(str(manifest)), tmp_path).splits
        assert sorted(tracklet.person_id for tracklet in split.test) == [1001, 1001, 1002, 1002]
