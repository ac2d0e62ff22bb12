"""The inference engine: the network's own outputs on uint8 batches, whatever the precision."""

import pytest
import torch
from torch import Tensor, nn

from amem_cli.engine import autocast, prepare, resolve_precision

CPU = torch.device("cpu")


class Toy(nn.Module):
    """Images or clips -> (B, 2), with a BN so that train and eval differ."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.layer = nn.Linear(3, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.float32
        assert pixels.min() >= 0
        assert pixels.max() <= 1
        return self.layer(self.norm(pixels.flatten(2).mean(dim=2)))


@pytest.fixture
def network() -> Toy:
    torch.manual_seed(0)
    toy = Toy()
    toy.norm.running_mean.uniform_()
    return toy.train()


@pytest.mark.parametrize("shape", [(4, 6, 5, 3), (4, 7, 6, 5, 3)])
def test_outputs_are_the_network_s_in_eval_mode(network: Toy, shape: tuple[int, ...]) -> None:
    images = torch.randint(256, shape, dtype=torch.uint8)
    before = images.clone()
    found = prepare(network, CPU, "fp32")(images)
    pixels = images.float().movedim(-1, 1) / 255
    with torch.no_grad():
        torch.testing.assert_close(found, network.eval()(pixels))
    assert found.dtype == torch.float32
    assert torch.equal(images, before)


def test_rows_do_not_depend_on_their_neighbours(network: Toy) -> None:
    images = torch.randint(256, (5, 6, 4, 3), dtype=torch.uint8)
    engine = prepare(network, CPU, "fp32")
    statistics = network.norm.running_mean.clone()
    together = engine(images)
    alone = torch.cat([engine(image[None]) for image in images])
    torch.testing.assert_close(together, alone)
    assert torch.equal(statistics, network.norm.running_mean)


def test_bf16_is_close_and_comes_back_as_float32(network: Toy) -> None:
    images = torch.randint(256, (4, 6, 5, 3), dtype=torch.uint8)
    exact, rough = prepare(network, CPU, "fp32")(images), prepare(network, CPU, "bf16")(images)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.02, rtol=0.02)
    assert not torch.equal(rough, exact)


def test_outputs_carry_no_gradient(network: Toy) -> None:
    found = prepare(network, CPU, "fp32")(torch.zeros(1, 4, 4, 3, dtype=torch.uint8))
    assert not found.requires_grad


def test_auto_precision_is_never_silently_bf16_on_a_cpu() -> None:
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("auto", torch.device("cuda", 0)) == "bf16"
    for precision in ("fp32", "bf16"):
        assert resolve_precision(precision, CPU) == precision
        assert resolve_precision(precision, torch.device("cuda", 0)) == precision


def test_autocast_is_off_at_fp32() -> None:
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    with autocast("fp32", CPU):
        assert layer(x).dtype == torch.float32
    with autocast("bf16", CPU):
        assert layer(x).dtype == torch.bfloat16
