"""The checkpoints of the networks: amem-arm, amem-tae, amem-model and amem-main.

Each has the network's configuration, which rebuilds it. A checkpoint whose configuration or tensors do not fit is
`BadData`, a missing one `InputMissing` with the `remedy`, the command that makes it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from torch import nn

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.output import is_complete, read_provenance
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import UsageError
from amem_cli.models.amem import AMEM, MainModel, build_amem, build_main_model
from amem_cli.models.arm import ARM, FrameFeatures
from amem_cli.models.config import ArmConfig, ModelConfig, TaeConfig
from amem_cli.models.tae import TAE, Discriminator, FrozenTextureEncoder, TextureDecoder, mem_parts

CONFIGURATIONS = {"amem-arm": ArmConfig, "amem-model": ModelConfig, "amem-main": ModelConfig}


def save_arm(path: Path, arm: ARM, config: ArmConfig, provenance: Provenance, **more: Any) -> Path:
    """Write an `amem-arm`; `more` are further entries of its description, such as metrics."""
    return checkpoint.save(path, "amem-arm", arm.state_dict(), provenance, model=config.as_json(), **more)


def load_arm(path: Path, *, remedy: str = "") -> tuple[ARM, ArmConfig]:
    """The ARM of an `amem-arm`, on the CPU."""
    return _load(path, "amem-arm", lambda config: ARM(config.backbone), remedy)


def _load(path: Path, kind: str, build: Callable[[Any], nn.Module], remedy: str, prefix: str = "") -> tuple[Any, Any]:
    """The network of the configuration in a checkpoint, with the tensors whose names begin with `prefix`."""
    saved = checkpoint.load(path, kind, remedy=remedy)
    with checkpoint.described_by(saved):
        config: Any = msgspec.convert(saved.description["model"], CONFIGURATIONS[kind])
        network = build(config)
    checkpoint.load_into(network, saved, prefix)
    return network, config


def save_tae(
    path: Path, tae: TAE, discriminator: Discriminator, config: TaeConfig, provenance: Provenance, **more: Any
) -> Path:
    """Write an `amem-tae` with its discriminator; `more` as in `save_arm`."""
    tensors = tae.state_dict() | checkpoint.prefixed("discriminator.", discriminator)
    return checkpoint.save(path, "amem-tae", tensors, provenance, model=config.as_json(), **more)


class TaeParts(NamedTuple):
    """The parts of an `amem-tae` that MEM starts from, and the discriminator."""

    encoder: FrozenTextureEncoder
    decoder: TextureDecoder
    discriminator: Discriminator
    config: TaeConfig


def load_tae(path: Path, image_size: str, *, remedy: str = "") -> TaeParts:
    """The parts of an `amem-tae`. Raises `UsageError` if it was trained at another image size."""
    saved = checkpoint.load(path, "amem-tae", remedy=remedy)
    with checkpoint.described_by(saved):
        config = msgspec.convert(saved.description["model"], TaeConfig)
    if config.image_size != image_size:
        why = f"the TAE in {path} was trained at {config.image_size}"
        raise UsageError("--image-size", image_size, why=why, remedy="Use one size in train-tae and train-amem")
    parts = TaeParts(*mem_parts(config), Discriminator(*config.height_width), config)
    for name in ("encoder", "decoder", "discriminator"):
        checkpoint.load_into(getattr(parts, name), saved, f"{name}.")
    return parts


def main_file(output: Path) -> Path:
    """The `amem-main` of the `amem-model` at `output`."""
    return output.with_name("amem-main.safetensors")


def save_amem(
    output: Path, amem: AMEM, discriminator: Discriminator | None, config: ModelConfig, provenance: Provenance,
    metrics: dict[str, Any],
) -> None:  # fmt: skip
    """Write the `amem-main`, then the `amem-model` at `output`: when the latter exists, both are complete."""
    save_main(main_file(output), amem.main, config, provenance)
    tensors = checkpoint.prefixed("amem.", amem)
    tensors |= checkpoint.prefixed("discriminator.", discriminator) if discriminator is not None else {}
    described = replace(config, normalisation=amem.main.backbone.normalisation)
    checkpoint.save(output, "amem-model", tensors, provenance, model=described.as_json(), metrics=metrics)


def load_amem(path: Path, *, remedy: str = "") -> tuple[AMEM, ModelConfig]:
    """The training model of an `amem-model`, in eval mode on the CPU."""
    amem, config = _load(path, "amem-model", build_amem, remedy, "amem.")
    return amem.eval(), config


def save_main(path: Path, main: MainModel, config: ModelConfig, provenance: Provenance, **more: Any) -> Path:
    """Write an `amem-main`, the parts that inference needs; `more` as in `save_arm`."""
    model = replace(config.main(), normalisation=main.backbone.normalisation).as_json()
    return checkpoint.save(path, "amem-main", main.for_inference().state_dict(), provenance, model=model, **more)


def load_main_model(path: Path, *, remedy: str = "") -> tuple[MainModel, ModelConfig]:
    """The main model of an `amem-main`, on the CPU."""
    return _load(path, "amem-main", build_main_model, remedy)


def load_feature_model(path: Path, *, parts: int = 1, remedy: str = "") -> tuple[nn.Module, ModelConfig | ArmConfig]:
    """The network that features are extracted with, of so many horizontal `parts`: the main model, or `FrameFeatures`
    of an `amem-arm`."""
    model: MainModel | FrameFeatures
    config: ModelConfig | ArmConfig
    if path.is_file() and checkpoint.read_description(path, remedy=remedy).get("kind") == "amem-arm":
        arm, config = load_arm(path)
        model = FrameFeatures(arm)
    else:
        model, config = load_main_model(path, remedy=remedy)
    model.parts = parts
    return model, config


def restore_main(output: Path, provenance: Provenance) -> None:
    """Write the `amem-main` again from the `amem-model` at `output`, unless it is complete and of the same training: a
    later one that was killed between the two files leaves its own."""
    if not is_complete(path := main_file(output)) or provenance.differences(read_provenance(path)):
        amem, config = load_amem(output)
        save_main(path, amem.main, config, provenance)
