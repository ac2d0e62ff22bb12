"""What a random ranking would score on the same queries and gallery: the line below which a feature knows nothing."""

import numpy as np
from scipy.special import digamma

from amem_cli.person_ids import JUNK


def chance(
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_cameras: np.ndarray,
    ranks: int = 50,
) -> tuple[np.ndarray, float]:
    """The expected CMC (ranks,) and mAP (precision at the hits) of rankings in random order, over queries with a match.

    Ids and cameras are integers, (Q,) and (G,); rules as in `evaluate_ranking`. With m matches among n items that
    count, no match is within rank k with the product of (n-m-i) / (n-i) over i < k, and the expected average precision
    is (H_n + (n - H_n) (m-1)/(n-1)) / n, where H_n = 1 + 1/2 + ... + 1/n. Both are NaN when no query has a match.

    >>> cmc, mean = chance(np.array([1]), np.array([1, 2]), np.array([1]), np.array([2, 2]), ranks=2)
    >>> cmc.tolist(), round(mean, 12)
    ([0.5, 1.0], 0.75)
    """
    _, person = np.unique(np.concatenate([query_ids, gallery_ids]), return_inverse=True)
    cameras, camera = np.unique(np.concatenate([query_cameras, gallery_cameras]), return_inverse=True)
    seen = person * len(cameras) + camera  # a person in a camera, as one number
    queries, kept = len(query_ids), np.flatnonzero(gallery_ids != JUNK) + len(query_ids)
    same_camera = _how_often(seen[:queries], seen[kept])
    items, matches = len(kept) - same_camera, _how_often(person[:queries], person[kept]) - same_camera

    # Queries of a person and camera share both numbers, and those of many people do: a few hundred pairs are left.
    pairs, weights = np.unique(np.stack([items, matches])[:, matches > 0], axis=1, return_counts=True)
    if not len(weights):
        return np.full(ranks, np.nan), float("nan")
    n, m = pairs  # (P,)
    before = np.arange(ranks)
    miss = np.maximum(n - m - before[:, None], 0) / np.maximum(n - before[:, None], 1)  # (ranks, P)
    harmonic = digamma(n + 1) + np.euler_gamma
    precision = (harmonic + (n - harmonic) * (m - 1) / np.maximum(n - 1, 1)) / n
    return np.average(1 - miss.cumprod(axis=0), axis=1, weights=weights), float(np.average(precision, weights=weights))


def _how_often(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    ordered = np.sort(among)
    return ordered.searchsorted(values, side="right") - ordered.searchsorted(values, side="left")
