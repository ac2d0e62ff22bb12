"""Verification: the distance threshold below which two tracklets count as the same person."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from amem_cli.errors import BadData
from amem_cli.metrics.distances import Features, read_features, squared_distances, squared_norms
from amem_cli.metrics.ranking import Labels, read_labels
from amem_cli.person_ids import JUNK

BLOCK_DISTANCES = 8_000_000  # the memory of a block: 32 MB in float32, and some copies


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
    one (infinity when all may match): with impostors at 1, 4, 9 and 16, a rate of 0.25 gives 4. It needs memory for a
    block of 8 million distances and for the distances of the impostor pairs that may match.

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

    blocks, nearest = [], np.empty(0, gallery.dtype)  # nearest: the allowed + 1 nearest impostors so far
    for genuine, others in _pair_distances(query, gallery, checked, known, kept):
        blocks.append(genuine)
        nearest = np.concatenate([nearest, others])
        if len(nearest) > allowed:
            nearest = np.partition(nearest, allowed)[: allowed + 1]
    genuine = np.concatenate(blocks)
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


def _pair_distances(
    query: np.ndarray, gallery: np.ndarray, labels: Labels, known: np.ndarray, kept: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The distances of the genuine and of the impostor pairs of one block of queries after the other."""
    query, ids, cameras = query[known], labels.query_ids[known, None], labels.query_cameras[known, None]
    gallery, other_ids, other_cameras = gallery[kept], labels.gallery_ids[kept], labels.gallery_cameras[kept]
    query_squares, gallery_squares = squared_norms(query, gallery)
    rows = max(1, BLOCK_DISTANCES // len(gallery))
    for start in range(0, len(query), rows):
        block = slice(start, start + rows)
        distances = squared_distances(query[block], gallery, query_squares[block], gallery_squares)
        same = other_ids == ids[block]
        yield distances[same & (other_cameras != cameras[block])], distances[~same]
