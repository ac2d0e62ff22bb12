"""How large the models are (paper, section Model Size): values, MB, MiB and GFLOP a clip, beside the paper's figures.

Everything is built and run on torch's meta device, so no weight is stored and no convolution computed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amem_cli.attributes import GROUP_SIZES
from amem_cli.models.amem import SIMILARITY_FEATURE, MainModel, build_main_model
from amem_cli.models.arm import AttributeHeads
from amem_cli.models.backbones import backbone_names, build_backbone
from amem_cli.models.branches import BRANCH_CHANNELS, build_branch
from amem_cli.tools import paper

CLIP = (3, 8, 256, 128)  # channels, T, H, W of the paper
I3D_MAPS = (1024, 3, 16, 8)  # BF of such a clip: C, T', H, W
MIXED_4F_CHANNELS = 832  # I3D's channels one stage before BF


@dataclass(frozen=True)
class ModelSize:
    """One row: `parameters` are learned values, `values` also count BN's running means and variances (what a weight
    file holds). `MB` is 10^6 and `MiB` 2^20 bytes of float32 values. `gflop` is per clip of 8 x 256 x 128, a
    multiplication and its addition counted as two; None where nothing of it runs. `paper_MB` is the paper's figure,
    `reading` how the two belong together.
    """

    group: str
    name: str
    parameters: int
    values: int
    gflop: float | None
    paper_MB: float | None
    reading: str

    @property
    def MB(self) -> float:
        return 4 * self.values / 1e6

    @property
    def MiB(self) -> float:
        return 4 * self.values / 2**20


def model_sizes() -> list[ModelSize]:
    """Whole models, one branch of each design, and each backbone."""
    with torch.device("meta"):
        return [*_whole_models(), *_branches(), *_backbones()]


def _whole_models() -> list[ModelSize]:
    group = "model"
    baseline, amem, thin = _main(False), _main(True), _main(True, kernel="1x3x3")
    classifier = nn.Linear(SIMILARITY_FEATURE, paper.PEOPLE)
    heads = AttributeHeads(BRANCH_CHANNELS, GROUP_SIZES)
    thin_branches = [thin.appearance_branch, thin.motion_branch]
    return [
        _size(
            group,
            f"baseline in training: I3D, FC to f_s, identity classifier of {paper.PEOPLE} people",
            [baseline, classifier],
            gflop=_gflop(baseline, CLIP),
            paper_MB=paper.BACKBONE_MB,
            reading="The paper's size of the backbone network, read as MiB and with the classifier: it fits.",
        ),
        _size(
            group,
            "baseline main model: I3D, FC to f_s",
            [baseline],
            gflop=_gflop(baseline, CLIP),
            reading="What inference keeps of the baseline.",
        ),
        _size(
            group,
            "AMEM main model, inception 3x3x3",
            [amem],
            gflop=_gflop(amem, CLIP),
            paper_MB=paper.FINAL_MODEL_MB,
            reading="Our default, Table 2 by the text; two such branches alone add 22.4 MiB where the paper adds 17.5.",
        ),
        _size(
            group,
            "AMEM main model, inception 1x3x3",
            [thin],
            gflop=_gflop(thin, CLIP),
            paper_MB=paper.FINAL_MODEL_MB,
            reading="Main model alone: near 67.7 in 10^6 bytes, but in that unit the baseline does not give 50.2.",
        ),
        _size(
            group,
            "baseline in training, two 1x3x3 branches, attribute heads",
            [baseline, classifier, *thin_branches, heads],
            paper_MB=paper.FINAL_MODEL_MB,
            reading="This sum gives 67.7 MiB: kernel 1x3x3, FC from f_B alone, classifier and attribute heads counted.",
        ),
    ]


def _branches() -> list[ModelSize]:
    def row(
        design: str,
        name: str,
        reading: str,
        *,
        paper_MB: float | None = None,
        kernel: str = "3x3x3",
        channels: int = I3D_MAPS[0],
    ) -> ModelSize:
        branch = build_branch(design, channels, kernel)
        gflop = _gflop(branch, (channels, *I3D_MAPS[1:]))
        return _size("one branch", name, [branch], gflop=gflop, paper_MB=paper_MB, reading=reading)

    on_BF = f"On the {I3D_MAPS[0]} channels of BF, as --branch builds it."
    fits = (
        f"On the {MIXED_4F_CHANNELS} channels below I3D's last blocks: the reading that fits the paper's figure in MiB."
    )
    of_3d, of_2d, below = paper.CONV3D_BRANCH_MB, paper.CONV2D_BRANCH_MB, MIXED_4F_CHANNELS
    return [
        row("inception", "inception 3x3x3", "Table 2, kernel 3 in all three directions (our default)."),
        row("inception", "inception 1x3x3", "Table 2, kernel 3 in space only: fits the paper's 67.7.", kernel="1x3x3"),
        row("conv3d", "one 3-D convolution", on_BF, paper_MB=of_3d),
        row("conv3d", f"one 3-D convolution on {below} channels", fits, paper_MB=of_3d, channels=below),
        row("conv2d", "two 2-D convolutions", on_BF, paper_MB=of_2d),
        row("conv2d", f"two 2-D convolutions on {below} channels", fits, paper_MB=of_2d, channels=below),
    ]


def _backbones() -> list[ModelSize]:
    rows = []
    for name in backbone_names():
        backbone = build_backbone(name)
        with torch.no_grad():
            channels, *maps = backbone.eval()(torch.empty(1, *CLIP)).shape[1:]
        reading = f"Alone, at the strides of re-identification: maps {channels} x {' x '.join(map(str, maps))}."
        rows.append(_size("backbone", name, [backbone], gflop=_gflop(backbone, CLIP), reading=reading))
    return rows


def _main(enhanced: bool, kernel: str = "3x3x3") -> MainModel:
    described: dict[str, Any] = {"backbone": "i3d", "branch": "inception", "branch_kernel": kernel}
    return build_main_model(described | {"appearance": enhanced, "motion": enhanced, "fused": True})


def _size(
    group: str,
    name: str,
    parts: list[nn.Module],
    *,
    gflop: float | None = None,
    paper_MB: float | None = None,
    reading: str = "",
) -> ModelSize:
    parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
    tensors = [tensor for part in parts for tensor in part.state_dict().values()]
    values = sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())
    return ModelSize(group, name, parameters, values, gflop, paper_MB, reading)


def _gflop(network: nn.Module, shape: tuple[int, ...]) -> float:
    """The GFLOP of one forward pass of `network` on one input of `shape`, in eval mode."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network.eval()(torch.empty(1, *shape))
    return counter.get_total_flops() / 1e9
