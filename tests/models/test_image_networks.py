"""Image networks with last stride 1: shapes, normalisation, agreement with torchvision's own forward."""

import pytest
import torch
import torchvision
from torch import nn

from amem_cli.errors import BadData
from amem_cli.models.image_networks import ImageMaps, image_network
from amem_cli.weights import loading


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 512), ("resnet50", 2048), ("mobilenet_v2", 1280)])
def test_image_maps_shapes(name, channels):
    with torch.device("meta"):
        network = ImageMaps(name)
        assert network.out_channels == channels
        for height, width in ((256, 128), (32, 48)):
            assert network(torch.empty(2, 3, height, width)).shape == (2, channels, height // 16, width // 16)
        assert image_network(name)(torch.empty(2, 3, 64, 64)).shape == (2, channels)
    assert all(key.startswith("network.") for key in network.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_image_maps_normalise_and_equal_torchvision(name):
    torch.manual_seed(0)
    maps = ImageMaps(name)  # in training mode: untrained statistics would shrink the maps of MobileNetV2 to 1e-6
    images, layouts = torch.rand(2, 3, 64, 32), []
    first = next(module for module in maps.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, x: layouts.append(x[0].is_contiguous(memory_format=torch.channels_last)))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        found = maps(images)
        assert layouts == [True]
        torch.testing.assert_close(found.mean(dim=(2, 3)), maps.network((images - mean) / std), atol=1e-3, rtol=0)
    assert (found >= 0).all()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_image_network_loads_by_name_and_file(name, tmp_path, monkeypatch):
    torch.manual_seed(0)
    theirs, path = getattr(torchvision.models, name)().state_dict(), tmp_path / "w.pth"
    torch.save(theirs, path)
    by_name = {("imagenet", name): path, (str(path), name): path}
    monkeypatch.setattr(loading, "weight_file", lambda *key: by_name.get(key))
    head = "fc" if name == "resnet18" else "classifier"
    for weights in (path, "imagenet"):
        loaded = image_network(name, weights).state_dict()
        assert loaded.keys() == {key for key in theirs if not key.startswith(head)}
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in loaded.items())


def test_image_network_weights_of_another_network(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    with pytest.raises(BadData, match="does not fit resnet50"):
        image_network("resnet50", path)
