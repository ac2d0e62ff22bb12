"""The configuration of each network: a frozen dataclass that is stored in its checkpoint and rebuilds the network."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from amem_cli.attributes import ATTRIBUTES
from amem_cli.option_values import LONGEST_CLIP
from amem_cli.options import MIDDLE_MAPS, TrainAmemOptions, parse_image_size
from amem_cli.weights.normalisation import Normalisation


@dataclass(frozen=True, kw_only=True)
class _Config:
    image_size: str

    def __post_init__(self) -> None:
        parse_image_size(self.image_size)

    @property
    def height_width(self) -> tuple[int, int]:
        """Size of the input frames in pixels."""
        return parse_image_size(self.image_size)

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in msgspec.to_builtins(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ArmConfig(_Config):
    """The attribute recognition model: its image network, names of its outputs in order."""

    clip_frames, mirror = 8, True  # constants: how features of a tracklet are computed by an ARM

    backbone: Literal["resnet18", "resnet50", "mobilenet_v2"]
    attributes: tuple[str, ...] = ATTRIBUTES

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.attributes) != len(ATTRIBUTES):
            raise ValueError(f"{len(self.attributes)} attributes, not {len(ATTRIBUTES)}")


@dataclass(frozen=True, kw_only=True)
class TaeConfig(_Config):
    """The texture auto-encoder: its encoder."""

    encoder: Literal["resnet18", "mobilenet_v2", "patches"] = "resnet18"


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Config):
    """AMEM: `modules` is the row of Table 3; `appearance` and `motion` are true if the model has the branch. `people`
    is the number of training identities; the motion branch reads `motion_maps` of the backbone; `fused`, `neck` and
    `mirror` as in `MainModel`. `tae` is the TAE that MEM started from (None: the paper's), `normalisation` the input
    that the backbone's weights expect (None before the backbone is built)."""

    backbone: str
    branch: str
    branch_kernel: str
    appearance: bool
    motion: bool
    motion_maps: Literal["last", "middle"] = "last"
    fused: bool
    modules: str
    clip_frames: int
    predict_frames: int
    predict_stride: int = 1
    people: int
    attributes: tuple[str, ...] = ()
    normalisation: Normalisation | None = None
    neck: bool = False
    mirror: bool = False
    tae: TaeConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.clip_frames <= LONGEST_CLIP:
            raise ValueError(f"clips of {self.clip_frames} frames")
        if self.motion_maps == "middle" and self.backbone not in MIDDLE_MAPS:
            raise ValueError(f"no middle maps of {self.backbone}")

    def main(self) -> "ModelConfig":
        """The configuration of the main model alone: without branches that f_s does not use."""
        return self if self.fused else dataclasses.replace(self, appearance=False, motion=False)


def model_config(options: TrainAmemOptions, people: int, tae: TaeConfig | None = None) -> ModelConfig:
    """The configuration for `options`, a number of training identities, and the TAE that MEM starts from."""
    return ModelConfig(
        backbone=options.backbone,
        branch=options.branch,
        branch_kernel=options.branch_kernel,
        appearance=options.uses_aem,
        motion=options.uses_mem,
        motion_maps=options.motion_maps,
        fused=options.modules != "after-enhancement",
        modules=options.modules,
        clip_frames=options.clip_frames,
        predict_frames=options.predict_frames,
        predict_stride=options.predict_stride,
        image_size=options.image_size,
        people=people,
        neck=options.neck == "bn",
        mirror=options.mirror == "on",
        tae=tae,
        attributes=ATTRIBUTES if options.uses_aem else (),
    )
