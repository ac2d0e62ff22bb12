"""Key mappings: I3D's published files, and the two years of Hara's 3D-ResNets."""

from pathlib import Path

import pytest
import torch

from amem_cli.models.i3d import I3DClassifier
from amem_cli.weights.files import WeightFile
from amem_cli.weights.key_mappings import map_keys
from amem_cli.weights.normalisation import HARA_2018, HARA_2020, IMAGENET

UNITS = {  # ours: other port, TensorFlow
    "b0": ("branch_0", "Branch_0/Conv3d_0a_1x1"),
    "b1a": ("branch_1.0", "Branch_1/Conv3d_0a_1x1"),
    "b1b": ("branch_1.1", "Branch_1/Conv3d_0b_3x3"),
    "b2a": ("branch_2.0", "Branch_2/Conv3d_0a_1x1"),
    "b2b": ("branch_2.1", "Branch_2/Conv3d_0b_3x3"),
    "b3b": ("branch_3.1", "Branch_3/Conv3d_0b_1x1"),
    "bn": ("batch3d", ""),
}


def weight_file(tensors, module_prefix=False, normalisation=None):
    return WeightFile(Path("w"), tensors, "PyTorch", module_prefix, 0, "", normalisation)


@pytest.fixture(scope="module")
def state():
    """Small tensors under the keys of I3D with its head; BN scales are 1, because TensorFlow has none."""
    with torch.device("meta"):
        shapes = {k: v.dim() for k, v in I3DClassifier().state_dict().items() if not k.endswith("tracked")}
    assert len(shapes) == 287
    made = {key: torch.randn((2, 3, 4, 5, 6) if dims == 5 else 3) for key, dims in shapes.items()}
    return made | {key: torch.ones(3) for key in made if key.endswith("bn.weight")}


def as_other_port(state):
    renamed = {}
    for key, value in state.items():
        first, *rest = key.split(".")
        first = "conv3d_0c_1x1" if first == "logits" else first[0].lower() + first[1:]
        renamed[".".join([first, *(UNITS.get(piece, (piece,))[0] for piece in rest)])] = value
    return renamed


def as_tensorflow(state, suffix=""):
    kinds = {"conv3d.weight": "conv_3d/w", "conv3d.bias": "conv_3d/b", "bn.bias": "batch_norm/beta"}
    kinds |= {"bn.running_mean": "batch_norm/moving_mean", "bn.running_var": "batch_norm/moving_variance"}
    variables = {}
    for key, value in state.items():
        *path, module, entry = key.split(".")
        if f"{module}.{entry}" in kinds:
            unit = "/".join([path[0], *(UNITS[piece][1] for piece in path[1:])])
            unit = unit.replace("logits", "Logits/Conv3d_0c_1x1")
            unit = unit.replace("Mixed_5b/Branch_2/Conv3d_0b_3x3", "Mixed_5b/Branch_2/Conv3d_0a_3x3")
            value = value.permute(2, 3, 4, 1, 0) if value.dim() == 5 else value
            value = value.view(1, 1, 1, 1, 3) if module == "bn" else value
            variables[f"RGB/inception_i3d/{unit}/{kinds[f'{module}.{entry}']}{suffix}"] = value
    return variables


@pytest.mark.parametrize(
    ("convert", "key_mapping"),
    [
        (dict, "I3D, PyTorch port with Mixed_*.b*"),
        (as_other_port, "I3D, PyTorch port with mixed_*.branch_*"),
        (as_tensorflow, "I3D, TensorFlow variables"),
        (lambda state: as_tensorflow(state, ":0"), "I3D, TensorFlow variables"),
    ],
    ids=["ours", "port", "tensorflow", "tensorflow:0"],
)
def test_map_keys_i3d(convert, key_mapping, state):
    found = map_keys(weight_file(convert(state)), "i3d")
    assert found.key_mapping == key_mapping
    assert found.normalisation is None
    assert found.tensors.keys() == state.keys()
    assert all(torch.equal(found.tensors[key], value) for key, value in state.items())


def test_map_keys_i3d_keeps_a_scale_of_bn():
    stored = {"mixed_3b.branch_0.batch3d.weight": torch.tensor([2.0]), "mixed_3b.branch_0.batch3d.bias": torch.zeros(1)}
    assert map_keys(weight_file(stored), "i3d").tensors["Mixed_3b.b0.bn.weight"] == 2


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
        (1, 101, False, 2020, "the scale of its first layer"),
        (1, None, False, 2020, "the scale of its first layer"),
        (None, None, False, 2018, "no sign in the file: the default"),
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


def test_map_keys_of_an_amem_main_stay():
    tensors = {"mixed_3b.x": torch.zeros(1)}
    found = map_keys(weight_file(tensors, normalisation=IMAGENET), "i3d")
    assert (found.tensors, found.key_mapping, found.normalisation) == (tensors, "amem", IMAGENET)
