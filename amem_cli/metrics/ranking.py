"""CMC and mAP of person re-identification, computed in one pass over blocks of queries.

The rules are those of the official MARS and Market-1501 evaluation by Zheng et al.:

- Gallery items with the junk id -1 are ignored. Distractors (id 0) count.
- Gallery items with the query's person *and* camera are ignored. Other people in that camera count.
- Items at equal distance keep the order of the gallery (a stable sort).

The rank of a match is 1 + the number of closer gallery items that are not ignored. They are counted by comparing a row
of distances with its few matches, so no row is sorted and no (Q, G) matrix is needed.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from amem_cli.errors import BadData, listing
from amem_cli.metrics.distances import Features, as_numpy, distance_blocks, read_features
from amem_cli.person_ids import JUNK
from amem_cli.processes import affinity

BLOCK_ROWS = 1024  # enough for the matrix product to run at full speed
BLOCK_BYTES = 128 * 2**20
BLOCK_PAIRS = 2**21  # pairs of one person per block; reached only when few people fill a large gallery
FEW_MATCHES = 64  # up to this number of matches per query, comparing is faster than sorting
LANES = 8 * 255  # bytes of 0 or 1 whose sum by eight lanes fits into eight bytes
SHORTEST_CMC = 20  # so that rank-20 exists for any gallery


@dataclass(frozen=True, slots=True)
class Ranking:
    """CMC, mAP and their values per query. Rates are fractions in [0, 1].

    `cmc` (K,) float64: cmc[k-1] is rank-k, the fraction of the queries with a match whose first match is among the k
    nearest counted items; `cmc_official` divides by all queries. K is the gallery's length, and at least 20.
    `cmc_every_match` (20,) is over the queries with a match: the mean fraction of their matches with fewer than k wrong
    items before them.
    `average_precision` (Q,) float64 is the mean precision at the matches (most Python code); the official one
    integrates precision over recall by trapezoids from precision 1. Both are NaN for a query without a match.
    `mAP` is the mean of the first over the queries with a match, `mAP_official` that of the second over all queries,
    where one without a match adds 0 (the MATLAB code gives NaN; in MARS every query has a match).
    `first_match_rank` (Q,) int64 starts at 1; it is 0 for a query without a match.
    `queries` counts all queries, `valid_queries` those with a match, `gallery` the items that are not junk.
    Without any valid query `cmc` and `mAP` are NaN.
    `without_queries` is the result for the gallery without the items that are queries, if these are given.

    >>> q, g = np.eye(2, dtype=np.float32), np.array([[0.9, 0.1], [1, 0], [0, 1]], np.float32)
    >>> r = evaluate_ranking(q, g, [1, 2], [1, 3, 2], [1, 1], [2, 2, 2])
    >>> r.first_match_rank.tolist(), r.cmc[:2].tolist(), r.mAP, r.mAP_official
    ([2, 1], [0.5, 1.0], 0.75, 0.625)
    """

    cmc: np.ndarray
    cmc_official: np.ndarray
    cmc_every_match: np.ndarray
    mAP: float
    mAP_official: float
    average_precision: np.ndarray
    average_precision_official: np.ndarray
    first_match_rank: np.ndarray
    queries: int
    valid_queries: int
    gallery: int
    without_queries: "Ranking | None" = None


@dataclass(frozen=True, slots=True)
class Labels:
    """Person ids and cameras, integers (Q,) or (G,), and which gallery items are queries, (G,) bool or None."""

    query_ids: np.ndarray
    gallery_ids: np.ndarray
    query_cameras: np.ndarray
    gallery_cameras: np.ndarray
    gallery_is_query: np.ndarray | None


def evaluate_ranking(
    query_features: Features,
    gallery_features: Features,
    query_ids: Features,
    gallery_ids: Features,
    query_cameras: Features,
    gallery_cameras: Features,
    *,
    gallery_is_query: Features | None = None,
    device: str | None = None,
) -> Ranking:
    """Rank the gallery for every query by squared Euclidean distance, and score the rankings.

    `query_features` (Q, D) and `gallery_features` (G, D) are numpy arrays or torch tensors and are not normalised
    here; for L2-normalised features the order is that of the cosine distance. Distances are float64 when either is
    float64, else float32. Ids and cameras are integers, (Q,) and (G,).
    `gallery_is_query` (G,) bool marks the gallery items that are queries too; the result then has `without_queries`.
    `device` computes the distances (default: where the features are); the CPU scores them with all available cores.

    It needs memory for the distances of up to 1024 queries: 4 KB per gallery item, up to 128 MB.
    Raises `BadData` for wrong shapes, lengths and types, and for features that are not finite.
    """
    if device is None:
        devices = [str(getattr(features, "device", "cpu")) for features in (query_features, gallery_features)]
        device = max(devices, key=lambda name: name != "cpu")
    query, gallery = read_features(query_features, gallery_features)
    given = (query_ids, gallery_ids, query_cameras, gallery_cameras, gallery_is_query)
    labels = read_labels((len(query), len(gallery)), given)
    return _evaluate(distance_blocks(query, gallery, device), labels, gallery.itemsize)


def evaluate_distances(distances: np.ndarray, *labels: Features, gallery_is_query: Features | None = None) -> Ranking:
    """`evaluate_ranking` for given distances (Q, G), e.g. those of re-ranking; smaller is nearer.

    `labels` are its four arrays: ids of queries and gallery, cameras of queries and gallery. Infinite distances are
    allowed. Raises `BadData`, also for NaN and for a matrix that is not floating.
    """
    distances = np.asarray(distances)
    if distances.ndim != 2 or distances.size == 0 or distances.dtype.kind != "f":
        why = f"{distances.dtype} {distances.shape} is not a floating matrix (queries, gallery)"
        raise BadData("distances", why=why)
    checked = read_labels(distances.shape, (*labels, gallery_is_query))
    bad = [f"query {number}" for number, row in enumerate(distances) if np.isnan(row).any()]
    if bad:
        raise BadData("distances", why=f"NaN for {listing(bad)}")
    return _evaluate(lambda block: distances[block].copy(), checked, distances.itemsize)


def read_labels(sizes: Sequence[int], given: Sequence[Features | None]) -> Labels:
    """Check the fields of `Labels`, given in order, against the `sizes` Q and G. Raises `BadData` that lists every
    wrong length and type."""
    arrays: dict[str, Any] = {"gallery_is_query": None}
    problems = []
    for name, values in zip(Labels.__slots__, given, strict=True):
        if values is None:
            continue
        kinds, wanted = ("b", "bool") if name == "gallery_is_query" else ("iu", "integers")
        length = sizes[0] if name.startswith("query") else sizes[1]
        array = as_numpy(values)
        if array.dtype.kind not in kinds:
            problems.append(f"{name} are {array.dtype}, not {wanted}")
        elif array.shape != (length,):
            problems.append(f"{name} has the shape {array.shape}, not ({length},)")
        arrays[name] = array
    if problems:
        raise BadData("ranking", why=listing(problems))
    return Labels(**arrays)


def _evaluate(distances: Callable[[slice], np.ndarray], labels: Labels, itemsize: int) -> Ranking:
    """Score both galleries from the distances of one block of queries at a time, which it may change."""
    queries, gallery = len(labels.query_ids), len(labels.gallery_ids)
    kept, is_query = labels.gallery_ids != JUNK, labels.gallery_is_query
    masks = [kept] if is_query is None else [kept & ~is_query, kept & is_query]
    subsets = [np.flatnonzero(mask) for mask in masks]

    items = np.flatnonzero(kept)
    items = items[np.argsort(labels.gallery_ids[items])]
    ids = labels.gallery_ids[items]
    first = np.searchsorted(ids, labels.query_ids)
    same_person = np.searchsorted(ids, labels.query_ids, side="right") - first

    full, reduced = _Scores(queries), _Scores(queries)
    fitting = min(BLOCK_BYTES // (gallery * itemsize), BLOCK_PAIRS // (1 + same_person.max()))
    block_rows = max(1, min(BLOCK_ROWS, fitting))
    for start in range(0, queries, block_rows):
        block = slice(start, min(start + block_rows, queries))
        counts = same_person[block]
        rows = np.repeat(np.arange(len(counts)), counts)
        columns = items[np.arange(counts.sum()) + np.repeat(first[block] - np.cumsum(counts) + counts, counts)]
        ignored = labels.gallery_cameras[columns] == labels.query_cameras[block][rows]
        measured = distances(block)
        measured[rows[ignored], columns[ignored]] = np.nan  # closer than no item, as far as no item
        rows, columns = rows[~ignored], columns[~ignored]
        closer = _count_in_threads(measured, subsets, rows, columns)
        del measured  # before the next block takes memory
        full.add(block, rows, closer.sum(axis=1))
        if is_query is not None:
            stay = ~is_query[columns]
            reduced.add(block, rows[stay], closer[stay, 0])

    length = max(gallery, SHORTEST_CMC)
    return full.ranking(length, len(items), None if is_query is None else reduced.ranking(length, len(subsets[0])))


class _Scores:
    """The scores of each query, filled block by block."""

    def __init__(self, queries: int):
        self.average_precision = np.full(queries, np.nan)
        self.average_precision_official = np.full(queries, np.nan)
        self.first_match_rank = np.zeros(queries, np.int64)
        self.matches_by_wrong = np.zeros(SHORTEST_CMC + 1)  # index: wrong items before a match, 20 or more in the last

    def add(self, block: slice, rows: np.ndarray, closer: np.ndarray) -> None:
        """Score a block of queries from its P pairs of a query and a match. `rows` (P,) is the query within the block
        and increases, `closer` (P,) the number of closer items."""
        rank = 1 + closer[np.lexsort((closer, rows))]
        hit = 1 + np.arange(len(rows)) - np.searchsorted(rows, rows)
        precision = hit / rank
        # The trapezoid starts at the precision one place before the hit, which is 1 before the first place.
        trapezoid = (np.where(rank > 1, (hit - 1) / np.maximum(rank - 1, 1), 1.0) + precision) / 2

        queries, matches = np.unique(rows, return_counts=True)
        for scores, values in ((self.average_precision, precision), (self.average_precision_official, trapezoid)):
            scores[block.start + queries] = np.bincount(rows, weights=values)[queries] / matches
        self.first_match_rank[block.start + queries] = rank[hit == 1]
        # One after the other: the sum of blocks would depend on the size of a block.
        np.add.at(self.matches_by_wrong, np.minimum(rank - hit, SHORTEST_CMC), 1 / np.repeat(matches, matches))

    def ranking(self, length: int, gallery: int, without_queries: Ranking | None = None) -> Ranking:
        valid = self.first_match_rank > 0
        matches = np.cumsum(np.bincount(self.first_match_rank[valid], minlength=length + 1)[1:]).astype(np.float64)
        number = valid.sum() or np.nan  # of queries with a match; without one the means are NaN
        return Ranking(
            cmc=matches / number,
            cmc_official=matches / len(valid),
            cmc_every_match=self.matches_by_wrong.cumsum()[:-1] / number,
            mAP=float(self.average_precision[valid].sum() / number),
            mAP_official=float(self.average_precision_official[valid].sum() / len(valid)),
            average_precision=self.average_precision,
            average_precision_official=self.average_precision_official,
            first_match_rank=self.first_match_rank,
            queries=len(valid),
            valid_queries=int(valid.sum()),
            gallery=gallery,
            without_queries=without_queries,
        )


def _count_in_threads(
    distances: np.ndarray, subsets: list[np.ndarray], rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """`_count_closer` with the rows divided among threads: numpy's comparisons release the interpreter lock."""
    threads = affinity()
    starts = np.linspace(0, len(distances), threads + 1, dtype=np.int64)
    bounds = np.searchsorted(rows, starts)

    def count(i: int) -> np.ndarray:
        pairs = slice(bounds[i], bounds[i + 1])
        return _count_closer(distances[starts[i] : starts[i + 1]], subsets, rows[pairs] - starts[i], columns[pairs])

    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(count, range(threads))))


def _count_closer(
    distances: np.ndarray, subsets: list[np.ndarray], rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """(P, subsets) int64: how many items of each subset of the gallery, an array of increasing columns of `distances`
    (B, G), are closer to `rows[p]` than the item `columns[p]` is. `rows` (P,) increases. Of two items at equal distance
    the one with the lower column is closer."""
    closer, up_to = np.empty((2, len(rows), len(subsets)), np.int64)
    bounds = np.searchsorted(rows, np.arange(len(distances) + 1))
    for row, start, stop in zip(distances, bounds[:-1], bounds[1:], strict=True):
        count = _count_by_comparing if stop - start <= FEW_MATCHES else _count_by_sorting
        for number, subset in enumerate(subsets):
            items = row if len(subset) == len(row) else row.take(subset)
            pairs = slice(start, stop), number
            closer[pairs], up_to[pairs] = count(items, row[columns[start:stop]])
    for number, subset in enumerate(subsets):
        tied = up_to[:, number] - closer[:, number] - np.isin(columns, subset)
        for i in np.flatnonzero(tied):
            row, column = distances[rows[i]], columns[i]
            closer[i, number] += np.count_nonzero(row[subset[: np.searchsorted(subset, column)]] == row[column])
    return closer


def _count_by_comparing(items: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many `items` (n,) are below each limit (m,), and how many are not above it."""
    shape = len(limits), -(-len(items) // LANES), LANES
    holds = np.empty(shape, bool).reshape(len(limits), shape[1] * LANES)
    holds[:, len(items) :] = False
    counts = []
    for compare in (np.less, np.less_equal):
        compare(items, limits[:, None], out=holds[:, : len(items)])
        sums = holds.view(np.uint64).reshape(*shape[:2], LANES // 8).sum(axis=2)  # of eight bytes at once
        counts.append(sums.view(np.uint8).sum(axis=1, dtype=np.int64))
    return counts[0], counts[1]


def _count_by_sorting(items: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`_count_by_comparing` in O((n + m) log n)."""
    ordered = np.sort(items)
    return np.searchsorted(ordered, limits), np.searchsorted(ordered, limits, side="right")
