"""Confidence intervals over queries and over splits."""

import numpy as np

from amem_cli.randomness import keyed_generator


def bootstrap_interval(per_query_values: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    """(low, high), 95 %, of the percentile bootstrap for the mean of `per_query_values` (Q,), of the queries with a
    match: the choice of queries varies, not the training. The draws are keyed by `seed`, so two measures over equally
    many queries get the same.

    >>> bootstrap_interval(np.array([1.0, 1.0]), seed=0, resamples=1000)
    (1.0, 1.0)
    """
    values = np.asarray(per_query_values, dtype=np.float64)
    generator = keyed_generator(seed, "bootstrap")
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def query_interval(per_query_values: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    """`bootstrap_interval`, but where all queries have 0, or all have 1, which resampling cannot vary, the exact
    interval of Clopper and Pearson (1934) for a fraction of Q.

    >>> low, high = query_interval(np.ones(10), seed=0, resamples=1000)
    >>> round(low, 3), high
    (0.692, 1.0)
    """
    values = np.asarray(per_query_values, dtype=np.float64)
    if (values == values[0]).all() and values[0] in (0, 1):
        beyond = 1 - 0.025 ** (1 / len(values))
        return (0.0, beyond) if values[0] == 0 else (1 - beyond, 1.0)
    return bootstrap_interval(values, seed, resamples)
