"""Batch norm with the statistics of one camera."""

import copy

import pytest
import torch
from torch import Tensor, nn

from amem_cli.models import adaptation
from amem_cli.models.adaptation import PRIOR, adapted_to_camera
from amem_cli.models.amem import build_main_model
from amem_cli.models.config import model_config
from amem_cli.options import TrainAmemOptions
from amem_cli.resolve import resolve


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 5, 1), nn.BatchNorm3d(5), nn.AdaptiveAvgPool3d(1)
    )
    for layer in (network[1], network[4]):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return network.double().eval().requires_grad_(False)


def blended(layer: nn.Module, mean: Tensor, variance: Tensor, clips: int) -> tuple[Tensor, Tensor]:
    """The statistics of a layer that has seen `PRIOR` clips of the training and `clips` of these."""
    share = clips / (PRIOR + clips)
    return share * mean + (1 - share) * layer.running_mean, share * variance + (1 - share) * layer.running_var


@pytest.mark.parametrize("sizes", [(1,), (3,), (20, 20, 8)])
def test_adapted_to_camera_by_hand(sizes: tuple[int, ...]) -> None:
    """The second layer is measured on what the first one gives with the statistics of its own batch."""
    network = two_layers()
    before, count = copy.deepcopy(network.state_dict()), sum(sizes)
    batches = [torch.rand(size, 3, 2, 6, 4, dtype=torch.float64) for size in sizes]
    totals = [[torch.zeros(width, dtype=torch.float64)] * 2 for width in (4, 5)]
    for clips in batches:
        maps = network[0](clips)
        for number, layer in enumerate((network[1], network[4])):
            rows = maps.transpose(0, 1).flatten(1)
            found = rows.mean(1), rows.var(1)
            totals[number] = [
                total + len(clips) / count * one for total, one in zip(totals[number], found, strict=True)
            ]
            maps = nn.functional.batch_norm(maps, *blended(layer, *found, count), layer.weight, layer.bias)
            maps = network[3](maps.relu()) if number == 0 else maps

    adapted = adapted_to_camera(network.train(), batches)
    for number, place in enumerate((1, 4)):
        mean, variance = blended(network[place], *totals[number], count)
        torch.testing.assert_close(adapted[place].running_mean, mean)
        torch.testing.assert_close(adapted[place].running_var, variance)
    assert not any(layer.training for layer in adapted.modules())
    kept = adapted.state_dict()
    adapted(torch.rand(2, 3, 2, 6, 4, dtype=torch.float64))
    assert all(torch.equal(kept[name], value) for name, value in adapted.state_dict().items())  # no more measuring
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_adapted_to_camera_a_single_value_has_no_variance() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)).eval()
    adapted = adapted_to_camera(network, [torch.rand(1, 3, 1, 1, 1)])
    assert torch.equal(adapted[1].running_var, network[1].running_var)
    assert torch.equal(adapted[1].running_mean, network[1].running_mean)


def test_adapted_to_camera_removes_the_light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same people in two lights: another brightness, and more of one colour than of another."""
    monkeypatch.setattr(adaptation, "PRIOR", 0)
    people = torch.rand(8, 3, 2, 6, 4, dtype=torch.float64)
    seen = 0.5 * people + torch.tensor([0.4, 0.0, -0.1]).view(3, 1, 1, 1)
    network = two_layers()
    plain = (network(people) - network(seen)).norm()
    adapted = (adapted_to_camera(network, [people])(people) - adapted_to_camera(network, [seen])(seen)).norm()
    assert adapted < 0.01 * plain


def test_adapted_to_camera_every_batch_norm() -> None:
    """Backbone, branches and neck of preset small; mirrored clips are measured too."""
    options = resolve(TrainAmemOptions, {"image_size": "32x32"}, preset="small")
    model = build_main_model(model_config(options, people=2)).eval()
    clips = torch.rand(3, 3, 4, 32, 32)
    adapted = adapted_to_camera(model, [clips])
    means = [name for name in model.state_dict() if name.endswith("running_mean")]
    assert {name.split(".")[0] for name in means} == {"backbone", "appearance_branch", "motion_branch", "neck"}
    unchanged = [name for name in means if torch.equal(model.state_dict()[name], adapted.state_dict()[name])]
    assert not unchanged
    mirrored = adapted_to_camera(model, [clips.flip(-1)]).state_dict()
    for name in means:
        torch.testing.assert_close(mirrored[name], adapted.state_dict()[name], rtol=1e-3, atol=1e-5)
