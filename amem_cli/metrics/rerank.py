"""Re-ranking by k-reciprocal neighbours (Zhong, Zheng, Cao, Li: "Re-ranking Person Re-identification with k-reciprocal
Encoding", CVPR 2017).

The authors' code uses dense (Q + G) x (Q + G) matrices. Here neighbourhoods are sparse matrices, and distances exist
for one block of rows at a time. Report results with re-ranking as separate rows of a table.
"""

import numpy as np
from scipy import sparse

from amem_cli.metrics.distances import Features, read_features, squared_distances, squared_norms

BLOCK_ROWS = 512
NEIGHBOUR_BYTES = 2000  # of the sparse neighbourhoods, for each row


def rerank(
    query_features: Features, gallery_features: Features, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> np.ndarray:
    """Distances (Q, G) in the features' precision: (1 - lambda) Jaccard + lambda original; smaller is nearer.

    `query_features` (Q, D) and `gallery_features` (G, D) as in `evaluate_ranking`. The original distance is the squared
    Euclidean one, divided in each row by the row's largest over queries and gallery. The Jaccard distance (eq. 10)
    compares k-reciprocal neighbourhoods of size `k1`, expanded by eq. 5, with the Gaussian weights of eq. 7, averaged
    over the `k2` nearest rows (eq. 11). Neighbours are searched among queries and gallery together, without ids and
    cameras; at equal distance queries come first, then the gallery in its order. A gallery that contains the queries is
    not changed, as in the authors' code. Raises as `evaluate_ranking`.
    """
    query, gallery = read_features(query_features, gallery_features)
    distances = np.empty((len(query), len(gallery)), query.dtype)  # first, so that too little memory fails at once
    squares = np.concatenate(squared_norms(query, gallery))  # (N,), N = Q + G
    features = np.concatenate([query, gallery])
    nearest, largest = _nearest(features, squares, max(k1 + 1, k2))

    half = _reciprocal(nearest[:, : int(np.around(k1 / 2)) + 1])
    expanded = _expanded(_reciprocal(nearest[:, : k1 + 1]), half)
    weights = _gaussian_weights(expanded, features, squares, largest)
    if k2 > 1:
        weights = _neighbourhood(nearest[:, :k2]) @ weights / min(k2, len(features))

    by_column = weights[len(query) :].tocsc()
    for start in range(0, len(query), BLOCK_ROWS):
        block = slice(start, min(start + BLOCK_ROWS, len(query)))
        original = squared_distances(features[block], gallery, squares[block], squares[len(query) :])
        original /= largest[block, None]
        for row, scaled in zip(range(block.start, block.stop), original, strict=True):
            distances[row] = (1 - lambda_value) * _jaccard(weights, by_column, row) + lambda_value * scaled
    return distances


def rerank_bytes(queries: int, rows: int, width: int) -> int:
    """The memory of `rerank` for so many queries among rows of features: distances, features, blocks, neighbours."""
    return 4 * (2 * queries * rows + 2 * rows * width + 3 * BLOCK_ROWS * rows) + NEIGHBOUR_BYTES * rows


def _nearest(features: np.ndarray, squares: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest rows of every row, ties in stable order, (N, count), and the largest distance, (N,)."""
    count = min(count, len(features))
    nearest, largest = np.empty((len(features), count), np.int32), np.empty(len(features), features.dtype)
    for start in range(0, len(features), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        distances = squared_distances(features[block], features, squares[block], squares)
        largest[block] = distances.max(axis=1)
        farthest = np.partition(distances, count - 1, axis=1)[:, count - 1]
        for row, values in enumerate(distances):
            # More than `count` candidates exist only where some tie with the last.
            candidates = np.flatnonzero(values <= farthest[row])
            nearest[start + row] = candidates[np.argsort(values[candidates], kind="stable")[:count]]
    return nearest, np.where(largest > 0, largest, 1)


def _neighbourhood(nearest: np.ndarray) -> sparse.csr_array:
    """(N, N) with a 1 where the column is among the row's neighbours (N, k)."""
    rows, k = nearest.shape
    ones = np.ones(rows * k, np.float32)
    return sparse.csr_array((ones, nearest.ravel(), np.arange(rows + 1) * k), shape=(rows, rows))


def _reciprocal(nearest: np.ndarray) -> sparse.csr_array:
    """R(p, k), eq. 3: the rows among p's k nearest that have p among theirs, p included."""
    neighbours = _neighbourhood(nearest)
    return sparse.csr_array(neighbours.multiply(neighbours.T))


def _expanded(reciprocal: sparse.csr_array, half: sparse.csr_array) -> sparse.csr_array:
    """R*(p, k1), eq. 5: R(p, k1) with every R(q, k1 / 2), q in R(p, k1), that overlaps it by more than two thirds."""
    overlap = sparse.coo_array((reciprocal @ half.T).multiply(reciprocal))
    row, candidate = overlap.coords
    joins = 3 * overlap.data > 2 * half.sum(axis=1)[candidate]
    joined = sparse.csr_array((np.ones(joins.sum(), np.float32), (row[joins], candidate[joins])), reciprocal.shape)
    return sparse.csr_array(reciprocal + joined @ half)


def _gaussian_weights(
    neighbours: sparse.csr_array, features: np.ndarray, squares: np.ndarray, largest: np.ndarray
) -> sparse.csr_array:
    """The rows V_p of eq. 7, each with sum 1: exp(-d) for the neighbours of p, d the scaled original distance."""
    for p, (start, stop) in enumerate(zip(neighbours.indptr[:-1], neighbours.indptr[1:], strict=True)):
        others = neighbours.indices[start:stop]
        d = np.maximum(squares[p] + squares[others] - 2 * (features[others] @ features[p]), 0) / largest[p]
        weight = np.exp(-d)
        neighbours.data[start:stop] = weight / weight.sum()
    return neighbours


def _jaccard(weights: sparse.csr_array, by_column: sparse.csc_array, row: int) -> np.ndarray:
    """Jaccard distance (G,) of one row to the gallery, eq. 10: both rows sum to 1, so sum(max) is 2 - sum(min)."""
    span = slice(weights.indptr[row], weights.indptr[row + 1])
    columns, own = weights.indices[span], weights.data[span]
    starts, stops = by_column.indptr[columns], by_column.indptr[columns + 1]
    counts = stops - starts
    where = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    smaller = np.minimum(by_column.data[where], np.repeat(own, counts))
    common = np.bincount(by_column.indices[where], weights=smaller, minlength=by_column.shape[0])
    return 1 - common / (2 - common)
