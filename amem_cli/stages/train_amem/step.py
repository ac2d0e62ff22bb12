"""One training step of AMEM: the losses of a batch (eq. 5-7) and both optimisers."""

import copy
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from amem_cli import losses
from amem_cli.losses import Loss
from amem_cli.models.amem import AMEM, AmemOutput
from amem_cli.models.config import ModelConfig
from amem_cli.models.tae import Discriminator
from amem_cli.options import TrainAmemOptions
from amem_cli.runtime import schedule
from amem_cli.runtime.distributed import gradient_sync, unwrapped
from amem_cli.runtime.engine import as_pixels, autocast


class Batch(NamedTuple):
    """A P x K batch on the device: `clip` (B, 3, T, H, W) in [0, 1], or (B, T, H, W, 3) uint8 on the host; `identity`
    (B,) int64 from 0, `attributes` (B, A) or None, `start` (B,) int64, MEM's first frame t; `erased` (B, 4) on the
    host, rectangles to erase, or None."""

    clip: Tensor
    identity: Tensor
    attributes: Tensor | None
    start: Tensor
    erased: Tensor | None = None


class Networks(NamedTuple):
    """AMEM and MEM's discriminator (None without MEM), each with its optimiser; the moving average of AMEM's weights,
    None without `--average-weights`; the backbone's initial weights, and their share in the tested ones."""

    amem: AMEM
    discriminator: Discriminator | None
    adam: torch.optim.Optimizer
    discriminator_adam: torch.optim.Optimizer | None
    average: AveragedModel | None = None
    initial: dict[str, Tensor] | None = None
    initial_share: float = 0.0

    @property
    def tested(self) -> AMEM:
        """The network that is validated and saved: the moving average, if there is one. With initial weights it is a
        copy whose backbone is averaged with them (Wortsman et al., "Robust Fine-Tuning", CVPR 2022)."""
        trained = self.amem if self.average is None else cast(AMEM, self.average.module)
        if self.initial is None:
            return trained
        tested = copy.deepcopy(trained)
        for name, tensor in tested.main.backbone.state_dict().items():
            if tensor.is_floating_point():  # the batch norms count their batches in integers
                tensor.lerp_(self.initial[name], self.initial_share)
        return tested


class StepResult(NamedTuple):
    """Mean losses of a step: unweighted terms, `weighted_*` terms of eq. 6, discriminator, accuracy, and `copy_image`,
    the image term of copying frame t. And the gradient norm of each weighted term, where it was measured."""

    losses: dict[str, float]
    gradient_norms: dict[str, float]


def train_step(
    networks: Networks,
    batches: Sequence[Batch],
    options: TrainAmemOptions,
    precision: str,
    *,
    measure_gradients: bool = False,
) -> StepResult:
    """One step of both optimisers with the mean gradients of `batches`.

    AMEM minimises eq. 6; then MEM's discriminator is trained on true and predicted frames. Raises `BadData` before they
    step if a loss is not finite. `measure_gradients` measures those of the first batch, unless the backbone is frozen.
    """
    amem, discriminator, adam, discriminator_adam = networks[:4]
    device = batches[0].identity.device
    adversarial = discriminator is not None and options.adversarial_weight > 0
    for optimizer in (adam, discriminator_adam):
        if optimizer is not None:
            optimizer.zero_grad()
    batch_losses, norms = [], {}
    for number, batch in enumerate(batches, 1):
        last = number == len(batches)
        if batch.clip.dtype == torch.uint8:  # one batch at a time, so that --accumulate needs no more memory
            batch = batch._replace(clip=as_pixels(batch.clip, device))
        with gradient_sync(amem, enabled=last):
            if discriminator is not None:
                discriminator.requires_grad_(False)
            with autocast(precision, device):
                output = amem(batch.clip, batch.start, options.predict_frames, batch.erased)
                loss = amem_loss(unwrapped(amem), output, batch, unwrapped(discriminator), options)
            if measure_gradients and number == 1 and output.maps.backbone_maps.requires_grad:
                norms = gradient_norms(loss.weighted, output.maps.backbone_maps)
            (loss.value / len(batches)).backward()
        terms = loss.terms | {f"weighted_{name}": value for name, value in loss.weighted.items()}
        if adversarial:
            assert discriminator is not None
            discriminator.requires_grad_(True)
            with gradient_sync(discriminator, enabled=last):
                with autocast(precision, device):
                    real = discriminator(true_frames(batch, options).flatten(0, 1))
                    fake = discriminator(predicted_frames(output).detach().flatten(0, 1))
                terms["discriminator"] = losses.discriminator_loss(real.float(), fake.float())
                (terms["discriminator"] / len(batches)).backward()
        with torch.no_grad():
            terms["accuracy"] = (output.identity_logits.argmax(dim=1) == batch.identity).float().mean()
            if output.predictions:
                terms["copy_image"] = copy_error(batch, options)
        batch_losses.append(terms)
    values = schedule.mean_losses(batch_losses)
    adam.step()
    if adversarial and discriminator_adam is not None:
        discriminator_adam.step()
    if networks.average is not None:
        networks.average.update_parameters(unwrapped(amem))
    return StepResult(values, norms)


def amem_loss(
    amem: AMEM, output: AmemOutput, batch: Batch, discriminator: Discriminator | None, options: TrainAmemOptions
) -> Loss:
    """L_total (eq. 6) of a batch."""
    features, normalised = output.similarity_feature.float(), options.triplet_features == "normalised"
    aem = mem = None
    if output.attribute_logits is not None:
        assert batch.attributes is not None
        aem = losses.aem_loss(output.attribute_logits.float(), batch.attributes)
    if output.predictions:
        mem = motion_loss(amem, output, batch, discriminator, options)
    margin = options.margin if options.triplet == "margin" else None
    return losses.total_loss(
        losses.identity_loss(output.identity_logits.float(), batch.identity, options.label_smoothing),
        losses.triplet_loss(features, batch.identity, margin, normalised),
        aem, mem, options.lambda_a, options.lambda_m,
    )  # fmt: skip


def motion_loss(
    amem: AMEM, output: AmemOutput, batch: Batch, discriminator: Discriminator | None, options: TrainAmemOptions
) -> Loss:
    """L_MEM (eq. 5) of a batch; the target textures are the frozen encoder's of the true frames."""
    assert amem.mem is not None
    encoder = amem.mem.encoder
    true, predicted = true_frames(batch, options), predicted_frames(output)  # (c, B, 3, H, W)
    with torch.no_grad():
        true_textures = encoder(true.flatten(0, 1)).unflatten(0, true.shape[:2]).float()
    textures = torch.stack([prediction.texture for prediction in output.predictions]).float()
    fake_logits = None
    if discriminator is not None and options.adversarial_weight:
        fake_logits = discriminator(predicted.flatten(0, 1)).float().unflatten(0, predicted.shape[:2])
    texture = {"standardised": options.texture_weight, "literal": 1.0, "none": 0.0}[options.texture_loss]
    variance = encoder.texture_std.square().mean() if options.texture_loss == "standardised" else 1.0
    weights = losses.MemWeights(texture, options.adversarial_weight, options.adversarial_form)
    return losses.mem_loss((predicted, textures), (true, true_textures), fake_logits, weights, variance)


def true_frames(batch: Batch, options: TrainAmemOptions | ModelConfig) -> Tensor:
    """Frames t+s, t+2s ... t+cs of each clip, s = `predict_stride` (P: 1), c = `predict_frames`: (c, B, 3, H, W)."""
    rows = torch.arange(len(batch.clip), device=batch.clip.device)
    steps = options.predict_stride * torch.arange(1, options.predict_frames + 1, device=rows.device)
    return torch.stack([batch.clip[rows, :, batch.start + step] for step in steps])


def predicted_frames(output: AmemOutput) -> Tensor:
    """The predicted frames, as `true_frames`: (c, B, 3, H, W) float32."""
    return torch.stack([prediction.frame for prediction in output.predictions]).float()


def copy_error(batch: Batch, options: TrainAmemOptions) -> Tensor:
    """The image term of eq. 5 for a prediction that copies frame t: the baseline of MEM."""
    current = batch.clip[torch.arange(len(batch.clip), device=batch.clip.device), :, batch.start]
    return (true_frames(batch, options) - current).square().mean(dim=(1, 2, 3, 4)).sum()


def gradient_norms(weighted: dict[str, Tensor], backbone_maps: Tensor) -> dict[str, float]:
    """The norm of each term's gradient at `backbone_maps`: how strongly each term trains the backbone. With middle maps
    MEM's terms are 0 here: they train the half before them."""
    norms = {}
    for name, term in weighted.items():
        (gradient,) = torch.autograd.grad(term, backbone_maps, retain_graph=True, allow_unused=True)
        norms[name] = 0.0 if gradient is None else float(gradient.norm())
    return norms
