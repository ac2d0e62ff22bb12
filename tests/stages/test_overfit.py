"""Every loop can learn one batch by heart: what does not fall there is wired wrongly."""

import pytest
import torch
import torch.nn.functional as F

from amem_cli.attributes import GROUP_SIZES
from amem_cli.losses import adversarial_loss, attribute_loss, discriminator_loss
from amem_cli.models.arm import ARM
from amem_cli.models.tae import Discriminator, TextureDecoder, TextureEncoder
from amem_cli.options import TrainAmemOptions
from amem_cli.stages.amem_step import Batch, add_gradients
from amem_cli.stages.train_amem import build_amem, describe

pytestmark = pytest.mark.usefixtures("one_thread")


def blobs(count: int, frames: int) -> torch.Tensor:
    """(count, 3, frames, 32, 32): a coloured blob on grey that walks to the right, each at a height of its own."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    clips = torch.full((count, 3, frames, 32, 32), 0.5)
    for row in range(count):
        colour = torch.rand(3, generator=generator).view(3, 1, 1)
        for frame in range(frames):
            inside = torch.exp(-((x - 6 - 3 * frame) ** 2 + (y - 8 - 5 * row) ** 2) / 20)
            clips[row, :, frame] = torch.lerp(clips[row, :, frame], colour.expand(3, 32, 32), inside)
    return clips


def test_the_arm_learns_the_attributes_of_one_batch() -> None:
    torch.manual_seed(0)
    arm = ARM(18, GROUP_SIZES).train()
    images = blobs(6, 1)[:, :, 0]
    labels = torch.randint(2, (6, 105), generator=torch.Generator().manual_seed(1)).float()
    optimizer = torch.optim.Adam(arm.parameters(), lr=1e-3)
    losses = []
    for _ in range(16):
        loss = attribute_loss(arm(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(105 * 0.693, rel=0.15)
    assert losses[-1] < 0.2 * losses[0]
    assert ((arm(images) > 0) == labels.bool()).float().mean() > 0.97


def test_the_tae_learns_to_reconstruct_one_batch() -> None:
    torch.manual_seed(0)
    encoder, decoder, discriminator = TextureEncoder(), TextureDecoder(), Discriminator(32, 32)
    images = blobs(6, 1)[:, :, 0]
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    critic = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    errors = []
    for _ in range(25):
        discriminator.requires_grad_(False)
        reconstruction = decoder(encoder(images))
        mse = F.mse_loss(reconstruction, images)
        optimizer.zero_grad()
        critic.zero_grad()
        (mse + 0.01 * adversarial_loss(discriminator(reconstruction))).backward()
        assert all(parameter.grad is None for parameter in discriminator.parameters())
        optimizer.step()
        discriminator.requires_grad_(True)
        discriminator_loss(discriminator(images), discriminator(reconstruction.detach())).backward()
        critic.step()
        errors.append(mse.item())
    assert errors[-1] < 0.5 * errors[0]


def slow(modules: str) -> object:
    return pytest.param(modules, marks=pytest.mark.slow)


@pytest.mark.parametrize("modules", ["baseline", slow("aem"), slow("mem"), slow("amem"), slow("after-enhancement")])
def test_amem_learns_one_batch(modules: str) -> None:
    torch.manual_seed(0)
    options = TrainAmemOptions(
        modules=modules, image_size="32x32", clip_frames=6, predict_frames=2, branch="conv2d", learning_rate=1e-3
    )
    model, discriminator = build_amem(describe(options, 2), None, options)
    model.train()
    batch = Batch(
        clip=blobs(4, 6),
        identity=torch.tensor([0, 0, 1, 1]),
        attributes=torch.randint(2, (2, 105), generator=torch.Generator().manual_seed(1)).float()[[0, 0, 1, 1]],
        start=torch.tensor([1, 2, 3, 1]),
    )
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=options.learning_rate)
    if discriminator is not None:
        critic = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    history = []
    for _ in range(12):
        optimizer.zero_grad()
        if discriminator is not None:
            critic.zero_grad()
        terms, weighted, norms = add_gradients(model, discriminator, batch, options, "fp32")
        assert norms == {}
        optimizer.step()
        if discriminator is not None:
            critic.step()
        history.append({name: value.item() for name, value in terms.items()} | {"total": sum(weighted.values()).item()})
    first, last = history[0], history[-1]
    yardsticks = {"total", "accuracy"} | ({"copy_image", "discriminator"} if options.uses_mem else set())
    assert yardsticks <= set(first)
    assert set(first) - yardsticks == {
        "baseline": {"id", "tri"},
        "aem": {"id", "tri", "aem"},
        "mem": {"id", "tri", "image", "texture", "adversarial"},
    }.get(modules, {"id", "tri", "aem", "image", "texture", "adversarial"})
    assert last["total"] < 0.6 * first["total"]
    assert last["id"] < 0.2
    if options.uses_aem:
        assert last["aem"] < 0.5 * first["aem"]
    if options.uses_mem:
        assert last["image"] < 0.4 * first["image"]
        assert last["texture"] < first["texture"]
        assert last["copy_image"] == first["copy_image"] > 0
        assert last["discriminator"] < first["discriminator"]
