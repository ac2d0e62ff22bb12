"""The texture auto-encoder: shapes of the paper, the frozen encoder, DCGAN's discriminator."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from amem_cli.models import tae
from amem_cli.models.backbones import normalise
from amem_cli.models.config import TaeConfig
from amem_cli.models.tae import (
    TAE,
    Discriminator,
    FrozenTextureEncoder,
    TextureDecoder,
    TextureEncoder,
    mem_parts,
)
from amem_cli.weights.normalisation import IMAGENET


def test_tae_shapes_of_the_paper() -> None:
    with torch.device("meta"):
        model = TAE()
        images = torch.empty(2, 3, 256, 128)
        assert model.encoder(images).shape == (2, 512, 16, 8)
        assert model(images).shape == (2, 3, 256, 128)
        assert set(FrozenTextureEncoder().state_dict()) == set(model.encoder.state_dict())
    assert model.encoder.texture_mean.shape == model.encoder.texture_std.shape == (512,)


def test_discriminator_channels_of_dcgan() -> None:
    with torch.device("meta"):
        layers = Discriminator(256, 128).layers
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 128, 256, 512, 1024, 1]
    assert [layer.kernel_size for layer in convolutions] == [(4, 4)] * 5 + [(8, 4)]
    assert [layer.stride for layer in convolutions] == [(2, 2)] * 5 + [(1, 1)]
    assert [layer.bias is not None for layer in convolutions] == [True] + [False] * 4 + [True]
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Conv2d", "LeakyReLU"] + ["Conv2d", "BatchNorm2d", "LeakyReLU"] * 4 + ["Conv2d"]
    assert [layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)] == [0.2] * 5


def test_discriminator_number_of_halvings() -> None:
    with torch.device("meta"):
        shapes = [Discriminator(*size).layers[-1].weight.shape for size in ((8, 8), (18, 18), (512, 256))]
    assert [tuple(shape) for shape in shapes] == [(1, 64, 4, 4), (1, 256, 2, 2), (1, 1024, 8, 4)]


def test_tae_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[object, ...]] = []

    class Maps(nn.Identity):
        out_channels = 512

        def __init__(self, *arguments: object) -> None:
            super().__init__()
            loaded.append(arguments)

    monkeypatch.setattr(tae, "ImageMaps", Maps)
    TAE(weights="imagenet")
    TAE()
    assert loaded == [("resnet18", "imagenet"), ("resnet18", "")]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 256), (48, 112), (128, 64), (320, 160)])
def test_discriminator_any_image_size(height: int, width: int) -> None:
    with torch.device("meta"):
        assert Discriminator(height, width)(torch.empty(2, 3, height, width)).shape == (2,)


def test_discriminator_initialisation_and_input_range() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(64, 32)
    weights = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d)]
    assert weights[1].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert weights[1].weight.mean().item() == pytest.approx(0, abs=1e-3)
    norm = next(module for module in discriminator.modules() if isinstance(module, nn.BatchNorm2d))
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.02)
    assert 0.01 < norm.weight.std().item() < 0.03
    seen: list[torch.Tensor] = []
    discriminator.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    discriminator(torch.stack([torch.zeros(3, 64, 32), torch.ones(3, 64, 32)]))
    assert seen[0][0].unique().tolist() == [-1]
    assert seen[0][1].unique().tolist() == [1]


def test_decoder_four_blocks_and_sigmoid() -> None:
    torch.manual_seed(0)
    decoder = TextureDecoder().eval()
    kinds = [type(layer).__name__ for layer in decoder.layers]
    assert kinds == ["ConvTranspose2d", "BatchNorm2d", "ReLU"] * 3 + ["ConvTranspose2d", "BatchNorm2d", "Sigmoid"]
    convolutions = [layer for layer in decoder.layers if isinstance(layer, nn.ConvTranspose2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == [
        (512, 256), (256, 128), (128, 64), (64, 3),
    ]  # fmt: skip
    assert [layer.bias for layer in convolutions] == [None] * 4
    images = decoder(10 * torch.randn(1, 512, 2, 1))
    assert images.shape == (1, 3, 32, 16)
    assert 0 <= images.min() < images.max() <= 1


def test_frozen_encoder_unchanged_and_differentiable() -> None:
    torch.manual_seed(0)
    network = nn.ModuleDict({"encoder": FrozenTextureEncoder(), "other": nn.BatchNorm2d(3)})
    assert not network["encoder"].training
    network.train()
    before = {name: tensor.clone() for name, tensor in network["encoder"].state_dict().items()}
    assert network["other"].training
    assert not any(module.training for module in network["encoder"].modules())
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    network["encoder"](images).square().mean().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in network["encoder"].parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network["encoder"].state_dict().items())


def test_encoder_trains() -> None:
    encoder = TextureEncoder().train()
    before = encoder.maps.network.bn1.running_mean.clone()
    encoder(torch.rand(2, 3, 32, 32)).mean().backward()
    assert not torch.equal(before, encoder.maps.network.bn1.running_mean)
    assert encoder.maps.network.conv1.weight.grad is not None


def test_mobilenet_encoder_shapes_and_middle_maps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = torchvision.models.mobilenet_v2()  # in training mode: untrained statistics would shrink the maps to 1e-5
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    encoder = TextureEncoder("mobilenet_v2", str(tmp_path / "w.pth"))
    assert encoder.channels == 576
    assert encoder.texture_mean.shape == encoder.texture_std.shape == (576,)
    images = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        texture = encoder(images)
        expected = whole.features[14].conv[0](whole.features[:14](normalise(images, IMAGENET)))
    assert texture.shape == (2, 576, 4, 2)
    assert (texture >= 0).all()
    torch.testing.assert_close(texture, expected, atol=0.01, rtol=0)


def test_patches_encoder_one_texture_for_each_patch() -> None:
    torch.manual_seed(0)
    encoder = TextureEncoder("patches").eval()
    images = torch.rand(1, 3, 64, 32)
    changed = images.clone()
    changed[:, :, 16:32, 0:16] = 0
    with torch.no_grad():
        difference = (encoder(changed) - encoder(images)).abs().amax(dim=1)
        both = encoder(torch.stack([images[0], changed[0], (images[0] + changed[0]) / 2]))
    assert encoder.channels == both.shape[1] == 256
    assert torch.nonzero(difference[0]).tolist() == [[1, 0]]
    torch.testing.assert_close(both[2], (both[0] + both[1]) / 2)  # linear
    assert both.min() < 0


def test_mem_parts_follow_the_configuration() -> None:
    config = TaeConfig(image_size="64x32", encoder="mobilenet_v2")
    encoder, decoder = mem_parts(config)
    model = TAE(config.encoder)
    assert encoder.state_dict().keys() == model.encoder.state_dict().keys()
    assert decoder.state_dict().keys() == model.decoder.state_dict().keys()
    assert model(torch.rand(2, 3, 64, 32)).shape == (2, 3, 64, 32)
