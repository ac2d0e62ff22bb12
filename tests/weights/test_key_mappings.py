"""Key mappings: I3D's published files, and the two years of Hara's 3D-ResNets."""

from pathlib import Path

import pytest
import torch

from amem_cli.weights.files import WeightFile
from amem_cli.weights.key_mappings import map_keys
from amem_cli.weights.normalisation import HARA_2018, HARA_2020

OTHER_PORT = {
    "conv3d_1a_7x7.conv3d.weight": "Conv3d_1a_7x7.conv3d.weight",
    "conv3d_2c_3x3.batch3d.running_mean": "Conv3d_2c_3x3.bn.running_mean",
    "mixed_3b.branch_0.batch3d.weight": "Mixed_3b.b0.bn.weight",
    "mixed_3b.branch_1.0.conv3d.weight": "Mixed_3b.b1a.conv3d.weight",
    "mixed_3b.branch_1.1.conv3d.weight": "Mixed_3b.b1b.conv3d.weight",
    "mixed_4f.branch_2.0.batch3d.bias": "Mixed_4f.b2a.bn.bias",
    "mixed_4f.branch_2.1.batch3d.running_var": "Mixed_4f.b2b.bn.running_var",
    "mixed_5c.branch_3.1.conv3d.weight": "Mixed_5c.b3b.conv3d.weight",
    "conv3d_0c_1x1.conv3d.bias": "logits.conv3d.bias",
    "other": "other",
}
TENSORFLOW = {
    "RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w": "Conv3d_1a_7x7.conv3d.weight",
    "RGB/inception_i3d/Conv3d_1a_7x7/batch_norm/gamma": "Conv3d_1a_7x7.bn.weight",
    "RGB/inception_i3d/Mixed_3b/Branch_0/Conv3d_0a_1x1/conv_3d/w": "Mixed_3b.b0.conv3d.weight",
    "RGB/inception_i3d/Mixed_3b/Branch_1/Conv3d_0a_1x1/conv_3d/w": "Mixed_3b.b1a.conv3d.weight",
    "inception_i3d/Mixed_3b/Branch_1/Conv3d_0b_3x3/conv_3d/w:0": "Mixed_3b.b1b.conv3d.weight",
    "Flow/inception_i3d/Mixed_4f/Branch_2/Conv3d_0a_1x1/conv_3d/w": "Mixed_4f.b2a.conv3d.weight",
    "RGB/inception_i3d/Mixed_4f/Branch_2/Conv3d_0b_3x3/batch_norm/moving_mean": "Mixed_4f.b2b.bn.running_mean",
    "RGB/inception_i3d/Mixed_5b/Branch_2/Conv3d_0a_3x3/batch_norm/moving_variance:0": "Mixed_5b.b2b.bn.running_var",
    "RGB/inception_i3d/Mixed_5c/Branch_3/Conv3d_0b_1x1/conv_3d/w": "Mixed_5c.b3b.conv3d.weight",
    "RGB/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d/b": "logits.conv3d.bias",
    "RGB/inception_i3d/Mixed_5c/other": "RGB/inception_i3d/Mixed_5c/other",
}
FLAX = {
    "params/Conv3d_1a_7x7/Conv_0/kernel": "Conv3d_1a_7x7.conv3d.weight",
    "params/Mixed_3b/Branch_0/Conv3d_0a_1x1/BatchNorm_0/bias": "Mixed_3b.b0.bn.bias",
    "params/Mixed_4f/Branch_1/Conv3d_0b_3x3/Conv_0/kernel": "Mixed_4f.b1b.conv3d.weight",
    "batch_stats/Mixed_5b/Branch_2/Conv3d_0b_3x3/BatchNorm_0/mean": "Mixed_5b.b2b.bn.running_mean",
    "batch_stats/Mixed_5c/Branch_3/Conv3d_0b_1x1/BatchNorm_0/var": "Mixed_5c.b3b.bn.running_var",
    "params/Logits/Conv3d_0c_1x1/Conv_0/kernel": "logits.conv3d.weight",
    "params/Logits/Conv3d_0c_1x1/Conv_0/bias": "logits.conv3d.bias",
}
OURS = {key: key for key in OTHER_PORT.values()}


def weight_file(tensors, module_prefix=False):
    return WeightFile(Path("w"), tensors, "PyTorch", module_prefix, 0, "")


@pytest.mark.parametrize(
    ("keys", "key_mapping"),
    [
        (OURS, "I3D, PyTorch port with Mixed_*.b*"),
        (OTHER_PORT, "I3D, PyTorch port with mixed_*.branch_*"),
        (TENSORFLOW, "I3D, TensorFlow variables"),
        (FLAX, "I3D, Flax variables"),
    ],
)
def test_map_keys_i3d(keys, key_mapping):
    tensors = {
        key: torch.randn(2, 3, 4, 5, 6) if key.endswith(("w", "w:0", "conv3d.weight", "kernel")) else torch.randn(3)
        for key in keys
    }
    stored = tensors
    scales = set()
    if keys in (TENSORFLOW, FLAX):  # (kT, kH, kW, in, out), and (1, 1, 1, 1, C) in BN, which may have no scale
        stored = {key: value.permute(2, 3, 4, 1, 0) if value.dim() == 5 else value for key, value in tensors.items()}
        norms = ("batch_norm", "BatchNorm_0")
        stored |= {key: value.view(1, 1, 1, 1, 3) for key, value in tensors.items() if any(n in key for n in norms)}
        scales = {key.replace("bias", "weight") for key in keys.values() if key.endswith("bn.bias")}
    found = map_keys(weight_file(stored), "i3d")
    assert (found.key_mapping, found.normalisation) == (key_mapping, None)
    assert found.tensors.keys() == set(keys.values()) | scales
    assert all(torch.equal(found.tensors[ours], tensors[theirs]) for theirs, ours in keys.items())


def test_map_keys_i3d_adds_the_scale_that_tensorflow_lacks():
    stored = {"Conv3d_1a_7x7/batch_norm/beta": torch.zeros(3), "Conv3d_1a_7x7/conv_3d/w": torch.zeros(1)}
    assert torch.equal(map_keys(weight_file(stored), "i3d").tensors["Conv3d_1a_7x7.bn.weight"], torch.ones(3))
    stored["Conv3d_1a_7x7/batch_norm/gamma"] = torch.full((3,), 2.0)
    assert (map_keys(weight_file(stored), "i3d").tensors["Conv3d_1a_7x7.bn.weight"] == 2).all()


@pytest.mark.parametrize("first", [True, False])
def test_map_keys_reports_duplicates(first):
    ours, theirs = {"Mixed_3b.b0.bn.bias": torch.ones(1)}, {"mixed_3b.branch_0.batch3d.bias": torch.zeros(1)}
    found = map_keys(weight_file(ours | theirs if first else theirs | ours), "i3d").tensors
    assert torch.equal(found["Mixed_3b.b0.bn.bias"], torch.ones(1) if first else torch.zeros(1))
    (other,) = found.keys() - ours.keys()
    assert other == f"{next(iter(theirs if first else ours))} (duplicate of Mixed_3b.b0.bn.bias)"


@pytest.mark.parametrize(
    ("std", "classes", "prefix", "year", "reason"),
    [
        (1, 400, False, 2018, "its 400 classes"),
        (60, 700, True, 2020, "its 700 classes"),
        (1, 101, True, 2018, "its prefix module."),
        (1, None, True, 2018, "its prefix module."),
        (60, 101, False, 2018, "the scale of its first layer"),
        (4, 101, False, 2020, "the scale of its first layer"),
        (1, None, False, 2020, "the scale of its first layer"),
        (None, None, False, 2018, "no evidence in the file: the default"),
    ],
)
def test_map_keys_hara_year(std, classes, prefix, year, reason):
    filters = torch.randn(64, 3, 7, 7, 7)
    tensors = {"conv1.weight": filters}
    if std is not None:  # BN has seen pixels of this std, constant along a filter
        tensors["bn1.running_var"] = filters.square().sum(dim=(1, 2, 3, 4)) * std**2
    if classes is not None:
        tensors["fc.weight"] = torch.zeros(classes, 2048)
    found = map_keys(weight_file(tensors, prefix), "r3d")
    assert found.normalisation == {2018: HARA_2018, 2020: HARA_2020}[year]
    assert found.key_mapping == f"3D-ResNet of Hara et al., {year} (from {reason})"


def test_map_keys_odd_shapes_are_left_to_the_fit():
    odd = {"conv1.weight": torch.zeros(3), "bn1.running_var": torch.zeros(3), "fc.weight": torch.tensor(1.0)}
    assert map_keys(weight_file(odd), "r3d").normalisation == HARA_2018
