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


def blended(layer: nn.Module, maps: Tensor, clips: int, *, correction: int = 1) -> tuple[Tensor, Tensor]:
    """The statistics of a layer that has seen `PRIOR` clips of the training and `clips` with these maps."""
    share, rows = clips / (PRIOR + clips), maps.transpose(0, 1).flatten(1)
    mean, variance = rows.mean(1), rows.var(1, correction=correction)
    return share * mean + (1 - share) * layer.running_mean, share * variance + (1 - share) * layer.running_var


@pytest.mark.parametrize("count", [1, 3, 48])
def test_adapted_to_camera_by_hand(count: int) -> None:
    """The second layer is measured on what the first one gives with its new statistics."""
    network = two_layers()
    before = copy.deepcopy(network.state_dict())
    clips = torch.rand(count, 3, 2, 6, 4, dtype=torch.float64)
    maps = network[0](clips)
    first = blended(network[1], maps, count)
    maps = nn.functional.batch_norm(maps, *first, network[1].weight, network[1].bias)
    second = blended(network[4], network[3](maps.relu()), count)

    adapted = adapted_to_camera(network.train(), [clips])
    for layer, (mean, variance) in ((adapted[1], first), (adapted[4], second)):
        torch.testing.assert_close(layer.running_mean, mean)
        torch.testing.assert_close(layer.running_var, variance)
    assert not any(layer.training for layer in adapted.modules())
    kept = copy.deepcopy(adapted.state_dict())
    adapted(torch.rand(2, 3, 2, 6, 4, dtype=torch.float64))
    assert all(torch.equal(kept[name], value) for name, value in adapted.state_dict().items())  # no more measuring
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_adapted_to_camera_batches_have_the_variance_of_all_clips() -> None:
    """Day and night: batches of another mean and another size."""
    network = nn.Sequential(nn.BatchNorm3d(3)).double().eval()
    batches = [torch.randn(5, 3, 2, 6, 4, dtype=torch.float64) + 4, torch.randn(3, 3, 2, 6, 4, dtype=torch.float64) / 2]
    (layer,) = adapted_to_camera(network, batches)
    mean, variance = blended(network[0], torch.cat(batches), 8, correction=0)
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, variance, rtol=0.01, atol=0)  # each batch's is divided by n - 1


def test_adapted_to_camera_leaves_layers_without_statistics() -> None:
    network = nn.Sequential(nn.BatchNorm3d(3, track_running_stats=False), nn.BatchNorm3d(3)).eval()
    adapted = adapted_to_camera(network, [torch.rand(2, 3, 1, 2, 2)])
    assert adapted[1].running_mean.abs().max() > 0 or adapted[1].running_var.ne(1).any()
    assert adapted[0].running_mean is None


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
    clips = torch.rand(3, 3, 1, 32, 32).expand(-1, -1, 4, -1, -1)  # equal frames: the second view is the first mirrored
    adapted = adapted_to_camera(model, [clips])
    means = [name for name in model.state_dict() if name.endswith("running_mean")]
    assert {name.split(".")[0] for name in means} == {"backbone", "appearance_branch", "motion_branch", "neck"}
    unchanged = [name for name in means if torch.equal(model.state_dict()[name], adapted.state_dict()[name])]
    assert not unchanged
    mirrored = adapted_to_camera(model, [clips.flip(-1)]).state_dict()
    for name in means:
        torch.testing.assert_close(mirrored[name], adapted.state_dict()[name], rtol=1e-3, atol=1e-5)
