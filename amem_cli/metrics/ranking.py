"""CMC and mAP of person re-identification, in one sweep over blocks of queries.

Conventions (those of the official MARS and Market-1501 evaluation by Zheng et al. unless said otherwise):

- Gallery items with the junk id -1 are ignored everywhere; distractors (id 0) stay.
- Gallery items of the query's person *and* camera are ignored; other people of that camera stay.
- Items at equal distance keep the order of the gallery (a stable sort).
- `mAP` is the mean, over the queries that have a match, of the mean precision at the hits (most Python code);
  `mAP_official` integrates precision over recall by trapezoids that start at precision 1, and divides by all queries.

Nothing is sorted with its indices and no (Q, G) matrix exists: a match's rank is one more than the number of closer
gallery items less the ignored ones among them, and counting needs sorted values alone.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amem_cli.errors import BadData, listing
from amem_cli.person_ids import JUNK

if TYPE_CHECKING:
    import torch

Features = Any  # numpy.ndarray or torch.Tensor; torch is not imported to say so

BLOCK_ROWS = 1024  # enough for the matrix product to run at full speed
BLOCK_BYTES = 512 * 2**20
BLOCK_PAIRS = 2**21  # pairs of one person held at once; reached only when few people fill a large gallery
CHUNK_ROWS = 32  # sorted while they are in the cache
SHORTEST_CMC = 20  # so that rank-20 can be read off any gallery


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well queries find their person in a gallery. Rates are fractions in [0, 1].

    `cmc` (K,) float64: cmc[k-1] is rank-k, the share of the queries with a match whose first match is among the k
    nearest items that count; `cmc_official` divides by all queries. K is the gallery's length, and at least 20.
    `mAP` is the mean of `average_precision` over the queries with a match. `mAP_official` is the sum of
    `average_precision_official` over all queries, one without a match counting 0 (the MATLAB code divides 0 by 0
    there and would print NaN; on MARS as published every query has a match).
    Both average precisions are (Q,) float64, NaN for a query without a match; `first_match_rank` is (Q,) int64,
    1 for the best, 0 for a query without a match.
    `queries` counts all queries, `valid_queries` those with a match, `gallery` the items that are not junk.
    With no valid query `cmc` and `mAP` are NaN.
    `without_queries` is the same for the gallery without the items that are queries, where these were told.

    >>> q, g = np.eye(2, dtype=np.float32), np.array([[0.9, 0.1], [1, 0], [0, 1]], np.float32)
    >>> r = evaluate_ranking(q, g, [1, 2], [1, 3, 2], [1, 1], [2, 2, 2])
    >>> r.first_match_rank.tolist(), r.cmc[:2].tolist(), r.mAP, r.mAP_official
    ([2, 1], [0.5, 1.0], 0.75, 0.625)
    """

    cmc: np.ndarray
    cmc_official: np.ndarray
    mAP: float
    mAP_official: float
    average_precision: np.ndarray
    average_precision_official: np.ndarray
    first_match_rank: np.ndarray
    queries: int
    valid_queries: int
    gallery: int
    without_queries: "Ranking | None" = None


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
    threads: int | None = None,
) -> Ranking:
    """Rank a gallery for every query by squared Euclidean distance, and score the rankings.

    `query_features` (Q, D) and `gallery_features` (G, D) are numpy arrays or torch tensors, and are taken as they
    are: of L2-normalised features the order is that of the cosine distance. Distances are float64 when either is
    float64, else float32; the query's own squared norm, the same for its whole row, is left out.
    Ids and cameras are integers, (Q,) and (G,). `gallery_is_query` (G,) bool marks the gallery items that are
    queries too, and asks for `without_queries`, from the same distances.
    `device` None computes where the features are; "cpu" and "cuda..." say where. `threads` is the number of sorting
    threads on the CPU (default: as many as this process may use); the matrix product follows BLAS's own setting.

    On the CPU it needs, beside the inputs, a block of distances from 1024 queries: 4 KB a gallery item, at most 0.5 GB.
    Raises `BadData` that lists what is wrong: shapes, lengths, kinds of numbers, values that are not finite, norms
    whose squares overflow.
    """
    on_device = _device_of(query_features, gallery_features, device)
    labels = read_labels(
        query_features,
        gallery_features,
        (query_ids, gallery_ids, query_cameras, gallery_cameras, gallery_is_query),
    )
    if on_device != "cpu":
        with _full_float32_precision():
            return _sweep(_distances_by_torch(query_features, gallery_features, on_device), _closer_by_torch, labels)
    query, gallery = same_precision(query_features, gallery_features)
    return _sweep(_distances_by_numpy(query, gallery), _closer_by_numpy(threads), labels, gallery.itemsize)


def evaluate_distances(
    distances: np.ndarray | Callable[[slice], np.ndarray],
    query_ids: Features,
    gallery_ids: Features,
    query_cameras: Features,
    gallery_cameras: Features,
    *,
    gallery_is_query: Features | None = None,
    threads: int | None = None,
) -> Ranking:
    """`evaluate_ranking` for given distances, such as those of re-ranking.

    `distances` is the matrix (Q, G), floating, or a function from a slice of B queries to its rows (B, G), which is
    called once for every block, in order, and whose result may be overwritten by its next call. Smaller is nearer;
    infinities are allowed. The rest is as in `evaluate_ranking`. Raises `BadData`, also for NaN among the distances.
    """
    problems: list[str] = []
    if callable(distances):
        shape, itemsize = (np.shape(query_ids) or (0,))[0], 8
        labels = _Labels.read(
            shape,
            (np.shape(gallery_ids) or (0,))[0],
            (query_ids, gallery_ids, query_cameras, gallery_cameras, gallery_is_query),
            problems,
        )
        source = distances
    else:
        distances, itemsize = np.asarray(distances), np.asarray(distances).itemsize
        if distances.ndim != 2 or distances.dtype.kind != "f":
            problems.append(f"distances are {distances.dtype} {distances.shape}, not floating (queries, gallery)")
        labels = _Labels.read(
            len(distances) if distances.ndim else 0,
            distances.shape[1] if distances.ndim == 2 else 0,
            (query_ids, gallery_ids, query_cameras, gallery_cameras, gallery_is_query),
            problems,
        )
        source = distances.__getitem__

    def checked(block: slice) -> np.ndarray:
        rows = np.asarray(source(block))
        wanted = (block.stop - block.start, len(labels.gallery_ids))
        if rows.shape != wanted:
            raise BadData("distances", why=f"queries {block.start} to {block.stop} gave {rows.shape}, not {wanted}")
        bad = np.flatnonzero(np.isnan(rows).any(axis=1)) + block.start
        if len(bad):
            raise BadData("distances", why=f"NaN for {listing(f'query {row}' for row in bad)}")
        return rows

    return _sweep(checked, _closer_by_numpy(threads), labels, itemsize)


def read_labels(query: Features, gallery: Features, given: Sequence[Features | None]) -> "_Labels":
    """Ids, cameras and, unless None, `gallery_is_query`, checked against the features and each other.

    Raises `BadData` that lists every wrong shape, length and kind.
    """
    problems = [
        f"{name} has the shape {tuple(np.shape(features))}, not (rows, features)"
        for name, features in (("query_features", query), ("gallery_features", gallery))
        if len(np.shape(features)) != 2
    ]
    if not problems and query.shape[1] != gallery.shape[1]:
        problems.append(f"queries have {query.shape[1]} features, the gallery {gallery.shape[1]}")
    return _Labels.read((np.shape(query) or (0,))[0], (np.shape(gallery) or (0,))[0], given, problems)


@dataclass(frozen=True, slots=True)
class _Labels:
    """Who is who: (Q,) and (G,) int64, and (G,) bool or None."""

    query_ids: np.ndarray
    gallery_ids: np.ndarray
    query_cameras: np.ndarray
    gallery_cameras: np.ndarray
    gallery_is_query: np.ndarray | None

    @classmethod
    def read(cls, queries: int, gallery: int, given: Sequence[Features | None], problems: list[str]) -> "_Labels":
        """Check the labels, and raise everything that is wrong with them together with earlier `problems`."""
        names = ("query_ids", "gallery_ids", "query_cameras", "gallery_cameras", "gallery_is_query")
        arrays: list[np.ndarray | None] = []
        for name, values, kinds in zip(names, given, ("iu", "iu", "iu", "iu", "b"), strict=True):
            if values is None:
                arrays.append(None)
                continue
            array = as_numpy(values)
            length = queries if name.startswith("query") else gallery
            if array.dtype.kind not in kinds:
                problems.append(f"{name} are {array.dtype}, not {'bool' if kinds == 'b' else 'integers'}")
            elif array.shape != (length,):
                problems.append(f"{name} has the shape {array.shape}, not ({length},)")
            else:
                array = array.astype(bool if kinds == "b" else np.int64, copy=False)
            arrays.append(array)
        if not problems and (queries == 0 or gallery == 0):
            problems.append(f"{queries} queries and {gallery} gallery items leave nothing to rank")
        if problems:
            raise BadData("ranking", why=listing(problems))
        return cls(*arrays)


def _sweep(
    distances: Callable[[slice], Any],
    closer: Callable[[Any, list[np.ndarray], np.ndarray, np.ndarray], np.ndarray],
    labels: _Labels,
    itemsize: int = 4,
) -> Ranking:
    """Take the distances of one block of queries after the other, and score both galleries from them."""
    queries, gallery = len(labels.query_ids), len(labels.gallery_ids)
    kept = labels.gallery_ids != JUNK
    if labels.gallery_is_query is None:
        parts = [np.flatnonzero(kept)]
    else:
        parts = [np.flatnonzero(kept & ~labels.gallery_is_query), np.flatnonzero(kept & labels.gallery_is_query)]

    items = np.flatnonzero(kept)
    items = items[np.argsort(labels.gallery_ids[items], kind="stable")]
    ids = labels.gallery_ids[items]
    first = np.searchsorted(ids, labels.query_ids, side="left")
    same_person = np.searchsorted(ids, labels.query_ids, side="right") - first

    whole, reduced = _Scores(queries), _Scores(queries)
    rows_a_block = min(
        BLOCK_ROWS, max(1, BLOCK_BYTES // (gallery * itemsize)), max(1, BLOCK_PAIRS // max(1, same_person.max()))
    )
    for start in range(0, queries, rows_a_block):
        block = slice(start, min(start + rows_a_block, queries))
        counts = same_person[block]
        rows = np.repeat(np.arange(len(counts)), counts)
        columns = items[np.arange(counts.sum()) + np.repeat(first[block] - np.cumsum(counts) + counts, counts)]
        ignored = labels.gallery_cameras[columns] == labels.query_cameras[block][rows]
        before = closer(distances(block), parts, rows, columns)
        whole.add(block, rows, ignored, before.sum(axis=1))
        if labels.gallery_is_query is not None:
            stay = ~labels.gallery_is_query[columns]
            reduced.add(block, rows[stay], ignored[stay], before[stay, 0])

    length = max(gallery, SHORTEST_CMC)
    without = None if labels.gallery_is_query is None else reduced.ranking(length, len(parts[0]))
    return whole.ranking(length, len(items), without)


class _Scores:
    """What is known of each query after the sweep."""

    def __init__(self, queries: int):
        self.average_precision = np.full(queries, np.nan)
        self.average_precision_official = np.full(queries, np.nan)
        self.first_match_rank = np.zeros(queries, np.int64)

    def add(self, block: slice, rows: np.ndarray, ignored: np.ndarray, before: np.ndarray) -> None:
        """Score the queries of a block.

        Over all P pairs of a query and a gallery item of its person: `rows` (P,) the query within the block,
        `ignored` (P,) bool whether the camera is the same, `before` (P,) how many items stand before this one.
        """
        order = np.lexsort((before, rows))
        rows, ignored, before = rows[order], ignored[order], before[order]
        passed = np.concatenate(([0], np.cumsum(ignored)))[:-1]
        rank = 1 + before - (passed - passed[np.searchsorted(rows, rows)])

        rows, rank = rows[~ignored], rank[~ignored]
        hit = 1 + np.arange(len(rows)) - np.searchsorted(rows, rows)
        precision = hit / rank
        # Official rule: from the precision one place before the hit, which is 1 before the first place.
        trapezoid = (np.where(rank > 1, (hit - 1) / np.maximum(rank - 1, 1), 1.0) + precision) / 2

        matches = np.bincount(rows, minlength=block.stop - block.start)
        some = matches > 0
        where = np.flatnonzero(some) + block.start
        for scores, values in (
            (self.average_precision, precision),
            (self.average_precision_official, trapezoid),
        ):
            scores[where] = np.bincount(rows, weights=values, minlength=len(matches))[some] / matches[some]
        self.first_match_rank[where] = rank[hit == 1]

    def ranking(self, length: int, gallery: int, without_queries: Ranking | None = None) -> Ranking:
        valid = self.first_match_rank > 0
        found = np.cumsum(np.bincount(self.first_match_rank[valid], minlength=length + 1)[1:]).astype(np.float64)
        return Ranking(
            cmc=found / valid.sum() if valid.any() else np.full(length, np.nan),
            cmc_official=found / len(valid),
            mAP=float(self.average_precision[valid].mean()) if valid.any() else float("nan"),
            mAP_official=float(self.average_precision_official[valid].sum() / len(valid)),
            average_precision=self.average_precision,
            average_precision_official=self.average_precision_official,
            first_match_rank=self.first_match_rank,
            queries=len(valid),
            valid_queries=int(valid.sum()),
            gallery=gallery,
            without_queries=without_queries,
        )


def _distances_by_numpy(query: np.ndarray, gallery: np.ndarray) -> Callable[[slice], np.ndarray]:
    """Rows of squared Euclidean distances less the query's squared norm, (B, G)."""
    squares = squared_norms(query, gallery)[1]
    buffer: list[np.ndarray] = []

    def rows(block: slice) -> np.ndarray:
        if not buffer:
            buffer.append(np.empty((block.stop - block.start, len(gallery)), gallery.dtype))
        distances = np.matmul(query[block] * gallery.dtype.type(-2), gallery.T, out=buffer[0][: len(query[block])])
        distances += squares
        return distances

    return rows


def _closer_by_numpy(threads: int | None) -> Callable[..., np.ndarray]:
    """Count, chunk of rows by chunk of rows, in threads: `np.sort` lets go of the interpreter."""
    threads = threads or _available_cores()

    def closer(
        distances: np.ndarray, parts: list[np.ndarray], rows: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:  # (B, G), parts, (P,), (P,) -> (P, parts)
        starts = np.arange(0, len(distances), CHUNK_ROWS)
        bounds = np.searchsorted(rows, [*starts, len(distances)])

        def chunk(i: int) -> np.ndarray:
            pairs = slice(bounds[i], bounds[i + 1])
            top = starts[i]
            return _closer_in_rows(distances[top : top + CHUNK_ROWS], parts, rows[pairs] - top, columns[pairs])

        if threads == 1:
            return np.concatenate([chunk(i) for i in range(len(starts))])
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(chunk, range(len(starts)))))

    return closer


def _closer_in_rows(
    distances: np.ndarray, parts: list[np.ndarray], rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """How many items of each part of the gallery stand before the item `columns[p]` in the ranking of `rows[p]`.

    (B, G) distances; parts are increasing columns; rows (P,) ascending; -> (P, parts) int64. An item stands before
    another when it is nearer, or as near and of a lower column.
    """
    counts = np.empty((len(rows), len(parts)), np.int64)
    if not len(rows):
        return counts
    value = distances[rows, columns]
    bounds = np.searchsorted(rows, np.arange(len(distances) + 1))
    for number, part in enumerate(parts):
        width = len(part)
        if width == 0:
            counts[:, number] = 0
            continue
        everything = width == distances.shape[1]
        ordered = distances.copy() if everything else distances.take(part, axis=1)
        ordered.sort(axis=1)
        below = counts[:, number]
        for row, start, stop in zip(ordered, bounds[:-1], bounds[1:], strict=True):
            below[start:stop] = row.searchsorted(value[start:stop])

        lower_columns = np.searchsorted(part, columns)
        in_part = part[np.minimum(lower_columns, width - 1)] == columns
        after_itself = below + in_part
        tied = (after_itself < width) & (ordered[rows, np.minimum(after_itself, width - 1)] == value)
        for pair in np.flatnonzero(tied):
            lower = slice(lower_columns[pair]) if everything else part[: lower_columns[pair]]
            below[pair] += np.count_nonzero(distances[rows[pair], lower] == value[pair])
    return counts


def _distances_by_torch(query: Features, gallery: Features, device: str) -> "Callable[[slice], torch.Tensor]":
    """`_distances_by_numpy` on a device."""
    import torch

    both = [torch.as_tensor(features) for features in (query, gallery)]
    precision = torch.float64 if torch.float64 in (both[0].dtype, both[1].dtype) else torch.float32
    queries, items = (features.detach().to(device, precision) for features in both)
    squares = [features.square().sum(dim=1) for features in (queries, items)]
    _require_finite(*(values.cpu().numpy() for values in squares))
    return lambda block: torch.addmm(squares[1], queries[block], items.T, alpha=-2)


def _closer_by_torch(
    distances: "torch.Tensor", parts: list[np.ndarray], rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """`_closer_in_rows` on a device, where sorting with indices is quick."""
    import torch

    device = distances.device
    row, column = torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)
    order = torch.argsort(distances, dim=1, stable=True)  # (B, G)
    places = torch.arange(order.shape[1], device=device).expand_as(order)
    place = torch.empty_like(order).scatter_(1, order, places)[row, column]  # (P,)
    counts = []
    for part in parts:
        member = torch.zeros(order.shape[1], dtype=torch.int32, device=device)
        member[torch.as_tensor(part, device=device)] = 1
        counts.append(member[order].cumsum(dim=1)[row, place] - member[column])
    return torch.stack(counts, dim=1).cpu().numpy()


@contextmanager
def _full_float32_precision():
    """No TF32 and no autocast: both would reorder near neighbours."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _device_of(query: Features, gallery: Features, device: str | None) -> str:
    if device is not None:
        return str(device)
    devices = sorted({str(getattr(features, "device", "cpu")) for features in (query, gallery)} - {"cpu"})
    return devices[0] if devices else "cpu"


def as_numpy(values: Features) -> np.ndarray:
    """An array or tensor, on any device and of any precision, as a numpy array (bfloat16 as float32)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        return values.numpy()
    return np.asarray(values)


def same_precision(query: Features, gallery: Features) -> tuple[np.ndarray, np.ndarray]:
    """Both as numpy arrays: float64 when either is, else float32."""
    arrays = as_numpy(query), as_numpy(gallery)
    precision = np.float64 if np.float64 in (arrays[0].dtype, arrays[1].dtype) else np.float32
    return arrays[0].astype(precision, copy=False), arrays[1].astype(precision, copy=False)


def squared_norms(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|q|^2 (Q,) and |g|^2 (G,). Raises `BadData` for features that are not finite or overflow when squared."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("qd,qd->q", query, query), np.einsum("gd,gd->g", gallery, gallery)
    _require_finite(*squares)
    return squares


def squared_distances(
    query: np.ndarray, gallery: np.ndarray, query_squares: np.ndarray, gallery_squares: np.ndarray
) -> np.ndarray:
    """|q - g|^2 (Q, G), never negative, of features and their `squared_norms`."""
    distances = (query * query.dtype.type(-2)) @ gallery.T
    distances += gallery_squares
    distances += query_squares[:, None]
    return np.maximum(distances, 0, out=distances)


def _require_finite(query_squares: np.ndarray, gallery_squares: np.ndarray) -> None:
    # |q - g|^2 <= 4 max(|q|^2, |g|^2): what stays below a quarter of the range cannot overflow.
    most = np.finfo(gallery_squares.dtype).max / 4
    problems = [
        f"{name} row {row} is not finite or too large to be squared"
        for name, squares in (("query_features", query_squares), ("gallery_features", gallery_squares))
        for row in np.flatnonzero(~(squares <= most))
    ]
    if problems:
        raise BadData("ranking", why=listing(problems), remedy="Extract the features again, L2-normalised")


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
