"""MEM: c rounds with one f_M, gradients through the re-encoded prediction, initialisation of the embedding."""

import pytest
import torch
from torch import Tensor, nn

from amem_cli.errors import UsageError
from amem_cli.models.mem import MEM
from amem_cli.models.tae import FrozenTextureEncoder, TextureDecoder

CHANNELS = 8


@pytest.fixture
def mem() -> MEM:
    torch.manual_seed(0)
    encoder = FrozenTextureEncoder()
    encoder.texture_mean.uniform_(0.2, 1)
    encoder.texture_std.uniform_(0.5, 2)
    return MEM(CHANNELS, encoder, TextureDecoder())


def clip_and_motion() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    frame = torch.rand(2, 3, 32, 32, generator=generator)
    return frame, torch.randn(2, CHANNELS, 2, 2, generator=generator).requires_grad_()


def magnitude(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.abs().max())


def test_mem_maps_of_another_size(mem: MEM) -> None:
    frame, _ = clip_and_motion()
    with pytest.raises(UsageError, match=r"--backbone: its maps are 1x1, but MEM needs 1/16 of the frame size, 2x2"):
        mem(frame, torch.zeros(2, CHANNELS, 1, 1), 1)


def test_mem_shapes_of_the_paper() -> None:
    with torch.device("meta"):
        module = MEM(1024, FrozenTextureEncoder(), TextureDecoder())
        rounds = module(torch.empty(2, 3, 256, 128), torch.empty(2, 1024, 16, 8), 3)
        first = module.embedding[0]
    assert [tuple(p.frame.shape) for p in rounds] == [(2, 3, 256, 128)] * 3
    assert [tuple(p.texture.shape) for p in rounds] == [(2, 512, 16, 8)] * 3
    assert first.weight.shape == (512, 512 + 1024, 3, 3)


def test_mem_round_input_is_last_prediction_and_same_motion(mem: MEM) -> None:
    mem.eval()
    frame, motion = clip_and_motion()
    textures: list[Tensor] = []
    inputs: list[Tensor] = []
    mem.encoder.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    mem.encoder.register_forward_hook(lambda _, given, made: textures.append(made))
    embedded: list[Tensor] = []
    mem.embedding.register_forward_pre_hook(lambda _, given: embedded.append(given[0]))
    rounds = mem(frame, motion, 3)
    assert len(rounds) == len(inputs) == 3
    assert inputs[0] is frame
    assert inputs[1] is rounds[0].frame
    assert inputs[2] is rounds[1].frame
    for round_, given in enumerate(embedded):
        assert torch.equal(given[:, :512], textures[round_])
        assert torch.equal(given[:, 512:], motion)
    for prediction in rounds:
        torch.testing.assert_close(mem.decoder(prediction.texture), prediction.frame)


def test_mem_number_of_rounds(mem: MEM) -> None:
    mem.eval()
    frame, motion = clip_and_motion()
    short, long = mem(frame, motion, 1), mem(frame, motion, 4)
    assert len(long) == 4
    assert torch.equal(short[0].frame, long[0].frame)


def test_mem_gradient_reaches_first_prediction(mem: MEM) -> None:
    frame, motion = clip_and_motion()
    first, second = mem.train()(frame, motion, 2)
    for loss in (second.frame.square().mean(), second.texture.square().mean()):
        gradients = torch.autograd.grad(loss, [first.frame, first.texture], retain_graph=True)
        assert all(magnitude(gradient) > 0 for gradient in gradients)


def test_mem_texture_loss_of_one_round_skips_decoder(mem: MEM) -> None:
    frame, motion = clip_and_motion()
    mem(frame, motion, 1)[0].texture.square().mean().backward()
    assert all(magnitude(parameter.grad) == 0 for parameter in mem.decoder.parameters())


def test_mem_textures_start_at_true_statistics(mem: MEM) -> None:
    norm = mem.embedding[-1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert torch.equal(norm.weight, mem.encoder.texture_std)
    assert torch.equal(norm.bias, mem.encoder.texture_mean)
    frame, motion = clip_and_motion()
    texture = mem.train()(frame, motion, 1)[0].texture
    torch.testing.assert_close(texture.mean(dim=(0, 2, 3)), mem.encoder.texture_mean, atol=1e-4, rtol=1e-3)
    spread = texture.std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(spread, mem.encoder.texture_std, atol=1e-2, rtol=1e-2)


def test_mem_start_copy() -> None:
    torch.manual_seed(0)
    encoder = FrozenTextureEncoder()
    frame, _ = clip_and_motion()
    still = torch.zeros(2, CHANNELS, 2, 2)
    with torch.no_grad():
        texture = encoder(frame)
        encoder.texture_mean.copy_(texture.mean(dim=(0, 2, 3)))
        encoder.texture_std.copy_(texture.std(dim=(0, 2, 3), correction=0))
        module = MEM(CHANNELS, encoder, TextureDecoder()).train()
        (first,) = module(frame, still, 1)
        (tested,) = MEM(CHANNELS, encoder, TextureDecoder()).eval()(frame, still, 1)
        (random,) = MEM(CHANNELS, encoder, TextureDecoder(), "statistics").train()(frame, still, 1)
        moved = module(frame, torch.ones(2, CHANNELS, 2, 2), 1)[0].texture
    visible = encoder.texture_std > 0.05  # BN's eps dominates channels with little variance
    assert visible.sum() > 100
    for found in (first, tested):  # by the batch's statistics and by the running ones
        torch.testing.assert_close(found.texture[:, visible], texture[:, visible], atol=0.02, rtol=0.02)
    assert (random.texture - texture).abs().mean() > 0.1
    assert (moved - first.texture).abs().max() > 0.01  # f_M has an effect from the first step


def test_mem_start_copy_of_signed_textures() -> None:
    torch.manual_seed(0)
    encoder = FrozenTextureEncoder("patches")
    frame, _ = clip_and_motion()
    with torch.no_grad():
        texture = encoder(frame)
        assert texture.min() < 0
        encoder.texture_mean.copy_(texture.mean(dim=(0, 2, 3)))
        encoder.texture_std.copy_(texture.std(dim=(0, 2, 3), correction=0))
        (first,) = MEM(CHANNELS, encoder, TextureDecoder(256)).eval()(frame, torch.zeros(2, CHANNELS, 2, 2), 1)
    close = (first.texture - texture).abs() < 0.01  # values three standard deviations below the mean are cut off
    assert close.float().mean() > 0.98


def test_mem_start_copy_scales_the_weights_of_f_m_to_the_textures(mem: MEM) -> None:
    weights = []
    for start in ("copy", "random"):
        torch.manual_seed(1)
        weights.append(MEM(CHANNELS, mem.encoder, mem.decoder, start).embedding[0].weight[:, 512:])
    torch.testing.assert_close(weights[0], weights[1] * mem.encoder.texture_std.view(-1, 1, 1, 1))


def test_mem_start_statistics() -> None:
    encoder = FrozenTextureEncoder()
    encoder.texture_mean.fill_(3)
    norm = MEM(4, encoder, TextureDecoder(), "statistics").embedding[-1]
    assert norm.bias.unique().tolist() == [3]


def test_mem_embedding_convolutions_have_no_bias(mem: MEM) -> None:
    assert [getattr(layer, "bias", None) is None for layer in mem.embedding] == [True, False, True, True, False]


def test_mem_start_random() -> None:
    encoder = FrozenTextureEncoder()
    encoder.texture_mean.fill_(3)
    norm = MEM(4, encoder, TextureDecoder(), "random").embedding[-1]
    assert norm.weight.unique().tolist() == [1]
    assert norm.bias.unique().tolist() == [0]


def test_mem_decoder_keeps_the_statistics_of_the_tae():
    torch.manual_seed(0)
    mem = MEM(4, FrozenTextureEncoder(), TextureDecoder())
    norms = [layer for layer in mem.decoder.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for _ in range(2):
        assert not any(layer.training for layer in norms)
        assert mem.embedding[1].training
        before = [layer.running_mean.clone() for layer in norms]
        mem(torch.rand(2, 3, 32, 32), torch.rand(2, 4, 2, 2), 1)[0].frame.mean().backward()
        assert all(torch.equal(layer.running_mean, old) for layer, old in zip(norms, before, strict=True))
        assert all(layer.weight.grad is not None for layer in norms)  # its weights are fine-tuned
        assert not mem.eval().embedding[1].training
        mem.train()
