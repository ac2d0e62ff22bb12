"""Tiny inputs for the stages: options at 32 x 32 pixels, made-up labels, an untrained TAE."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amem_cli.artifacts import pseudo_labels
from amem_cli.artifacts.provenance import Provenance
from amem_cli.artifacts.pseudo_labels import PseudoLabels
from amem_cli.attributes import ATTRIBUTES
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.models.checkpoints import save_arm, save_main, save_tae
from amem_cli.models.config import ArmConfig, TaeConfig, model_config
from amem_cli.models.image_networks import ImageMaps
from amem_cli.models.tae import TAE, Discriminator
from amem_cli.options import TrainAmemOptions, TrainArmOptions, TrainTaeOptions
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Loop, Progress, Silent
from amem_cli.stages.train_amem import Batch, Networks, build_networks

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)
RATE = 0.1  # of `sgd`
COMMON: dict[str, Any] = {"image_size": "32x32", "log_steps": 1, "device": "cpu"}


class Complete(Silent):
    """Every loop counts up to its total, and measures the waiting for data."""

    @contextmanager
    def loop(self, *given: Any, **named: Any) -> Iterator[Loop]:
        with super().loop(*given, **named) as bar:
            yield bar
        assert bar.done == bar.total > 0
        assert bar.waited is not None


def arm_options(walkers: Path, workspace: Path, **changed: Any) -> TrainArmOptions:
    how = {"backbone": "mobilenet_v2", "partition": "none", "batch_size": 30, "epochs": 1} | COMMON
    return TrainArmOptions(data_root=walkers, workspace=workspace, **(how | changed))


def tae_options(walkers: Path, workspace: Path, **changed: Any) -> TrainTaeOptions:
    how = {"batch_size": 4, "epochs": 1, "tae_encoder": "mobilenet_v2"} | COMMON
    return TrainTaeOptions(data_root=walkers, workspace=workspace, **(how | changed))


def amem_options(walkers: Path, workspace: Path, **changed: Any) -> TrainAmemOptions:
    """MARS-like walkers; use with the fixture `tiny_backbone`."""
    how = {
        "clip_frames": 4, "predict_frames": 2, "branch_kernel": "1x3x3", "people_per_batch": 2, "clips_per_person": 2,
        "epochs": 1, "gradient_steps": 2,
    } | COMMON  # fmt: skip
    return TrainAmemOptions(data_root=walkers, workspace=workspace, **(how | changed))


def write_labels(path: Path, names: list[str], attributes: tuple[str, ...] = ATTRIBUTES, dataset: str = "mars") -> Path:
    """Labels that depend on the names of tracklet and attribute, not on their order."""
    labels = np.array([[len(a + b) % 2 for b in attributes] for a in names], dtype=np.uint8)
    ids = np.arange(len(names), dtype=np.int64)
    table = PseudoLabels(dataset, names, ids, ids, ids + 1, labels.astype(np.float32), labels, attributes, 0.5, {})
    return pseudo_labels.write(path, table, Provenance("label-videos", {}))


def write_arm(path: Path, positive: list[str], **trained_with: Any) -> Path:
    """An untrained ARM that is sure that everybody has these attributes and no others."""
    config = ArmConfig(backbone="mobilenet_v2", image_size="32x32")
    arm = ARM(config.backbone)
    start = 0
    for head in arm.heads.classifiers:
        names = config.attributes[start : start + head.out_features]
        torch.nn.init.zeros_(head.weight)
        head.bias.data = torch.tensor([9.0 if name in positive else -9.0 for name in names])
        start += head.out_features
    return save_arm(path, arm, config, Provenance("train-arm", {"dataset": "peta"} | trained_with))


def write_main(path: Path, **more: Any) -> Path:
    """An untrained baseline with the BN statistics of one batch, so that its features differ."""
    torch.manual_seed(0)
    options = TrainAmemOptions(modules="baseline", image_size="32x32", clip_frames=4, predict_frames=2, **more)
    config = model_config(options, people=4)
    model = as_trained(build_main_model(config), 8, 4, 32, 32)
    return save_main(path, model, config, Provenance("train-amem", {}))


def write_tae(path: Path) -> Path:
    torch.manual_seed(0)
    config = TaeConfig(image_size="32x32", encoder="mobilenet_v2")
    return save_tae(path, TAE(config.encoder), Discriminator(32, 32), config, Provenance("train-tae", {}), metrics={})


def write_image_weights(path: Path) -> tuple[Path, Tensor]:
    """Weights of an image network, and the first tensor of them."""
    state = ImageMaps("mobilenet_v2").network.state_dict()
    torch.save(state, path)
    return path, state["features.0.0.weight"]


def as_trained(network: nn.Module, items: int, *shape: int) -> nn.Module:
    """`network` with the BN statistics of random pixels, so that its outputs differ between items."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(items, 3, *[1] * len(shape)) * torch.rand(items, 3, *shape))
    return network.eval()


REPEATED = ("Bottleneck", "PseudoBlock", "PlaneBlock", "BasicBlock", "InvertedResidual")
REPLACED: dict[str, dict[str, tuple[int, ...]]] = {  # inception blocks that change the channels, by a convolution or ()
    "i3d": {"Mixed_3b": (192, 256), "Mixed_4b": (480, 832), "Mixed_5b": ()} | {f"Mixed_4{x}": () for x in "cdef"},
    "s3d": {"features.5": (192, 256), "features.8": (480, 832)} | {f"features.{x}": () for x in (9, 10, 11, 12, 14)},
}


def shortened(network: Any, *shape: int, device: str = "cpu") -> Any:
    """`network` without the blocks that keep the shape of their input, but for the first of each kind."""
    same = {}

    def note(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        same[module] = inputs[0].shape == output.shape

    for module in network.modules():
        if type(module).__name__ in REPEATED:
            module.register_forward_hook(note)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, *shape, device=device))
    kinds = set()
    for name, module in list(network.named_modules()):
        module._forward_hooks.clear()
        kind = (type(module), getattr(module, "kind", ""))
        if same.get(module) and kind in kinds:
            network.set_submodule(name, nn.Identity())
        kinds |= {kind} if same.get(module) else set()
    return network


def small_main_model(**options: Any) -> nn.Module:
    """The main model of these options with few blocks, untrained."""
    chosen = TrainAmemOptions(**options)
    with torch.device("meta"):  # most of the weights are never needed
        model: Any = build_main_model(model_config(chosen, 2))
        for block, channels in REPLACED.get(chosen.backbone, {}).items():
            model.backbone.set_submodule(block, nn.Conv3d(*channels, 1) if channels else nn.Identity())
    model = shortened(model, 8, 64, 32, device="meta").to_empty(device="cpu")
    for module in model.modules():
        getattr(module, "reset_parameters", lambda: None)()
    return model


def tensors_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def sgd(module: nn.Module) -> torch.optim.SGD:
    """SGD; the gradients of an earlier step are there."""
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    return torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=RATE)


def pixels(*shape: int, seed: int = 0) -> Tensor:
    """Random uint8 pixels."""
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def toy_networks(options: TrainAmemOptions, processes: Processes = ALONE) -> Networks:
    """AMEM for two people, and its discriminator, in training mode with SGD; use with the fixture `tiny_backbone`."""
    torch.manual_seed(0)
    networks = build_networks(model_config(options, 2), options, processes)
    if networks.amem.mem is not None:
        networks.amem.mem.encoder.texture_std.fill_(2.0)
    optimizers = [module and sgd(module.train()) for module in (networks.amem, networks.discriminator)]
    return networks._replace(adam=optimizers[0], discriminator_adam=optimizers[1])


def toy_batches(count: int, frames: int = 5) -> list[Batch]:
    """Batches of two people x two clips of random pixels."""
    generator = torch.Generator().manual_seed(3)
    return [
        Batch(
            clip=torch.rand(4, 3, frames, 32, 32, generator=generator),
            identity=torch.tensor([0, 0, 1, 1]),
            attributes=torch.randint(2, (4, 105), generator=generator).float(),
            start=torch.tensor([1, 2, 2, 1]),
        )
        for _ in range(count)
    ]


class Lines(Progress):
    """Keeps the lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def _print(self, text: str) -> None:
        self.lines.append(text)
