"""The optimisers of the three trainings, and what the networks of AMEM start from."""

from pathlib import Path

import pytest
import torch
from torch import nn
from toys import ALONE, CPU, amem_options, arm_options, tae_options

from amem_cli.models.amem import AMEM
from amem_cli.models.arm import ARM
from amem_cli.models.config import model_config
from amem_cli.models.tae import TAE, Discriminator
from amem_cli.runtime.distributed import Processes
from amem_cli.stages import train_arm, train_tae
from amem_cli.stages.train_amem import build_networks
from amem_cli.stages.train_amem.inputs import adam

pytestmark = pytest.mark.usefixtures("one_thread", "tiny_backbone")
NOWHERE = Path("nowhere")


def test_arm_adam_options() -> None:
    group = train_arm.adam(ARM("resnet18"), arm_options(NOWHERE, NOWHERE, weight_decay=0.3)).param_groups[0]
    assert (group["lr"], group["weight_decay"], group["fused"]) == (1e-4, 0.3, True)


def test_tae_optimizers() -> None:
    options = tae_options(NOWHERE, NOWHERE, learning_rate=0.03, weight_decay=0.3, discriminator_learning_rate=0.02)
    networks = train_tae.build_networks(TAE(), Discriminator(32, 32), options)
    group, d_group = networks.adam.param_groups[0], networks.discriminator_adam.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.03, 0.3, (0.9, 0.999))
    assert (d_group["lr"], d_group["weight_decay"], d_group["betas"]) == (0.02, 0, (0.5, 0.999))
    assert group["fused"] is d_group["fused"] is True
    assert group["factor"] == 1
    patches = train_tae.build_networks(
        TAE("patches"), Discriminator(32, 32), tae_options(NOWHERE, NOWHERE, tae_encoder="patches")
    )
    assert [group["factor"] for group in patches.adam.param_groups] == [0.02]


def test_amem_optimizers() -> None:
    options = amem_options(
        NOWHERE, NOWHERE, weight_decay=0.3, backbone_lr_factor=0.5, fc_lr_factor=0.4, mem_lr_factor=0.2,
        decoder_lr_factor=0.5, learning_rate=0.01, discriminator_learning_rate=0.02,
    )  # fmt: skip
    networks = build_networks(model_config(options, 2), options, ALONE)
    groups = networks.adam.param_groups
    assert [(group["factor"], group["lr"], group["weight_decay"], group["betas"]) for group in groups] == [
        (factor, 0.01, 0.3, (0.9, 0.999)) for factor in (1.0, 0.5, 0.4, 0.2, 0.1)
    ]
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in networks.amem.main.backbone.parameters()}
    assert {id(p) for p in groups[2]["params"]} == {id(p) for p in networks.amem.main.similarity.parameters()}
    assert {id(p) for p in groups[3]["params"]} == {id(p) for p in networks.amem.mem.embedding.parameters()}
    assert {id(p) for p in groups[4]["params"]} == {id(p) for p in networks.amem.mem.decoder.parameters()}
    every = {id(p) for p in networks.amem.parameters()} - {id(p) for p in networks.amem.mem.encoder.parameters()}
    assert {id(p) for group in groups for p in group["params"]} == every
    d_group = networks.discriminator_adam.param_groups[0]
    assert (d_group["lr"], d_group["weight_decay"], d_group["betas"]) == (0.02, 0, (0.5, 0.999))
    assert groups[0]["fused"] is d_group["fused"] is True
    assert len(adam(build_networks(model_config(options, 2), options, ALONE).amem, options).param_groups) == 5


def test_build_networks_sync_batch_norm() -> None:
    converted = []

    class Recording(Processes):
        def synchronise_batch_norm(self, module: nn.Module) -> nn.Module:
            converted.append(type(module))
            return module

    for sync, expected in ((False, []), (True, [AMEM, Discriminator])):
        options = amem_options(NOWHERE, NOWHERE, sync_batchnorm=sync)
        build_networks(model_config(options, 2), options, Recording(0, 2, CPU))
        assert converted == expected


def test_build_networks_fusion_start() -> None:
    weights = {}
    for start in ("random", "zero"):
        torch.manual_seed(0)
        options = amem_options(NOWHERE, NOWHERE, modules="amem", fusion_start=start)
        main = build_networks(model_config(options, 2), options, ALONE).amem.main
        weights[start] = main.similarity.weight.split(main.backbone.out_channels, dim=1)
    assert torch.equal(weights["zero"][0], weights["random"][0])
    for random, zero in zip(weights["random"][1:], weights["zero"][1:], strict=True):
        assert random.abs().min(dim=1).values.max() > 0
        assert not zero.any()
