"""`amem bench`: its arithmetic by hand, and the command on toy networks."""

import json
import types

import pytest
import torch
from torch import nn
from toys import ALONE

from amem_cli.cli.app import run
from amem_cli.options import TrainAmemOptions
from amem_cli.tools import bench

COUNTS = {
    "train_tracklets": 10, "train_images": 1000, "test_tracklets": 4, "test_images": 800, "test_people": 5,
}  # fmt: skip


class Toy(nn.Module):
    def __init__(self, convolution):
        super().__init__()
        self.conv = convolution(3, 4, 3, padding=1, bias=False)

    def forward(self, x):
        return self.conv(x).flatten(2).mean(dim=2)


@pytest.fixture
def small(monkeypatch):
    """Small frames, a small data set, and networks of one convolution."""
    for name, value in {"SIZE": (32, 16), "CONVOLUTION": (1, 8, 8, 8), "SECONDS": 0.0}.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "QUICK_SECONDS", 0.0)
    monkeypatch.setattr(bench, "ARM", lambda *_: Toy(nn.Conv2d))
    monkeypatch.setattr(bench, "build_main_model", lambda _: Toy(nn.Conv3d))
    monkeypatch.setattr(bench, "training_step", lambda *_: (lambda: torch.ones(3, 3) @ torch.ones(3, 3), 12))
    monkeypatch.setattr(bench, "load_manifest", lambda _: types.SimpleNamespace(counts=COUNTS))


def test_seconds_of_mars_cpu_adds_decoding_and_computing():
    rates = {"labelling": 10.0, "decoding": 100.0, "extraction": 2.0, "training": 4.0}
    clips = 800 / 8 + 4 * 7 / 16
    assert bench.seconds_of_mars(rates, COUNTS, "cpu") == {
        "label-videos": pytest.approx(1000 / 10 + 1000 / 100),
        "extract-features": pytest.approx(clips / 2 + 800 / 100),
        "train-amem": pytest.approx(240 * 10 / 4 + 240 * 10 * 8 / 100),
    }


def test_seconds_of_mars_cuda_is_the_slower(monkeypatch):
    monkeypatch.setattr("amem_cli.data.loading.affinity", lambda: 4)
    rates = {"labelling": 1000.0, "decoding": 100.0, "extraction": 2.0}
    found = bench.seconds_of_mars(rates, COUNTS, "cuda")
    assert found["label-videos"] == pytest.approx(1000 / 100 / 4)  # decoding in four processes
    assert found["extract-features"] == pytest.approx((100 + 1.75) / 2)  # the network
    assert "train-amem" not in found


def test_flop_of_a_convolution():
    assert bench.flop(Toy(nn.Conv2d), torch.zeros(1, 6, 7, 3, dtype=torch.uint8)) == 2 * 3 * 4 * 9 * 6 * 7


@pytest.mark.usefixtures("one_thread", "tiny_backbone")
def test_training_step_trains_both_networks(monkeypatch):
    built = []
    build = bench.build_networks
    monkeypatch.setattr(bench, "build_networks", lambda *given: built.append(build(*given)) or built[0])
    monkeypatch.setattr(bench, "TrainAmemOptions", lambda: TrainAmemOptions(image_size="32x32", clips_per_person=2))
    clips = torch.randint(256, (4, 8, 32, 32, 3), dtype=torch.uint8)
    step, count = bench.training_step(ALONE, "fp32", clips)
    parameters = [p for network in built[0][:2] for p in network.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    step()
    moved = [not torch.equal(p, old) for p, old in zip(parameters, before, strict=True)]
    assert count == 4
    assert sum(moved) > 0.9 * len(moved)  # biases before BN do not change


@pytest.mark.usefixtures("one_thread", "small")
@pytest.mark.parametrize("quick", [True, False])
def test_bench_json_and_table(quick, capsys):
    arguments = ["bench", "--device", "cpu", "--engine", "torch", "--quiet", *(["--quick"] if quick else [])]
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"machine", "ceilings", "rates", "mars"}
    assert found["machine"]["precision"] == "fp32"
    assert found["machine"]["engine"] == {"labelling": "torch", "extraction": "torch"}
    parts = [row["part"] for row in found["rates"]]
    assert parts == ["decoding", "labelling", "extraction", *([] if quick else ["training"])]
    for row in found["rates"]:
        assert row["fraction"] == pytest.approx(row["value"] / row["ceiling"])
        assert row["seconds"] > 0
    assert ("train-amem" in found["mars"]) == (not quick)
    assert run(arguments) == 0
    assert all(part in capsys.readouterr().out for part in parts[:1])
