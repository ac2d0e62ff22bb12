"""Accuracy of binary attributes: mA (Deng et al. 2014, PETA) and the instance-based measures (Li et al. 2016, RAP)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class AttributeScore:
    """One attribute over the N images: `positives` are its labels 1, `true_positive_rate` = TP / (TP + FN),
    `true_negative_rate` = TN / (TN + FP), `f1` = 2 TP / (2 TP + FP + FN), NaN where the denominator is 0."""

    name: str
    positives: int
    true_positive_rate: float
    true_negative_rate: float
    f1: float


@dataclass(frozen=True, slots=True)
class AttributeMetrics:
    """The result of `attribute_metrics`; rates are in [0, 1] and NaN where nothing is counted. `left_out` names the
    attributes without positives or without negatives, which do not enter `mA`."""

    mA: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    left_out: tuple[str, ...]
    attributes: tuple[AttributeScore, ...]


def attribute_metrics(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> AttributeMetrics:
    """Compare `probabilities` (N, A) in [0, 1] with `labels` (N, A), 0 or 1; `names` are the A columns.

    An attribute is predicted where its probability is **above** 0.5. mA is the mean of (TPR + TNR) / 2 over the
    attributes. With Y the labels of an image and F its predictions, accuracy is |Y & F| / |Y | F|, precision
    |Y & F| / |F| (0 when F is empty) and recall |Y & F| / |Y|, averaged over images; `f1` is the harmonic mean of the
    averaged precision and recall. As in Li et al.'s code, images without a positive label do not count.

    >>> attribute_metrics(np.array([[0.9, 0.2], [0.1, 0.7]]), np.array([[1, 0], [0, 0]]), ["hat", "bag"]).left_out
    ('bag',)
    """
    truth, predicted = labels == 1, probabilities > 0.5
    hits = truth & predicted

    positives, claimed, true_positives = (values.sum(axis=0) for values in (truth, predicted, hits))  # (A,)
    negatives = len(truth) - positives
    tpr = _ratio(true_positives, positives)
    tnr = _ratio(negatives - (claimed - true_positives), negatives)
    f1 = _ratio(2 * true_positives, positives + claimed)
    both = (positives > 0) & (negatives > 0)

    labelled = truth.any(axis=1)
    common, given, wanted = (values[labelled].sum(axis=1) for values in (hits, predicted, truth))  # (N',)
    precision, recall = _mean(_ratio(common, np.maximum(given, 1))), _mean(_ratio(common, wanted))
    return AttributeMetrics(
        mA=_mean((tpr[both] + tnr[both]) / 2),
        accuracy=_mean(_ratio(common, given + wanted - common)),
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if precision + recall != 0 else 0.0,
        left_out=tuple(name for name, varies in zip(names, both, strict=True) if not varies),
        attributes=tuple(
            AttributeScore(name, int(positives[i]), float(tpr[i]), float(tnr[i]), float(f1[i]))
            for i, name in enumerate(names)
        ),
    )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
