"""CMC and mAP: cases worked out by hand, and a brute-force twin written from the rules of the MATLAB evaluation."""

import os
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat

from amem_cli.errors import BadData
from amem_cli.metrics import ranking
from amem_cli.metrics.ranking import evaluate_distances, evaluate_ranking


def brute_force(distances, query_ids, gallery_ids, query_cameras, gallery_cameras):
    """(Q,) mean precision at the hits, mean trapezoid as in `compute_AP.m`, and first rank, from sorted rows."""
    results = []
    for row, person, camera in zip(distances, query_ids, query_cameras, strict=True):
        order = np.argsort(row, kind="stable")
        ids, cameras = np.asarray(gallery_ids)[order], np.asarray(gallery_cameras)[order]
        hits = ids[(ids != -1) & ~((ids == person) & (cameras == camera))] == person
        if not hits.any():
            results.append((np.nan, np.nan, 0))
            continue
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        trapezoids = (np.concatenate(([1.0], precision[:-1])) + precision) / 2
        results.append((precision[hits].mean(), trapezoids[hits].mean(), 1 + np.argmax(hits)))
    return np.array(results).T


def squared_distances(query, gallery):
    return ((query[:, None, :].astype(np.float64) - gallery[None]) ** 2).sum(axis=2)


def assert_agrees(result, distances, labels):
    at_hits, official, first = brute_force(distances, *labels)
    valid = first > 0
    np.testing.assert_array_equal(result.first_match_rank, first)
    np.testing.assert_allclose(result.average_precision, at_hits, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.average_precision_official, official, rtol=0, atol=1e-12)
    assert (result.queries, result.valid_queries) == (len(first), valid.sum())
    assert result.gallery == np.sum(np.asarray(labels[1]) != -1)
    found = (valid[:, None] & (first[:, None] <= np.arange(1, len(result.cmc) + 1))).sum(axis=0)
    np.testing.assert_allclose(result.cmc_official, found / len(first), atol=1e-12)
    np.testing.assert_allclose(result.mAP_official, np.nansum(official) / len(first), atol=1e-12)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(result.cmc, np.divide(found, valid.sum()), atol=1e-12)
    np.testing.assert_allclose(result.mAP, np.nanmean(at_hits) if valid.any() else np.nan, atol=1e-12)


def assert_both_agree(result, distances, labels, is_query):
    """Compare `without_queries` with the gallery from which the queries are removed."""
    assert_agrees(result, distances, labels)
    query_ids, gallery_ids, query_cameras, gallery_cameras = labels
    if not is_query.all():
        rest = (query_ids, gallery_ids[~is_query], query_cameras, gallery_cameras[~is_query])
        assert_agrees(result.without_queries, distances[:, ~is_query], rest)


def drawn(queries=30, gallery=200, people=8, largest=3, seed=0):
    """Few feature values, so that distances tie; junk, distractors and same cameras are frequent."""
    rng = np.random.default_rng(seed)
    features = [rng.integers(0, largest + 1, (n, 3)).astype(np.float32) for n in (queries, gallery)]
    labels = [rng.integers(-1, people + 1, n) for n in (queries, gallery)]
    labels += [rng.integers(0, 4, n) for n in (queries, gallery)]
    return features, labels, rng.random(gallery) < 0.3


def test_evaluate_ranking_perfect():
    gallery = np.eye(3, dtype=np.float32)
    result = evaluate_ranking(gallery, gallery, [1, 2, 3], [1, 2, 3], [1, 1, 1], [2, 2, 2])
    assert result.mAP == result.mAP_official == 1
    np.testing.assert_array_equal(result.cmc, np.ones(20))  # rank-20 exists for a gallery of three


def test_evaluate_ranking_worst():
    # One match, last of five. At hits: 1/5. Trapezoids: precision 0 before the hit, 1/5 at it: (0 + 1/5) / 2.
    gallery = np.arange(5, dtype=np.float32)[:, None]
    result = evaluate_ranking(np.zeros((1, 1), np.float32), gallery, [7], [1, 2, 3, 4, 7], [1], [2] * 5)
    np.testing.assert_array_equal(result.cmc[:5], [0, 0, 0, 0, 1])
    assert result.mAP == pytest.approx(0.2)
    assert result.mAP_official == pytest.approx(0.1)


def test_evaluate_ranking_all_rules_by_hand():
    # Distance:        0     1     2     3     4     5     6
    # person, camera:  5,1   -1,2  0,2   5,2   6,1   5,3   5,1      query: 5, camera 1
    #                  same  junk  wrong HIT   wrong HIT   same
    # Counted ranking: wrong (distractor), hit, wrong (another person in the query's camera), hit.
    # Precision: 0/1, 1/2, 1/3, 2/4. At hits: (1/2 + 2/4) / 2 = 1/2.
    # Trapezoids: hit 1: 1/2 * (0/1 + 1/2) / 2 = 1/8; hit 2: 1/2 * (1/3 + 2/4) / 2 = 5/24; sum 8/24 = 1/3.
    # The second query, person 9, has no match: 0 in the official means, absent from the others.
    # Without the queries (the distractor is one): hit, wrong, hit: (1 + 2/3) / 2 = 5/6.
    gallery = np.arange(7, dtype=np.float32)[:, None]
    labels = ([5, 9], [5, -1, 0, 5, 6, 5, 5], [1, 1], [1, 2, 2, 2, 1, 3, 1])
    is_query = np.arange(7) == 2
    result = evaluate_ranking(np.zeros((2, 1), np.float32), gallery, *labels, gallery_is_query=is_query)
    np.testing.assert_array_equal(result.first_match_rank, [2, 0])
    np.testing.assert_allclose(result.average_precision, [1 / 2, np.nan])
    np.testing.assert_allclose(result.average_precision_official, [1 / 3, np.nan])
    assert (result.queries, result.valid_queries, result.gallery) == (2, 1, 6)
    assert result.mAP == pytest.approx(1 / 2)
    assert result.mAP_official == pytest.approx(1 / 6)
    np.testing.assert_allclose(result.cmc[:3], [0, 1, 1])
    np.testing.assert_allclose(result.cmc_official[:3], [0, 1 / 2, 1 / 2])
    assert result.without_queries.mAP == pytest.approx(5 / 6)
    assert (result.without_queries.queries, result.without_queries.gallery) == (2, 5)
    assert evaluate_ranking(np.zeros((2, 1), np.float32), gallery, *labels).without_queries is None


def test_evaluate_ranking_tie_goes_to_the_lower_position():
    same = np.zeros((2, 4), np.float32)
    for ids, rank in (([1, 2], 1), ([2, 1], 2)):
        assert evaluate_ranking(same[:1], same, [1], ids, [1], [2, 2]).first_match_rank[0] == rank


def test_evaluate_ranking_float64_when_either_is():
    # In float32 both items are at distance 1, and the wrong one comes first.
    near = np.array([[1 + 1e-9], [1.0]])
    for types, rank in ((("f4", "f8"), 1), (("f8", "f8"), 1), (("f4", "f4"), 2)):
        query, gallery = np.zeros((1, 1), types[0]), near.astype(types[1])
        assert evaluate_ranking(query, gallery, [1], [2, 1], [1], [2, 2]).first_match_rank[0] == rank


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(0, 6),
    st.sampled_from([0, 2, 50]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([{}, {"BLOCK_ROWS": 2}, {"BLOCK_PAIRS": 3}, {"BLOCK_BYTES": 500}, {"FEW_MATCHES": 2}]),
)
def test_evaluate_ranking_brute_force(queries, gallery, people, largest, seed, constants):
    features, labels, is_query = drawn(queries, gallery, people, largest, seed)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in constants.items():
            patch.setattr(ranking, name, value)
        result = evaluate_ranking(*features, *labels, gallery_is_query=is_query)
    distances = squared_distances(*features)
    assert_both_agree(result, distances, labels, is_query)
    plain = evaluate_ranking(*features, *labels)
    np.testing.assert_array_equal(plain.average_precision, result.average_precision)
    np.testing.assert_array_equal(plain.cmc_every_match, result.cmc_every_match)  # whatever the size of a block

    distances[distances > 1000] = np.inf
    result = evaluate_distances(distances.astype(np.float32), *labels, gallery_is_query=is_query)
    assert_both_agree(result, distances, labels, is_query)


def test_evaluate_ranking_more_matches_than_few():
    features, labels, is_query = drawn(gallery=500, people=1, largest=2)
    result = evaluate_ranking(*features, *labels, gallery_is_query=is_query)
    assert_both_agree(result, squared_distances(*features), labels, is_query)


def test_evaluate_ranking_last_of_many():
    gallery = np.arange(5000, dtype=np.float32)[:, None]
    ids = np.where(np.arange(5000) == 4999, 7, 1)
    result = evaluate_ranking(np.zeros((1, 1), np.float32), gallery, [7], ids, [1], np.full(5000, 2))
    np.testing.assert_array_equal(result.first_match_rank, [5000])


@pytest.mark.parametrize("few", [0, 64])
def test_evaluate_distances_ignored_is_not_before_infinity(few, monkeypatch):
    monkeypatch.setattr(ranking, "FEW_MATCHES", few)
    result = evaluate_distances(np.full((1, 3), np.inf), [1], [1, 2, 1], [1], [1, 2, 2])
    np.testing.assert_array_equal(result.first_match_rank, [2])


def test_evaluate_ranking_inputs_unchanged():
    features, labels, _ = drawn()
    values = [*features, *labels, squared_distances(*features)]
    copies = [value.copy() for value in values]
    evaluate_ranking(*features, *labels)
    evaluate_distances(values[-1], *labels)
    for value, copy in zip(values, copies, strict=True):
        np.testing.assert_array_equal(value, copy)


def test_evaluate_ranking_no_match():
    with warnings.catch_warnings(action="error"):
        result = evaluate_ranking([[0.0]], [[0.0]], [1], [2], [1], [2])
    assert (result.valid_queries, result.mAP_official, result.cmc_official.max()) == (0, 0, 0)
    assert np.isnan(result.mAP)
    assert np.isnan(result.cmc).all()


def test_evaluate_ranking_tensors():
    torch = pytest.importorskip("torch")
    features, labels, is_query = drawn()
    expected = evaluate_ranking(*features, *labels)
    small = evaluate_ranking(*features, *(values.astype(np.int8) for values in labels))
    np.testing.assert_array_equal(small.average_precision, expected.average_precision)
    tensors = [torch.from_numpy(values) for values in (*features, *labels, is_query)]
    tensors[0].requires_grad_()
    for given_features in (tensors[:2], [values.bfloat16() for values in tensors[:2]]):
        result = evaluate_ranking(*given_features, *tensors[2:6], gallery_is_query=tensors[6])
        np.testing.assert_array_equal(result.average_precision, expected.average_precision)


@pytest.mark.parametrize("device", ["cpu:0", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_evaluate_ranking_device(device, monkeypatch):
    torch = pytest.importorskip("torch")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    features, labels, is_query = drawn()
    addmm, precisions = torch.addmm, []

    def recording(*arguments, **named):
        precisions.append(torch.get_float32_matmul_precision())
        return addmm(*arguments, **named)

    monkeypatch.setattr(torch, "addmm", recording)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device.partition(":")[0]):
            result = evaluate_ranking(*features, *labels, gallery_is_query=is_query, device=device)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert precisions == ["highest"]
    assert_both_agree(result, squared_distances(*features), labels, is_query)


def test_evaluate_ranking_default_device(monkeypatch):
    class OnDevice(np.ndarray):
        device = "cuda:1"

    used = []
    blocks = ranking.distance_blocks
    monkeypatch.setattr(ranking, "distance_blocks", lambda q, g, device: used.append(device) or blocks(q, g, "cpu"))
    here = [[0.0]]
    there = np.zeros((1, 1)).view(OnDevice)
    for features in ((here, here), (here, there), (there, here)):
        evaluate_ranking(*features, [1], [1], [1], [2])
    evaluate_ranking(there, there, [1], [1], [1], [2], device="cpu")
    assert used == ["cpu", "cuda:1", "cuda:1", "cpu"]


def test_evaluate_ranking_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # `import torch` fails
    evaluate_ranking(np.zeros((1, 2)), np.zeros((1, 2)), [1], [1], [1], [2])


def test_evaluate_ranking_memory():
    rng = np.random.default_rng(3)
    query, gallery = rng.standard_normal((3000, 4), np.float32), rng.standard_normal((2000, 4), np.float32)
    labels = (rng.integers(1, 300, 3000), rng.integers(1, 300, 2000), np.ones(3000, int), np.full(2000, 2))
    tracemalloc.start()
    evaluate_ranking(query, gallery, *labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 1024 * 2000 * 4  # two blocks of distances; the matrix has three


@pytest.mark.parametrize(("gallery", "person", "rows"), [(8, 2, 1024), (2**18, 2, 128), (4095, 1, 512), (2**21, 1, 1)])
def test_evaluate_ranking_block_sizes(gallery, person, rows, monkeypatch):
    """1024 queries, 128 MiB, 2 million pairs of one person."""
    blocks = []

    def distances(block):
        blocks.append(block)
        raise StopIteration

    monkeypatch.setattr(ranking, "distance_blocks", lambda *given: distances)
    features = np.zeros((1100, 1), np.float32), np.zeros((gallery, 1), np.float32)
    ones = np.ones(1100, np.int8), np.ones(gallery, np.int8)
    with pytest.raises(StopIteration):
        evaluate_ranking(*features, ones[0], person * ones[1], *ones)
    assert blocks == [slice(0, rows)]


def test_evaluate_ranking_wrong_labels_all_listed():
    features = np.zeros((3, 2), np.float32)
    with pytest.raises(BadData) as caught:
        evaluate_ranking(
            features, features, [1, 2], [1.0, 2.0, 3.0], [1, 1, 1], [[2, 2, 2]], gallery_is_query=[0, 1, 0]
        )
    message = str(caught.value)
    assert "query_ids has the shape (2,), not (3,)" in message
    assert "gallery_ids are float64, not integers" in message
    assert "gallery_cameras has the shape (1, 3), not (3,)" in message
    assert "gallery_is_query are int64, not bool" in message
    assert "query_cameras" not in message


def test_evaluate_distances_bad_matrix():
    labels = ([1, 2, 3], [1, 2, 3], [1, 1, 1], [2, 2, 2])
    for bad in (np.zeros((3, 3), int), np.zeros(3), np.zeros((0, 3))):
        with pytest.raises(BadData, match="is not a floating matrix"):
            evaluate_distances(bad, *labels)
    with pytest.raises(BadData, match="NaN for query 2"):
        evaluate_distances(np.array([[0, 0, 0], [0, 0, 0], [0, np.nan, 0]]), *labels)


@pytest.mark.realdata
def test_evaluate_ranking_mars_labels():
    folder = Path(os.environ.get("AMEM_TEST_REAL_DATA", ""), "mars-info")
    if "AMEM_TEST_REAL_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("AMEM_TEST_REAL_DATA names no folder with mars-info")
    test = loadmat(folder / "tracks_test_info.mat")["track_test_info"].astype(np.int64)
    query = loadmat(folder / "query_IDX.mat")["query_IDX"].ravel().astype(np.int64) - 1
    ids, cameras = test[:, 2], test[:, 3]
    features = np.random.default_rng(4).integers(-2, 3, (len(test), 6)).astype(np.float32)
    is_query = np.isin(np.arange(len(test)), query)
    for chosen in (query, query[::60]):
        labels = (ids[chosen], ids, cameras[chosen], cameras)
        result = evaluate_ranking(features[chosen], features, *labels, gallery_is_query=is_query)
        if chosen is query:
            reduced = result.without_queries
            assert (result.queries, result.gallery, result.valid_queries) == (1980, 11310, 1980)
            assert (reduced.queries, reduced.gallery, reduced.valid_queries) == (1980, 9330, 1980 - 140)
    assert_both_agree(result, squared_distances(features[chosen], features), labels, is_query)
