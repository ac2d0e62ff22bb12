import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amem_cli.errors import BadData
from amem_cli.metrics import calibration
from amem_cli.metrics.calibration import calibrate, fit_probability


def all_pairs(query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras):
    distances = ((query[:, None] - gallery) ** 2).sum(axis=2)
    known = (query_ids[:, None] != -1) & (gallery_ids != -1)
    same = query_ids[:, None] == gallery_ids
    return distances[known & same & (query_cameras[:, None] != gallery_cameras)], distances[known & ~same]


def test_calibrate_by_hand():
    # Query at 0. Impostors (ids 2 and the distractor 0) at distances 1, 4, 9, 16; genuine at 0.25, 4, 25.
    # Excluded: junk at 0, the same person in the same camera at 0.
    gallery = np.array([[1], [2], [3], [4], [0.5], [2], [5], [0], [0]], np.float32)
    ids, cameras = [2, 2, 0, 2, 1, 1, 1, -1, 1], [2, 1, 2, 2, 2, 3, 2, 2, 1]

    def at(rate):
        return calibrate(np.zeros((1, 1), np.float32), gallery, [1], ids, [1], cameras, false_match_rate=rate)

    result = at(0.25)  # one of four impostors may match: those below the second impostor, at 4
    assert (result.threshold, result.false_match_rate) == (4, 0.25)
    assert result.true_match_rate == pytest.approx(1 / 3)
    assert (result.genuine_pairs, result.impostor_pairs) == (3, 4)
    assert [at(rate).threshold for rate in (0, 0.249, 0.49, 0.5, 0.99)] == [1, 1, 4, 9, 16]
    assert at(0.5).true_match_rate == pytest.approx(2 / 3)
    everything = at(1.0)
    assert (everything.threshold, everything.false_match_rate, everything.true_match_rate) == (np.inf, 1, 1)


def test_calibrate_rate_that_rounds_down():
    # 0.29 * 100 is 28.999...96 in floating point; 29 of 100 impostors may match.
    gallery = np.arange(101.0)[:, None]
    ids = np.where(np.arange(101) == 0, 1, 2)
    assert calibrate(np.zeros((1, 1)), gallery, [1], ids, [1], [2] * 101, false_match_rate=0.29).threshold == 30**2
    assert calibrate(np.zeros((1, 1)), gallery, [1], ids, [1], [2] * 101, false_match_rate=1 - 1e-9).threshold == 100**2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from([1, 100, 10**6]), st.sampled_from([2, 40]))
def test_calibrate_all_pairs(seed, rate, block, largest):
    rng = np.random.default_rng(seed)
    query, gallery = (rng.integers(0, largest, (n, 2)).astype(np.float32) for n in (9, 25))
    labels = (rng.integers(-1, 5, 9), rng.integers(-1, 5, 25), rng.integers(1, 3, 9), rng.integers(1, 3, 25))
    genuine, impostor = all_pairs(query, gallery, *labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "BLOCK_DISTANCES", block)
        if len(genuine) == 0 or len(impostor) == 0:
            with pytest.raises(BadData):
                calibrate(query, gallery, *labels, false_match_rate=rate)
            return
        result = calibrate(query, gallery, *labels, false_match_rate=rate)
    assert (result.genuine_pairs, result.impostor_pairs) == (len(genuine), len(impostor))
    assert result.false_match_rate == np.mean(impostor < result.threshold) <= rate + 1e-6
    assert result.true_match_rate == np.mean(genuine < result.threshold)
    # A larger threshold would admit the impostors at `threshold` and exceed the rate.
    assert np.isinf(result.threshold) or np.mean(impostor <= result.threshold) > rate


def test_calibrate_bad_input():
    one = np.zeros((1, 2), np.float32)
    with pytest.raises(BadData, match="no pair of different people"):
        calibrate(one, one, [1], [1], [1], [2], false_match_rate=0.1)
    with pytest.raises(BadData, match="no person is seen by two cameras"):
        calibrate(one, one, [1], [2], [1], [2], false_match_rate=0.1)


def test_calibrate_people_counted_from_zero():
    features, cameras = np.arange(8.0)[:, None], [1, 2, 1, 2, 1, 2, 1, 2]
    ids = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    arguments = (features[::2], features[1::2], ids[::2], ids[1::2], cameras[::2], cameras[1::2])
    assert calibrate(*arguments, false_match_rate=0.1).genuine_pairs == 4


def _pairs(seed: int, people: int = 60, noise: float = 0.6):
    """L2-normalised features of people in two cameras."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(people, 16))
    both = [centres + noise * generator.normal(size=centres.shape) for _ in range(2)]
    rows = [(values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32) for values in both]
    ids = np.arange(1, people + 1)
    return rows, (ids, ids, np.ones(people, int), np.full(people, 2))


def test_fit_probability_is_calibrated_on_other_people():
    rows, labels = _pairs(0)
    curve = fit_probability(*rows, *labels)
    assert curve.slope < 0
    assert 0 <= curve.calibration_error < 0.06
    others, _ = _pairs(1, people=400)
    distances = ((others[0][:, None] - others[1][None]) ** 2).sum(2)
    genuine, impostor = curve(np.diag(distances)), curve(distances[~np.eye(400, dtype=bool)])
    for low, high in ((0.1, 0.4), (0.4, 0.7), (0.7, 0.95)):
        true, false = (np.mean((p >= low) & (p < high)) for p in (genuine, impostor))
        assert abs(true / (true + false) - (low + high) / 2) < 0.2


def test_fit_probability_by_hand():
    # All distances are 0.4005 or 1.2005, so the curve passes through the weighted mean of the targets at both: an
    # impostor pair has 1 / (5 + 2), a genuine one (4 + 1) / (4 + 2), and both kinds weigh 1/2 in all.
    near, far = (np.array([1 - d / 2, (1 - (1 - d / 2) ** 2) ** 0.5]) for d in (0.4005, 1.2005))
    gallery = np.array([near, near, near, far, near, far, far, far, far, near, near, far], np.float32)
    ids = [7, 7, 7, 7, 8, 8, 8, 8, 0, -1, 7, 7]  # the last three: junk, and the query's camera
    cameras = [2, 3, 2, 2, 1, 2, 2, 1, 2, 2, 1, 1]
    query = np.array([[1, 0], [0, 1]], np.float32)  # the second is junk
    curve = fit_probability(query, gallery, [7, -1], ids, [1, 2], cameras)
    for distance, genuine, impostor in ((0.4005, 3 / 4, 1 / 5), (1.2005, 1 / 4, 4 / 5)):
        expected = (genuine * 5 / 6 + impostor / 7) / (genuine + impostor)
        assert curve(np.array(distance)) == pytest.approx(expected, abs=2e-4)
    assert curve.calibration_error is None
    one = np.zeros((1, 1))
    away = fit_probability(one, np.array([[3.0], [1.0]]), [1], [1, 2], [1], [2, 2])  # more than 4 counts as 4
    assert away.slope > 0


@pytest.mark.parametrize("people", [4, 60])
def test_fit_probability_error_of_the_other_half(people):
    rows, labels = _pairs(0, people)
    errors = []
    for fitted in (0, 1):
        one, other = (np.arange(people) % 2 == fitted), (np.arange(people) % 2 != fitted)
        curve = fit_probability(rows[0][one], rows[1][one], *(column[one] for column in labels))
        distances = ((rows[0][other][:, None].astype(float) - rows[1][other]) ** 2).sum(2)
        chance = curve((np.floor(distances * 1000) + 0.5) / 1000)  # in the middle of the bin
        genuine = np.eye(len(chance), dtype=bool)
        excess = np.where(genuine, 0.5 / genuine.sum(), 0.5 / (~genuine).sum()) * (chance - genuine)
        errors.append(sum(abs(excess[(chance * 10).astype(int) == place].sum()) for place in range(10)))
    assert fit_probability(*rows, *labels).calibration_error == pytest.approx(np.mean(errors), abs=1e-4)


def test_fit_probability_separable_and_few_people():
    rows, labels = _pairs(0, people=3, noise=0.01)
    curve = fit_probability(*rows, *labels)
    assert curve.calibration_error is None
    assert curve(np.array([0.0, 2.0])) == pytest.approx([1, 0], abs=0.35)
    assert np.isfinite([curve.intercept, curve.slope]).all()
    with pytest.raises(BadData, match="no pairs of one person"):
        fit_probability(*rows, labels[0], labels[1] + 10, *labels[2:])
