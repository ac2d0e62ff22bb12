"""The losses of the paper, eq. 1 to 7. Each docstring states its sums and means: the weights of eq. 6 depend on them.

L_ARM, L_AEM   arm_loss, aem_loss        eq. 1-3   binary cross-entropy over attributes
L_TAE          tae_loss                  eq. 4     reconstruction and adversarial
L_MEM          mem_loss                  eq. 5     image, texture and adversarial, over c predicted frames
L_total        total_loss                eq. 6
L_id, L_tri    identity_loss, triplet_loss  eq. 7
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from amem_cli.attributes import GROUP_SIZES


class Loss(NamedTuple):
    """A loss of several terms: `value` is minimised, `terms` are unweighted, `weighted` add up to `value`."""

    value: Tensor
    terms: dict[str, Tensor]
    weighted: dict[str, Tensor]


def weighted_sum(terms: dict[str, Tensor], weights: dict[str, float]) -> Loss:
    """The sum of `terms`, each multiplied by its entry of `weights`."""
    weighted = {name: weights[name] * term for name, term in terms.items()}
    return Loss(torch.stack(list(weighted.values())).sum(), terms, weighted)


# -- attributes: eq. 1-3 -----------------------------------------------------------------------------------------------


def attribute_group_loss(logits: Tensor, labels: Tensor, frequencies: Tensor | None = None) -> Tensor:
    """Eq. 1, the loss of one attribute group: binary cross-entropy summed over its N_m attributes, mean over the batch.

    `logits` (B, N_m), `labels` (B, N_m) in {0, 1}. Computed from logits, which is exact where a sigmoid saturates. With
    `frequencies` p (N_m,) of label 1 in [0, 1], the terms of labels 1 are multiplied by exp(1 - p), those of labels 0
    by exp(p) (Li, Chen and Huang, ACPR 2015, DeepMAR, sigma = 1): rare attributes are missed less often.

    >>> round(attribute_group_loss(torch.zeros(1, 2), torch.tensor([[0, 1]])).item(), 4)  # 2 log 2
    1.3863
    """
    labels = labels.to(logits.dtype)
    weight = None if frequencies is None else torch.exp(labels * (1 - frequencies) + (1 - labels) * frequencies)
    return F.binary_cross_entropy_with_logits(logits, labels, weight, reduction="none").sum(dim=1).mean()


def arm_loss(
    logits: Tensor, labels: Tensor, group_sizes: Sequence[int] = GROUP_SIZES, frequencies: Tensor | None = None
) -> Tensor:
    """Eq. 2, L_ARM: the sum of eq. 1 over the groups.

    `logits` (B, A), `labels` (B, A) and `frequencies` (A,), if given, have their columns group after group;
    `group_sizes` are the N_m, their sum is A.
    """
    sizes = list(group_sizes)
    of_groups = [None] * len(sizes) if frequencies is None else frequencies.split(sizes)
    groups = zip(logits.split(sizes, dim=1), labels.split(sizes, dim=1), of_groups, strict=True)
    return torch.stack([attribute_group_loss(*group) for group in groups]).sum()


def aem_loss(logits: Tensor, pseudo_labels: Tensor, group_sizes: Sequence[int] = GROUP_SIZES) -> Tensor:
    """Eq. 3, L_AEM: eq. 2 for a clip's attributes predicted from f_A, with the tracklet's pseudo labels as target."""
    return arm_loss(logits, pseudo_labels, group_sizes)


# -- adversarial terms of eq. 4 and 5 ----------------------------------------------------------------------------------


def adversarial_loss(fake_logits: Tensor, form: str = "non-saturating") -> Tensor:
    """The generator's side of L_adv, mean over the batch; `fake_logits` (B,) are D's logits of generated images.

    "non-saturating" minimises -log D(G) (D). "minimax" minimises the literal log(1 - D(G)); its gradient vanishes
    where the discriminator is certain.
    """
    return F.softplus(-fake_logits).mean() if form == "non-saturating" else -F.softplus(fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The discriminator's side of L_adv: -log D(real) - log(1 - D(fake)), means over the batch."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


# -- texture auto-encoder: eq. 4 ---------------------------------------------------------------------------------------


def tae_loss(
    reconstruction: Tensor,
    images: Tensor,
    fake_logits: Tensor | None,
    adversarial_weight: float,
    adversarial_form: str = "non-saturating",
) -> Loss:
    """Eq. 4, L_TAE for encoder and decoder: mean squared error + weight x adversarial term.

    `reconstruction` and `images` (B, 3, H, W) in [0, 1]; `fake_logits` (B,) are D's of the reconstructions, None
    without the adversarial term. The MSE is a mean over all elements (D).
    """
    terms = {"mse": F.mse_loss(reconstruction, images)}
    if fake_logits is not None:
        terms["adversarial"] = adversarial_loss(fake_logits, adversarial_form)
    return weighted_sum(terms, {"mse": 1.0, "adversarial": adversarial_weight})


# -- motion enhancement: eq. 5 -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemWeights:
    """Weights within L_MEM (D): of the texture term (0: none) and of the adversarial term."""

    texture: float
    adversarial: float
    adversarial_form: str = "non-saturating"


def mem_loss(
    predicted: tuple[Tensor, Tensor],
    true: tuple[Tensor, Tensor],
    fake_logits: Tensor | None,
    weights: MemWeights,
    texture_variance: Tensor | float = 1.0,
) -> Loss:
    """Eq. 5, L_MEM: image MSE + texture MSE + adversarial term, each summed over the c predicted frames.

    `predicted` and `true` are (frames, textures): (c, B, 3, H, W) in [0, 1] and (c, B, 512, H/16, W/16); the true
    textures come from the frozen encoder. Each MSE is a mean over elements per round (D). The texture term is divided
    by `texture_variance` (1: the literal form). `fake_logits` (c, B) are D's of the predicted frames, None without
    the adversarial term. Raises `ValueError` if predicted and true differ in shape.
    """
    for guess, target in zip(predicted, true, strict=True):
        if guess.shape != target.shape:
            raise ValueError(f"predicted {tuple(guess.shape)} and true {tuple(target.shape)} differ in shape")
    rounds = range(len(predicted[0]))
    terms = {"image": torch.stack([F.mse_loss(predicted[0][i], true[0][i]) for i in rounds]).sum()}
    if weights.texture:
        textures = torch.stack([F.mse_loss(predicted[1][i], true[1][i]) for i in rounds]).sum()
        terms["texture"] = textures / texture_variance
    if fake_logits is not None:
        terms["adversarial"] = torch.stack(
            [adversarial_loss(logits, weights.adversarial_form) for logits in fake_logits]
        ).sum()
    return weighted_sum(terms, {"image": 1.0, "texture": weights.texture, "adversarial": weights.adversarial})


# -- AMEM: eq. 6, 7 ----------------------------------------------------------------------------------------------------


def identity_loss(logits: Tensor, identities: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Eq. 7, L_id: softmax cross-entropy, mean over the batch. `logits` (B, people), `identities` (B,) int64.

    `label_smoothing` (D) is the part of the target that is divided evenly among all people (Szegedy et al. 2016).
    """
    return F.cross_entropy(logits, identities, label_smoothing=label_smoothing)


def triplet_loss(features: Tensor, identities: Tensor, margin: float | None, normalised: bool = True) -> Tensor:
    """Eq. 7, L_tri: [d_p - d_n + margin]_+ with the batch's hardest positive and negative of each anchor (D), mean.

    `features` (B, D) are compared by Euclidean distance, L2-normalised first if `normalised` (D); `identities` (B,).
    The batch needs at least two identities, and each at least twice. Without a margin (None): log(1 + exp(d_p - d_n)),
    the soft margin of Hermans et al. 2017 (D).
    """
    if normalised:
        features = F.normalize(features)
    squared = (features.unsqueeze(0) - features.unsqueeze(1)).square().sum(dim=2)  # (B, B)
    distances = squared.clamp(min=1e-12).sqrt()  # the square root has no gradient at 0
    same = identities.unsqueeze(0) == identities.unsqueeze(1)
    hardest_positive = distances.masked_fill(~same, -torch.inf).amax(dim=1)
    hardest_negative = distances.masked_fill(same, torch.inf).amin(dim=1)
    difference = hardest_positive - hardest_negative
    return (F.softplus(difference) if margin is None else F.relu(difference + margin)).mean()


def total_loss(
    identity: Tensor, triplet: Tensor, aem: Tensor | None, mem: Loss | None, lambda_a: float, lambda_m: float
) -> Loss:
    """Eq. 6, L_total = L_id + L_tri + lambda_A L_AEM + lambda_M L_MEM; `aem` or `mem` is None without that module.

    The terms are id, tri, aem and those of L_MEM: image, texture, adversarial.
    """
    parts = weighted_sum({"id": identity, "tri": triplet}, {"id": 1.0, "tri": 1.0})
    value, terms, weighted = parts.value, dict(parts.terms), dict(parts.weighted)
    if aem is not None:
        value = value + lambda_a * aem
        terms["aem"], weighted["aem"] = aem, lambda_a * aem
    if mem is not None:
        value = value + lambda_m * mem.value
        terms |= mem.terms
        weighted |= {name: lambda_m * term for name, term in mem.weighted.items()}
    return Loss(value, terms, weighted)
