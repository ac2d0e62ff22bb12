"""Bootstrap confidence intervals over queries."""

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
