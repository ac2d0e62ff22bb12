import numpy as np
import pytest

from amem_cli.metrics.intervals import bootstrap_interval, query_interval


def test_bootstrap_interval_normal_approximation():
    values = np.random.default_rng(0).random(2000) < 0.8
    mean, error = values.mean(), values.std() / np.sqrt(len(values))
    low, high = bootstrap_interval(values, seed=1, resamples=1000)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.2 * error)


def test_query_interval_where_all_values_are_equal():
    """With these rates all of 10 queries are found, or none, with probability 0.025."""
    low, high = query_interval(np.ones(10), 0, 1000)
    assert (low**10, high) == (pytest.approx(0.025), 1)
    assert query_interval(np.zeros(10), 0, 1000) == pytest.approx((0, 1 - low))
    for values in (np.full(10, 0.5), np.arange(10) / 10):
        assert query_interval(values, 0, 1000) == bootstrap_interval(values, 0, 1000)


def test_bootstrap_interval_reproducible():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, 1, 1000) == pytest.approx((0.4560121201029447, 0.6029390618130784))
    assert bootstrap_interval(values, 1, 1000) != bootstrap_interval(values, 2, 1000)


def test_bootstrap_interval_one_resample():
    low, high = bootstrap_interval(np.arange(9.0), 0, resamples=1)
    assert low == high
