"""Verification: the threshold below which two tracklets count as the same person, and the probability that they are."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from amem_cli.errors import BadData
from amem_cli.metrics.distances import Features, read_features, squared_distances, squared_norms
from amem_cli.metrics.ranking import Labels, read_labels
from amem_cli.person_ids import JUNK

BLOCK_DISTANCES = 8_000_000  # the memory of a block: 32 MB in float32, and some copies
BINS, FARTHEST = 4000, 4.0  # of squared distances between L2-normalised features
CENTRES = (np.arange(BINS) + 0.5) * FARTHEST / BINS
RELIABILITY_BINS = 10


@dataclass(frozen=True, slots=True)
class Calibration:
    """A pair matches if its squared Euclidean distance is **below** `threshold`. Rates are fractions in [0, 1].

    `false_match_rate` is the fraction of the `impostor_pairs` (different people) that match, `true_match_rate` the
    fraction of the `genuine_pairs` (one person in two cameras). For L2-normalised features the same threshold on the
    cosine similarity is 1 - threshold / 2.
    """

    threshold: float
    false_match_rate: float
    true_match_rate: float
    impostor_pairs: int
    genuine_pairs: int


def calibrate(
    query_features: Features, gallery_features: Features, *labels: Features, false_match_rate: float
) -> Calibration:
    """The largest threshold with a false-match rate up to `false_match_rate` over all pairs of query and gallery.

    Features and the four arrays of `labels` (ids, cameras) as in `evaluate_ranking`. Excluded are junk and pairs of one
    person in one camera. Gallery distractors (id 0) are impostors; a query with id 0 is a person, as other programs
    count people from 0. Of n impostor pairs, floor(rate * n) may match, so the threshold is the distance of the next
    one (infinity when all may match): with impostors at 1, 4, 9 and 16, a rate of 0.25 gives 4.
    Raises `BadData` as `evaluate_ranking` does, and when there are no impostor or no genuine pairs.
    """
    query, gallery = read_features(query_features, gallery_features)
    checked = read_labels((len(query), len(gallery)), (*labels, None))
    known = checked.query_ids != JUNK
    kept = checked.gallery_ids != JUNK
    people, sizes = np.unique(checked.gallery_ids[kept], return_counts=True)
    same = sum(int(sizes[people == person].sum()) for person in checked.query_ids[known])
    impostors = int(known.sum() * kept.sum()) - same
    if impostors == 0:
        raise BadData("calibration", why="no pair of different people among queries and gallery")
    # The small term corrects rounding: 0.29 * 100 is 28.999...96 in floating point.
    allowed = int(np.floor(false_match_rate * impostors + 1e-6))
    if false_match_rate < 1:
        allowed = min(allowed, impostors - 1)

    genuine = nearest = np.empty(0, gallery.dtype)  # nearest: the allowed + 1 nearest impostors so far
    for same_person, others in _pair_distances(query, gallery, checked, known, kept):
        genuine, nearest = np.concatenate([genuine, same_person]), np.concatenate([nearest, others])
        if len(nearest) > allowed:
            nearest = np.partition(nearest, allowed)[: allowed + 1]
    if len(genuine) == 0:
        raise BadData("calibration", why="no person is seen by two cameras, once as a query and once in the gallery")
    threshold = float(nearest.max()) if len(nearest) > allowed else float("inf")
    false_match, true_match = float((nearest < threshold).sum() / impostors), float((genuine < threshold).mean())
    return Calibration(threshold, false_match, true_match, impostors, len(genuine))


@dataclass(frozen=True, slots=True)
class Probability:
    """The probability that two tracklets show one person: 1 / (1 + exp(-(intercept + slope * squared distance))).

    It is for a pair that is as likely to be one person as two before it is compared. `calibration_error` is the mean
    difference between probability and frequency (ECE, 10 bins, both kinds of pairs with equal weight) on people that
    the curve was not fitted on, over two halves; None with fewer than four people.
    """

    intercept: float
    slope: float
    calibration_error: float | None

    def __call__(self, squared_distances: np.ndarray) -> np.ndarray:
        return expit(self.intercept + self.slope * np.asarray(squared_distances, np.float64))


def fit_probability(query_features: Features, gallery_features: Features, *labels: Features) -> Probability:
    """Platt's logistic curve over the pairs of `calibrate`, whose inputs and errors these are. The distances are
    counted in 4000 bins of [0, 4], so memory does not grow with the pairs."""
    query, gallery = read_features(query_features, gallery_features)
    checked = read_labels((len(query), len(gallery)), (*labels, None))
    known = checked.query_ids != JUNK
    kept = checked.gallery_ids != JUNK
    people = np.unique(checked.query_ids[known])

    def counts(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
        """(2, BINS): impostor and genuine pairs of these queries and gallery items."""
        total = np.zeros((2, BINS))
        for pairs in _pair_distances(query, gallery, checked, queries, items) if queries.any() else ():
            for row, distances in zip((1, 0), pairs, strict=True):
                total[row] += np.histogram(np.minimum(distances, FARTHEST), BINS, (0, FARTHEST))[0]
        return total

    every = counts(known, kept)
    if not every.sum(1).all():
        raise BadData("calibration", why="there are no pairs of one person in two cameras, or none of different people")
    halves = [people[place::2] for place in (0, 1)] if len(people) >= 4 else []
    folds = [
        counts(known & np.isin(checked.query_ids, half), kept & np.isin(checked.gallery_ids, half)) for half in halves
    ]
    error = None
    if folds and all(fold.sum(1).all() for fold in folds):
        error = float(np.mean([_calibration_error(_fit(a), b) for a, b in (folds, folds[::-1])]))
    return Probability(*_fit(every), error)


def _fit(counts: np.ndarray) -> tuple[float, float]:
    """Intercept and slope by maximum likelihood, each kind of pair with weight 1/2 and Platt's smoothed targets."""
    from scipy.optimize import minimize

    totals = counts.sum(1, keepdims=True)
    weights = counts / totals / 2
    targets = np.array([1 / (totals[0, 0] + 2), (totals[1, 0] + 1) / (totals[1, 0] + 2)])[:, None]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        score = parameters[0] + parameters[1] * CENTRES
        wrong = weights * (expit(score) - targets)
        value = (weights * (np.logaddexp(0, score) - targets * score)).sum()
        return value, np.array([wrong.sum(), (wrong * CENTRES).sum()])

    intercept, slope = minimize(loss, np.array([2.0, -2.0]), jac=True, method="BFGS").x
    return float(intercept), float(slope)


def _calibration_error(parameters: tuple[float, float], counts: np.ndarray) -> float:
    probability = expit(parameters[0] + parameters[1] * CENTRES)
    weights = counts / counts.sum(1, keepdims=True) / 2
    places = np.minimum((probability * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    excess = weights.sum(0) * probability - weights[1]  # predicted minus observed
    return float(np.abs(np.bincount(places, excess)).sum())


def _pair_distances(
    query: np.ndarray, gallery: np.ndarray, labels: Labels, known: np.ndarray, kept: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The distances of the genuine and of the impostor pairs of one block of queries after the other."""
    query, ids, cameras = query[known], labels.query_ids[known, None], labels.query_cameras[known, None]
    query_squares, gallery_squares = squared_norms(query, gallery)
    rows = max(1, BLOCK_DISTANCES // len(gallery))
    for start in range(0, len(query), rows):
        block = slice(start, start + rows)
        distances = squared_distances(query[block], gallery, query_squares[block], gallery_squares)
        same = labels.gallery_ids == ids[block]
        genuine = same & (labels.gallery_cameras != cameras[block])
        yield distances[kept & genuine], distances[kept & ~same]
