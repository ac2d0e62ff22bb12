"""Class-activation maps of f_s: how much each position of f_B, f_A and f_M contributes, exact and without gradients.

After Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016; the class score is replaced by
the similarity of a clip with itself. With W_P, the columns of the similarity layer for f_P, f_s is linear in the maps,
also after the batch norm of a neck, which is part of W_P and b here:

    f_s = b + sum over P in {B, A, M} of mean over (x, y) of W_P f_P(x, y),
    A_P(x, y) = <f_s, W_P f_P(x, y)> / ||f_s||^2,     sum over P of mean(A_P) + <f_s, b> / ||f_s||^2 = 1.

Grad-CAM (Selvaraju et al. 2017) gives the same maps. mean(A_P) is the *share* of P. f_B is the mean of BF over T', so
the same formula with BF gives A_B(t', x, y). If the test averages over several `views` of a clip, f_s is that
of the first, the clip as it is.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from amem_cli.models.amem import MainModel


class ActivationMaps(NamedTuple):
    """Signed float32 maps of a batch of clips; `shares` and `bias_share` sum to 1 for each clip."""

    backbone_over_time: Tensor  # (B, T', H, W)
    features: dict[str, Tensor]  # "f_B", and "f_A", "f_M" if f_s uses them: (B, H, W) each
    shares: dict[str, Tensor]  # the same keys: (B,)
    bias_share: Tensor  # (B,)


@torch.inference_mode()
def activation_maps(model: MainModel, clip: Tensor) -> ActivationMaps:
    """Class-activation maps of clips (B, 3, T, H, W), float in [0, 1]; `model` should be in eval mode."""
    maps = model.feature_maps(clip)
    similarity = model.neck(model.similarity_feature(maps))  # (B, 512)
    scale, shift = neck_of(model)
    pooled = {"f_B": maps.backbone_feature}
    if model.fused:
        branches = {"f_A": maps.appearance_feature, "f_M": maps.motion_feature}
        pooled |= {name: feature for name, feature in branches.items() if feature is not None}
    squared_norm = similarity.square().sum(dim=1)  # (B,)
    matrix = scale[:, None] * model.similarity.weight
    columns = matrix.split([feature.shape[1] for feature in pooled.values()], dim=1)
    weights = {  # W_P^T f_s / ||f_s||^2, (B, C)
        name: similarity @ weight / squared_norm[:, None] for name, weight in zip(pooled, columns, strict=True)
    }
    features = {name: torch.einsum("bchw,bc->bhw", feature, weights[name]) for name, feature in pooled.items()}
    return ActivationMaps(
        backbone_over_time=torch.einsum("bcthw,bc->bthw", maps.backbone_maps, weights["f_B"]),
        features=features,
        shares={name: values.mean(dim=(1, 2)) for name, values in features.items()},
        bias_share=similarity @ (scale * model.similarity.bias + shift) / squared_norm,
    )


def neck_of(model: MainModel) -> tuple[Tensor, Tensor]:
    """Scale and shift (512,) of each channel by the neck in the test."""
    neck, zeros = model.neck, torch.zeros_like(model.similarity.bias)
    if not isinstance(neck, nn.BatchNorm1d):
        return zeros + 1, zeros
    assert neck.running_mean is not None
    assert neck.running_var is not None
    scale = neck.weight / (neck.running_var + neck.eps).sqrt()
    return scale, neck.bias - scale * neck.running_mean
