import numpy as np
import pytest

from amem_cli.metrics.attributes import attribute_metrics

# Columns: hat, bag, hairBlue (never), person (always).
LABELS = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 1]], np.uint8)
PROBABILITIES = np.array([[0.9, 0.2, 0.1, 0.8], [0.4, 0.1, 0.6, 0.9], [0.3, 0.7, 0.0, 0.6], [0.1, 0.9, 0.2, 0.3]])
NAMES = ["hat", "bag", "hairBlue", "person"]


def test_attribute_metrics_by_hand():
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
    scores = [(s.name, s.positives, s.true_positive_rate, s.true_negative_rate, s.f1) for s in result.attributes]
    assert scores[0] == ("hat", 2, 1 / 2, 1.0, pytest.approx(2 / 3))  # F1: 2 TP / (2 TP + FP + FN) = 2 / (2 + 0 + 1)
    assert scores[1] == ("bag", 2, 1 / 2, 1 / 2, pytest.approx(1 / 2))
    assert scores[2] == ("hairBlue", 0, pytest.approx(np.nan, nan_ok=True), 3 / 4, 0)
    assert scores[3] == ("person", 4, 3 / 4, pytest.approx(np.nan, nan_ok=True), pytest.approx(6 / 7))


def test_attribute_metrics_perfect_and_worst():
    labels = (np.random.default_rng(0).random((50, 6)) < 0.5).astype(np.uint8)
    for probabilities, rate in ((labels * 1.0, 1), (1.0 - labels, 0)):
        result = attribute_metrics(probabilities, labels, list("abcdef"))
        assert [result.mA, result.accuracy, result.precision, result.recall, result.f1] == [rate] * 5


def test_attribute_metrics_images_without_label():
    # In columns bag and hat the third image has no label, so three images count: accuracy 1/2, 0, 1.
    some = attribute_metrics(PROBABILITIES[:, [1, 0]], LABELS[:, [1, 0]], ["bag", "hat"])
    assert [score.name for score in some.attributes] == ["bag", "hat"]
    assert some.accuracy == pytest.approx((1 / 2 + 0 + 1) / 3)


def test_attribute_metrics_threshold_itself_is_negative():
    assert attribute_metrics(np.array([[0.51], [0.5]]), np.array([[1], [0]]), ["hat"]).mA == 1


def test_attribute_metrics_no_positives():
    with np.errstate(all="raise"):
        nothing = attribute_metrics(np.zeros((3, 2)), np.zeros((3, 2), np.uint8), ["a", "b"])
        unpredicted = attribute_metrics(np.zeros((2, 1)), np.array([[1], [0]]), ["a"])
    assert np.isnan([nothing.mA, nothing.accuracy, nothing.precision, nothing.recall, nothing.f1]).all()
    assert (unpredicted.mA, unpredicted.precision, unpredicted.recall, unpredicted.f1) == (0.5, 0, 0, 0)
