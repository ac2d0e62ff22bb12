"""Sizes of the models next to the paper's (section Model Size). Built on torch's meta device: nothing is computed."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amem_cli.artifacts import atomic
from amem_cli.attributes import GROUP_SIZES
from amem_cli.models.amem import SIMILARITY_FEATURE, MainModel, build_main_model
from amem_cli.models.arm import AttributeHeads
from amem_cli.models.backbones import build_backbone
from amem_cli.models.branches import BRANCH_CHANNELS, build_branch
from amem_cli.models.config import model_config
from amem_cli.options import BACKBONES, TrainAmemOptions
from amem_cli.tools import paper
from amem_cli.tools.reproduce.run import Block, block_as_markdown, header

CLIP = (3, 8, 256, 128)  # channels, T, H, W of the paper
I3D_MAPS = (3, 16, 8)  # T', H', W' of such a clip
CHANNELS = (1024, 832)  # of BF, and of the input of I3D's last two blocks
NOTES = (
    "MB is 10^6 bytes, MiB 2^20 bytes, of all float32 values including the running statistics of BN. GFLOP are of one "
    "clip of 8 x 256 x 128, a multiplication and its addition counted as two. Figures of a branch are what one adds.",
    "What the paper calls MB matches MiB: 50.2 is the baseline with its classifier; 67.7 has branches of kernel 1x3x3, "
    "FC from f_B alone, classifier and attribute heads; 90 and 32.6 are branches on the 832 channels before I3D's last "
    "two blocks. Our default is kernel 3x3x3 on BF, Table 2 by its text.",
)


def sizes(workspace: Path) -> dict[str, Any]:
    """The section Model Size: measures the models and writes WORKSPACE/reproduce/sizes.json and .md."""
    with torch.device("meta"):
        rows = model_sizes()
    table = header("sizes", "sizes", "Model size") | {"rows": rows, "notes": NOTES}
    path = workspace / "reproduce" / "sizes.json"
    atomic.write_text(path, json.dumps(table, indent=1))
    text = "\n\n".join(["# Model size", block_as_markdown(size_block(table)), *NOTES, ""])
    atomic.write_text(path.with_suffix(".md"), text)
    return table


def model_sizes() -> list[dict[str, Any]]:
    """The rows for whole models, one branch of each design, and each backbone."""
    baseline, amem, thin = _main("baseline"), _main("amem"), _main("amem", kernel="1x3x3")
    in_training = [baseline, nn.Linear(SIMILARITY_FEATURE, paper.PEOPLE)]
    heads = [thin.appearance_branch, thin.motion_branch, AttributeHeads(BRANCH_CHANNELS, GROUP_SIZES)]
    backbones = {name: build_backbone(name) for name in BACKBONES}
    rows = [
        _size("model", "baseline in training, with classifier", in_training, CLIP, paper.BACKBONE_MB),
        _size("model", "baseline main model: I3D, FC to f_s", [baseline], CLIP),
        _size("model", "AMEM main model, inception 3x3x3", [amem], CLIP, paper.FINAL_MODEL_MB),
        _size("model", "AMEM main model, inception 1x3x3", [thin], CLIP, paper.FINAL_MODEL_MB),
        _size("model", "baseline in training, two 1x3x3 branches, attribute heads", in_training + heads, None,
              paper.FINAL_MODEL_MB),
    ]  # fmt: skip
    for kernel in ("3x3x3", "1x3x3"):
        branch = build_branch("inception", CHANNELS[0], kernel)
        rows.append(_size("one branch", f"inception {kernel}", [branch], (CHANNELS[0], *I3D_MAPS)))
    for design, figure in (("conv3d", paper.CONV3D_BRANCH_MB), ("conv2d", paper.CONV2D_BRANCH_MB)):
        for channels in CHANNELS:
            branch, name = build_branch(design, channels), f"{design} on {channels} channels"
            rows.append(_size("one branch", name, [branch], (channels, *I3D_MAPS), figure))
    return rows + [_size("backbone", name, [backbone], CLIP) for name, backbone in backbones.items()]


def _main(modules: Any, kernel: Any = "3x3x3") -> MainModel:
    return build_main_model(model_config(TrainAmemOptions(modules=modules, branch_kernel=kernel), paper.PEOPLE))


def _size(
    group: str, name: str, modules: list[Any], runs_on: tuple[int, ...] | None, paper_MB: float | None = None
) -> dict[str, Any]:
    """A row for `modules`; `runs_on` is the input of the first one, whose GFLOP are counted.

    `parameters` are learned; `values` also count the running means and variances of BN, as a weight file does.
    """
    parameters = sum(parameter.numel() for module in modules for parameter in module.parameters())
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    values = sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())
    gflop = None
    if runs_on is not None:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            modules[0].eval()(torch.empty(1, *runs_on))
        gflop = counter.get_total_flops() / 1e9
    return {
        "group": group, "name": name, "parameters": parameters, "values": values, "MB": 4 * values / 1e6,
        "MiB": 4 * values / 2**20, "paper_MB": paper_MB, "gflop": gflop,
    }  # fmt: skip


def size_block(table: dict[str, Any]) -> Block:
    """The printed table of sizes."""
    rows = [
        [f"{row['group']}: {row['name']}", f"{row['parameters']:,}", f"{row['MB']:.2f}", f"{row['MiB']:.2f}",
         *("-" if row[name] is None else f"{row[name]:.1f}" for name in ("paper_MB", "gflop"))]
        for row in table["rows"]
    ]  # fmt: skip
    return table["title"], ["what", "parameters", "MB", "MiB", 'paper "MB"', "GFLOP"], rows
