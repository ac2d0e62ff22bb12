"""Image ResNets at last stride 1: shapes, normalisation, agreement with torchvision's own forward."""

import pytest
import torch

from amem_cli.models.resnet2d import ResNetMaps


@pytest.mark.parametrize(("depth", "channels"), [(18, 512), (50, 2048)])
def test_sixteenth_of_the_sides(depth: int, channels: int) -> None:
    with torch.device("meta"):
        network = ResNetMaps(depth)
        assert network.out_channels == channels
        for height, width in ((256, 128), (128, 64), (32, 48)):
            maps = network(torch.empty(2, 3, height, width))
            assert maps.shape == (2, channels, height // 16, width // 16)


def test_imagenet_s_mean_is_zero_inside() -> None:
    torch.manual_seed(0)
    network = ResNetMaps(18).eval()
    seen: list[torch.Tensor] = []
    network.network.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    network((mean + std).view(1, 3, 1, 1).expand(1, 3, 32, 32))
    torch.testing.assert_close(seen[0], torch.ones(1, 3, 32, 32))


def test_pooled_maps_are_torchvision_s_features() -> None:
    torch.manual_seed(0)
    maps = ResNetMaps(18).eval()
    images = torch.rand(2, 3, 64, 32)
    found = maps(images)
    assert (found >= 0).all()
    torch.testing.assert_close(found.mean(dim=(2, 3)), maps.network((images - maps.mean) / maps.std))


def test_the_normalisation_is_no_weight() -> None:
    with torch.device("meta"):
        names = set(ResNetMaps(18).state_dict())
    assert all(name.startswith("network.") for name in names)
