"""Where f_B, f_A and f_M look: class-activation maps of f_s, exact and without gradients.

After Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, with the similarity of a clip
to itself in the place of a class score. f_s is linear in the three maps:

    f_s = b + sum over P in {B, A, M} of mean over (x, y) of W_P f_P(x, y),

where W_P are the columns of the similarity layer that belong to f_P. So ||f_s||^2 = <f_s, f_s> falls apart into places:

    A_P(x, y) = <f_s, W_P f_P(x, y)> / ||f_s||^2,     sum over P of mean(A_P) + <f_s, b> / ||f_s||^2 = 1.

It is the sum of P's channels, each weighted by its entry of W_P^T f_s, which is also the gradient of ||f_s||^2 / 2 with
respect to the pooled map: Grad-CAM (Selvaraju et al. 2017) would give the same. mean(A_P) is the *share* of P.
f_B is the mean of BF over T', so A_B(t', x, y), with BF in the place of f_B, shows how it moves within the clip.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from amem_cli.models.amem import MainModel


class ActivationMaps(NamedTuple):
    """The maps of one batch of clips, float32, signed; `shares` and `bias_share` add up to 1 for each clip."""

    backbone_over_time: Tensor  # (B, T', H, W)
    features: dict[str, Tensor]  # "f_B", and "f_A", "f_M" where f_s is made of them: (B, H, W) each
    shares: dict[str, Tensor]  # the same names: (B,)
    bias_share: Tensor  # (B,)


@torch.inference_mode()
def activation_maps(model: MainModel, clip: Tensor) -> ActivationMaps:
    """The class-activation maps of clips (B, 3, T, H, W), float in [0, 1]; `model` should be in eval mode."""
    maps = model.feature_maps(clip)
    similarity = model.similarity_feature(maps)  # (B, 512)
    parts = {"f_B": maps.backbone_feature}
    if model.fused:
        branches = {"f_A": maps.appearance_feature, "f_M": maps.motion_feature}
        parts |= {name: feature for name, feature in branches.items() if feature is not None}
    squared_norm = similarity.square().sum(dim=1)  # (B,)
    columns = model.similarity.weight.split([feature.shape[1] for feature in parts.values()], dim=1)
    weights = {  # (B, C) for each part: W_P^T f_s / ||f_s||^2
        name: similarity @ weight / squared_norm[:, None] for name, weight in zip(parts, columns, strict=True)
    }
    features = {name: torch.einsum("bchw,bc->bhw", feature, weights[name]) for name, feature in parts.items()}
    return ActivationMaps(
        backbone_over_time=torch.einsum("bcthw,bc->bthw", maps.backbone_maps, weights["f_B"]),
        features=features,
        shares={name: values.mean(dim=(1, 2)) for name, values in features.items()},
        bias_share=similarity @ model.similarity.bias / squared_norm,
    )
