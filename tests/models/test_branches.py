"""The appearance and motion branches: sizes of the paper, and the mean over T'."""

import pytest
import torch
from torch import nn

from amem_cli.models.branches import (
    BRANCH_CHANNELS,
    Conv2dBranch,
    Conv3dBranch,
    InceptionBranch,
    MiddleBranch,
    build_branch,
)


@pytest.mark.parametrize(
    ("design", "kernel", "parameters"),
    [
        ("inception", "3x3x3", 2_929_120),
        ("inception", "1x3x3", 2_929_120 - 18 * (192 * 384 + 48 * 128)),
        ("conv3d", "3x3x3", 1024 * 1024 * 27 + 2 * 1024),
        ("conv2d", "3x3x3", 2 * (1024 * 512 * 9) + 2 * 512 + 2 * 1024),
    ],
)
def test_build_branch_sizes(design, kernel, parameters):
    with torch.device("meta"):
        branch = build_branch(design, 1024, kernel)
        assert branch(torch.empty(2, 1024, 3, 16, 8)).shape == (2, BRANCH_CHANNELS, 16, 8)
        assert build_branch(design, 6)(torch.empty(2, 6, 1, 2, 3)).shape == (2, 1024, 2, 3)
    assert sum(parameter.numel() for parameter in branch.parameters()) == parameters
    assert {module.eps for module in branch.modules() if isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d)} == {1e-3}


def test_branches_average_over_time():
    torch.manual_seed(0)
    maps = torch.randn(1, 4, 3, 2, 2)
    inception, conv3d, conv2d = InceptionBranch(4).eval(), Conv3dBranch(4).eval(), Conv2dBranch(4).eval()
    for branch, per_frame in ((inception, inception.block), (conv3d, conv3d.unit)):
        frames = per_frame(maps)
        assert (frames >= 0).all()
        torch.testing.assert_close(branch(maps), (frames[:, :, 0] + frames[:, :, 1] + frames[:, :, 2]) / 3)
    kinds = [type(layer).__name__ for layer in conv2d.layers]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 2
    torch.testing.assert_close(conv2d(maps), conv2d.layers((maps[:, :, 0] + maps[:, :, 1] + maps[:, :, 2]) / 3))


@pytest.mark.parametrize(("kernel", "mixes"), [("3x3x3", True), ("1x3x3", False)])
def test_kernel_decides_whether_convolutions_mix_frames(kernel, mixes):
    torch.manual_seed(0)
    block = build_branch("inception", 4, kernel).eval().block
    maps = torch.randn(1, 4, 3, 2, 2, requires_grad=True)
    convolved = block(maps)[:, : 384 + 384 + 128, 0]  # without the pooling, which always mixes three frames
    (gradient,) = torch.autograd.grad(convolved.square().sum(), maps)
    assert bool(gradient[:, :, 1].abs().max() > 0) is mixes
    assert gradient[:, :, 0].abs().max() > 0


def test_middle_branch_is_a_3d_convolution_over_all_points_in_time():
    torch.manual_seed(0)
    branch, maps = MiddleBranch(4, times=3).eval(), torch.randn(2, 4, 3, 5, 4)
    convolution, norm, _ = branch.layers
    kernel = convolution.weight.unflatten(1, (3, 4)).transpose(1, 2)  # (1024, 4, 3, 3, 3)
    expected = nn.functional.conv3d(maps, kernel, stride=(1, 2, 2), padding=(0, 1, 1))[:, :, 0]
    assert branch(maps).shape == (2, BRANCH_CHANNELS, 3, 2)
    torch.testing.assert_close(branch(maps), norm(expected).relu())
    assert norm.eps == 1e-3


def test_inception_kernel_by_default():
    with torch.device("meta"):
        for branch in (InceptionBranch(4), build_branch("inception", 4)):
            assert branch.block.b1b.conv3d.kernel_size == branch.block.b2b.conv3d.kernel_size == (3, 3, 3)
