"""Bootstrap confidence intervals over queries."""

import numpy as np

from amem_cli.errors import BadData
from amem_cli.randomness import keyed_generator


def bootstrap_interval(per_query_values: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    """(low, high), 95 %, of the percentile bootstrap for the mean of `per_query_values` (Q,): the choice of queries
    varies, not the training. NaN (a query without a match) is left out; raises `BadData` when no value is left. The
    draws are keyed by `seed`, so two measures over equally many queries get the same.

    >>> bootstrap_interval(np.array([1.0, 1.0, np.nan]), seed=0, resamples=1000)
    (1.0, 1.0)
    """
    values = np.asarray(per_query_values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        raise BadData("bootstrap", why="no query has a value")
    generator = keyed_generator(seed, "bootstrap")
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
