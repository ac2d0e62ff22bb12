"""Other people's weight files -> our names (first cut: the input normalisation that weights carry)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Normalisation:
    """What a network's weights expect of their input: `(pixels - mean) / std` per channel R, G, B, pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PLUS_MINUS_ONE = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
