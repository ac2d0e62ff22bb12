"""Ranks and mAP as other code bases count them: the same distances, other galleries, denominators and definitions."""

from typing import Any, Literal, NamedTuple

import numpy as np

from amem_cli.metrics.distances import distance_blocks
from amem_cli.metrics.ranking import SHORTEST_CMC, Ranking, evaluate_ranking
from amem_cli.person_ids import JUNK

RANKS = (1, 5, 10, 20)
BLOCK_VALUES = 2**23  # distances of a block of queries


class Convention(NamedTuple):
    """How a code base counts. `queries_stay`: the gallery keeps the queries; `MARS`: on this data set alone.

    `all_queries`: sums are divided by all queries, not by those with a match. `cmc` is the fraction of the queries
    whose first match is among the k nearest; or of all matches with fewer than k wrong items before them; or of draws
    of one item per person in the other cameras, here their expectation.
    """

    code_base: str
    why: str
    queries_stay: Literal["always", "MARS", "never"] = "never"
    all_queries: bool = False
    average_precision: Literal["hits", "trapezoids"] = "hits"
    cmc: Literal["first match", "every match", "one per person"] = "first match"


CONVENTIONS = (
    Convention(
        "official MATLAB",
        "the queries are rows of the test table, which is the gallery; trapezoids of the precision, from 1 on; sums "
        "over all queries (one without a match makes the mAP NaN there and adds 0 here)",
        "MARS", True, "trapezoids",
    ),
    Convention("torchreid", "its MARS takes the queries out of the gallery and drops the 140 then without a match"),
    Convention("fast-reid", "torchreid's rules; its data sets are of images with the queries in their own folder"),
    Convention("Video-Person-ReID", "torchreid's lists and rules; there features are compared without normalisation"),
    Convention("AP3D", "on MARS the queries are put back before the gallery, so that all have a match", "MARS"),
    Convention(
        "TF-CLIP",
        "queries and gallery together are the gallery, on every data set; the epoch is the best on the test people",
        "always",
    ),
    Convention(
        "KeyRe-ID",
        "torchreid's lists and rules, features without normalisation; the epoch is the best on the test people",
    ),
    Convention("open-reid market1501", "its data sets are of images; the rules of Market-1501"),
    Convention(
        "open-reid allshots",
        "every match counts: the fraction of a query's matches with fewer than k wrong items before them",
        cmc="every match",
    ),
    Convention(
        "open-reid cuhk03",
        "single-gallery-shot: one item of each person is drawn, other cameras alone; here the mean over all draws",
        cmc="one per person",
    ),
)  # fmt: skip


def count_by_conventions(
    features: np.ndarray, people: np.ndarray, cameras: np.ndarray, is_query: np.ndarray, *, mars: bool,
    device: str | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row of figures for each of `CONVENTIONS`, over the test rows (N, D) and their (N,) labels.

    `mars`: the queries may stay in the gallery, as on MARS. A row has `rank`, `mAP`, the numbers of `queries` and
    `gallery` items they are over, and the convention. A gallery without any match gives None.
    """
    query = np.flatnonzero(is_query)
    labels = (people[query], people, cameras[query], cameras)
    kept = evaluate_ranking(features[query], features, *labels, gallery_is_query=is_query, device=device)
    removed = kept.without_queries
    assert removed is not None
    rows = []
    for convention in CONVENTIONS:
        stay = convention.queries_stay == "always" or (convention.queries_stay == "MARS" and mars)
        ranking = kept if stay else removed
        number = ranking.queries if convention.all_queries else ranking.valid_queries
        row: dict[str, Any] = {"code_base": convention.code_base, "rank": None, "mAP": None}
        if ranking.valid_queries:
            cmc = _cmc(convention, ranking, features, labels, is_query)
            average = ranking.average_precision
            if convention.average_precision == "trapezoids":
                average = ranking.average_precision_official
            row["rank"] = {str(k): float(cmc[k - 1]) for k in RANKS}
            row["mAP"] = float(np.nansum(average) / number)
        row |= {"queries": number, "gallery": ranking.gallery, "queries_in_gallery": stay}
        rows.append(
            row | {name: getattr(convention, name) for name in ("all_queries", "average_precision", "cmc", "why")}
        )
    return rows


def _cmc(
    convention: Convention, ranking: Ranking, features: np.ndarray, labels: Any, is_query: np.ndarray
) -> np.ndarray:
    if convention.cmc == "one per person":
        query_people, people, query_cameras, cameras = labels
        people = np.where(is_query, JUNK, people)
        return one_per_person_cmc(features[is_query], features, query_people, people, query_cameras, cameras)
    if convention.cmc == "every match":
        return ranking.cmc_every_match
    return ranking.cmc_official if convention.all_queries else ranking.cmc


def one_per_person_cmc(
    query: np.ndarray, gallery: np.ndarray, query_people: np.ndarray, people: np.ndarray,
    query_cameras: np.ndarray, cameras: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """The expected CMC (20,) when one item of each person is drawn from the cameras that are not the query's.

    The drawn match is closer than the item of another person with a probability, the fraction of that person's items
    that are closer; the number of closer people is a sum of independent draws. Queries without a match are left out,
    and so is junk in the gallery.
    """
    total, valid = np.zeros(SHORTEST_CMC), 0
    for camera in np.unique(query_cameras):
        items = np.flatnonzero((cameras != camera) & (people != JUNK))
        items = items[np.argsort(people[items], kind="stable")]
        known, starts, counts = np.unique(people[items], return_index=True, return_counts=True)
        chosen = np.flatnonzero((query_cameras == camera) & np.isin(query_people, known))
        valid += len(chosen)
        if not len(chosen):
            continue
        distances = distance_blocks(query[chosen], gallery, "cpu")
        places = np.searchsorted(known, query_people[chosen])
        step = max(1, BLOCK_VALUES // len(items))
        for start in range(0, len(chosen), step):
            block = slice(start, min(start + step, len(chosen)))
            fractions = []
            for row, place in zip(distances(block)[:, items], places[block], strict=True):
                matches = slice(starts[place], starts[place] + counts[place])
                limits, order = row[matches, None], items[matches, None]
                closer = (row < limits) | ((row == limits) & (items < order))  # (matches, items)
                fractions.append(np.add.reduceat(closer, starts, axis=1, dtype=np.float64) / counts)
                fractions[-1][:, place] = 0
            draws = np.concatenate([np.full(len(one), 1 / len(one)) for one in fractions])
            total += draws @ _number_of_closer(np.concatenate(fractions)).cumsum(axis=1)
    return total / valid


def _number_of_closer(probabilities: np.ndarray) -> np.ndarray:
    """(m, 20): the probability that 0, 1, ... 19 of independent events happen, from their probabilities (m, n)."""
    result = np.zeros((len(probabilities), SHORTEST_CMC))
    result[:, 0] = 1
    for event in probabilities.T[probabilities.any(axis=0)]:
        happens = result[:, :-1] * event[:, None]
        result *= 1 - event[:, None]
        result[:, 1:] += happens
    return result
