"""The input that pretrained weights expect; every network stores its own."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Normalisation:
    """(pixels - mean) / std per channel R, G, B, with pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        for values in (self.mean, self.std):
            if len(values) != 3 or not all(map(math.isfinite, values)):
                raise ValueError(f"{values} is not one finite number for each of R, G, B")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} is not positive")


PLUS_MINUS_ONE = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TORCHVISION_KINETICS = Normalisation((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
# Hara's weights of 2018: pixels in [0, 255] minus the mean of ActivityNet, not divided
HARA_2018 = Normalisation((114.7748 / 255, 107.7354 / 255, 99.4750 / 255), (1 / 255, 1 / 255, 1 / 255))
HARA_2020 = Normalisation((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737))
