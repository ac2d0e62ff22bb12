"""Squared Euclidean distances between query and gallery features, in blocks of queries, in numpy or torch."""

from collections.abc import Callable
from typing import Any

import numpy as np

from amem_cli.errors import BadData, listing

Features = Any  # numpy.ndarray or torch.Tensor, without importing torch


def as_numpy(values: Features) -> np.ndarray:
    """An array or tensor, on any device, as a numpy array; float16 and bfloat16 tensors become float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        return values.numpy()
    return np.asarray(values)


def read_features(query: Features, gallery: Features) -> tuple[np.ndarray, np.ndarray]:
    """Both as numpy arrays (Q, D) and (G, D): float64 when either is float64, else float32. Raises `BadData` for wrong
    shapes and for no rows."""
    shapes = tuple(np.shape(query)), tuple(np.shape(gallery))
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][1] != shapes[1][1] or 0 in (shapes[0][0], shapes[1][0]):
        why = f"query features {shapes[0]} and gallery features {shapes[1]} cannot be compared"
        raise BadData("features", why=why, remedy="Give two matrices (rows, features) of the same width")
    arrays = as_numpy(query), as_numpy(gallery)
    precision = np.float64 if np.float64 in (arrays[0].dtype, arrays[1].dtype) else np.float32
    return arrays[0].astype(precision, copy=False), arrays[1].astype(precision, copy=False)


def squared_norms(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|q|^2 (Q,) and |g|^2 (G,). Raises `BadData` when a feature is not finite or a distance could overflow."""
    squares = np.einsum("qd,qd->q", query, query), np.einsum("gd,gd->g", gallery, gallery)
    # |q - g|^2 <= 4 max(|q|^2, |g|^2), so squares below a quarter of the range cannot overflow.
    largest = np.finfo(gallery.dtype).max / 4
    problems = [
        f"{name} row {row} is not finite or too large to be squared"
        for name, values in zip(("query_features", "gallery_features"), squares, strict=True)
        for row in np.flatnonzero(~(values <= largest))
    ]
    if problems:
        raise BadData("features", why=listing(problems), remedy="Extract the features again, L2-normalised")
    return squares


def squared_distances(
    query: np.ndarray, gallery: np.ndarray, query_squares: np.ndarray, gallery_squares: np.ndarray
) -> np.ndarray:
    """|q - g|^2 (Q, G), never negative, from features and their `squared_norms`."""
    distances = _without_query_squares(query, gallery, gallery_squares)
    distances += query_squares[:, None]
    return np.maximum(distances, 0, out=distances)


def _without_query_squares(query: np.ndarray, gallery: np.ndarray, gallery_squares: np.ndarray) -> np.ndarray:
    distances = (query * query.dtype.type(-2)) @ gallery.T
    distances += gallery_squares
    return distances


def distance_blocks(query: np.ndarray, gallery: np.ndarray, device: str) -> Callable[[slice], np.ndarray]:
    """A function from a slice of B queries to |q - g|^2 - |q|^2 (B, G), which ranks a row as |q - g|^2 does. The matrix
    product runs on `device`, without TF32 and autocast, which would reorder near neighbours. Equal rows of the gallery
    have equal distances."""
    rows_of = _distance_blocks(query, gallery, device)
    copies, originals = _equal_rows(gallery)
    if not len(copies):
        return rows_of

    def with_equal_columns(block: slice) -> np.ndarray:
        distances = rows_of(block)
        distances[:, copies] = distances[:, originals]
        return distances

    return with_equal_columns


def _equal_rows(gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that repeat an earlier one, and the first rows that they repeat. A matrix product adds in another order
    at the edges of its blocks, so their distances would differ by rounding."""
    beginnings = _as_bytes(gallery[:, : 8 // gallery.itemsize])  # few rows begin alike, and only those are compared
    in_order = np.sort(beginnings)
    alike = np.flatnonzero(np.isin(beginnings, in_order[1:][in_order[1:] == in_order[:-1]]))
    _, first, which = np.unique(_as_bytes(gallery[alike]), return_index=True, return_inverse=True)
    copied = first[which] != np.arange(len(alike))
    return alike[copied], alike[first[which][copied]]


def _as_bytes(rows: np.ndarray) -> np.ndarray:
    """(N, D) -> (N,): the bytes of each row as one value, a number where they are few."""
    rows = np.ascontiguousarray(rows)
    size = rows.shape[1] * rows.itemsize
    return rows.view(f"u{size}" if size in (4, 8) else f"V{size}").ravel()


def _distance_blocks(query: np.ndarray, gallery: np.ndarray, device: str) -> Callable[[slice], np.ndarray]:
    squares = squared_norms(query, gallery)[1]
    if device == "cpu":
        return lambda block: _without_query_squares(query[block], gallery, squares)

    import torch

    items, offsets = (torch.from_numpy(values).to(device) for values in (gallery, squares))

    def rows_on_device(block: slice) -> np.ndarray:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with torch.no_grad(), torch.autocast(device.partition(":")[0], enabled=False):
                queries = torch.from_numpy(query[block]).to(device)
                return torch.addmm(offsets, queries, items.T, alpha=-2).cpu().numpy()
        finally:
            torch.set_float32_matmul_precision(before)

    return rows_on_device
