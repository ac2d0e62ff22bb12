"""Same person or not: a distance threshold for a chosen false-match rate; and how sure a rate over queries is."""

from dataclasses import dataclass

import numpy as np

from amem_cli.errors import BadData, UsageError
from amem_cli.metrics.ranking import Features, read_labels, same_precision, squared_distances, squared_norms
from amem_cli.person_ids import DISTRACTOR, JUNK
from amem_cli.randomness import keyed_generator

BLOCK_ROWS = 512


@dataclass(frozen=True, slots=True)
class Calibration:
    """Two tracklets count as the same person where their squared Euclidean distance is **below** `threshold`.

    `false_match_rate` is the share of `impostor_pairs` (different people) below it, never above the rate asked for;
    `true_match_rate` the share of `genuine_pairs` (one person, two cameras) below it. Fractions in [0, 1].
    For L2-normalised features the same threshold as a cosine similarity is 1 - threshold / 2.
    """

    threshold: float
    false_match_rate: float
    true_match_rate: float
    impostor_pairs: int
    genuine_pairs: int


def calibrate(
    query_features: Features,
    gallery_features: Features,
    query_ids: Features,
    gallery_ids: Features,
    query_cameras: Features,
    gallery_cameras: Features,
    *,
    false_match_rate: float,
) -> Calibration:
    """The largest threshold whose false-match rate over these pairs is at most `false_match_rate`, exactly.

    Inputs as in `evaluate_ranking`. Pairs are a query with a gallery item; left out are junk, pairs of one person in
    one camera, and queries that show nobody known (ids -1 and 0). Distractors in the gallery are impostors.
    With n impostor pairs, floor(rate * n) may match, so the threshold is the distance of the next one (infinity when
    all may). Memory: one block of 512 queries, and 4 bytes for each impostor pair that may match.

    Raises `BadData` as `evaluate_ranking` does, and when there are no impostor or no genuine pairs; `UsageError` for
    a rate outside [0, 1].
    """
    if not 0 <= false_match_rate <= 1:
        raise UsageError("--calibrate", why=f"a false-match rate of {false_match_rate}", remedy="Choose one in [0, 1]")
    query, gallery = same_precision(query_features, gallery_features)
    labels = read_labels(query, gallery, (query_ids, gallery_ids, query_cameras, gallery_cameras, None))
    known = (labels.query_ids != JUNK) & (labels.query_ids != DISTRACTOR)
    kept = labels.gallery_ids != JUNK
    query, query_ids, query_cameras = query[known], labels.query_ids[known], labels.query_cameras[known]
    gallery, gallery_ids, gallery_cameras = gallery[kept], labels.gallery_ids[kept], labels.gallery_cameras[kept]
    query_squares, gallery_squares = squared_norms(query, gallery)

    people, sizes = np.unique(gallery_ids, return_counts=True)
    impostors = len(query) * len(gallery) - int(sum(sizes[people == person].sum() for person in query_ids))
    if impostors == 0:
        raise BadData("calibration", why="no pair of different people among queries and gallery")
    # The small term undoes rounding: 0.29 * 100 is 28.999...96 in floating point.
    allowed = int(np.floor(false_match_rate * impostors + 1e-6))
    if false_match_rate < 1:  # some pair stays out, and with it the threshold is finite
        allowed = min(allowed, impostors - 1)

    genuine, nearest = [], np.empty(0, gallery.dtype)  # nearest: the allowed + 1 nearest impostors so far
    for start in range(0, len(query), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        distances = squared_distances(query[block], gallery, query_squares[block], gallery_squares)
        same = gallery_ids == query_ids[block, None]
        genuine.append(distances[same & (gallery_cameras != query_cameras[block, None])])
        bound = nearest.max() if len(nearest) > allowed else np.inf
        nearest = np.concatenate([nearest, distances[~same & (distances < bound)]])
        if len(nearest) > allowed:
            nearest = np.partition(nearest, allowed)[: allowed + 1]
    genuine = np.concatenate(genuine)
    if len(genuine) == 0:
        raise BadData("calibration", why="no person is seen by two cameras, once as a query and once in the gallery")

    threshold = float(nearest.max()) if len(nearest) > allowed else float("inf")
    return Calibration(
        threshold=threshold,
        false_match_rate=float(np.count_nonzero(nearest < threshold) / impostors),
        true_match_rate=float(np.count_nonzero(genuine < threshold) / len(genuine)),
        impostor_pairs=impostors,
        genuine_pairs=len(genuine),
    )


def bootstrap_interval(
    per_query_values: np.ndarray, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """(low, high) of the percentile bootstrap for the mean of `per_query_values` (Q,) over queries.

    For mAP give `Ranking.average_precision`, for rank-1 `first_match_rank == 1` of the queries with a match. NaN
    (a query without a match) is left out. Queries are drawn with replacement, keyed by `seed`; measures over equally
    many queries are drawn alike. It says how much the choice of queries moves the result, nothing about training.

    Raises `BadData` when no value is left, `UsageError` for a level outside (0, 1) or no resamples.
    """
    if not 0 < level < 1 or resamples < 1:
        raise UsageError("bootstrap", why=f"level {level}, {resamples} resamples", remedy="Use 0 < level < 1")
    values = np.asarray(per_query_values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        raise BadData("bootstrap", why="no query has a value")
    generator = keyed_generator(seed, "bootstrap")
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
