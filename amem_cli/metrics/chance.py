"""The expected scores of a random ranking of the same gallery for the same queries."""

import numpy as np
from scipy.special import digamma

from amem_cli.person_ids import JUNK


def chance(
    query_ids: np.ndarray, gallery_ids: np.ndarray, query_cameras: np.ndarray, gallery_cameras: np.ndarray, ranks: int
) -> tuple[np.ndarray, float]:
    """The expected CMC (ranks,) and mAP (mean precision at the matches) over the queries that have a match.

    Ids and cameras are integers, (Q,) and (G,); the rules are those of `evaluate_ranking`. With m matches among n
    counted items, P(no match within rank k) is the product of (n-m-i) / (n-i) over i < k, and the expected average
    precision is (H_n + (n - H_n) (m-1)/(n-1)) / n with H_n = 1 + 1/2 + ... + 1/n. Both are NaN without a match.

    >>> cmc, mean = chance(np.array([1]), np.array([1, 2]), np.array([1]), np.array([2, 2]), ranks=2)
    >>> cmc.tolist(), round(mean, 12)
    ([0.5, 1.0], 0.75)
    """
    _, person = np.unique(np.concatenate([query_ids, gallery_ids]), return_inverse=True)
    cameras, camera = np.unique(np.concatenate([query_cameras, gallery_cameras]), return_inverse=True)
    both = person * len(cameras) + camera  # one number for each person in a camera
    queries, kept = len(query_ids), np.flatnonzero(gallery_ids != JUNK) + len(query_ids)
    same_camera = _occurrences(both[:queries], both[kept])
    items, matches = len(kept) - same_camera, _occurrences(person[:queries], person[kept]) - same_camera

    # Many queries have the same n and m, so the formulas are evaluated for a few hundred pairs.
    pairs, weights = np.unique(np.stack([items, matches])[:, matches > 0], axis=1, return_counts=True)
    if not len(weights):
        return np.full(ranks, np.nan), float("nan")
    n, m = pairs  # (P,)
    before = np.arange(ranks)[:, None]
    miss = np.maximum(n - m - before, 0) / np.maximum(n - before, 1)  # (ranks, P)
    harmonic = digamma(n + 1) + np.euler_gamma
    precision = (harmonic + (n - harmonic) * (m - 1) / np.maximum(n - 1, 1)) / n
    return np.average(1 - miss.cumprod(axis=0), axis=1, weights=weights), float(np.average(precision, weights=weights))


def _occurrences(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    ordered = np.sort(among)
    return ordered.searchsorted(values, side="right") - ordered.searchsorted(values, side="left")
