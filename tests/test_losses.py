"""Losses against values by hand, a brute-force triplet loss, and the direction of their gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amem_cli.losses import (
    Loss,
    MemWeights,
    adversarial_loss,
    aem_loss,
    arm_loss,
    attribute_group_loss,
    discriminator_loss,
    identity_loss,
    mem_loss,
    tae_loss,
    total_loss,
    triplet_loss,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# -- attributes and identities -----------------------------------------------------------------------------------------


def test_attribute_group_loss_sum_over_attributes_mean_over_images() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0], [0.0, 3.0, -0.5]])
    labels = torch.tensor([[1, 0, 0], [0, 1, 1]], dtype=torch.uint8)
    total = 0.0
    for row in range(2):
        for column in range(3):
            p = sigmoid(logits[row, column].item())
            total -= math.log(p) if labels[row, column] else math.log(1 - p)
    assert attribute_group_loss(logits, labels).item() == pytest.approx(total / 2, rel=1e-6)


def test_arm_loss_sums_groups_in_column_order() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 6), torch.randint(2, (3, 6)).float()
    groups = [attribute_group_loss(logits[:, a:b], labels[:, a:b]) for a, b in ((0, 2), (2, 5), (5, 6))]
    for loss in (arm_loss, aem_loss):
        assert loss(logits, labels, (2, 3, 1)).item() == pytest.approx(sum(groups).item(), rel=1e-6)
        assert loss(torch.zeros(4, 105), torch.ones(4, 105)).item() == pytest.approx(105 * math.log(2), rel=1e-6)


def test_attribute_loss_weighted_by_frequencies() -> None:
    """Li, Chen and Huang (2015): a label 1 of frequency p counts exp(1 - p) times, a label 0 exp(p) times."""
    logits, labels = torch.tensor([[0.5, -1.0, 2.0], [0.0, 3.0, -0.5]]), torch.tensor([[1, 0, 0], [0, 1, 1]])
    frequencies, total = torch.tensor([0.1, 0.5, 1.0]), 0.0
    for row in range(2):
        for column, p in enumerate((0.1, 0.5, 1.0)):
            likely = sigmoid(logits[row, column].item())
            total -= math.exp(1 - p) * math.log(likely) if labels[row, column] else math.exp(p) * math.log(1 - likely)
    assert attribute_group_loss(logits, labels, frequencies).item() == pytest.approx(total / 2, rel=1e-6)
    assert arm_loss(logits, labels, (1, 2), frequencies).item() == pytest.approx(total / 2, rel=1e-6)


def test_attribute_group_loss_extreme_logits() -> None:
    logits = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    loss = attribute_group_loss(logits, torch.tensor([[0, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(1000)
    assert logits.grad.tolist() == [[1, 0]]


def test_identity_loss_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    first = -math.log(math.exp(0) / (math.exp(2) + 1 + math.exp(-1)))
    assert identity_loss(logits, torch.tensor([1, 2])).item() == pytest.approx((first + math.log(3)) / 2, rel=1e-6)


def test_identity_loss_label_smoothing_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    log_q = [value - math.log(math.exp(2) + 1 + math.exp(-1)) for value in (2, 0, -1)]
    expected = -(0.7 * log_q[1] + 0.3 * sum(log_q) / 3)
    assert identity_loss(logits, torch.tensor([1]), 0.3).item() == pytest.approx(expected, rel=1e-6)


# -- triplets ----------------------------------------------------------------------------------------------------------


def brute_force_triplet(features: np.ndarray, ids: list[int], margin: float, normalised: bool) -> float:
    rows = [row / np.linalg.norm(row) if normalised else row for row in features.astype(np.float64)]
    losses = []
    for a, anchor in enumerate(rows):
        positives = [math.dist(anchor, rows[p]) for p in range(len(ids)) if ids[p] == ids[a]]
        negatives = [math.dist(anchor, rows[n]) for n in range(len(ids)) if ids[n] != ids[a]]
        losses.append(max(0.0, max(positives) - min(negatives) + margin))
    return float(np.mean(losses))


@settings(max_examples=60, deadline=None)
@given(
    people=st.integers(2, 4),
    clips=st.integers(2, 4),
    width=st.integers(1, 5),
    margin=st.floats(0, 2),
    normalised=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_triplet_loss_equals_brute_force(
    people: int, clips: int, width: int, margin: float, normalised: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    ids = generator.permutation(np.repeat(np.arange(people), clips))
    features = generator.normal(size=(len(ids), width)) + 0.1
    found = triplet_loss(torch.from_numpy(features), torch.from_numpy(ids), margin, normalised).item()
    assert found == pytest.approx(brute_force_triplet(features, ids.tolist(), margin, normalised), abs=1e-5)


def test_triplet_loss_by_hand() -> None:
    features = torch.tensor([[0.0], [3.0], [4.0], [10.0]])
    ids = torch.tensor([0, 0, 1, 1])
    # anchors: |0-3| - |0-4|, |3-0| - |3-4|, |4-10| - |4-3|, |10-4| - |10-3|, each + 2, below zero cut
    assert triplet_loss(features, ids, 2.0, normalised=False).item() == pytest.approx((1 + 4 + 7 + 1) / 4)
    assert triplet_loss(features, ids, 0.0, normalised=False).item() == pytest.approx((0 + 2 + 5 + 0) / 4)


def test_triplet_loss_soft_margin_by_hand() -> None:
    features = torch.tensor([[0.0], [3.0], [4.0], [10.0]])
    expected = sum(math.log(1 + math.exp(difference)) for difference in (-1, 2, 5, -1)) / 4
    found = triplet_loss(features, torch.tensor([0, 0, 1, 1]), None, normalised=False)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_triplet_loss_normalised_ignores_length() -> None:
    torch.manual_seed(0)
    features, ids = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    scaled = features * torch.rand(6, 1).add(0.5)
    torch.testing.assert_close(triplet_loss(features, ids, 0.2), triplet_loss(scaled, ids, 0.2))
    assert not torch.isclose(triplet_loss(features, ids, 0.2, False), triplet_loss(scaled, ids, 0.2, False))


@pytest.mark.parametrize("normalised", [True, False])
def test_triplet_loss_collapsed_features(normalised: bool) -> None:
    features = torch.ones(4, 3, requires_grad=True)
    loss = triplet_loss(features, torch.tensor([0, 0, 1, 1]), 0.2, normalised)
    loss.backward()
    assert loss.item() == pytest.approx(0.2, abs=1e-5)
    assert features.grad.isfinite().all()


def test_triplet_loss_duplicate_features() -> None:
    torch.manual_seed(0)
    rows = torch.randn(2, 3)
    features = rows[[0, 0, 1, 1]].clone().requires_grad_()
    triplet_loss(features, torch.tensor([0, 0, 1, 1]), 5.0).backward()
    assert features.grad.isfinite().all()
    assert features.grad.abs().max() > 0


def test_triplet_loss_gradient_direction() -> None:
    features = torch.tensor([[0.0], [1.0], [1.5], [2.5]], requires_grad=True)
    triplet_loss(features, torch.tensor([0, 0, 1, 1]), 0.2, normalised=False).backward()
    assert features.grad[0] < 0  # a step against the gradient moves it towards its positive
    assert features.grad[3] > 0


# -- adversarial -------------------------------------------------------------------------------------------------------


def test_adversarial_losses_by_hand() -> None:
    logits = torch.tensor([0.3, -1.2])
    probabilities = [sigmoid(0.3), sigmoid(-1.2)]
    assert adversarial_loss(logits).item() == pytest.approx(-np.mean(np.log(probabilities)), rel=1e-5)
    literal = np.mean([math.log(1 - p) for p in probabilities])
    assert adversarial_loss(logits, "minimax").item() == pytest.approx(literal, rel=1e-5)
    real = torch.tensor([2.0])
    expected = -math.log(sigmoid(2)) - literal
    assert discriminator_loss(real, logits).item() == pytest.approx(expected, rel=1e-5)
    assert discriminator_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_adversarial_loss_certain_discriminator() -> None:
    for form, gradient in (("non-saturating", -1.0), ("minimax", 0.0)):
        logits = torch.tensor([-30.0], requires_grad=True)
        adversarial_loss(logits, form).backward()
        assert logits.grad.item() == pytest.approx(gradient, abs=1e-6)


def test_adversarial_loss_both_forms_same_direction() -> None:
    for form in ("non-saturating", "minimax"):
        logits = torch.zeros(1, requires_grad=True)
        adversarial_loss(logits, form).backward()
        assert logits.grad.item() == pytest.approx(-0.5)


def test_adversarial_losses_extreme_logits() -> None:
    extreme = torch.tensor([-1e4, 1e4])
    assert discriminator_loss(extreme, extreme).isfinite()
    assert all(adversarial_loss(extreme, form).isfinite() for form in ("non-saturating", "minimax"))


# -- eq. 4, 5, 6 -------------------------------------------------------------------------------------------------------


def test_tae_loss_equation_4() -> None:
    images, reconstruction = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    fake = torch.tensor([0.3, -1.2])
    loss = tae_loss(reconstruction, images, fake, 0.01, "minimax")
    adversarial = adversarial_loss(fake, "minimax").item()
    assert loss.value.item() == pytest.approx(0.25 + 0.01 * adversarial, rel=1e-6)
    assert {name: term.item() for name, term in loss.terms.items()} == pytest.approx(
        {"mse": 0.25, "adversarial": adversarial}
    )
    default = tae_loss(reconstruction, images, fake, 0.01).terms["adversarial"]
    assert default.item() == pytest.approx(adversarial_loss(fake, "non-saturating").item())
    without = tae_loss(reconstruction, images, None, 0.01)
    assert without.value.item() == pytest.approx(0.25)
    assert set(without.terms) == {"mse"}


def mem_inputs(rounds: int = 3) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    shapes = (rounds, 2, 3, 16, 16), (rounds, 2, 512, 1, 1)
    return (torch.rand(shapes[0]), torch.rand(shapes[1])), (torch.rand(shapes[0]), torch.rand(shapes[1]))


def test_mem_loss_equation_5() -> None:
    predicted, true = mem_inputs()
    fake = torch.tensor([[0.3, -1.2], [2.0, 0.1], [-0.4, 0.9]])  # (c, B)
    loss = mem_loss(predicted, true, fake, MemWeights(0.1, 0.01), texture_variance=4.0)
    means = [[float(np.mean((p.numpy() - t.numpy()) ** 2)) for p, t in zip(*pair, strict=True)]
             for pair in zip(predicted, true, strict=True)]  # fmt: skip
    logs = -np.log(1 / (1 + np.exp(-fake.double().numpy())))
    expected = {"image": sum(means[0]), "texture": sum(means[1]) / 4, "adversarial": logs.mean(axis=1).sum()}
    assert {name: term.item() for name, term in loss.terms.items()} == pytest.approx(expected, rel=1e-5)
    weighted = {"image": expected["image"], "texture": 0.1 * expected["texture"]}
    weighted["adversarial"] = 0.01 * expected["adversarial"]
    assert {name: term.item() for name, term in loss.weighted.items()} == pytest.approx(weighted, rel=1e-5)
    assert loss.value.item() == pytest.approx(sum(weighted.values()), rel=1e-5)


def test_mem_loss_optional_terms() -> None:
    predicted, true = mem_inputs()
    assert set(mem_loss(predicted, true, None, MemWeights(0.0, 0.01)).terms) == {"image"}
    literal = mem_loss(predicted, true, None, MemWeights(1.0, 0.0))
    assert torch.equal(literal.value, mem_loss(predicted, true, None, MemWeights(1.0, 0.0), 1.0).value)
    minimax = mem_loss(predicted, true, torch.zeros(3, 2), MemWeights(0.0, 1.0, "minimax"))
    assert minimax.terms["adversarial"].item() == pytest.approx(-3 * math.log(2), rel=1e-6)


def test_mem_loss_shapes_differ() -> None:
    predicted, true = mem_inputs()
    with pytest.raises(ValueError, match="differ in shape"):
        mem_loss(predicted, (true[0][:2], true[1]), None, MemWeights(1.0, 0.0))
    with pytest.raises(ValueError, match="differ in shape"):
        mem_loss(predicted, (true[0], true[1][:1]), None, MemWeights(1.0, 0.0))


def test_total_loss_equation_6() -> None:
    identity, triplet, aem = torch.tensor(2.0), torch.tensor(3.0), torch.tensor(5.0)
    terms = {"image": torch.tensor(7.0), "texture": torch.tensor(11.0)}
    mem = Loss(torch.tensor(8.1), terms, {"image": torch.tensor(7.0), "texture": torch.tensor(1.1)})
    loss = total_loss(identity, triplet, aem, mem, 0.1, 10.0)
    assert loss.value.item() == pytest.approx(2 + 3 + 0.1 * 5 + 10 * 8.1)
    weighted = {"id": 2.0, "tri": 3.0, "aem": 0.5, "image": 70.0, "texture": 11.0}
    assert {name: term.item() for name, term in loss.weighted.items()} == pytest.approx(weighted)
    unweighted = {"id": 2.0, "tri": 3.0, "aem": 5.0, "image": 7.0, "texture": 11.0}
    assert {name: term.item() for name, term in loss.terms.items()} == pytest.approx(unweighted)
    baseline = total_loss(identity, triplet, None, None, 0.1, 10.0)
    assert baseline.value.item() == 5
    assert set(baseline.terms) == set(baseline.weighted) == {"id", "tri"}
