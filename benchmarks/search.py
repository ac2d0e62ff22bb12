"""Exact search over a million tracklets: seconds a query, alone and in batches of 64, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/search.py [ROWS] [FILE.h5]

Writes a features file of random rows (ROWS x 512, 2 GB for a million) unless FILE.h5 exists.
"""

import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from amem_cli.video.gallery import Gallery

WIDTH, BLOCK, QUERIES, BATCH, TOP = 512, 50_000, 5, 64, 10


def write_rows(path: Path, rows: int) -> None:
    """A features file of another program: without checksum, in blocks, so that memory stays small."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs.update({"kind": "amem-features", "schema": 1, "dataset": "random", "created_by": "benchmark"})
        file.create_dataset("tracklet", data=[f"a/{row}" for row in range(rows)], dtype=h5py.string_dtype())
        file["camera_id"], file["is_query"] = np.ones(rows, np.int64), np.zeros(rows, bool)
        column = file.create_dataset("features", (rows, WIDTH), np.float32)
        for start in range(0, rows, BLOCK):
            values = generator.normal(size=(min(BLOCK, rows - start), WIDTH)).astype(np.float32)
            column[start : start + BLOCK] = values / np.linalg.norm(values, axis=1, keepdims=True)


def main(rows: int, path: Path) -> dict[str, float]:
    """Seconds to open the file, and a query alone and in a batch."""
    if not path.exists():
        write_rows(path, rows)
    began = time.perf_counter()
    gallery = Gallery([path])
    figures = {"rows": len(gallery), "open": time.perf_counter() - began}
    queries = np.random.default_rng(1).normal(size=(BATCH, WIDTH)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    gallery.nearest(queries[:1], TOP)
    alone = []
    for query in queries[:QUERIES]:
        began = time.perf_counter()
        gallery.nearest(query[None], TOP)
        alone.append(time.perf_counter() - began)
    figures["alone"] = float(np.median(alone))
    began = time.perf_counter()
    gallery.nearest(queries, TOP)
    figures["in_batch"] = (time.perf_counter() - began) / BATCH
    return figures


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
        for name, value in main(count, Path(sys.argv[2] if sys.argv[2:] else f"{folder}/rows.h5")).items():
            print(f"{name}: {value:.4g}")
