"""Helpers of the tests that compare our networks with independent functional renderings of the published ones."""

import torch
import torch.nn.functional as F


def random_state(network, seed=0):
    """Random weights and BN statistics under the keys of a network, without counters."""
    draw, state = torch.Generator().manual_seed(seed), {}
    for key, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=draw)
        if tensor.dim() > 1:
            state[key] = noise * (2 / tensor[0].numel()) ** 0.5
        elif not key.endswith("num_batches_tracked"):
            state[key] = 0.1 * noise if key.endswith(("bias", "running_mean")) else 0.5 + noise.abs()
    return state


def conv(x, state, name, stride=1):
    weight = state[name + ".weight"]
    padding = tuple(width // 2 for width in weight.shape[2:])
    return (F.conv2d if weight.dim() == 4 else F.conv3d)(x, weight, stride=stride, padding=padding)


def norm(x, state, name, eps=1e-5):
    return F.batch_norm(
        x, *(state[f"{name}.{entry}"] for entry in ("running_mean", "running_var", "weight", "bias")), eps=eps
    )


def random_clip(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def assert_equal_maps(ours, theirs):
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0.1  # otherwise the comparison would be meaningless
    assert (ours - theirs).abs().max() < 1e-5 * max(1.0, theirs.abs().max().item())
