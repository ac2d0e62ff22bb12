"""The ARM stage around its loop: initial weights, test people, attributes of another data set."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import arm_options, write_image_weights

from amem_cli.artifacts import atomic, checkpoint
from amem_cli.attributes import ATTRIBUTES
from amem_cli.data.datasets import read_attributes
from amem_cli.data.manifest import load_manifest
from amem_cli.data.tracklets import attributes_digest
from amem_cli.errors import BadData
from amem_cli.losses import arm_loss
from amem_cli.models.arm import ARM
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Silent
from amem_cli.stages import train_arm

pytestmark = pytest.mark.usefixtures("one_thread")


STEP = train_arm.train_step  # the tests of the loop replace it


class Stopped(Exception):
    """Ends a stage before it trains."""


def stop(processes: Processes, model: object) -> None:
    raise Stopped(type(model).__name__)


@pytest.fixture(autouse=True)
def no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_arm, "train_step", lambda *given: {"attribute": 1.0})


def test_train_arm_step_of_weighted_losses() -> None:
    torch.manual_seed(0)
    model = ARM("resnet18").train()
    before = copy.deepcopy(model)
    images, labels = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8), torch.randint(2, (3, 105)).float()
    frequencies = torch.rand(105)
    logits = before(images.permute(0, 3, 1, 2).float() / 255)
    expected = arm_loss(logits, labels, frequencies=frequencies)
    gradients = torch.autograd.grad(expected, list(before.parameters()))
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    found = STEP(model, sgd, [(images, labels)], "fp32", frequencies)["attribute"]
    assert found == pytest.approx(expected.item(), rel=1e-5)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_train_arm_starts_from_the_weights(walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synchronised = []
    monkeypatch.setattr(Processes, "synchronise_batch_norm", lambda processes, model: synchronised.append(type(model)))
    weights, expected = write_image_weights(tmp_path / "image.pth")
    artifact = train_arm.train_arm(arm_options(walkers, tmp_path, weights=str(weights)), Silent()).artifact
    assert not synchronised
    saved = checkpoint.load(artifact, "amem-arm").tensors
    assert any(torch.equal(tensor, expected) for tensor in saved.values())
    recorded = checkpoint.read_description(artifact)["provenance"]
    data = read_attributes(load_manifest("peta"), walkers)
    assert set(recorded["parents"]) == {"weights"}
    assert recorded["data"] == attributes_digest(data, np.arange(len(data.paths)))


@pytest.mark.slow
def test_train_arm_measures_the_test_people(walkers: Path, tmp_path: Path) -> None:
    options = arm_options(walkers, tmp_path, partition="person", hold_out=0.5, batch_size=4)
    description = checkpoint.read_description(train_arm.train_arm(options, Silent()).artifact)
    assert description["provenance"]["options"]["generated"] is True
    metrics = description["metrics"]
    people = read_attributes(load_manifest("peta"), walkers).person_ids
    assert metrics["train_images"] == metrics["held_out_images"] == len(people) / 2
    assert set(metrics["per_attribute"]) == set(ATTRIBUTES)
    assert sum(score["positives"] for score in metrics["per_attribute"].values()) > 0


def test_train_arm_weights_the_loss_by_the_training_images(
    walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(train_arm, "train_step", lambda *more: given.append(more[4]) or {"attribute": 1.0})
    options = arm_options(walkers, tmp_path, partition="person", hold_out=0.5)
    data = read_attributes(load_manifest("peta"), walkers)
    train, _, _ = train_arm.split_rows(data, options, np.arange(len(data.paths)))
    train_arm.train_arm(options, Silent())
    assert given == [None] * len(given) != []
    given.clear()
    train_arm.train_arm(replace(options, loss_weights="frequency", force=True), Silent())
    expected = np.sum(data.labels[train], axis=0) / len(train)
    assert given
    for frequencies in given:
        np.testing.assert_allclose(frequencies, expected, rtol=1e-6)
    assert not np.allclose(expected, data.labels.mean(axis=0))


def test_train_arm_sync_batchnorm(walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "synchronise_batch_norm", stop)
    with pytest.raises(Stopped, match="ARM"):
        train_arm.train_arm(arm_options(walkers, tmp_path, sync_batchnorm=True), Silent())


def test_train_arm_refuses_other_attributes(walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = read_attributes(load_manifest("peta"), walkers)
    other = replace(data, attributes=ATTRIBUTES[::-1], labels=data.labels[:, ::-1])
    monkeypatch.setattr(train_arm, "read_attributes", lambda *given: other)
    with pytest.raises(BadData, match="they are not PETA's 105"):
        train_arm.train_arm(arm_options(walkers, tmp_path), Silent())


def test_train_arm_weights_replaced_while_they_are_read(
    walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, _ = write_image_weights(tmp_path / "image.pth")
    monkeypatch.setattr(train_arm, "ARM", lambda name, weights: atomic.write_bytes(Path(weights), b"") and ARM(name))
    with pytest.raises(BadData, match="it was replaced while this run read it"):
        train_arm.train_arm(arm_options(walkers, tmp_path, weights=str(weights)), Silent())
