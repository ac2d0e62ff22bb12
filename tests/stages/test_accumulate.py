"""`--accumulate`: a step averages the gradients of several batches, in all three training stages."""

from pathlib import Path

import numpy as np
import pytest
import torch

from amem_cli.artifacts import checkpoint
from amem_cli.attributes import GROUP_SIZES
from amem_cli.data.loading import ImageBatches
from amem_cli.data.manifest import load_manifest, read_attributes
from amem_cli.data.sampling import shuffled_batches
from amem_cli.errors import Interrupted, UsageError
from amem_cli.losses import attribute_loss
from amem_cli.models.arm import ARM
from amem_cli.options import TrainAmemOptions, TrainArmOptions, TrainTaeOptions
from amem_cli.randomness import keyed_seed
from amem_cli.runtime.device import as_pixels
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Progress, Silent
from amem_cli.runtime.training import batches_of_steps
from amem_cli.stages.output import tell_batch
from amem_cli.stages.train_arm import train_arm
from amem_cli.stages.train_tae import train_tae

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def arm_options(walkers: Path, workspace: Path, **changed: object) -> TrainArmOptions:
    how: dict[str, object] = {
        "backbone": "resnet18", "image_size": "32x32", "partition": "none", "batch_size": 40, "epochs": 1,
        "accumulate": 2, "device": "cpu",
    }  # fmt: skip
    return TrainArmOptions(data_root=walkers, workspace=workspace, **(how | changed))  # type: ignore[arg-type]


def test_a_step_averages_the_gradients_of_its_batches(walkers: Path, tmp_path: Path) -> None:
    """Against a loop that computes every batch's gradient by itself; the epoch's last step has fewer batches."""
    options = arm_options(walkers, tmp_path)
    trained = checkpoint.load(train_arm(options, Silent()).artifact, "amem-arm").tensors

    data = read_attributes(load_manifest("peta"), walkers)
    order = shuffled_batches(len(data.paths), 40, options.seed, 0)
    steps = batches_of_steps(len(order), 2)
    assert steps == [2, 1]
    torch.manual_seed(keyed_seed(options.seed, "weights of the ARM"))
    model = ARM(18, GROUP_SIZES).train()
    parameters = list(model.parameters())
    adam = torch.optim.Adam(parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
    images = ImageBatches(data.paths, order, (32, 32), augment=(options.seed, 0))
    number = 0
    for count in steps:
        gradients = []
        for _ in range(count):
            pixels, rows = images[number]
            number += 1
            loss = attribute_loss(model(as_pixels(pixels, CPU)), torch.from_numpy(data.labels[rows.numpy()]))
            gradients.append(torch.autograd.grad(loss, parameters))
        for parameter, *each in zip(parameters, *gradients, strict=True):
            parameter.grad = torch.stack(each).mean(dim=0)
        adam.step()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in trained.items())


def test_it_decides_what_is_computed() -> None:
    for kind in (TrainArmOptions, TrainTaeOptions, TrainAmemOptions):
        assert kind(accumulate=3).science()["accumulate"] == 3
    with pytest.raises(UsageError, match="--accumulate 0: must be positive"):
        TrainAmemOptions(accumulate=0)


@pytest.mark.parametrize("train", [train_arm, train_tae])
def test_a_run_stopped_after_every_step_goes_on_exactly(train, walkers: Path, tmp_path: Path) -> None:
    def run(workspace: Path, **how: object) -> dict[str, torch.Tensor]:
        if train is train_arm:
            return checkpoint.load(train(arm_options(walkers, workspace, **how), Silent()).artifact, "amem-arm").tensors
        options = TrainTaeOptions(
            data_root=walkers, workspace=workspace, image_size="32x32", batch_size=4, epochs=1, accumulate=2,
            device="cpu", **how,
        )  # fmt: skip
        return checkpoint.load(train(options, Silent()).artifact, "amem-tae").tensors

    whole = run(tmp_path / "whole")
    stops = 0
    while True:
        try:
            cut = run(tmp_path / "cut", time_limit="0s")
            break
        except Interrupted:
            stops += 1
    assert stops == 1  # three batches make two steps
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("accumulate", "line"),
    [(1, "a batch is 32 clips, 32 in each of 1 process(es)"), (4, "a step is made of 4 batches, 128 clips")],
)
def test_the_effective_batch_is_told(accumulate: int, line: str) -> None:
    said: list[str] = []

    class Listening(Progress):
        def _print(self, text: str) -> None:
            said.append(text)

    sizes = {"people_per_batch": 8, "clips_per_person": 4}
    tell_batch(TrainAmemOptions(accumulate=accumulate), sizes, "clips", Processes(0, 1, CPU), Listening())
    assert line in said[0]
    assert ("a step" in said[0]) is (accumulate > 1)


@pytest.mark.parametrize(("batches", "accumulate"), [(1, 1), (7, 3), (6, 3), (2, 5)])
def test_every_batch_is_in_one_step(batches: int, accumulate: int) -> None:
    steps = batches_of_steps(batches, accumulate)
    assert sum(steps) == batches
    assert all(count == accumulate for count in steps[:-1])
    assert np.cumsum([0, *steps])[-1] == batches
