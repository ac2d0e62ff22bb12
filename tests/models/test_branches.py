"""The appearance and motion branches: the paper's shapes and sizes, and what T' does."""

import pytest
import torch
from torch import Tensor, nn

from amem_cli.models.branches import BRANCH_CHANNELS, Conv2dBranch, InceptionBranch, build_branch
from amem_cli.models.i3d import InceptionBlock

MIB = 2**20


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("design", "kernel", "count"),
    [
        ("inception", "3x3x3", 2_929_120),
        ("inception", "1x3x3", 2_929_120 - 18 * (192 * 384 + 48 * 128)),
        ("conv3d", "3x3x3", 1024 * 1024 * 27 + 2 * 1024),
        ("conv2d", "3x3x3", 2 * (1024 * 512 * 9) + 2 * 512 + 2 * 1024),
    ],
)
def test_sizes_and_shapes_at_the_paper_s_input(design: str, kernel: str, count: int) -> None:
    with torch.device("meta"):
        branch = build_branch(design, 1024, kernel)
        feature = branch(torch.empty(2, 1024, 3, 16, 8))
    assert feature.shape == (2, 1024, 16, 8)
    assert parameters(branch) == count


def test_channels_of_table_2() -> None:
    with torch.device("meta"):
        block = InceptionBranch(1024).block
    convolutions = {name: m for name, m in block.named_modules() if isinstance(m, nn.Conv3d)}
    kernels = {name: tuple(module.weight.shape) for name, module in convolutions.items()}
    assert kernels == {
        "b0.conv3d": (384, 1024, 1, 1, 1),
        "b1a.conv3d": (192, 1024, 1, 1, 1),
        "b1b.conv3d": (384, 192, 3, 3, 3),
        "b2a.conv3d": (48, 1024, 1, 1, 1),
        "b2b.conv3d": (128, 48, 3, 3, 3),
        "b3b.conv3d": (128, 1024, 1, 1, 1),
    }
    assert isinstance(block, InceptionBlock)
    assert block.out_channels == BRANCH_CHANNELS == 1024


@pytest.mark.parametrize("design", ["inception", "conv3d", "conv2d"])
@pytest.mark.parametrize("frames", [1, 3])
def test_any_backbone_s_channels_and_any_number_of_frames(design: str, frames: int) -> None:
    branch = build_branch(design, 6)
    assert branch(torch.randn(2, 6, frames, 2, 3)).shape == (2, 1024, 2, 3)


def test_the_inception_branch_is_the_block_averaged_over_time_after_its_relu() -> None:
    torch.manual_seed(0)
    branch = InceptionBranch(4).eval()
    maps = torch.randn(1, 4, 3, 2, 2)
    block = branch.block(maps)
    torch.testing.assert_close(branch(maps), (block[:, :, 0] + block[:, :, 1] + block[:, :, 2]) / 3)
    assert (block >= 0).all()


def test_the_two_dimensional_branch_averages_over_time_first() -> None:
    torch.manual_seed(0)
    branch = Conv2dBranch(4).eval()
    maps = torch.randn(1, 4, 3, 2, 2)
    torch.testing.assert_close(branch(maps), branch(maps.mean(dim=2, keepdim=True).expand(-1, -1, 3, -1, -1)))


@pytest.mark.parametrize(("kernel", "mixes"), [("3x3x3", True), ("1x3x3", False)])
def test_the_kernel_option_decides_whether_convolutions_see_other_frames(kernel: str, mixes: bool) -> None:
    torch.manual_seed(0)
    block = build_branch("inception", 4, kernel).eval().block
    maps = torch.randn(1, 4, 3, 2, 2, requires_grad=True)
    convolved: Tensor = block(maps)[:, : 384 + 384 + 128, 0]  # without the pooling, which always sees three frames
    (gradient,) = torch.autograd.grad(convolved.square().sum(), maps)
    assert bool(gradient[:, :, 1].abs().max() > 0) is mixes
    assert gradient[:, :, 0].abs().max() > 0


@pytest.mark.parametrize("design", ["inception", "conv3d", "conv2d"])
def test_branches_are_told_apart_by_their_weights_alone(design: str) -> None:
    torch.manual_seed(0)
    one, other = build_branch(design, 4), build_branch(design, 4)
    assert {name: t.shape for name, t in one.state_dict().items()} == {
        name: t.shape for name, t in other.state_dict().items()
    }
    maps = torch.randn(2, 4, 2, 2, 2)
    assert not torch.equal(one(maps), other(maps))
