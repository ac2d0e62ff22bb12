"""`amem bench`: its arithmetic by hand, and the whole of it on toy networks."""

import json
import types
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from amem_cli.cli.app import run
from amem_cli.options import TrainAmemOptions
from amem_cli.tools import bench

CPU = torch.device("cpu")
COUNTS = {
    "train_tracklets": 10,
    "train_images": 1000,
    "test_tracklets": 4,
    "test_images": 800,
    "test_people": 5,
    "query_tracklets": 30,
    "gallery_tracklets": 50,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small frames, a small data set, and networks of one convolution."""

    class Toy(nn.Module):
        def __init__(self, dimensions: int):
            super().__init__()
            self.conv = (nn.Conv2d, nn.Conv3d)[dimensions - 2](3, 4, 3, padding=1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).flatten(2).mean(dim=2)

    monkeypatch.setattr(bench, "SIZE", (32, 16))
    monkeypatch.setattr(bench, "CONVOLUTION", (1, 8, 8, 8))
    monkeypatch.setattr(bench, "COPIED", 1000)
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "QUICK_SECONDS", 0.0)
    monkeypatch.setattr(bench, "ARM", lambda *_: Toy(2))
    monkeypatch.setattr(bench, "build_main_model", lambda _: Toy(3))
    monkeypatch.setattr(bench, "training_step", lambda *_: (lambda: torch.ones(3, 3) @ torch.ones(3, 3), 12))
    monkeypatch.setattr(bench, "load_manifest", lambda _: types.SimpleNamespace(counts=COUNTS))


def test_mars_by_hand_on_a_cpu_where_decoding_and_computing_take_turns() -> None:
    rates = {"labelling": 10.0, "decoding": 100.0, "extraction": 2.0, "evaluation": 15.0, "training 256x128": 4.0}
    found = bench.seconds_of_mars(rates, COUNTS, "cpu")
    clips = 800 / 8 + 4 * 7 / 16
    assert found == {
        "label-videos": pytest.approx(1000 / 10 + 1000 / 100),
        "extract-features": pytest.approx(clips / 2 + 800 / 100),
        "evaluate": pytest.approx(2),
        "train-amem": pytest.approx(240 * 10 / 4 + 240 * 10 * 8 / 100),
    }


def test_mars_by_hand_on_cuda_where_the_slower_one_decides() -> None:
    rates = {"labelling": 1000.0, "decoding": 100.0, "extraction": 2.0, "evaluation": 15.0}
    found = bench.seconds_of_mars(rates, COUNTS, "cuda")
    assert found["label-videos"] == pytest.approx(10)  # the decoder's
    assert found["extract-features"] == pytest.approx((100 + 1.75) / 2)  # the network's
    assert "train-amem" not in found  # nothing was timed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A clock that the timed function moves by hand."""
    now = [0.0]
    monkeypatch.setattr(bench, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def test_the_first_run_warms_up_and_the_median_counts(clock: list[float]) -> None:
    durations = iter([100.0, 1.0, 9.0, 2.0])

    def work() -> None:
        clock[0] += next(durations)

    assert bench.median_seconds(work, spend=0.0) == 2.0
    assert list(durations) == []


def test_runs_go_on_until_the_time_is_spent(clock: list[float]) -> None:
    runs = []

    def work() -> None:
        runs.append(None)
        clock[0] += 1.0

    assert bench.median_seconds(work, spend=7.5) == 1.0
    assert len(runs) == 1 + 8


def test_flop_of_a_convolution_by_hand() -> None:
    network = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    assert bench.flop(network, torch.zeros(1, 6, 7, 3, dtype=torch.uint8)) == 2 * 3 * 5 * 9 * 6 * 7


@pytest.mark.usefixtures("one_thread")
def test_a_training_step_trains_everything() -> None:
    options = TrainAmemOptions(image_size="32x32", people_per_batch=2, clips_per_person=2)
    clips = torch.randint(256, (3, 8, 40, 24, 3), dtype=torch.uint8)
    built = []
    build = bench.build_amem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "build_amem", lambda *given: built.extend(build(*given)) or tuple(built))
        step, count = bench.training_step(options, 2, clips, CPU, "fp32")
    model, discriminator = built
    before = [p.detach().clone() for p in (*model.parameters(), *discriminator.parameters())]
    step()
    trained = [p.requires_grad for p in (*model.parameters(), *discriminator.parameters())]
    moved = [
        not torch.equal(p, old)
        for p, old in zip((*model.parameters(), *discriminator.parameters()), before, strict=True)
    ]
    assert count == 4
    assert np.mean([m for m, t in zip(moved, trained, strict=True) if t]) > 0.9  # some biases before BN stay
    assert not any(m for m, t in zip(moved, trained, strict=True) if not t)


@pytest.mark.usefixtures("one_thread", "small")
def test_the_document_for_scripts(capsys: pytest.CaptureFixture) -> None:
    assert run(["bench", "--device", "cpu", "--engine", "torch", "--quick", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"machine", "ceilings", "rates", "mars"}
    assert found["machine"]["precision"] == "fp32"
    assert found["machine"]["engine"] == {"labelling": "torch", "extraction": "torch"}
    assert {row["part"] for row in found["rates"]} == {
        "decoding", "labelling", "extraction", "training 128x64", "evaluation",
    }  # fmt: skip
    for row in found["rates"]:
        assert row["fraction"] == pytest.approx(row["value"] / row["ceiling"])
        assert row["seconds"] > 0
    assert set(found["mars"]) == {"label-videos", "extract-features", "evaluate"}


@pytest.mark.usefixtures("one_thread", "small")
def test_the_table_names_every_part_and_fits(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["bench", "--device", "cpu", "--engine", "torch", "--quiet"]) == 0
    text = capsys.readouterr().out
    for word in ("decoding", "labelling", "extraction", "training 128x64", "training 256x128", "evaluation", "MARS"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [["--device", "gpu"], ["--engine", "fast"], ["--precision", "int8"]])
def test_unknown_choices_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert run(["bench", *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err
