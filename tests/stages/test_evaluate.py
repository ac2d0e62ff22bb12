"""`evaluate` on features files that another program wrote: exact figures, splits, missing and wrong files."""

import json
import re
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from evaluations import mars_like, options, split_file, three_splits, write_features
from writers import some_result

from amem_cli.artifacts import atomic, features, results
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance
from amem_cli.artifacts.results import compare
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.metrics import ranking
from amem_cli.options import EvaluateOptions
from amem_cli.runtime import distributed
from amem_cli.runtime.progress import Silent
from amem_cli.stages import evaluate as stage
from amem_cli.stages.evaluate import evaluate


def test_evaluate_mars_protocol_by_hand(tmp_path: Path) -> None:
    path = mars_like(tmp_path / "theirs.h5")
    result = evaluate(options(tmp_path, path), Silent())
    figures = result.metrics
    assert figures["rank"] == {"1": 0.0, "5": 1.0, "10": 1.0, "20": 1.0}
    assert figures["cmc"][:5] == [0.0, 0.5, 0.5, 0.5, 1.0]
    assert figures["mAP"] == pytest.approx((1 / 2 + 1 / 5) / 2)
    # trapezoids that start at precision 1: (1/1... see DATASETS: old precision is that of the item before the hit
    first = 0.5 * (0 + 1 / 2) / 2 + 0.5 * (1 / 3 + 2 / 4) / 2
    second = (0 + 1 / 5) / 2
    assert figures["mAP_official"] == pytest.approx((first + second) / 2)
    assert (figures["queries"], figures["valid_queries"], figures["gallery"]) == (2, 2, 7)
    assert figures["gallery_without_queries"]["gallery"] == 5
    assert figures["gallery_without_queries"]["mAP"] == pytest.approx(figures["mAP"])  # here they are last
    assert figures["protocol"] == figures["dataset"] == "mars"
    assert len(figures["features"]) == 64
    assert 0 < figures["chance"]["mAP"] < 1
    document = json.loads((tmp_path / "results" / "mars.json").read_text())
    assert result.artifact == tmp_path / "results" / "mars.json"
    assert document["rank"] == figures["rank"]
    assert {"average_precision", "denominator", "ignored", "kept", "ties", "gallery", "distance"} <= set(
        document["choices"]
    )


@pytest.mark.parametrize(
    ("parents", "clips", "frames"),
    [
        *((parents, 0, "not stated") for parents in ("{}", '{"amem-main": {}}', '{"amem-main": {"name": 3}}')),
        ('{"amem-main": {"name": "m"}}', 0, "all frames"),
        ('{"amem-arm": {"name": "m"}}', 6, "up to 6 clips of"),
    ],
)
def test_evaluate_how_features_were_extracted(tmp_path: Path, parents: str, clips: int, frames: str) -> None:
    options_of = f'{{"split_source": ["x"], "clips": {clips}}}'
    provenance = f'{{"command": "extract-features", "options": {options_of}, "parents": {parents}}}'
    file = mars_like(tmp_path / "f.h5", provenance=provenance)
    result = results.read(evaluate(options(tmp_path, file), Silent()).artifact)
    assert frames in result["choices"]["frames"]


@pytest.mark.parametrize("protocol", ["mars", "own.toml"])
def test_evaluate_leaves_features_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.toml").write_text(
        'name = "own"\nlayout = "folder"\n[protocol]\nkind = "cross-camera-splits"\nsplits = 1\n'
    )
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 2**18)
    number = np.arange(6000)
    rows = np.random.default_rng(0).standard_normal((6000, 512), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [str(row) for row in number]
    table = Features(protocol, names, 1 + number // 4, 1 + number % 2, number % 1000 == 0, rows, {})
    path = features.write(tmp_path / "f.h5", table, Provenance("extract-features", {}))
    tracemalloc.start()
    evaluate(options(tmp_path, path, protocol=protocol), Silent())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows.nbytes / 2


def test_evaluate_intervals_contain_the_figures(tmp_path: Path) -> None:
    path = mars_like(tmp_path / "theirs.h5")
    figures = evaluate(EvaluateOptions(features=(path,), workspace=tmp_path, bootstrap=50), Silent()).metrics
    low, high = figures["interval"]["mAP"]
    assert 1 / 5 - 1e-9 <= low <= figures["mAP"] <= high <= 1 / 2 + 1e-9


def test_evaluate_default_features(tmp_path: Path) -> None:
    mars_like(tmp_path / "features" / "mars.h5")
    assert evaluate(options(tmp_path), Silent()).metrics["mAP"] == pytest.approx(0.35)


def test_evaluate_warns_of_stale_features_also_with_the_old_result(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    made = {"command": "extract-features", "parents": {"amem-main": {"name": "m", "sha256": "a" * 64}}}
    mars_like(place.features("mars", None), provenance=json.dumps(made))
    atomic.write_text(place.amem_main("mars", None), "trained again")
    for reused in (False, True):
        progress = Silent()
        assert evaluate(options(tmp_path), progress).reused == reused
        assert any(f"{place.features('mars', None)} is stale" in warning for warning in progress.warnings)


def test_evaluate_features_replaced_after_their_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mars_like(tmp_path / "f.h5")
    monkeypatch.setattr(stage, "read_features", lambda *given: atomic.write_bytes(path, path.read_bytes()))
    with pytest.raises(BadData, match="it was replaced while this run read it"):
        evaluate(options(tmp_path, path), Silent())


def test_evaluate_other_data_set(tmp_path: Path) -> None:
    progress = Silent()
    evaluate(options(tmp_path, mars_like(tmp_path / "theirs.h5", dataset="elsewhere")), progress)
    assert "has features of 'elsewhere'" in progress.warnings[0]
    first, progress = list(progress.warnings), Silent()
    progress.warn("of another stage")
    for _ in range(2):  # a row after the other, as in reproduce
        evaluated = evaluate(options(tmp_path, tmp_path / "theirs.h5", force=True), progress).metrics["warnings"]
        progress.warn("of a later one")
        assert evaluated == first


def test_evaluate_again_replaces_the_same_result(tmp_path: Path) -> None:
    path = mars_like(tmp_path / "theirs.h5")
    for resume in ("auto", "never"):
        assert not evaluate(options(tmp_path, path, resume=resume), Silent()).reused
    assert [one.name for one in (tmp_path / "results").glob("*.json")] == ["mars.json"]


def test_evaluate_same_bytes(tmp_path: Path) -> None:
    path = mars_like(tmp_path / "theirs.h5")
    first = evaluate(options(tmp_path / "a", path), Silent()).artifact.read_bytes()
    assert evaluate(options(tmp_path / "a", path), Silent()).artifact.read_bytes() == first
    assert evaluate(options(tmp_path / "b", path), Silent()).artifact.read_bytes() == first


def test_evaluate_rerank_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before the work, not killed after it."""
    path = mars_like(tmp_path / "theirs.h5")
    monkeypatch.setattr("amem_cli.stages.evaluate.free_memory", lambda: 1000)
    monkeypatch.setattr("amem_cli.stages.evaluate.score", lambda *given: pytest.fail("it worked first"))
    with pytest.raises(UsageError, match=r"^--rerank: needs at least .* Leave it out"):
        evaluate(options(tmp_path, path, rerank=True), Silent())


def test_evaluate_rerank(tmp_path: Path) -> None:
    path = mars_like(tmp_path / "theirs.h5")
    with_it = evaluate(options(tmp_path, path, rerank=True), Silent()).metrics
    assert 0 <= with_it["reranked"]["mAP"] <= 1
    assert with_it["mAP"] == pytest.approx(0.35)


# -- splits ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_splits(tmp_path: Path) -> None:
    right = [4, 3, 1]
    for number, count in enumerate(right):
        split_file(tmp_path / "features" / f"own-split{number}.h5", count, "own")
    figures = evaluate(options(tmp_path, protocol=three_splits(tmp_path), bootstrap=9), Silent()).metrics
    rates = [count / 4 for count in right]
    assert figures["rank"]["1"] == pytest.approx(np.mean(rates))
    assert figures["standard_deviation"]["rank"]["1"] == pytest.approx(np.std(rates, ddof=1))
    assert [split["rank"]["1"] for split in figures["splits"]] == rates
    assert len(figures["features"]) == 3
    assert figures["rank"]["20"] == 1
    assert figures["cmc"][0] == pytest.approx(np.mean(rates))
    # one match a query: average precision is the reciprocal rank
    assert figures["splits"][0]["mAP"] == 1
    assert figures["choices"]["splits"] == "splits: drawn with seed 0"
    assert "standard_deviation" in figures["choices"]
    assert figures["splits"][0]["interval"]["rank-1"] == [pytest.approx(0.025 ** (1 / 4)), 1]  # 4 of 4 queries
    assert figures["chance"]["rank"]["1"] == pytest.approx(1 / 4)


@pytest.mark.slow
def test_evaluate_chooses_a_gpu_once_and_without_a_process_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the processes of torchrun only the first evaluates: it would wait for the others."""
    chosen: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "choose_device", lambda device: chosen.append(device) or torch.device("cpu"))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *given, **more: pytest.fail("joins a group"))
    files = [split_file(tmp_path / f"of-{number}.h5", 4, "own") for number in range(3)]
    evaluate(options(tmp_path, *files, protocol=three_splits(tmp_path), device="cuda"), Silent())
    assert chosen == ["cuda"]


def test_evaluate_files_in_order_of_split(tmp_path: Path) -> None:
    files = [split_file(tmp_path / f"mine-split{number}.h5", number, "own") for number in range(3)]
    figures = evaluate(options(tmp_path, *files[::-1], protocol=three_splits(tmp_path)), Silent()).metrics
    assert [split["rank"]["1"] for split in figures["splits"]] == [0, 0.25, 0.5]


def test_evaluate_missing_splits(tmp_path: Path) -> None:
    for number in (0, 1, 4, 5, 6, 8, 9):
        split_file(tmp_path / "features" / f"ilids-vid-split{number}.h5", 4)
    with pytest.raises(InputMissing) as caught:
        evaluate(options(tmp_path, protocol="ilids-10split"), Silent())
    text = str(caught.value)
    assert caught.value.exit_code == 66
    assert "3 of 10" in text
    assert "\n" not in text
    assert f"{tmp_path / 'features'}, splits 2, 3, 7)" in text
    assert "Run: amem extract-features --dataset ilids-vid --split all" in text
    for number in (2, 3):
        split_file(tmp_path / "features" / f"ilids-vid-split{number}.h5", 4)
    with pytest.raises(InputMissing, match="Run: amem extract-features --dataset ilids-vid --split 7"):
        evaluate(options(tmp_path, protocol="ilids-10split"), Silent())
    assert not (tmp_path / "results" / "ilids-10split.json").exists()


def test_evaluate_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMEM_DATA", str(tmp_path))  # extract-features takes it too
    with pytest.raises(InputMissing, match=r"mars\.h5.*amem extract-features --dataset mars") as caught:
        evaluate(options(tmp_path), Silent())
    assert caught.value.exit_code == 66
    assert "--data-root" not in caught.value.remedy


def test_evaluate_wrong_number_of_files(tmp_path: Path) -> None:
    unnumbered = [split_file(tmp_path / f"{name}.h5", 4) for name in "abc"]
    with pytest.raises(UsageError, match="3 given, not 10"):
        evaluate(options(tmp_path, *unnumbered, protocol="ilids-10split"), Silent())
    with pytest.raises(UsageError, match="2 given, not 1"):
        evaluate(options(tmp_path, *unnumbered[:2]), Silent())
    twice = [split_file(tmp_path / folder / "x-split3.h5", 4) for folder in "pq"]
    with pytest.raises(UsageError, match="splits 3; 3"):
        evaluate(options(tmp_path, *twice, protocol="ilids-10split"), Silent())


def test_evaluate_surplus_split(tmp_path: Path) -> None:
    files = [split_file(tmp_path / f"mine-split{number}.h5", 4) for number in range(11)]
    with pytest.raises(UsageError, match="10"):
        evaluate(options(tmp_path, *files, protocol="ilids-10split"), Silent())


# -- what is wrong with a file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"queries": [False] * 8}, "0 queries"),
        ({"people": [9, 2, 1, 1, -1, 0, 1, 8]}, "no query has a match"),
    ],
)
def test_evaluate_unusable_files(tmp_path: Path, changed: dict[str, object], why: str) -> None:
    path = mars_like(tmp_path / "theirs.h5", **changed)
    with pytest.raises(BadData, match=why) as caught:
        evaluate(options(tmp_path, path), Silent())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_compare_no_files() -> None:
    with pytest.raises(UsageError, match="--compare: no result files"):
        compare([])


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"protocol": "prid-10split"}, "protocol mars there, prid-10split here"),
        ({"choices": {"ties": "random", "splits": "0", "extra_data": "b"}}, r"(ties: 'stable' there, 'random' here)"),
        ({"queries": 7}, "queries 8 there, 7 here"),
        ({"valid_queries": 5}, "valid_queries 6 there, 5 here"),
        ({}, ""),
    ],
)
def test_compare_other_conventions(tmp_path: Path, changed: dict[str, object], why: str) -> None:
    choices = {"ties": "stable", "splits": "drawn", "extra_data": "a", "extraction": "c"}
    one = some_result(choices=choices, valid_queries=6)
    other = one | {"choices": {"ties": "stable", "extra_data": "b", "extraction": "d"}} | changed
    files = [tmp_path / "one.json", tmp_path / "other.json"]
    for path, result in zip(files, (one, other), strict=True):
        results.write(path, result, Provenance("evaluate", {}))
    if not why:
        assert [name for name, _ in compare(files)] == ["one", "other"]
        return
    with pytest.raises(UsageError, match=re.escape(why)):
        compare(files)


@pytest.mark.slow
def test_evaluate_file_of_another_split(tmp_path: Path) -> None:
    files = [split_file(tmp_path / f"of-{number}.h5", 4, "own") for number in range(3)]
    for recorded, path in zip((0, 5, 2), files, strict=True):
        with h5py.File(path, "r+") as file:
            file.attrs["provenance"] = json.dumps({"options": {"split": recorded}})
    with pytest.raises(BadData, match=r"of-1\.h5: it has features of split 5, but is given for split 1"):
        evaluate(options(tmp_path, *files, protocol=three_splits(tmp_path)), Silent())


def test_evaluate_equal_splits_and_one_split(tmp_path: Path) -> None:
    """Splits are resampled, whose rates are equal here; the exact interval is for queries."""
    for number in range(3):
        split_file(tmp_path / "features" / f"own-split{number}.h5", 4, "own")
    manifest = Path(three_splits(tmp_path))
    given = options(tmp_path, protocol=str(manifest), bootstrap=9)
    assert evaluate(given, Silent()).metrics["interval"]["rank-1"] == [1, 1]
    manifest.write_text(manifest.read_text().replace("splits = 3", "splits = 1"))
    assert "standard_deviation" not in evaluate(given, Silent()).metrics["choices"]


def test_evaluate_calibration_threshold_is_finite(tmp_path: Path) -> None:
    path = mars_like(tmp_path / "theirs.h5")
    found = evaluate(options(tmp_path, path, calibrate=0.99999999), Silent()).metrics["calibration"]
    assert np.isfinite(found["threshold_squared_distance"])
    assert found["false_match_rate"] < 1
    assert found["models"] == []  # the file does not say


@pytest.mark.parametrize(("rate", "warned"), [(0.001, True), (0.5, False)])
def test_evaluate_calibration_of_few_pairs(tmp_path: Path, rate: float, warned: bool) -> None:
    found = evaluate(options(tmp_path, mars_like(tmp_path / "theirs.h5"), calibrate=rate), Silent()).metrics
    text = "pairs of different people are too few to measure this rate"
    assert any(text in warning for warning in found.get("warnings", [])) == warned


def test_evaluate_calibration_names_its_models(tmp_path: Path) -> None:
    files = [split_file(tmp_path / f"of-{number}.h5", 4, "own") for number in range(3)]
    for model, path in zip("bab", files, strict=True):
        with h5py.File(path, "r+") as file:
            file.attrs["provenance"] = json.dumps({"parents": {"amem-main": {"sha256": model * 64}}})
    given = options(tmp_path, *files, protocol=three_splits(tmp_path), calibrate=0.1)
    assert evaluate(given, Silent()).metrics["calibration"]["models"] == ["a" * 64, "b" * 64]


def official(distances: np.ndarray, match: np.ndarray, ignored: np.ndarray) -> tuple[float, float, int]:
    """(AP at the hits, AP by trapezoids, rank of the first match) of one query, as the MATLAB code goes through a
    ranking; (0, 0, 0) without a match. All (G,)."""
    order = [item for item in sorted(range(len(match)), key=lambda i: (distances[i], i)) if not ignored[item]]
    hits, trapezoids, recall, precision, first = [], 0.0, 0.0, 1.0, 0
    for place, item in enumerate(order, 1):
        if match[item]:
            hits.append((len(hits) + 1) / place)
            first = first or place
        after, now = len(hits) / max(match.sum(), 1), len(hits) / place
        trapezoids += (after - recall) * (precision + now) / 2
        recall, precision = after, now
    return (float(np.mean(hits)), trapezoids, first) if hits else (0.0, 0.0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_evaluate_equals_official_rules_in_plain_loops(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = 120
    people = generator.integers(-1, 12, rows)  # junk and distractors among them
    cameras = generator.integers(1, 4, rows)
    queries = (generator.random(rows) < 0.3) & (people > 0)
    lonely = np.flatnonzero(queries)[0]
    people[lonely] = 99  # a query without a match
    axes = generator.integers(0, 16, rows)  # unit vectors along 16 axes: distances are 0 or 2, nearly all are ties
    path = write_features(tmp_path / "f.h5", [0.0] * rows, people.tolist(), cameras.tolist(), queries.tolist())
    with h5py.File(path, "r+") as file:
        del file["features"]
        file["features"] = np.eye(16, dtype=np.float32)[axes]
    result = evaluate(options(tmp_path, path), Silent()).metrics

    distances = 2.0 * (axes[:, None] != axes)
    for gallery, found in (
        (np.arange(rows), result),
        (np.flatnonzero(~queries), result["gallery_without_queries"]),
    ):
        scores = []
        for query in np.flatnonzero(queries):
            same = people[gallery] == people[query]
            own = same & (cameras[gallery] == cameras[query])
            scores.append(official(distances[query, gallery], same & ~own, own | (people[gallery] == -1)))
        at_hits, trapezoids, first = map(np.array, zip(*scores, strict=True))
        valid = first > 0
        assert (found["queries"], found["valid_queries"]) == (queries.sum(), valid.sum())
        assert not valid.all()
        assert found["gallery"] == (people[gallery] != -1).sum()
        assert found["mAP"] == pytest.approx(at_hits[valid].mean(), abs=1e-12)
        assert found["mAP_official"] == pytest.approx(trapezoids.mean(), abs=1e-12)
        for k in (1, 5, 10, 20):
            assert found["rank"][str(k)] == pytest.approx((first[valid] <= k).mean(), abs=1e-12)
            assert found["rank_official"][str(k)] == pytest.approx(((first <= k) & valid).mean(), abs=1e-12)
