"""CMC and mAP: our evaluator beside the usual ways, on random features with MARS's shape.

    python benchmarks/ranking.py [--queries 1980] [--gallery 11310] [--dim 512] [--runs 3] [--only NAME ...]

Every way has a process of its own, starts from features and ends with rank-1 and mAP at hits, which must agree. Runs
are interleaved and the median is printed; memory is the growth of a process beyond its inputs at its peak (Linux).
torchreid's evaluators take part where `torchreid` can be imported, its Cython one where that is compiled.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from interleaved import Way, take_turns

from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.runtime.allocator import keep_freed_memory

Evaluator = Callable[..., tuple[float, float]]  # inputs -> rank-1, mAP


def made(queries: int, gallery: int, dim: int) -> tuple[np.ndarray, ...]:
    """Features that find their person often but not always, at MARS's 18 items a person over six cameras."""
    rng = np.random.default_rng(0)
    people = max(1, gallery // 18)
    ids = [rng.integers(1, people + 1, count) for count in (queries, gallery)]
    cameras = [rng.integers(1, 7, count) for count in (queries, gallery)]
    centres = rng.standard_normal((people + 1, dim), dtype=np.float32)
    features = []
    for person in ids:
        rows = np.empty((len(person), dim), np.float32)
        for start in range(0, len(rows), 1024):
            block = rows[start : start + 1024]
            rng.standard_normal(out=block, dtype=np.float32)
            block *= 3
            block += centres[person[start : start + 1024]]
            block /= np.linalg.norm(block, axis=1, keepdims=True)
        features.append(rows)
    return (*features, *ids, *cameras)


def ours(*inputs: np.ndarray) -> tuple[float, float]:
    result = evaluate_ranking(*inputs)
    return result.cmc[0], result.mAP


def distance_matrix(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    return (query**2).sum(1)[:, None] + (gallery**2).sum(1) - 2 * query @ gallery.T


def brute_force(query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras) -> tuple[float, float]:
    """An argsort a query, the rest in numpy: the usual Python at its best."""
    distances = distance_matrix(query, gallery)
    first, precisions = [], []
    for row, person, camera in zip(distances, query_ids, query_cameras, strict=True):
        order = np.argsort(row, kind="stable")
        same = gallery_ids[order] == person
        hits = same[~(same & (gallery_cameras[order] == camera))]
        if not hits.any():
            continue
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        precisions.append(precision[hits].mean())
        first.append(hits[0])
    return float(np.mean(first)), float(np.mean(precisions))


def of_torchreid(cython: bool) -> Evaluator:
    module = torchreid_rank()

    def way(query, gallery, *labels) -> tuple[float, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            cmc, mean = module.evaluate_rank(distance_matrix(query, gallery), *labels, use_cython=cython)
        return float(cmc[0]), float(mean)

    return way


def torchreid_rank():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return import_module("torchreid.metrics.rank")
        except ModuleNotFoundError:
            return import_module("torchreid.reid.metrics.rank")  # where the package index's fork keeps it


def ways() -> tuple[dict[str, Callable[[], Evaluator]], list[str]]:
    """How to get each way that can run here, and a line for each that cannot."""
    found: dict[str, Callable[[], Evaluator]] = {"amem": lambda: ours, "brute force": lambda: brute_force}
    try:
        module = torchreid_rank()
    except ImportError as error:
        return found, [f"torchreid is left out: {error}"]
    found["torchreid Python"] = lambda: of_torchreid(cython=False)
    if not module.IS_CYTHON_AVAI:
        return found, ["torchreid Cython is left out: its extension is not compiled"]
    found["torchreid Cython"] = lambda: of_torchreid(cython=True)
    return found, []


def memory_of(name: str, size: tuple[int, int, int], answer) -> None:
    if name == "amem":
        keep_freed_memory()
    inputs = made(*size)
    way = ways()[0][name]()
    before = resident("VmRSS")
    way(*inputs)
    answer.put(resident("VmHWM") - before)


def resident(field: str) -> int:
    """Bytes from Linux's own account of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def peak_memory(name: str, size: tuple[int, int, int]) -> int | None:
    """Bytes that a way needs beyond its inputs; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=memory_of, args=(name, size, answer))
    process.start()
    process.join()
    return answer.get() if process.exitcode == 0 else None


def prepared(name: str, size: tuple[int, int, int]) -> Callable[[], tuple[float, float]]:
    """What is timed, in a process of its own: one of `ways` on the inputs that all have."""
    inputs, way = made(*size), ways()[0][name]()
    return lambda: way(*inputs)


def check_agreement(results: dict[str, tuple[float, float]]) -> None:
    """Raise `ValueError` when two ways give other rates."""
    first, reference = next(iter(results.items()))
    for name, result in results.items():
        if not np.allclose(result, reference, atol=1e-4):
            raise ValueError(f"{name} gives {result}, {first} {reference}")


def run(size: tuple[int, int, int] = (1980, 11310, 512), runs: int = 3, only: Sequence[str] = ()) -> dict[str, Any]:
    """Every way (or `only` these), interleaved: by way median `seconds`, `memory` in bytes, `rank1` and `mAP`; `notes`.

    `size` is (queries, gallery, dimensions). Raises `ValueError` when two ways disagree.
    """
    available, notes = ways()
    sides = {
        name: Way(prepared, (name, size), as_in_amem=name == "amem") for name in available if not only or name in only
    }
    timed = take_turns(sides, runs, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    check_agreement({name: side.first for name, side in timed.items()})
    rows = {}
    for name, side in timed.items():
        rank1, mean = side.first
        rows[name] = {"seconds": side.medians[0], "memory": peak_memory(name, size), "rank1": rank1, "mAP": mean}
    return {"size": list(size), "runs": runs, "ways": rows, "notes": notes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1980)
    parser.add_argument("--gallery", type=int, default=11310)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="names of ways, as the table prints them")
    options = parser.parse_args()
    found = run((options.queries, options.gallery, options.dim), options.runs, options.only)

    print(f"{options.queries} queries x {options.gallery} gallery items x {options.dim} features, {options.runs} runs")
    print(f"{'':18} {'seconds':>9} {'to amem':>8} {'memory':>9} {'rank-1':>8} {'mAP':>8}")
    for name, row in found["ways"].items():
        ratio = f"{row['seconds'] / found['ways']['amem']['seconds']:.1f}" if "amem" in found["ways"] else "-"
        memory = "-" if row["memory"] is None else f"{row['memory'] / 1e6:.0f} MB"
        print(f"{name:18} {row['seconds']:9.3f} {ratio:>8} {memory:>9} {row['rank1']:8.4f} {row['mAP']:8.4f}")
    for note in found["notes"]:
        print(note)


if __name__ == "__main__":
    main()
