"""Thresholds against all pairs written out; bootstrap intervals against what theory says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amem_cli.errors import BadData, UsageError
from amem_cli.metrics import calibration as verification
from amem_cli.metrics.calibration import bootstrap_interval, calibrate


def pairs(query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras):
    genuine, impostor = [], []
    for q in range(len(query)):
        for g in range(len(gallery)):
            if query_ids[q] <= 0 or gallery_ids[g] == -1:
                continue
            distance = ((query[q] - gallery[g]) ** 2).sum()
            if query_ids[q] != gallery_ids[g]:
                impostor.append(distance)
            elif query_cameras[q] != gallery_cameras[g]:
                genuine.append(distance)
    return np.array(genuine), np.array(impostor)


def test_by_hand():
    # Query at 0. Impostors (ids 2 and the distractor 0) at distances 1, 4, 9, 16; genuine at 0.25, 4, 25.
    # Left out: junk at 0, the same person in the same camera at 0.
    gallery = np.array([[1], [2], [3], [4], [0.5], [2], [5], [0], [0]], np.float32)
    ids, cameras = [2, 2, 0, 2, 1, 1, 1, -1, 1], [2, 1, 2, 2, 2, 3, 2, 2, 1]

    def at(rate):
        return calibrate(np.zeros((1, 1), np.float32), gallery, [1], ids, [1], cameras, false_match_rate=rate)

    result = at(0.25)  # one of four impostors may match: those below the second impostor, at 4
    assert (result.threshold, result.false_match_rate) == (4, 0.25)
    assert result.true_match_rate == pytest.approx(1 / 3)
    assert (result.genuine_pairs, result.impostor_pairs) == (3, 4)
    assert at(0.0).threshold == 1
    assert at(0.49).threshold == 4
    assert at(0.5).true_match_rate == pytest.approx(2 / 3)
    everything = at(1.0)
    assert (everything.threshold, everything.false_match_rate, everything.true_match_rate) == (np.inf, 1, 1)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from([1, 4, 512]), st.sampled_from([2, 40]))
def test_agrees_with_all_pairs_written_out(seed, rate, block_rows, largest):
    rng = np.random.default_rng(seed)
    query, gallery = (rng.integers(0, largest, (n, 2)).astype(np.float32) for n in (9, 25))
    labels = (rng.integers(-1, 5, 9), rng.integers(-1, 5, 25), rng.integers(1, 3, 9), rng.integers(1, 3, 25))
    genuine, impostor = pairs(query, gallery, *labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "BLOCK_ROWS", block_rows)
        if len(genuine) == 0 or len(impostor) == 0:
            with pytest.raises(BadData):
                calibrate(query, gallery, *labels, false_match_rate=rate)
            return
        result = calibrate(query, gallery, *labels, false_match_rate=rate)
    assert (result.genuine_pairs, result.impostor_pairs) == (len(genuine), len(impostor))
    assert result.false_match_rate == np.mean(impostor < result.threshold) <= rate + 1e-6
    assert result.true_match_rate == np.mean(genuine < result.threshold)
    # The largest such threshold: one that lets the impostors at `threshold` match as well breaks the rate.
    assert np.isinf(result.threshold) or np.mean(impostor <= result.threshold) > rate


def test_bad_input():
    one = np.zeros((1, 2), np.float32)
    with pytest.raises(UsageError, match=r"1\.5"):
        calibrate(one, one, [1], [2], [1], [2], false_match_rate=1.5)
    with pytest.raises(BadData, match="no pair of different people"):
        calibrate(one, one, [1], [1], [1], [2], false_match_rate=0.1)
    with pytest.raises(BadData, match="no person is seen by two cameras"):
        calibrate(one, one, [1], [2], [1], [2], false_match_rate=0.1)
    with pytest.raises(BadData, match="the gallery 1"):
        calibrate(one, one[:, :1], [1], [2], [1], [2], false_match_rate=0.1)


class TestBootstrap:
    def test_close_to_the_normal_approximation(self):
        values = np.random.default_rng(0).random(2000) < 0.8
        low, high = bootstrap_interval(values, seed=1)
        mean, deviation = values.mean(), values.std() / np.sqrt(len(values))
        assert low == pytest.approx(mean - 1.96 * deviation, abs=0.2 * deviation)
        assert high == pytest.approx(mean + 1.96 * deviation, abs=0.2 * deviation)

    def test_the_same_seed_gives_the_same_interval(self):
        values = np.random.default_rng(0).random(50)
        assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
        assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)

    def test_a_lower_level_is_narrower(self):
        values = np.random.default_rng(0).random(50)
        wide, narrow = bootstrap_interval(values, 0, level=0.95), bootstrap_interval(values, 0, level=0.5)
        assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]

    def test_queries_without_a_match_are_left_out(self):
        values = np.random.default_rng(0).random(30)
        assert bootstrap_interval(np.append(values, [np.nan] * 9), 0) == bootstrap_interval(values, 0)

    def test_no_spread(self):
        assert bootstrap_interval(np.ones(10), 0) == (1, 1)

    def test_bad_input(self):
        with pytest.raises(BadData, match="no query"):
            bootstrap_interval(np.array([np.nan]), 0)
        with pytest.raises(UsageError):
            bootstrap_interval(np.ones(3), 0, level=1.0)
        with pytest.raises(UsageError):
            bootstrap_interval(np.ones(3), 0, resamples=0)
