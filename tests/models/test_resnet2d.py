"""Image ResNets with last stride 1: shapes, normalisation, agreement with torchvision's own forward."""

import pytest
import torch
import torchvision

from amem_cli.errors import BadData, UsageError
from amem_cli.models import resnet2d
from amem_cli.models.resnet2d import ResNetMaps, imagenet_resnet


@pytest.mark.parametrize(("depth", "channels"), [(18, 512), (50, 2048)])
def test_resnet_maps_shapes(depth, channels):
    with torch.device("meta"):
        network = ResNetMaps(depth)
        assert network.out_channels == channels
        for height, width in ((256, 128), (32, 48)):
            assert network(torch.empty(2, 3, height, width)).shape == (2, channels, height // 16, width // 16)
        assert imagenet_resnet(depth)(torch.empty(2, 3, 64, 64)).shape == (2, channels)
    assert all(name.startswith("network.") for name in network.state_dict())


def test_resnet_maps_normalise_and_equal_torchvision():
    torch.manual_seed(0)
    maps = ResNetMaps(18).eval()
    images = torch.rand(2, 3, 64, 32)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        found = maps(images)
        torch.testing.assert_close(found.mean(dim=(2, 3)), maps.network((images - mean) / std))
    assert (found >= 0).all()


def test_imagenet_resnet_loads_by_name_and_file(tmp_path, monkeypatch):
    torch.manual_seed(0)
    theirs, path = torchvision.models.resnet18().eval(), tmp_path / "w.pth"
    torch.save(theirs.state_dict(), path)
    monkeypatch.setattr(resnet2d, "fetch", lambda url: path if url.endswith("resnet18-f37072fd.pth") else None)
    theirs.fc = torch.nn.Identity()
    images = torch.rand(1, 3, 32, 32)
    for weights in (path, "imagenet"):
        with torch.no_grad():
            assert torch.equal(imagenet_resnet(18, weights).eval()(images), theirs(images))
    with pytest.raises(BadData, match="does not fit resnet50"):
        imagenet_resnet(50, path)
    with pytest.raises(UsageError, match="Choose 18 or 50"):
        imagenet_resnet(34)
