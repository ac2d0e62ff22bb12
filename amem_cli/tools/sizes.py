"""Sizes of the models next to the paper's (section Model Size). Built on torch's meta device: nothing is computed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amem_cli.attributes import GROUP_SIZES
from amem_cli.models.amem import SIMILARITY_FEATURE, MainModel, build_main_model
from amem_cli.models.arm import AttributeHeads
from amem_cli.models.backbones import build_backbone
from amem_cli.models.branches import BRANCH_CHANNELS, build_branch
from amem_cli.models.config import model_config
from amem_cli.options import BACKBONES, TrainAmemOptions
from amem_cli.tools import paper

Shape = tuple[int, ...]
CLIP = (3, 8, 256, 128)  # channels, T, H, W of the paper
I3D_MAPS = (1024, 3, 16, 8)  # BF of such a clip: C, T', H, W
MIXED_4F_CHANNELS = 832  # input of I3D's last two blocks


@dataclass(frozen=True)
class ModelSize:
    """One row of the table.

    `parameters` are learned; `values` also count the running means and variances of BN, as a weight file does. `gflop`
    is for one clip of 8 x 256 x 128, with a multiply-add as two, or None for modules that inference does not run.
    `reading` compares with the paper's figure `paper_MB`.
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
    """The rows for whole models, one branch of each design, and each backbone."""
    with torch.device("meta"):
        return [*_whole_models(), *_branches(), *_backbones()]


def _whole_models() -> list[ModelSize]:
    baseline, amem, thin = _main("baseline"), _main("amem"), _main("amem", kernel="1x3x3")
    classifier, heads = nn.Linear(SIMILARITY_FEATURE, paper.PEOPLE), AttributeHeads(BRANCH_CHANNELS, GROUP_SIZES)
    in_training, with_heads = [baseline, classifier], [thin.appearance_branch, thin.motion_branch, heads]
    rows: list[tuple[str, list[Any], Shape | None, float | None, str]] = [
        (
            f"baseline in training: I3D, FC to f_s, identity classifier of {paper.PEOPLE} people",
            in_training,
            CLIP,
            paper.BACKBONE_MB,
            "Equals the paper's size of the backbone network, if that is in MiB and with the classifier.",
        ),
        ("baseline main model: I3D, FC to f_s", [baseline], CLIP, None, "What inference uses of the baseline."),
        (
            "AMEM main model, inception 3x3x3",
            [amem],
            CLIP,
            paper.FINAL_MODEL_MB,
            "Our default, Table 2 by the text. Its two branches alone add 22.4 MiB, the paper's model adds 17.5.",
        ),
        (
            "AMEM main model, inception 1x3x3",
            [thin],
            CLIP,
            paper.FINAL_MODEL_MB,
            "Close to 67.7 in 10^6 bytes, but in that unit the baseline is not 50.2.",
        ),
        (
            "baseline in training, two 1x3x3 branches, attribute heads",
            in_training + with_heads,
            None,
            paper.FINAL_MODEL_MB,
            "67.7 MiB: kernel 1x3x3, FC from f_B alone, classifier and attribute heads counted.",
        ),
    ]
    return [_size("model", *row) for row in rows]


def _branches() -> list[ModelSize]:
    bf, below = I3D_MAPS[0], MIXED_4F_CHANNELS
    on_bf = f"On the {bf} channels of BF, as --branch builds it."
    fits = f"On the {below} channels before I3D's last two blocks: equals the paper's figure in MiB."
    table_2 = "Table 2, kernel 3 in"
    rows: list[tuple[str, nn.Module, int, float | None, str]] = [
        ("inception 3x3x3", build_branch("inception", bf), bf, None, f"{table_2} all three directions (our default)."),
        ("inception 1x3x3", build_branch("inception", bf, "1x3x3"), bf, None, f"{table_2} space only: fits 67.7."),
    ]
    for name, design, paper_MB in (
        ("one 3-D convolution", "conv3d", paper.CONV3D_BRANCH_MB),
        ("two 2-D convolutions", "conv2d", paper.CONV2D_BRANCH_MB),
    ):
        rows.append((name, build_branch(design, bf), bf, paper_MB, on_bf))
        rows.append((f"{name} on {below} channels", build_branch(design, below), below, paper_MB, fits))
    return [
        _size("one branch", name, [branch], (channels, *I3D_MAPS[1:]), paper_MB, reading)
        for name, branch, channels, paper_MB, reading in rows
    ]


def _backbones() -> list[ModelSize]:
    rows = []
    for name in BACKBONES:
        backbone = build_backbone(name).eval()
        channels, *maps = backbone(torch.empty(1, *CLIP)).shape[1:]
        reading = f"Backbone alone, with re-identification strides: maps {channels} x {' x '.join(map(str, maps))}."
        rows.append(_size("backbone", name, [backbone], CLIP, None, reading))
    return rows


def _main(modules: Any, kernel: Any = "3x3x3") -> MainModel:
    return build_main_model(model_config(TrainAmemOptions(modules=modules, branch_kernel=kernel), paper.PEOPLE))


def _size(
    group: str, name: str, modules: list[Any], runs_on: Shape | None, paper_MB: float | None, reading: str
) -> ModelSize:
    """A row for `modules`; `runs_on` is the input of the first one, whose GFLOP are counted."""
    parameters = sum(parameter.numel() for module in modules for parameter in module.parameters())
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    values = sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())
    gflop = None
    if runs_on is not None:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            modules[0].eval()(torch.empty(1, *runs_on))
        gflop = counter.get_total_flops() / 1e9
    return ModelSize(group, name, parameters, values, gflop, paper_MB, reading)
