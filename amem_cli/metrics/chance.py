"""What a random ranking would score on the same queries and gallery: the line below which a feature knows nothing."""

import numpy as np
from scipy.special import gammaln

from amem_cli.data.tracklets import JUNK


def chance(
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_cameras: np.ndarray,
    ranks: int = 50,
) -> tuple[np.ndarray, float]:
    """The expected CMC (ranks,) and mAP (precision at the hits) of rankings in random order, over queries with a match.

    Rules as in `evaluate_ranking`. With m matches among n items that count, the first match is within rank k with
    1 - C(n-m, k) / C(n, k), and the expected average precision is (H_n + (n - H_n) (m-1)/(n-1)) / n.

    >>> cmc, mean = chance(np.array([1]), np.array([1, 2]), np.array([1]), np.array([2, 2]), ranks=2)
    >>> cmc.tolist(), mean
    ([0.5, 1.0], 0.75)
    """
    counts = gallery_ids != JUNK
    cmc, precisions = [], []
    for person, camera in zip(query_ids, query_cameras, strict=True):
        same = gallery_ids == person
        kept = counts & ~(same & (gallery_cameras == camera))
        n, m = int(kept.sum()), int((kept & same).sum())
        if not m:
            continue
        harmonic = (1 / np.arange(1, n + 1)).sum()
        precisions.append((harmonic + (n - harmonic) * (m - 1) / max(n - 1, 1)) / n)
        k = np.minimum(np.arange(1, ranks + 1), n - m)
        none = np.exp(_log_choose(n - m, k) - _log_choose(n, k))  # no match among the first k
        cmc.append(np.where(np.arange(1, ranks + 1) > n - m, 1.0, 1 - none))
    if not cmc:
        return np.full(ranks, np.nan), float("nan")
    return np.clip(np.mean(cmc, axis=0), 0, 1).round(12), float(np.mean(precisions))


def _log_choose(n: int, k: np.ndarray) -> np.ndarray:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
