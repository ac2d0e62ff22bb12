"""The texture auto-encoder: the paper's shapes, the frozen encoder, DCGAN's discriminator."""

import pytest
import torch
from torch import nn

from amem_cli.models.tae import Discriminator, FrozenTextureEncoder, TextureDecoder, TextureEncoder


def test_the_paper_s_shapes_there_and_back() -> None:
    with torch.device("meta"):
        texture = TextureEncoder()(torch.empty(2, 3, 256, 128))
        assert texture.shape == (2, 512, 16, 8)
        assert TextureDecoder()(texture).shape == (2, 3, 256, 128)
        assert Discriminator(256, 128)(torch.empty(2, 3, 256, 128)).shape == (2,)


def test_the_discriminator_of_the_paper_s_size_has_dcgan_s_channels() -> None:
    with torch.device("meta"):
        layers = Discriminator(256, 128).layers
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 128, 256, 512, 1024, 1]
    assert [layer.kernel_size for layer in convolutions] == [(4, 4)] * 5 + [(8, 4)]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in layers) == 4
    assert all(layer.negative_slope == 0.2 for layer in layers if isinstance(layer, nn.LeakyReLU))


@pytest.mark.parametrize("height", range(32, 321, 16))
@pytest.mark.parametrize("width", [32, 48, 64, 112, 128, 160, 256])
def test_every_image_size_that_the_options_allow(height: int, width: int) -> None:
    with torch.device("meta"):
        discriminator = Discriminator(height, width)
        assert discriminator(torch.empty(2, 3, height, width)).shape == (2,)


def test_the_discriminator_starts_as_dcgan_does_and_sees_minus_one_to_one() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(64, 32)
    weights = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d)]
    assert weights[1].weight.std().item() == pytest.approx(0.02, rel=0.05)
    norms = [module for module in discriminator.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms[0].weight.mean().item() == pytest.approx(1, abs=0.02)
    seen: list[torch.Tensor] = []
    discriminator.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    discriminator(torch.stack([torch.zeros(3, 64, 32), torch.ones(3, 64, 32)]))
    assert seen[0][0].unique().tolist() == [-1]
    assert seen[0][1].unique().tolist() == [1]


def test_the_decoder_has_four_doubling_blocks_and_ends_in_a_sigmoid() -> None:
    torch.manual_seed(0)
    decoder = TextureDecoder().eval()
    kinds = [type(layer).__name__ for layer in decoder.layers]
    block = ["ConvTranspose2d", "BatchNorm2d", "ReLU"]
    assert kinds == block * 3 + ["ConvTranspose2d", "Sigmoid"]
    images = decoder(10 * torch.randn(1, 512, 2, 1))
    assert images.shape == (1, 3, 32, 16)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0


def test_the_frozen_encoder_never_changes_and_passes_gradients_to_images() -> None:
    torch.manual_seed(0)
    whole = nn.ModuleDict({"encoder": FrozenTextureEncoder(), "other": nn.BatchNorm2d(3)})
    before = {name: tensor.clone() for name, tensor in whole["encoder"].state_dict().items()}
    whole.train()
    assert whole["other"].training
    assert not any(module.training for module in whole["encoder"].modules())
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    whole["encoder"](images).square().mean().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in whole["encoder"].parameters())
    after = whole["encoder"].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_ordinary_encoder_does_learn() -> None:
    encoder = TextureEncoder().train()
    assert encoder.maps.network.bn1.training
    before = encoder.maps.network.bn1.running_mean.clone()
    encoder(torch.rand(2, 3, 32, 32)).mean().backward()
    assert not torch.equal(before, encoder.maps.network.bn1.running_mean)
    assert encoder.maps.network.conv1.weight.grad is not None


def test_texture_statistics_travel_with_the_weights() -> None:
    with torch.device("meta"):
        names = TextureEncoder().state_dict()
    assert names["texture_mean"].shape == names["texture_std"].shape == (512,)
    with torch.device("meta"):
        assert set(FrozenTextureEncoder().state_dict()) == set(names)
