"""The input normalisation belongs to the weights: it goes into the checkpoints and comes back with them."""

import dataclasses
from pathlib import Path

import pytest
import torch

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, UsageError
from amem_cli.models.amem import build_main_model
from amem_cli.models.backbones import build_backbone
from amem_cli.options import TrainAmemOptions
from amem_cli.stages.extract_features import load_main_model
from amem_cli.stages.output import refuse_other_split
from amem_cli.stages.train_amem import build_amem, describe, save_models
from amem_cli.weights.normalisation import HARA_2018, HARA_2020, TORCHVISION_KINETICS, Normalisation

OPTIONS = TrainAmemOptions(modules="baseline", backbone="s3d", image_size="32x32")


def f_s(model: torch.nn.Module) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        return model.eval()(torch.rand(1, 3, 8, 32, 32))


@pytest.fixture
def output(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A saved model whose weights expect another input than its class does, and its f_s."""
    torch.manual_seed(0)
    described = describe(OPTIONS, 3)
    model, _ = build_amem(described, None, OPTIONS)
    assert model.main.backbone.normalisation == TORCHVISION_KINETICS  # the class's own
    model.main.backbone.normalisation = HARA_2020
    path = tmp_path / "amem.safetensors"
    save_models(path, model, None, described, Provenance("train-amem", {}), {})
    return path, f_s(model.main)


@pytest.mark.parametrize("name", ["amem-main.safetensors", "amem.safetensors"])
def test_both_checkpoints_describe_it(output: tuple[Path, torch.Tensor], name: str) -> None:
    found = checkpoint.read_description(output[0].with_name(name))["model"]["normalisation"]
    assert Normalisation(tuple(found["mean"]), tuple(found["std"])) == HARA_2020


def test_the_main_model_comes_back_with_it(output: tuple[Path, torch.Tensor]) -> None:
    path, expected = output
    model, described = load_main_model(path.with_name("amem-main.safetensors"))
    assert model.backbone.normalisation == HARA_2020
    assert torch.equal(f_s(model), expected)
    model.backbone.normalisation = TORCHVISION_KINETICS
    assert not torch.allclose(f_s(model), expected)  # it matters
    assert described["normalisation"] == {"mean": list(HARA_2020.mean), "std": list(HARA_2020.std)}


def test_the_training_model_comes_back_with_it(output: tuple[Path, torch.Tensor]) -> None:
    path, expected = output
    saved = checkpoint.load(path, "amem-model")
    model, _ = build_amem(saved.description["model"], None)
    checkpoint.load_into(model, saved, "amem.")
    assert model.main.backbone.normalisation == HARA_2020
    assert torch.equal(f_s(model.main), expected)


def test_without_weights_it_is_the_networks_own() -> None:
    with torch.device("meta"):
        model = build_main_model(describe(dataclasses.replace(OPTIONS, backbone="r3d"), 3))
    assert model.backbone.normalisation == HARA_2018


@pytest.mark.slow
def test_weights_that_bring_another_one_pass_it_on(tmp_path: Path) -> None:
    from amem_cli.models.resnet3d import ResNet3D50

    file, options = tmp_path / "r3d50_K_200ep.pth", dataclasses.replace(OPTIONS, backbone="r3d")
    state = {
        key: value.half() if value.is_floating_point() else value for key, value in ResNet3D50().state_dict().items()
    }
    torch.save(state | {"fc.weight": torch.zeros(700, 2048), "fc.bias": torch.zeros(700)}, file)
    described = describe(options, 3)
    model, _ = build_amem(described, None, dataclasses.replace(options, weights=str(file)))
    assert model.main.backbone.normalisation == HARA_2020
    save_models(tmp_path / "amem.safetensors", model, None, described, Provenance("train-amem", {}), {})
    again, _ = load_main_model(tmp_path / "amem-main.safetensors")
    assert again.backbone.normalisation == HARA_2020


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5, 0.5), (1.0,) * 3), ((0.5,) * 3, (1.0, 0.0, 1.0)), ((0.5,) * 3, (float("nan"),) * 3)]
)
def test_what_is_no_normalisation_is_none(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"number|positive"):
        Normalisation(mean, std)


def test_another_training_starts_from_the_backbone_of_an_amem_main(output: tuple[Path, torch.Tensor]) -> None:
    path = output[0].with_name("amem-main.safetensors")
    network = build_backbone("s3d", weights=path)
    assert network.normalisation == HARA_2020
    assert (network.pretrained.dialect, network.pretrained.head_classes) == ("amem's own names", None)
    saved = checkpoint.load(path, "amem-main").tensors
    found = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    assert all(torch.equal(value, saved[key]) for key, value in found.items())
    with pytest.raises(BadData, match=r"they are of s3d .* Use --backbone s3d"):
        build_backbone("i3d", weights=path)
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(BadData, match=r"damaged|seal"):
        build_backbone("s3d", weights=path)


def test_weights_of_another_split_of_the_same_data_set_are_refused(tmp_path: Path) -> None:
    provenance = Provenance("train-amem", {"dataset": "ilids-vid", "split": 3})
    path = checkpoint.save(tmp_path / "amem-main.safetensors", "amem-main", {"x": torch.zeros(1)}, provenance)
    with pytest.raises(UsageError, match="trained on split 3 of ilids-vid, which has most of the people that split 4"):
        refuse_other_split(str(path), "ilids-vid", 4)
    refuse_other_split(str(path), "ilids-vid", 3)
    refuse_other_split(str(path), "prid2011", 4)
    foreign = tmp_path / "foreign.pt"
    torch.save({"x": torch.zeros(1)}, foreign)
    for weights in ("", "kinetics", str(foreign), str(tmp_path / "none.pt")):
        refuse_other_split(weights, "ilids-vid", 4)
