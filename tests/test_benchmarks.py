"""The benchmarks' own arithmetic, their page from figures made by hand, and that the ways they compare agree."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
MACHINE = {"processor": "a processor", "threads": 2, "python": "3.11.0", "torch": "2.14", "numpy": "2.4"}


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])  # a benchmark adds to it, too
    return importlib.import_module(name)


def figures() -> dict[str, Any]:
    def way(wall: float) -> dict[str, float]:
        return {"wall": wall, "cpu": wall, "of_ceiling": 0.5}

    ways = {
        "usual fp32": 10.0,
        "usual+allocator fp32": 2.0,
        "torch fp32": 4.0,
        "openvino fp32": 2.5,
        "usual bf16": 6.0,
        "torch bf16": 2.0,
    }
    labelling = {"items": 20, "ways": {name: way(seconds) for name, seconds in ways.items()}}
    ranks = {"amem": 0.1, "torchreid Python": 20.0, "torchreid Cython": 0.4}
    ranking = {"ways": {n: {"seconds": s, "memory": 64e6} for n, s in ranks.items()}, "notes": ["a note"]}
    steps = {"usual fp32": 4.0, "usual+allocator fp32": 3.2, "ours fp32": 2.0, "usual bf16": 3.0, "ours bf16": 1.6}
    training = {"clips": 8, "steps": [{"way": w, "threads": 2, "seconds": s} for w, s in steps.items()]}
    return {
        "training": training,
        "decoding": {"microseconds": {"256x128": {"usual": 400.0, "amem": 250.0, "amem + device": 320.0}}},
        "labelling": labelling,
        "ranking": ranking,
        "growth tracklets": [{"x": x, "seconds": 5 + x / 100, "memory": 1e9} for x in (100, 1000)],
    }


def test_ratios_and_verdicts_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {row.work: row for row in benchmark("side_by_side", monkeypatch).comparisons(figures())}
    decoding = found["decoding, JPEG of 256x128"]
    assert (decoding.ratio, decoding.target, decoding.verdict) == (1.6, 2.0, "**missed**")
    fastest = found["labelling, fp32, engine openvino, the fastest"]
    assert (fastest.ratio, fastest.target, fastest.verdict) == (4.0, 2.2, "reached")
    assert found["labelling, fp32, engine torch"].verdict == ""  # another engine is held against the target
    bf16 = found["labelling, bf16, engine torch, the fastest"]
    assert (bf16.ratio, bf16.target, bf16.verdict) == (5.0, 4.5, "reached")  # against the usual way in fp32
    steps = [row for work, row in found.items() if work.startswith("training step of 8 clips")]
    allocator, ours, usual_bf16, ours_bf16 = [(row.ratio, row.verdict) for row in steps]
    assert (allocator, usual_bf16) == ((1.25, ""), (pytest.approx(4 / 3), ""))
    assert (ours, ours_bf16) == ((2.0, "reached"), (2.5, "**missed**"))
    assert found["labelling, fp32, the usual way with amem's allocator settings"].verdict == ""
    assert found["CMC and mAP, beside torchreid Python"].ratio == pytest.approx(200)
    assert found["CMC and mAP, beside torchreid Cython"].verdict == "**missed**"


def test_the_page_says_what_was_missed_and_what_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    text = benchmark("side_by_side", monkeypatch).page(MACHINE, figures())
    assert "a processor, 2 threads, python 3.11.0, torch 2.14, numpy 2.4. No GPU was used." in text
    assert "Missed: decoding, JPEG of 256x128 is 1.60 times as fast as the usual way and should be 2." in text
    assert "Missed: labelling" not in text
    assert "a note" in text
    assert "Not measured here: extraction, growth length, growth processes." in text
    assert "| 1000 | 15.0 | 1000 |" in text


def test_parts_add_up_and_another_machine_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = benchmark("side_by_side", monkeypatch)
    for name in ("FIGURES", "PAGE", "PLOT"):
        monkeypatch.setattr(module, name, tmp_path / name)
    monkeypatch.setattr(module, "machine", lambda: MACHINE)
    monkeypatch.setattr(module, "measure", lambda part, runs: figures()[part])

    def run(*arguments: str) -> set[str]:
        monkeypatch.setattr(sys, "argv", ["side_by_side.py", *arguments])
        module.main()
        return set(json.loads((tmp_path / "FIGURES").read_text())["figures"])

    assert run("decoding") == {"decoding"}
    assert run("ranking", "labelling") == {"decoding", "ranking", "labelling"}
    assert "labelling" in (tmp_path / "PAGE").read_text()
    monkeypatch.setattr(module, "machine", lambda: MACHINE | {"torch": "2.15"})
    assert run("decoding") == {"decoding"}


def test_the_plot_is_drawn_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growth = benchmark("growth", monkeypatch)
    curves = {"tracklets": figures()["growth tracklets"]}
    growth.draw(curves, tmp_path / "a.svg")
    growth.draw(curves, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").stat().st_size > 1000


@pytest.mark.parametrize("tracklets", [1, 3])
def test_the_grown_data_set_has_as_many_tests_tracklets_as_asked_for(
    tmp_path: Path, tracklets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amem_cli.data.datasets import read_videos
    from amem_cli.data.manifest import load_manifest

    growth = benchmark("growth", monkeypatch)
    split = read_videos(load_manifest(str(growth.write_dataset(tmp_path, 2 * tracklets, 5))), tmp_path).splits[0]
    assert len(split.test) == 2 * tracklets
    assert {len(tracklet) for tracklet in split.test} == {5}


def test_the_ways_of_decoding_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = benchmark("decoding", monkeypatch)
    monkeypatch.setattr(decoding, "IMAGES", 8)
    found = decoding.run(runs=1)["microseconds"]
    assert set(found) == {"256x128", "128x64"}
    monkeypatch.setattr(decoding, "ours", lambda files: decoding.torch.zeros(len(files), 256, 128, 3).byte())
    with pytest.raises(ValueError, match="disagree"):
        decoding.run(runs=1)


def test_the_ways_of_ranking_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    ranking = benchmark("ranking", monkeypatch)
    monkeypatch.setattr(ranking, "peak_memory", lambda *_: None)
    found = ranking.run((20, 200, 8), runs=1, only=["amem", "brute force"])["ways"]
    assert found["amem"]["mAP"] == pytest.approx(found["brute force"]["mAP"])
    with pytest.raises(ValueError, match="brute force gives"):
        ranking.check_agreement({"amem": (0.5, 0.5), "brute force": (0.5, 0.4)})


def test_the_usual_network_computes_what_ours_does(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    extraction = benchmark("extraction", monkeypatch)
    torch = extraction.torch
    network = extraction.main_model()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), dtype=np.uint8))
    usual = extraction.usual_way(lambda: network, "fp32")(images)
    with torch.no_grad():
        expected = network.eval()(images.movedim(-1, 1) / 255)
    torch.testing.assert_close(usual, expected, rtol=1e-4, atol=1e-4)


def odd_or_even(start: int) -> Any:
    numbers = iter(range(start, 100, 2))
    return lambda: next(numbers)


def fails() -> Any:
    raise ValueError("no such way")


def test_ways_take_turns_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    interleaved = benchmark("interleaved", monkeypatch)
    ways = {name: interleaved.Way(odd_or_even, (start,)) for name, start in (("even", 0), ("odd", 1))}
    timed = interleaved.take_turns(ways, 3, 1)
    assert {name: side.first for name, side in timed.items()} == {"even": 0, "odd": 1}
    assert all(len(side.wall) == len(side.cpu) == 3 and min(side.wall) > 0 for side in timed.values())
    with pytest.raises(ValueError, match="no such way"):
        interleaved.take_turns({"bad": interleaved.Way(fails, ())}, 1, 1)
