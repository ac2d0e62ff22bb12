"""Tracking and linking figures by their definitions, independent of the package."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

Boxes = dict[tuple[str, int], list[tuple[int, Sequence[float]]]]  # (camera, frame): (number, left top width height)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def pairwise(truth: Sequence[int], found: Sequence[int]) -> tuple[float, float]:
    """Precision and recall of "these two tracks are one person" over all pairs of tracks."""
    pairs = list(combinations(range(len(truth)), 2))
    right = sum(truth[i] == truth[j] and found[i] == found[j] for i, j in pairs)
    return right / sum(found[i] == found[j] for i, j in pairs), right / sum(truth[i] == truth[j] for i, j in pairs)


def idf1(truth: Boxes, found: Boxes) -> float:
    """Ristani et al. 2016: 2 IDTP / (true + found boxes), with the best one-to-one assignment of numbers."""
    together: dict[tuple[int, int], int] = defaultdict(int)
    for frame, boxes in truth.items():
        for person, box in boxes:
            for number, other in found.get(frame, []):
                together[person, number] += overlap(box, other) >= 0.5
    people, numbers = sorted({p for p, _ in together}), sorted({n for _, n in together})
    counts = np.array([[together[p, n] for n in numbers] for p in people])
    right = counts[linear_sum_assignment(-counts)].sum()
    return 2 * right / (sum(map(len, truth.values())) + sum(map(len, found.values())))


def mota(truth: Boxes, found: Boxes) -> float:
    """Bernardin and Stiefelhagen 2008: 1 - (misses + false boxes + switches) / true boxes."""
    last: dict[int, int] = {}
    errors = 0
    for frame in sorted(truth.keys() | found.keys()):
        people, others = dict(truth.get(frame, [])), dict(found.get(frame, []))
        kept = [(p, n) for p, n in last.items() if p in people and n in others and overlap(people[p], others[n]) >= 0.5]
        free = [p for p in people if p not in dict(kept)], [n for n in others if n not in {n for _, n in kept}]
        scores = np.array([[overlap(people[p], others[n]) for n in free[1]] for p in free[0]]).reshape(*map(len, free))
        rest = [(free[0][i], free[1][j]) for i, j in zip(*linear_sum_assignment(-scores), strict=True)
                if scores[i, j] >= 0.5]  # fmt: skip
        errors += sum(last.get(p, n) != n for p, n in rest) + len(people) + len(others) - 2 * len(kept + rest)
        last |= dict(rest)
    return 1 - errors / sum(map(len, truth.values()))
