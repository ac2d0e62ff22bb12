"""What one batch does to AMEM: every term of the loss (eq. 6, 7), their sum's gradient, and the discriminator's."""

from typing import NamedTuple

import torch
from torch import Tensor

from amem_cli.losses import (
    adversarial_loss,
    attribute_loss,
    discriminator_loss,
    identity_loss,
    prediction_losses,
    triplet_loss,
)
from amem_cli.models.amem import AMEM, AmemOutput
from amem_cli.models.tae import Discriminator
from amem_cli.options import TrainAmemOptions
from amem_cli.runtime.engine import autocast


class Batch(NamedTuple):
    """One P x K batch on the device: `clip` (B, 3, T, H, W) in [0, 1], `identity` (B,) int64 from 0, `attributes`
    (B, A) or None, MEM's `start` frames (B,) int64."""

    clip: Tensor
    identity: Tensor
    attributes: Tensor | None
    start: Tensor


class Terms(NamedTuple):
    """What a batch gave: `terms` unweighted (with `discriminator`, and the yardsticks `accuracy` and `copy_image`),
    the `weighted` summands of eq. 6, and the norm of each one's gradient at `backbone_maps` where it was asked for."""

    terms: dict[str, Tensor]
    weighted: dict[str, Tensor]
    gradient_norms: dict[str, float]


def add_gradients(
    model: AMEM,
    discriminator: Discriminator | None,
    batch: Batch,
    options: TrainAmemOptions,
    precision: str,
    *,
    batches: int = 1,
    measured: bool = False,
) -> Terms:
    """Add the gradients of a batch, divided by the number of `batches` of the step, to those of the model (eq. 6) and
    of MEM's discriminator (eq. 5), each to its own parameters alone."""
    device = batch.clip.device
    if discriminator is not None:
        discriminator.requires_grad_(False)
    with autocast(precision, device):
        output = model(batch.clip, batch.start, options.predict_frames)
        terms = loss_terms(output, batch, model, discriminator, options)
    weighted = weigh(terms, options)
    norms = gradient_norms(weighted, output.maps.backbone_maps) if measured else {}
    (sum(weighted.values()) / batches).backward()

    if discriminator is not None and options.adversarial_weight:
        discriminator.requires_grad_(True)
        with autocast(precision, device):
            true, predicted = frames_of(output, batch, options.predict_frames)
            real = discriminator(true.flatten(0, 1))
            fake = discriminator(predicted.detach().flatten(0, 1))
        terms["discriminator"] = discriminator_loss(real.float(), fake.float())
        (terms["discriminator"] / batches).backward()

    with torch.no_grad():
        terms["accuracy"] = (output.identity_logits.argmax(dim=1) == batch.identity).float().mean()
        if output.predictions:
            terms["copy_image"] = copy_error(batch, options.predict_frames)
    return Terms(terms, weighted, norms)


def loss_terms(
    output: AmemOutput, batch: Batch, model: AMEM, discriminator: Discriminator | None, options: TrainAmemOptions
) -> dict[str, Tensor]:
    """Every term of the loss, unweighted, by name: id, tri, aem, image, texture, adversarial."""
    terms = {
        "id": identity_loss(output.identity_logits.float(), batch.identity),
        "tri": triplet_loss(
            output.similarity_feature.float(), batch.identity, options.margin, options.triplet_features == "normalised"
        ),
    }
    if output.attribute_logits is not None:
        terms["aem"] = attribute_loss(output.attribute_logits.float(), batch.attributes)
    if output.predictions:
        encoder = model.motion_enhancement.encoder
        true, predicted = frames_of(output, batch, options.predict_frames)  # (c, B, 3, H, W)
        with torch.no_grad():
            true_textures = encoder(true.flatten(0, 1)).unflatten(0, true.shape[:2]).float()
        variance = encoder.texture_std.square().mean() if options.texture_loss == "standardised" else 1.0
        predictions = [p._replace(frame=p.frame.float(), texture=p.texture.float()) for p in output.predictions]
        image, texture = prediction_losses(predictions, true, true_textures, variance)
        terms["image"] = image
        if options.texture_loss != "none":
            terms["texture"] = texture
        if discriminator is not None and options.adversarial_weight:
            logits = discriminator(predicted.flatten(0, 1))
            # a mean over rounds and batch, times c: summed over the rounds like the other terms
            terms["adversarial"] = options.predict_frames * adversarial_loss(logits.float(), options.adversarial_form)
    return terms


def weigh(terms: dict[str, Tensor], options: TrainAmemOptions) -> dict[str, Tensor]:
    """The terms as they add up to L_total (eq. 6): L_id + L_tri + lambda_A L_AEM + lambda_M L_MEM."""
    texture = options.texture_weight if options.texture_loss == "standardised" else 1.0
    weights = {
        "id": 1.0,
        "tri": 1.0,
        "aem": options.lambda_a,
        "image": options.lambda_m,
        "texture": options.lambda_m * texture,
        "adversarial": options.lambda_m * options.adversarial_weight,
    }
    return {name: weights[name] * value for name, value in terms.items()}


def frames_of(output: AmemOutput, batch: Batch, rounds: int) -> tuple[Tensor, Tensor]:
    """The true frames t+1 ... t+c and the predicted ones, (c, B, 3, H, W) each, in [0, 1]."""
    return true_frames(batch, rounds), torch.stack([prediction.frame for prediction in output.predictions]).float()


def true_frames(batch: Batch, rounds: int) -> Tensor:
    """The frames t+1 ... t+c of each clip: (c, B, 3, H, W)."""
    rows = torch.arange(len(batch.clip), device=batch.clip.device)
    return torch.stack([batch.clip[rows, :, batch.start + step] for step in range(1, rounds + 1)])


def copy_error(batch: Batch, rounds: int) -> Tensor:
    """The image term that copying frame t would have: the yardstick of prediction."""
    current = batch.clip[torch.arange(len(batch.clip), device=batch.clip.device), :, batch.start]
    return (true_frames(batch, rounds) - current).square().mean(dim=(1, 2, 3, 4)).sum()


def gradient_norms(weighted: dict[str, Tensor], backbone_maps: Tensor) -> dict[str, float]:
    """The norm of each weighted term's gradient at `backbone_maps`: who pulls how hard."""
    norms = {}
    for name, term in weighted.items():
        (gradient,) = torch.autograd.grad(term, backbone_maps, retain_graph=True, allow_unused=True)
        norms[name] = 0.0 if gradient is None else float(gradient.norm())
    return norms
