"""The losses of AMEM (paper, eq. 1-7). Sums and means are stated for each: the weights of eq. 6 depend on them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def attribute_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 1-3: binary cross-entropy summed over the attributes, mean over the batch (D).

    `logits` (B, A), `labels` (B, A) in {0, 1}. Two undecided attributes cost 2 log 2.

    >>> round(attribute_loss(torch.zeros(1, 2), torch.tensor([[0, 1]])).item(), 4)
    1.3863
    """
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").sum(dim=1).mean()


def identity_loss(logits: Tensor, identities: Tensor) -> Tensor:
    """L_id of eq. 7: softmax cross-entropy, mean over the batch. `logits` (B, people), `identities` (B,) int64."""
    return F.cross_entropy(logits, identities)


def triplet_loss(features: Tensor, identities: Tensor, margin: float, normalised: bool = True) -> Tensor:
    """L_tri of eq. 7 with the hardest positive and negative of each anchor in the batch (D), mean over anchors.

    `features` (B, D), compared by Euclidean distance, L2-normalised first unless `normalised` is false;
    `identities` (B,). Every identity must occur at least twice, and at least two identities.
    """
    if normalised:
        features = F.normalize(features)
    squared = (features.unsqueeze(0) - features.unsqueeze(1)).square().sum(dim=2)  # (B, B)
    distances = squared.clamp(min=1e-12).sqrt()  # the root has no gradient at 0
    same = identities.unsqueeze(0) == identities.unsqueeze(1)
    hardest_positive = distances.masked_fill(~same, -torch.inf).amax(dim=1)
    hardest_negative = distances.masked_fill(same, torch.inf).amin(dim=1)
    return F.relu(hardest_positive - hardest_negative + margin).mean()


def adversarial_loss(fake_logits: Tensor, form: str = "non-saturating") -> Tensor:
    """The generator's side of L_adv (eq. 4, 5), mean over the batch; `fake_logits` (B,) are D's of generated images.

    "non-saturating" minimises -log D(G) (D); "minimax" is the literal log(1 - D(G)), whose gradient vanishes while the
    discriminator is sure.
    """
    return F.softplus(-fake_logits).mean() if form == "non-saturating" else -F.softplus(fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The discriminator's side of L_adv (eq. 4, 5): -log D(real) - log(1 - D(fake)), means over the batch."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def prediction_losses(
    predictions: Sequence[tuple[Tensor, Tensor]],
    true_frames: Tensor,
    true_textures: Tensor,
    texture_variance: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """The two MSE terms of L_MEM (eq. 5): (image, texture), each a mean over elements, summed over the c rounds.

    `predictions` are the c rounds of MEM, each (frame, texture): (B, 3, H, W) in [0, 1] and (B, 512, H/16, W/16).
    `true_frames` (c, B, 3, H, W) in [0, 1]; `true_textures` (c, B, 512, H/16, W/16) from the frozen encoder. The
    texture term is divided by `texture_variance` (1 for the literal form). Raises `ValueError` when there are not as
    many true frames as rounds.
    """
    image = sum(F.mse_loss(frame, true) for (frame, _), true in zip(predictions, true_frames, strict=True))
    texture = sum(F.mse_loss(texture, true) for (_, texture), true in zip(predictions, true_textures, strict=True))
    return image, texture / texture_variance
