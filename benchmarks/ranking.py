"""CMC and mAP: amem's evaluator and the baselines, on random features in the size of MARS.

Every method starts from features and ends with rank-1 and mAP, which must agree. Memory is the peak of the process
above its inputs (Linux). torchreid's evaluators are measured if there is a checkout (`peers.py`) or an installed
`torchreid`, the Cython one if it is compiled.
"""

import contextlib
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from peers import torchreid_rank
from timing import Method, check_agreement, take_turns

from amem_cli.metrics.ranking import evaluate_ranking


def random_inputs(queries: int, gallery: int, dim: int) -> tuple[np.ndarray, ...]:
    """Features that often find their person; 18 gallery items per person over six cameras, as in MARS."""
    rng = np.random.default_rng(0)
    people = max(1, gallery // 18)
    ids = [rng.integers(1, people + 1, count) for count in (queries, gallery)]
    cameras = [rng.integers(1, 7, count) for count in (queries, gallery)]
    centres = rng.standard_normal((people + 1, dim), dtype=np.float32)
    features = []
    for person in ids:
        rows = 3 * rng.standard_normal((len(person), dim), dtype=np.float32)
        rows += centres[person]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        features.append(rows)
    return (*features, *ids, *cameras)


def amem(*inputs: np.ndarray) -> tuple[float, float]:
    result = evaluate_ranking(*inputs)
    return result.cmc[0], result.mAP


def distance_matrix(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    return (query**2).sum(1)[:, None] + (gallery**2).sum(1) - 2 * query @ gallery.T


def brute_force(query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras) -> tuple[float, float]:
    """One argsort per query, the rest in NumPy."""
    first, precisions = [], []
    for row, person, camera in zip(distance_matrix(query, gallery), query_ids, query_cameras, strict=True):
        order = np.argsort(row, kind="stable")
        same = gallery_ids[order] == person
        hits = same[~(same & (gallery_cameras[order] == camera))]
        if hits.any():
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            precisions.append(precision[hits].mean())
            first.append(hits[0])
    return float(np.mean(first)), float(np.mean(precisions))


def torchreid(cython: bool, peers: str, query, gallery, *labels) -> tuple[float, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        distances = distance_matrix(query, gallery)
        cmc, mean = torchreid_rank(peers).evaluate_rank(distances, *labels, use_cython=cython)
    return float(cmc[0]), float(mean)


def methods(peers: str) -> tuple[dict[str, Callable[..., tuple[float, float]]], list[str]]:
    """The methods that can run here, and notes about the others."""
    found: dict[str, Callable[..., tuple[float, float]]] = {"amem": amem, "brute force": brute_force}
    try:
        compiled = torchreid_rank(peers).IS_CYTHON_AVAI
    except ImportError as error:
        return found, [f"torchreid was not measured: {error}"]
    found["torchreid Python"] = partial(torchreid, False, peers)
    if not compiled:
        return found, ["torchreid Cython was not measured: its extension is not compiled"]
    return found | {"torchreid Cython": partial(torchreid, True, peers)}, []


def make(method: Callable[..., tuple[float, float]], size: tuple[int, int, int]) -> Callable[[], tuple[float, float]]:
    inputs = random_inputs(*size)
    return lambda: method(*inputs)


def run(runs: int, peers: str = "", size: tuple[int, int, int] = (1980, 11310, 512)) -> dict[str, Any]:
    """For each method median `seconds`, `memory` in bytes, `rank1` and `mAP`; and `notes`.

    `size` is (queries, gallery, dimensions). Raises `ValueError` if two methods disagree.
    """
    found, notes = methods(peers)
    sides = {name: Method(make, (method, size), allocator=name == "amem") for name, method in found.items()}
    timed = take_turns(sides, runs)
    check_agreement({name: side.result for name, side in timed.items()}, 1e-4)
    rows = {}
    for name, side in timed.items():
        rank1, mean = side.result
        rows[name] = {"seconds": side.medians[0], "memory": side.memory, "rank1": rank1, "mAP": mean}
    return {"size": list(size), "runs": runs, "methods": rows, "notes": notes}
