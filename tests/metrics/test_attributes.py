"""mA and the instance-based measures, worked out by hand."""

import numpy as np
import pytest

from amem_cli.errors import BadData
from amem_cli.metrics.attributes import attribute_metrics

# Columns: hat, bag, hairBlue (never), person (always).
LABELS = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 1]], np.uint8)
PROBABILITIES = np.array([[0.9, 0.2, 0.1, 0.8], [0.4, 0.1, 0.6, 0.9], [0.3, 0.7, 0.0, 0.6], [0.1, 0.9, 0.2, 0.3]])
NAMES = ["hat", "bag", "hairBlue", "person"]


def test_by_hand():
    # Predicted: [1 0 0 1], [0 0 1 1], [0 1 0 1], [0 1 0 0].
    # hat: TP 1 of 2, TN 2 of 2 -> 3/4. bag: TP 1 of 2, TN 1 of 2 -> 1/2. mA = 5/8.
    # |Y & F| / |Y | F|: 2/3, 1/3, 1/2, 1/2. / |F|: 2/2, 1/2, 1/2, 1/1. / |Y|: 2/3, 1/2, 1/1, 1/2.
    result = attribute_metrics(PROBABILITIES, LABELS, NAMES)
    assert result.mA == pytest.approx(5 / 8)
    assert result.left_out == ("hairBlue", "person")
    assert result.accuracy == pytest.approx((2 / 3 + 1 / 3 + 1 / 2 + 1 / 2) / 4)
    precision, recall = (1 + 1 / 2 + 1 / 2 + 1) / 4, (2 / 3 + 1 / 2 + 1 + 1 / 2) / 4
    assert (result.precision, result.recall) == (pytest.approx(precision), pytest.approx(recall))
    assert result.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    hat, bag, blue, person = result.attributes
    assert (hat.name, hat.positives, hat.negatives, hat.true_positive_rate, hat.true_negative_rate) == (
        "hat",
        2,
        2,
        0.5,
        1.0,
    )
    assert hat.f1 == pytest.approx(2 / 3)  # 2 TP / (2 TP + FP + FN) = 2 / (2 + 0 + 1)
    assert bag.f1 == pytest.approx(1 / 2)  # 2 / (2 + 1 + 1)
    assert np.isnan(blue.true_positive_rate)
    assert blue.true_negative_rate == pytest.approx(3 / 4)
    assert np.isnan(person.true_negative_rate)
    assert person.true_positive_rate == pytest.approx(3 / 4)


def test_perfect_and_worst():
    rng = np.random.default_rng(0)
    labels = (rng.random((50, 6)) < 0.5).astype(np.uint8)
    perfect = attribute_metrics(labels * 1.0, labels, list("abcdef"))
    assert perfect.mA == perfect.accuracy == perfect.precision == perfect.recall == perfect.f1 == 1
    worst = attribute_metrics(1.0 - labels, labels, list("abcdef"))
    assert worst.mA == worst.accuracy == worst.precision == worst.recall == worst.f1 == 0


def test_a_subset_is_evaluated_alone():
    some = attribute_metrics(PROBABILITIES, LABELS, NAMES, subset=[1, 0])
    alone = attribute_metrics(PROBABILITIES[:, [1, 0]], LABELS[:, [1, 0]], ["bag", "hat"])
    assert some == alone
    assert [score.name for score in some.attributes] == ["bag", "hat"]
    # The third image has neither: it does not count among instances.
    assert some.images == 3


def test_the_threshold_itself_is_not_positive():
    labels = np.array([[1], [0]])
    probabilities = np.array([[0.7], [0.5]])
    assert attribute_metrics(probabilities, labels, ["hat"]).mA == 1
    assert attribute_metrics(probabilities, labels, ["hat"], threshold=0.49).mA == 0.5
    assert attribute_metrics(probabilities, labels, ["hat"], threshold=0.7).mA == 0.5


def test_no_positive_anywhere_and_nothing_predicted():
    with np.errstate(all="raise"):
        nothing = attribute_metrics(np.zeros((3, 2)), np.zeros((3, 2), np.uint8), ["a", "b"])
        silent = attribute_metrics(np.zeros((2, 1)), np.array([[1], [0]]), ["a"])
    assert np.isnan(nothing.mA)
    assert np.isnan(nothing.f1)
    assert nothing.images == 0
    assert (silent.mA, silent.precision, silent.recall, silent.f1) == (0.5, 0, 0, 0)


@pytest.mark.parametrize(
    ("probabilities", "labels", "names", "subset", "why"),
    [
        (PROBABILITIES, LABELS[:, :3], NAMES, None, "differ"),
        (PROBABILITIES, LABELS, NAMES[:3], None, "differ"),
        (PROBABILITIES[0], LABELS[0], NAMES, None, "differ"),
        (PROBABILITIES, LABELS * 2, NAMES, None, "labels other than 0 and 1"),
        (PROBABILITIES * 2, LABELS, NAMES, None, r"outside \[0, 1\]"),
        (PROBABILITIES * np.nan, LABELS, NAMES, None, r"outside \[0, 1\]"),
        (PROBABILITIES[:0], LABELS[:0], NAMES, None, "nothing to compare"),
        (PROBABILITIES, LABELS, NAMES, [4], "subset"),
        (PROBABILITIES, LABELS, NAMES, [], "subset"),
    ],
)
def test_bad_input(probabilities, labels, names, subset, why):
    with pytest.raises(BadData, match=why):
        attribute_metrics(probabilities, labels, names, subset=subset)
