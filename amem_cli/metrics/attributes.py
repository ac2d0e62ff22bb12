"""How well binary attributes are recognised: mA and the instance-based measures.

Source: mA from Deng et al. 2014 (PETA); accuracy, precision, recall and F1 per image from Li et al. 2016 (RAP).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amem_cli.errors import BadData, listing


@dataclass(frozen=True, slots=True)
class AttributeScore:
    """One attribute. Rates are fractions in [0, 1], NaN where nothing can be counted.

    `positives` and `negatives` are images by label. `true_positive_rate` = TP / (TP + FN),
    `true_negative_rate` = TN / (TN + FP), `f1` = 2 TP / (2 TP + FP + FN), over the images of this attribute.
    """

    name: str
    positives: int
    negatives: int
    true_positive_rate: float
    true_negative_rate: float
    f1: float


@dataclass(frozen=True, slots=True)
class AttributeMetrics:
    """What `attribute_metrics` found. Rates are fractions in [0, 1], NaN where nothing can be counted.

    `mA` is the mean, over the attributes with positives and negatives, of (TPR + TNR) / 2; `left_out` names the
    others. `accuracy`, `precision`, `recall` and `f1` are instance-based, over the `images` with a positive label.
    """

    mA: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    images: int
    left_out: tuple[str, ...]
    attributes: tuple[AttributeScore, ...]


def attribute_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    threshold: float = 0.5,
    subset: Sequence[int] | None = None,
) -> AttributeMetrics:
    """Compare `probabilities` (N, A) in [0, 1] with `labels` (N, A), 0 or 1; `names` are the A columns.

    An attribute is predicted where its probability is above `threshold`. `subset` are the columns to evaluate (the
    usual 35 of PETA, say); everything, the instance-based measures too, is then over these alone.
    For an image with labels Y and predictions F: accuracy |Y & F| / |Y | F|, precision |Y & F| / |F| (0 when nothing
    is predicted), recall |Y & F| / |Y|, each averaged over images; F1 is the harmonic mean of the averaged precision
    and recall. As in Li et al.'s code, images without any positive label do not count there.

    >>> attribute_metrics(np.array([[0.9, 0.2], [0.1, 0.7]]), np.array([[1, 0], [0, 0]]), ["hat", "bag"]).left_out
    ('bag',)

    Raises `BadData` that lists wrong shapes, labels other than 0 and 1, values that are not probabilities.
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    problems = []
    if probabilities.ndim != 2 or probabilities.shape != labels.shape or probabilities.shape[1] != len(names):
        problems.append(f"probabilities {probabilities.shape}, labels {labels.shape} and {len(names)} names differ")
    if probabilities.size == 0:
        problems.append("there is nothing to compare")
    if not ((labels == 0) | (labels == 1)).all():
        problems.append("labels other than 0 and 1")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        problems.append("probabilities outside [0, 1]")
    columns = np.arange(len(names)) if subset is None else np.asarray(subset, dtype=np.int64)
    if len(columns) == 0 or columns.min() < 0 or columns.max() >= len(names):
        problems.append(f"the subset is empty or holds columns outside 0 to {len(names) - 1}")
    if problems:
        raise BadData("attributes", why=listing(problems))

    truth, predicted = labels[:, columns] == 1, probabilities[:, columns] > threshold
    hits = truth & predicted

    positives, claimed, true_positives = (values.sum(axis=0) for values in (truth, predicted, hits))  # (A,)
    negatives = len(truth) - positives
    true_negatives = negatives - (claimed - true_positives)
    tpr, tnr = _ratio(true_positives, positives), _ratio(true_negatives, negatives)
    f1 = _ratio(2 * true_positives, positives + claimed)
    both = (positives > 0) & (negatives > 0)

    labelled = truth.any(axis=1)
    common, given, asked = (values[labelled].sum(axis=1) for values in (hits, predicted, truth))  # (N',)
    accuracy = _mean(_ratio(common, given + asked - common))
    precision = _mean(_ratio(common, np.maximum(given, 1)))
    recall = _mean(_ratio(common, asked))

    return AttributeMetrics(
        mA=_mean((tpr[both] + tnr[both]) / 2),
        accuracy=accuracy,
        precision=precision,
        recall=recall,
        # No hit at all gives precision and recall 0, and F1 0 with them.
        f1=2 * precision * recall / (precision + recall) if precision + recall != 0 else 0.0,
        images=int(labelled.sum()),
        left_out=tuple(names[column] for column in columns[~both]),
        attributes=tuple(
            AttributeScore(
                names[column], int(positives[i]), int(negatives[i]), float(tpr[i]), float(tnr[i]), float(f1[i])
            )
            for i, column in enumerate(columns)
        ),
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
