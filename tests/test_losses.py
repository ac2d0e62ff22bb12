"""Losses by hand, against brute-force twins, and their gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amem_cli.losses import (
    adversarial_loss,
    attribute_loss,
    discriminator_loss,
    identity_loss,
    prediction_losses,
    triplet_loss,
)
from amem_cli.models.mem import Prediction
from amem_cli.options import TrainAmemOptions
from amem_cli.stages.amem_step import Batch, copy_error, gradient_norms, true_frames, weigh


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# -- attributes and identities -----------------------------------------------------------------------------------------


def test_attributes_are_summed_and_images_averaged() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0], [0.0, 3.0, -0.5]])
    labels = torch.tensor([[1, 0, 0], [0, 1, 1]], dtype=torch.uint8)
    total = 0.0
    for row in range(2):
        for column in range(3):
            p = sigmoid(logits[row, column].item())
            total -= math.log(p) if labels[row, column] else math.log(1 - p)
    assert attribute_loss(logits, labels).item() == pytest.approx(total / 2, rel=1e-6)


def test_105_undecided_attributes_cost_105_log_2() -> None:
    assert attribute_loss(torch.zeros(4, 105), torch.ones(4, 105)).item() == pytest.approx(105 * math.log(2), rel=1e-6)


def test_attribute_loss_is_finite_for_sure_logits() -> None:
    logits = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    loss = attribute_loss(logits, torch.tensor([[0, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(1000)
    assert logits.grad.tolist() == [[1, 0]]


def test_identity_loss_is_minus_log_softmax() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    first = -math.log(math.exp(0) / (math.exp(2) + 1 + math.exp(-1)))
    assert identity_loss(logits, torch.tensor([1, 2])).item() == pytest.approx((first + math.log(3)) / 2, rel=1e-6)


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
def test_triplets_equal_a_brute_force_twin(
    people: int, clips: int, width: int, margin: float, normalised: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    ids = generator.permutation(np.repeat(np.arange(people), clips))
    features = generator.normal(size=(len(ids), width)) + 0.1
    found = triplet_loss(torch.from_numpy(features), torch.from_numpy(ids), margin, normalised).item()
    assert found == pytest.approx(brute_force_triplet(features, ids.tolist(), margin, normalised), abs=1e-5)


def test_hardest_pairs_by_hand() -> None:
    features = torch.tensor([[0.0], [3.0], [4.0], [10.0]])
    ids = torch.tensor([0, 0, 1, 1])
    # anchors: |0-3| - |0-4|, |3-0| - |3-4|, |4-10| - |4-3|, |10-4| - |10-3|, each + 2, below zero cut
    assert triplet_loss(features, ids, 2.0, normalised=False).item() == pytest.approx((1 + 4 + 7 + 1) / 4)
    assert triplet_loss(features, ids, 0.0, normalised=False).item() == pytest.approx((0 + 2 + 5 + 0) / 4)


def test_normalised_triplets_ignore_lengths_and_raw_ones_do_not() -> None:
    torch.manual_seed(0)
    features, ids = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    scaled = features * torch.rand(6, 1).add(0.5)
    torch.testing.assert_close(triplet_loss(features, ids, 0.2), triplet_loss(scaled, ids, 0.2))
    assert not torch.isclose(triplet_loss(features, ids, 0.2, False), triplet_loss(scaled, ids, 0.2, False))


@pytest.mark.parametrize("normalised", [True, False])
def test_collapsed_features_cost_the_margin_and_have_a_finite_gradient(normalised: bool) -> None:
    features = torch.ones(4, 3, requires_grad=True)
    loss = triplet_loss(features, torch.tensor([0, 0, 1, 1]), 0.2, normalised)
    loss.backward()
    assert loss.item() == pytest.approx(0.2, abs=1e-5)
    assert features.grad.isfinite().all()


def test_duplicates_within_a_person_do_not_break_the_gradient() -> None:
    torch.manual_seed(0)
    rows = torch.randn(2, 3)
    features = rows[[0, 0, 1, 1]].clone().requires_grad_()
    triplet_loss(features, torch.tensor([0, 0, 1, 1]), 5.0).backward()
    assert features.grad.isfinite().all()
    assert features.grad.abs().max() > 0


def test_the_gradient_pulls_positives_together() -> None:
    features = torch.tensor([[0.0], [1.0], [1.5], [2.5]], requires_grad=True)
    triplet_loss(features, torch.tensor([0, 0, 1, 1]), 0.2, normalised=False).backward()
    assert features.grad[0] < 0  # a step against the gradient moves it towards its positive
    assert features.grad[3] > 0


# -- adversarial -------------------------------------------------------------------------------------------------------


def test_adversarial_values_by_hand() -> None:
    logits = torch.tensor([0.3, -1.2])
    probabilities = [sigmoid(0.3), sigmoid(-1.2)]
    assert adversarial_loss(logits).item() == pytest.approx(-np.mean(np.log(probabilities)), rel=1e-5)
    literal = np.mean([math.log(1 - p) for p in probabilities])
    assert adversarial_loss(logits, "minimax").item() == pytest.approx(literal, rel=1e-5)
    real = torch.tensor([2.0])
    expected = -math.log(sigmoid(2)) - literal
    assert discriminator_loss(real, logits).item() == pytest.approx(expected, rel=1e-5)
    assert discriminator_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_a_sure_discriminator_still_teaches_in_the_non_saturating_form_only() -> None:
    for form, gradient in (("non-saturating", -1.0), ("minimax", 0.0)):
        logits = torch.tensor([-30.0], requires_grad=True)  # surely generated
        adversarial_loss(logits, form).backward()
        assert logits.grad.item() == pytest.approx(gradient, abs=1e-6)


def test_both_forms_push_the_same_way() -> None:
    for form in ("non-saturating", "minimax"):
        logits = torch.zeros(1, requires_grad=True)
        adversarial_loss(logits, form).backward()
        assert logits.grad.item() == pytest.approx(-0.5)


def test_adversarial_losses_are_finite_at_extreme_logits() -> None:
    extreme = torch.tensor([-1e4, 1e4])
    assert discriminator_loss(extreme, extreme).isfinite()
    assert all(adversarial_loss(extreme, form).isfinite() for form in ("non-saturating", "minimax"))


# -- prediction and the total ------------------------------------------------------------------------------------------


def test_prediction_terms_are_means_over_elements_summed_over_rounds() -> None:
    torch.manual_seed(0)
    frames, textures = torch.rand(3, 2, 3, 16, 16), torch.rand(3, 2, 512, 1, 1)
    predictions = [Prediction(torch.rand(2, 3, 16, 16), torch.rand(2, 512, 1, 1)) for _ in range(3)]
    image, texture = prediction_losses(predictions, frames, textures, 4.0)
    by_hand = [float(np.mean((p.frame.numpy() - f.numpy()) ** 2)) for p, f in zip(predictions, frames, strict=True)]
    assert image.item() == pytest.approx(sum(by_hand), rel=1e-5)
    by_hand = [float(np.mean((p.texture.numpy() - t.numpy()) ** 2)) for p, t in zip(predictions, textures, strict=True)]
    assert texture.item() == pytest.approx(sum(by_hand) / 4, rel=1e-5)
    literal = prediction_losses(predictions, frames, textures, 1.0)[1]
    assert literal.item() == pytest.approx(sum(by_hand), rel=1e-5)


def test_as_many_true_frames_as_rounds() -> None:
    predictions = [Prediction(torch.rand(1, 3, 16, 16), torch.rand(1, 512, 1, 1))]
    with pytest.raises(ValueError, match="zip"):
        prediction_losses(predictions, torch.rand(2, 1, 3, 16, 16), torch.rand(2, 1, 512, 1, 1), 1.0)


def test_the_total_is_equation_6() -> None:
    numbers = {"id": 2.0, "tri": 3.0, "aem": 5.0, "image": 7.0, "texture": 11.0, "adversarial": 13.0}
    terms = {name: torch.tensor(value) for name, value in numbers.items()}
    literal = TrainAmemOptions(texture_loss="literal", adversarial_weight=1.0)
    total = sum(weigh(terms, literal).values()).item()
    assert total == pytest.approx(2 + 3 + 0.1 * 5 + 10 * (7 + 11 + 13))  # eq. 5 and 6 as they are written
    ours = sum(weigh(terms, TrainAmemOptions(adversarial_weight=0.01)).values()).item()
    assert ours == pytest.approx(2 + 3 + 0.1 * 5 + 10 * (7 + 0.1 * 11 + 0.01 * 13))
    other = TrainAmemOptions(lambda_a=0.7, lambda_m=0.3, texture_weight=0.5, adversarial_weight=0.25)
    assert sum(weigh(terms, other).values()).item() == pytest.approx(5 + 0.7 * 5 + 0.3 * (7 + 0.5 * 11 + 0.25 * 13))


def test_terms_that_are_not_there_weigh_nothing() -> None:
    assert weigh({"id": torch.tensor(1.5)}, TrainAmemOptions()) == {"id": 1.5}


def test_gradient_norms_are_those_of_each_term_alone() -> None:
    maps = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    other = torch.tensor(1.0, requires_grad=True)
    weighted = {"square": 2 * maps.square().sum(), "first": 5 * maps[0], "none": other * 2}
    norms = gradient_norms(weighted, maps)
    assert norms["square"] == pytest.approx(4 * math.sqrt(14))
    assert norms["first"] == pytest.approx(5)
    assert norms["none"] == 0
    assert maps.grad is None
    sum(weighted.values()).backward()  # the graph is still there
    assert maps.grad.tolist() == [9, 8, 12]


def test_true_frames_follow_the_start_and_copying_is_compared_with_them() -> None:
    clip = torch.arange(2 * 8, dtype=torch.float32).view(2, 1, 8, 1, 1).expand(2, 3, 8, 16, 16) / 16
    batch = Batch(clip, torch.zeros(2), None, torch.tensor([1, 4]))
    frames = true_frames(batch, 3)
    assert frames.shape == (3, 2, 3, 16, 16)
    assert (frames[:, 0, 0, 0, 0] * 16).tolist() == [2, 3, 4]
    assert (frames[:, 1, 0, 0, 0] * 16).tolist() == [8 + 5, 8 + 6, 8 + 7]
    assert copy_error(batch, 3).item() == pytest.approx((1 + 4 + 9) / 256)
