"""Checkpoints of the networks: saved tensors and configurations rebuild the networks."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from toys import ALONE, tensors_equal, write_tae

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.models.arm import ARM
from amem_cli.models.checkpoints import (
    load_amem,
    load_arm,
    load_main_model,
    load_tae,
    restore_main,
    save_amem,
    save_arm,
    save_main,
)
from amem_cli.models.config import ArmConfig, ModelConfig, model_config
from amem_cli.options import TrainAmemOptions
from amem_cli.stages.train_amem import build_networks

pytestmark = pytest.mark.usefixtures("tiny_backbone")
PROVENANCE = Provenance("train-amem", {})


def test_arm_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    arm, config = ARM("resnet18"), ArmConfig(backbone="resnet18", image_size="64x32")
    loaded, found = load_arm(save_arm(tmp_path / "arm.safetensors", arm, config, Provenance("train-arm", {})))
    assert found == config
    assert found.height_width == (64, 32)
    assert tensors_equal(arm.state_dict(), loaded.state_dict())


def test_tae_parts_start_mem(tmp_path: Path) -> None:
    path = write_tae(tmp_path / "tae.safetensors")
    saved = checkpoint.load(path, "amem-tae").tensors
    tae = load_tae(path, "32x32")
    for part, prefix in zip(tae[:3], ("encoder.", "decoder.", "discriminator."), strict=True):
        expected = {name.removeprefix(prefix): t for name, t in saved.items() if name.startswith(prefix)}
        assert tensors_equal(part.state_dict(), expected)
    options = TrainAmemOptions(modules="mem", image_size="32x32", branch="conv2d")
    networks = build_networks(model_config(options, 4), options, ALONE, tae)
    assert networks.amem.mem.encoder is tae[0]
    assert networks.amem.mem.decoder is tae[1]
    assert networks.discriminator is tae[2]
    assert not any(parameter.requires_grad for parameter in networks.amem.mem.encoder.parameters())
    with pytest.raises(UsageError, match="was trained at 32x32"):
        load_tae(path, "64x32")


@pytest.mark.slow
@pytest.mark.parametrize("modules", ["amem", "after-enhancement"])
def test_amem_saved_and_loaded(tmp_path: Path, modules: str) -> None:
    torch.manual_seed(0)
    options = TrainAmemOptions(modules=modules, image_size="32x32", branch="conv2d")
    config = model_config(options, 4)
    networks = build_networks(config, options, ALONE)
    with torch.no_grad():  # BN statistics that are not the initial ones
        networks.amem.train().main(torch.rand(2, 3, 8, 32, 32))
    output, main_file = tmp_path / "amem.safetensors", tmp_path / "amem-main.safetensors"
    save_amem(output, networks.amem, networks.discriminator, config, PROVENANCE, {"steps": 1})

    amem, found = load_amem(output)
    assert tensors_equal(amem.state_dict(), networks.amem.state_dict())
    assert (found.modules, found.people, found.normalisation) == (modules, 4, amem.main.backbone.normalisation)
    main, main_config = load_main_model(main_file)
    clip = torch.rand(1, 3, 8, 32, 32)
    with torch.no_grad():
        assert torch.equal(main.eval()(clip), amem.main(clip))
    assert not {"identity_classifier", "aem", "mem"} & {name.split(".")[0] for name in main.state_dict()}
    assert main_config.appearance is main_config.motion is (modules == "amem")

    before = main_file.read_bytes()
    main_file.unlink()
    restore_main(output, PROVENANCE)
    assert main_file.read_bytes() == before
    save_main(main_file, networks.amem.main, config, replace(PROVENANCE, data="of a later training"))
    restore_main(output, PROVENANCE)  # the later one was killed before it had written the other file
    assert main_file.read_bytes() == before


def test_load_missing_or_other_kind(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="amem train-arm writes such a file"):
        load_arm(tmp_path / "none.safetensors")
    with pytest.raises(BadData, match="amem-tae"):
        load_arm(write_tae(tmp_path / "tae.safetensors"))


@pytest.mark.parametrize(
    "change", [{"image_size": "31x32"}, {"clip_frames": 0}, {"clip_frames": 2000}, {"people": "4"}, {"backbone": 3}]
)
def test_load_main_model_wrong_configuration(tmp_path: Path, change: dict) -> None:
    options = TrainAmemOptions(modules="baseline", image_size="32x32")
    config = model_config(options, 4)
    assert msgspec.convert(config.as_json(), ModelConfig) == config
    networks = build_networks(config, options, ALONE)
    description = config.as_json() | change
    path = checkpoint.save(
        tmp_path / "main.safetensors", "amem-main", networks.amem.main.state_dict(), PROVENANCE, model=description
    )
    with pytest.raises(BadData, match="description"):
        load_main_model(path)
