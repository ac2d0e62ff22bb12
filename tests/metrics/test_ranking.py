"""CMC and mAP: cases worked out by hand, and a brute-force twin written from the rules of the MATLAB evaluation."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amem_cli.errors import BadData
from amem_cli.metrics import ranking
from amem_cli.metrics.ranking import evaluate_distances, evaluate_ranking


def brute_force(distances, query_ids, gallery_ids, query_cameras, gallery_cameras):
    """One query after the other, one gallery item after the other, as `evaluation_mars.m` and `compute_AP.m` go."""
    at_hits, official, first_ranks = [], [], []
    for q, row in enumerate(distances):
        same = [g for g in range(len(row)) if gallery_ids[g] == query_ids[q] and gallery_ids[g] != -1]
        good = {g for g in same if gallery_cameras[g] != query_cameras[q]}
        junk = {g for g in same if gallery_cameras[g] == query_cameras[q]}
        junk |= {g for g in range(len(row)) if gallery_ids[g] == -1}
        old_recall, old_precision, ap, precisions, seen, found, first = 0.0, 1.0, 0.0, [], 0, 0, 0
        for g in np.argsort(row, kind="stable"):
            if g in junk:
                continue
            if not good:
                break
            seen += 1
            found += g in good
            recall, precision = found / len(good), found / seen
            ap += (recall - old_recall) * ((old_precision + precision) / 2)
            old_recall, old_precision = recall, precision
            if g in good:
                precisions.append(precision)
                first = first or seen
            if found == len(good):
                break
        at_hits.append(np.mean(precisions) if precisions else np.nan)
        official.append(ap if precisions else np.nan)
        first_ranks.append(first)
    return np.array(at_hits), np.array(official), np.array(first_ranks)


def squared_distances(query, gallery):
    return ((query[:, None, :].astype(np.float64) - gallery[None]) ** 2).sum(axis=2)


def assert_agrees(result, distances, labels):
    at_hits, official, first = brute_force(distances, *labels)
    valid = first > 0
    np.testing.assert_array_equal(result.first_match_rank, first)
    np.testing.assert_allclose(result.average_precision, at_hits, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.average_precision_official, official, rtol=0, atol=1e-12)
    assert result.valid_queries == valid.sum()
    assert result.queries == len(first)
    assert result.gallery == np.sum(np.asarray(labels[1]) != -1)
    ranks = np.arange(1, len(result.cmc) + 1)
    found = (valid[:, None] & (first[:, None] <= ranks)).sum(axis=0)
    np.testing.assert_allclose(result.cmc_official, found / len(first), atol=1e-12)
    np.testing.assert_allclose(result.mAP_official, np.nansum(official) / len(first), atol=1e-12)
    if valid.any():
        np.testing.assert_allclose(result.cmc, found / valid.sum(), atol=1e-12)
        np.testing.assert_allclose(result.mAP, np.nanmean(at_hits), atol=1e-12)
    else:
        assert np.isnan(result.mAP)
        assert np.isnan(result.cmc).all()


def without(is_query, distances, labels):
    """The same problem with the gallery items that are queries really taken out."""
    query_ids, gallery_ids, query_cameras, gallery_cameras = labels
    return distances[:, ~is_query], (query_ids, gallery_ids[~is_query], query_cameras, gallery_cameras[~is_query])


@st.composite
def problems(draw):
    """Few people, cameras and feature values: ties, junk, distractors, same cameras and unmatched queries abound."""
    gallery, queries = draw(st.integers(1, 30)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    largest = draw(st.sampled_from([0, 1, 2, 50]))
    gallery_features = rng.integers(0, largest + 1, (gallery, 3)).astype(np.float32)
    gallery_ids = rng.integers(-1, draw(st.integers(1, 6)), gallery)
    gallery_cameras = rng.integers(0, draw(st.integers(1, 4)), gallery)
    if draw(st.booleans()):
        chosen = rng.choice(gallery, min(queries, gallery), replace=False)
        query_features, query_ids, query_cameras = (
            values[chosen] for values in (gallery_features, gallery_ids, gallery_cameras)
        )
    else:
        chosen = rng.choice(gallery, rng.integers(0, gallery + 1), replace=False)
        query_features = rng.integers(0, largest + 1, (queries, 3)).astype(np.float32)
        query_ids, query_cameras = rng.integers(-1, 7, queries), rng.integers(0, 4, queries)
    is_query = np.zeros(gallery, bool)
    is_query[chosen] = True
    return query_features, gallery_features, (query_ids, gallery_ids, query_cameras, gallery_cameras), is_query


class TestByHand:
    def test_perfect(self):
        gallery = np.eye(3, dtype=np.float32)
        result = evaluate_ranking(gallery, gallery, [1, 2, 3], [1, 2, 3], [1, 1, 1], [2, 2, 2])
        assert result.mAP == result.mAP_official == 1
        assert (result.cmc == 1).all()
        assert (result.queries, result.valid_queries, result.gallery) == (3, 3, 3)

    def test_worst(self):
        # One match, last of five. At hits: 1/5. Trapezoids: precision 0 before the hit, 1/5 at it: (0 + 1/5) / 2.
        gallery = np.arange(5, dtype=np.float32)[:, None]
        result = evaluate_ranking(np.zeros((1, 1), np.float32), gallery, [7], [1, 2, 3, 4, 7], [1], [2] * 5)
        np.testing.assert_array_equal(result.cmc[:5], [0, 0, 0, 0, 1])
        assert result.mAP == pytest.approx(0.2)
        assert result.mAP_official == pytest.approx(0.1)

    def test_all_conventions_at_once(self):
        # Distance:        0     1     2     3     4     5     6
        # person, camera:  5,1   -1,2  0,2   5,2   6,1   5,3   5,1      query: 5, camera 1
        #                  same  junk  wrong HIT   wrong HIT   same
        # Counted ranking: wrong (distractor), hit, wrong (other person of the query's camera stays), hit.
        # Precision: 0/1, 1/2, 1/3, 2/4. At hits: (1/2 + 2/4) / 2 = 1/2.
        # Trapezoids: hit 1: 1/2 * (0/1 + 1/2) / 2 = 1/8; hit 2: 1/2 * (1/3 + 2/4) / 2 = 5/24; sum 8/24 = 1/3.
        # The second query, person 9, has no match: 0 in the official means, absent from the others.
        gallery = np.arange(7, dtype=np.float32)[:, None]
        result = evaluate_ranking(
            np.zeros((2, 1), np.float32), gallery, [5, 9], [5, -1, 0, 5, 6, 5, 5], [1, 1], [1, 2, 2, 2, 1, 3, 1]
        )
        np.testing.assert_array_equal(result.first_match_rank, [2, 0])
        np.testing.assert_allclose(result.average_precision, [1 / 2, np.nan])
        np.testing.assert_allclose(result.average_precision_official, [1 / 3, np.nan])
        assert (result.queries, result.valid_queries, result.gallery) == (2, 1, 6)
        assert result.mAP == pytest.approx(1 / 2)
        assert result.mAP_official == pytest.approx(1 / 6)
        np.testing.assert_allclose(result.cmc[:3], [0, 1, 1])
        np.testing.assert_allclose(result.cmc_official[:3], [0, 1 / 2, 1 / 2])

    def test_without_queries(self):
        # Person 5 at ranks 1 and 3; the item at rank 1 is itself a query. Whole gallery: (1/1 + 2/3) / 2 = 5/6.
        # Without it person 5 is at rank 2 behind person 6: 1/2; trapezoid (0/1 + 1/2) / 2 = 1/4.
        gallery = np.arange(3, dtype=np.float32)[:, None]
        result = evaluate_ranking(
            np.zeros((1, 1), np.float32),
            gallery,
            [5],
            [5, 6, 5],
            [1],
            [2, 2, 3],
            gallery_is_query=np.array([True, False, False]),
        )
        assert result.mAP == pytest.approx(5 / 6)
        assert result.without_queries.mAP == pytest.approx(1 / 2)
        assert result.without_queries.mAP_official == pytest.approx(1 / 4)
        assert (result.gallery, result.without_queries.gallery) == (3, 2)
        assert result.without_queries.without_queries is None

    def test_a_tie_goes_to_the_lower_position(self):
        same = np.zeros((2, 4), np.float32)
        for ids, rank in (([1, 2], 1), ([2, 1], 2)):
            assert evaluate_ranking(same[:1], same, [1], ids, [1], [2, 2]).first_match_rank[0] == rank

    def test_nobody_has_a_match(self):
        one = np.zeros((1, 2), np.float32)
        result = evaluate_ranking(one, one, [1], [2], [1], [2])
        assert result.valid_queries == 0
        assert np.isnan(result.mAP)
        assert result.mAP_official == 0
        assert np.isnan(result.cmc).all()
        assert (result.cmc_official == 0).all()

    def test_rank_20_can_be_read_off_a_tiny_gallery(self):
        one = np.zeros((1, 2), np.float32)
        assert evaluate_ranking(one, one, [1], [1], [1], [2]).cmc[20 - 1] == 1


class TestAgainstBruteForce:
    @settings(max_examples=150, deadline=None)
    @given(problems(), st.sampled_from([1, 3, 512]), st.sampled_from([1, 2, 32]))
    def test_features(self, problem, block_rows, chunk_rows):
        query, gallery, labels, is_query = problem
        distances = squared_distances(query, gallery)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranking, "BLOCK_ROWS", block_rows)
            patch.setattr(ranking, "CHUNK_ROWS", chunk_rows)
            result = evaluate_ranking(query, gallery, *labels, gallery_is_query=is_query, threads=2)
        assert_agrees(result, distances, labels)
        if not is_query.all():
            assert_agrees(result.without_queries, *without(is_query, distances, labels))
        plain = evaluate_ranking(query, gallery, *labels)
        assert plain.without_queries is None
        np.testing.assert_array_equal(plain.average_precision, result.average_precision)

    @settings(max_examples=40, deadline=None)
    @given(problems(), st.sampled_from([np.float32, np.float64]), st.booleans())
    def test_distances(self, problem, precision, by_blocks):
        query, gallery, labels, is_query = problem
        distances = squared_distances(query, gallery).astype(precision)
        distances[distances > 1000] = np.inf
        given_as = (lambda block: distances[block]) if by_blocks else distances
        result = evaluate_distances(given_as, *labels, gallery_is_query=is_query, threads=1)
        assert_agrees(result, distances, labels)
        if not is_query.all():
            assert_agrees(result.without_queries, *without(is_query, distances, labels))

    @settings(max_examples=40, deadline=None)
    @given(problems())
    def test_the_path_for_cuda(self, problem):
        pytest.importorskip("torch")
        query, gallery, labels, is_query = problem
        with pytest.MonkeyPatch.context() as patch:
            # The code that runs on a GPU, on torch's CPU device.
            patch.setattr(ranking, "_device_of", lambda *_: "cpu:0")
            patch.setattr(ranking, "BLOCK_ROWS", 3)
            result = evaluate_ranking(query, gallery, *labels, gallery_is_query=is_query)
        distances = squared_distances(query, gallery)
        assert_agrees(result, distances, labels)
        if not is_query.all():
            assert_agrees(result.without_queries, *without(is_query, distances, labels))

    def test_float64_distances_of_real_numbers(self):
        rng = np.random.default_rng(0)
        query, gallery = rng.standard_normal((40, 16)), rng.standard_normal((300, 16))
        labels = (rng.integers(1, 20, 40), rng.integers(-1, 20, 300), rng.integers(1, 4, 40), rng.integers(1, 4, 300))
        assert_agrees(evaluate_ranking(query, gallery, *labels), squared_distances(query, gallery), labels)
        # In float32 both items are at distance 1, and the wrong one comes first.
        near = np.array([[1 + 1e-9], [1.0]])
        for precision, rank in ((np.float64, 1), (np.float32, 2)):
            result = evaluate_ranking(np.zeros((1, 1), precision), near.astype(precision), [1], [2, 1], [1], [2, 2])
            assert result.first_match_rank[0] == rank

    @pytest.mark.parametrize("everyone", [1, 400])
    def test_one_person_fills_the_gallery(self, everyone, monkeypatch):
        monkeypatch.setattr(ranking, "BLOCK_PAIRS", 1000)
        rng = np.random.default_rng(1)
        query, gallery = rng.integers(0, 4, (11, 4)).astype("f"), rng.integers(0, 4, (400, 4)).astype("f")
        labels = (
            rng.integers(1, everyone + 1, 11),
            rng.integers(1, everyone + 1, 400),
            rng.integers(1, 3, 11),
            rng.integers(1, 3, 400),
        )
        assert_agrees(evaluate_ranking(query, gallery, *labels), squared_distances(query, gallery), labels)


class TestProperties:
    def drawn(self):
        rng = np.random.default_rng(2)
        query, gallery = rng.standard_normal((30, 8)), rng.standard_normal((200, 8))
        labels = [rng.integers(1, 9, 30), rng.integers(-1, 9, 200), rng.integers(1, 4, 30), rng.integers(1, 4, 200)]
        return rng, query, gallery, labels

    def test_the_order_of_the_gallery_does_not_matter_without_ties(self):
        rng, query, gallery, labels = self.drawn()
        is_query = rng.random(200) < 0.3
        one = evaluate_ranking(query, gallery, *labels, gallery_is_query=is_query)
        shuffled = rng.permutation(200)
        labels[1], labels[3] = labels[1][shuffled], labels[3][shuffled]
        two = evaluate_ranking(query, gallery[shuffled], *labels, gallery_is_query=is_query[shuffled])
        for a, b in ((one, two), (one.without_queries, two.without_queries)):
            np.testing.assert_array_equal(a.first_match_rank, b.first_match_rank)
            np.testing.assert_allclose(a.average_precision, b.average_precision, atol=1e-12)
            np.testing.assert_array_equal(a.cmc, b.cmc)

    def test_shuffled_queries_give_shuffled_precisions(self):
        rng, query, gallery, labels = self.drawn()
        one = evaluate_ranking(query, gallery, *labels)
        shuffled = rng.permutation(30)
        labels[0], labels[2] = labels[0][shuffled], labels[2][shuffled]
        two = evaluate_ranking(query[shuffled], gallery, *labels)
        np.testing.assert_array_equal(one.average_precision[shuffled], two.average_precision)

    def test_nothing_given_is_changed(self):
        _, query, gallery, labels = self.drawn()
        given = [query, gallery, *labels]
        copies = [values.copy() for values in given]
        evaluate_ranking(*given)
        distances = squared_distances(query, gallery)
        copies.append(distances.copy())
        evaluate_distances(distances, *labels)
        for values, copy in zip([*given, distances], copies, strict=True):
            np.testing.assert_array_equal(values, copy)

    def test_tensors_give_what_arrays_give(self):
        torch = pytest.importorskip("torch")
        _, query, gallery, labels = self.drawn()
        query, gallery = np.round(query * 4).astype("f"), np.round(gallery * 4).astype("f")
        expected = evaluate_ranking(query, gallery, *labels)
        tensors = [torch.from_numpy(values) for values in (query, gallery, *labels)]
        tensors[0].requires_grad_()
        for features in (tensors[:2], [values.bfloat16() for values in tensors[:2]]):
            result = evaluate_ranking(*features, *tensors[2:])
            np.testing.assert_array_equal(result.average_precision, expected.average_precision)

    @pytest.mark.gpu
    def test_cuda_gives_what_the_cpu_gives(self):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        rng, query, gallery, labels = self.drawn()
        query, gallery = np.round(query * 2).astype("f"), np.round(gallery * 2).astype("f")
        is_query = rng.random(200) < 0.3
        expected = evaluate_ranking(query, gallery, *labels, gallery_is_query=is_query)
        result = evaluate_ranking(query, gallery, *labels, gallery_is_query=is_query, device="cuda")
        np.testing.assert_array_equal(result.average_precision, expected.average_precision)
        np.testing.assert_array_equal(
            result.without_queries.average_precision, expected.without_queries.average_precision
        )

    def test_torch_is_not_imported_for_arrays(self):
        code = (
            "import sys, numpy as np; from amem_cli.metrics.ranking import evaluate_ranking as e;"
            "f = np.zeros((1, 2), 'f'); e(f, f, [1], [1], [1], [2]); assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_memory_stays_far_below_a_distance_matrix(self, monkeypatch):
        import tracemalloc

        rng = np.random.default_rng(3)
        query, gallery = rng.standard_normal((4000, 4), np.float32), rng.standard_normal((3000, 4), np.float32)
        labels = (rng.integers(1, 300, 4000), rng.integers(1, 300, 3000), np.ones(4000, int), np.full(3000, 2))
        tracemalloc.start()
        evaluate_ranking(query, gallery, *labels, threads=1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4000 * 3000 * 4 / 3


class TestBadInput:
    features = np.zeros((3, 2), np.float32)
    labels = ([1, 2, 3], [1, 2, 3], [1, 1, 1], [2, 2, 2])

    def test_everything_wrong_is_listed(self):
        with pytest.raises(BadData) as caught:
            evaluate_ranking(
                self.features,
                np.zeros((3, 4), np.float32),
                [1, 2],
                [1.0, 2.0, 3.0],
                *self.labels[2:],
                gallery_is_query=[0, 1, 0],
            )
        message = str(caught.value)
        assert "queries have 2 features, the gallery 4" in message
        assert "query_ids has the shape (2,), not (3,)" in message
        assert "gallery_ids are float64, not integers" in message
        assert "gallery_is_query are int64, not bool" in message

    def test_flat_features(self):
        with pytest.raises(BadData, match=r"query_features has the shape \(2,\)"):
            evaluate_ranking(self.features[0], self.features, *self.labels)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 3e19])
    def test_values_that_give_no_distance(self, value):
        bad = self.features.copy()
        bad[1, 0] = value
        with pytest.raises(BadData, match="gallery_features row 1 is not finite or too large"):
            evaluate_ranking(self.features, bad, *self.labels)

    def test_empty(self):
        with pytest.raises(BadData, match="nothing to rank"):
            evaluate_ranking(self.features[:0], self.features, np.zeros(0, int), [1] * 3, np.zeros(0, int), [2] * 3)

    def test_distances(self):
        with pytest.raises(BadData, match="not floating"):
            evaluate_distances(np.zeros((3, 3), int), *self.labels)
        with pytest.raises(BadData, match="NaN for query 2"):
            evaluate_distances(np.array([[0, 0, 0], [0, 0, 0], [0, np.nan, 0]]), *self.labels)
        with pytest.raises(BadData, match=r"gave \(1, 3\), not \(3, 3\)"):
            evaluate_distances(lambda block: np.zeros((1, 3)), *self.labels)


@pytest.mark.realdata
def test_mars_as_published():
    """The published tables with features that tie: counts, and agreement with the twin on some of the queries."""
    folder = Path(os.environ.get("AMEM_TEST_REAL_DATA", ""), "mars-info")
    if "AMEM_TEST_REAL_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("AMEM_TEST_REAL_DATA names no folder with mars-info")
    from scipy.io import loadmat

    test = loadmat(folder / "tracks_test_info.mat")["track_test_info"].astype(np.int64)
    query = loadmat(folder / "query_IDX.mat")["query_IDX"].ravel().astype(np.int64) - 1
    ids, cameras = test[:, 2], test[:, 3]
    features = np.random.default_rng(4).integers(-2, 3, (len(test), 6)).astype(np.float32)
    is_query = np.zeros(len(test), bool)
    is_query[query] = True

    labels = (ids[query], ids, cameras[query], cameras)
    result = evaluate_ranking(features[query], features, *labels, gallery_is_query=is_query)
    reduced = result.without_queries
    assert (result.queries, result.gallery, result.valid_queries) == (1980, 11310, 1980)
    assert (reduced.queries, reduced.gallery, reduced.valid_queries) == (1980, 9330, 1980 - 140)

    some = slice(None, None, 60)
    distances = squared_distances(features[query[some]], features)
    labels = (ids[query[some]], ids, cameras[query[some]], cameras)
    for got, (matrix, names) in (
        (result, (distances, labels)),
        (reduced, without(is_query, distances, labels)),
    ):
        at_hits, official, first = brute_force(matrix, *names)
        np.testing.assert_array_equal(got.first_match_rank[some], first)
        np.testing.assert_allclose(got.average_precision[some], at_hits, atol=1e-12)
        np.testing.assert_allclose(got.average_precision_official[some], official, atol=1e-12)
