"""`evaluate` on files of other programs, with other conventions, and on a part of a data set."""

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from evaluations import mars_like, options, split_file, three_splits

from amem_cli.artifacts import features, results
from amem_cli.artifacts.provenance import Provenance
from amem_cli.cli.app import run
from amem_cli.cli.console import print_result
from amem_cli.errors import BadData
from amem_cli.runtime.progress import Silent
from amem_cli.stages.evaluate import evaluate


def as_npz(path: Path) -> Path:
    """The same rows as an .npz, which needs no child process to be read."""
    with h5py.File(path) as file:
        columns = {name: file[name][()] for name in ("features", "person_id", "camera_id", "is_query")}
    np.savez(path.with_suffix(".npz"), **columns)
    return path.with_suffix(".npz")


def torchreid_file(path: Path) -> Path:
    """The rows of `mars_like` as torchreid has them: no junk, queries and gallery apart, rows of any length."""
    columns = dict(np.load(as_npz(mars_like(path.with_suffix(".h5")))))
    query, gallery = columns["is_query"], ~columns["is_query"] & (columns["person_id"] != -1)
    arrays = {}
    for name, column in (("f", "features"), ("_pids", "person_id"), ("_camids", "camera_id")):
        arrays |= {f"q{name}": columns[column][query], f"g{name}": columns[column][gallery]}
    np.savez(path, **arrays | {"qf": arrays["qf"] * 3.0, "gf": arrays["gf"].astype(np.float64)})
    return path


def test_evaluate_file_of_torchreid(tmp_path: Path) -> None:
    path, progress = torchreid_file(tmp_path / "theirs.npz"), Silent()
    figures = evaluate(options(tmp_path, path), progress).metrics
    assert figures["mAP"] == pytest.approx((1 / 2 + 1 / 5) / 2)
    assert (figures["queries"], figures["gallery"]) == (2, 7)
    assert "not L2-normalised" in progress.warnings[0]
    assert progress.warnings == figures["warnings"]


def test_evaluate_conventions(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = as_npz(mars_like(tmp_path / "theirs.h5"))
    result = evaluate(options(tmp_path, path), Silent())
    assert "conventions" not in result.metrics
    result = evaluate(options(tmp_path, path, conventions=True), Silent())  # not reused
    rows = {row["code_base"]: row for row in result.metrics["conventions"]}
    assert len(rows) == 10
    assert rows["AP3D"]["mAP"] == pytest.approx(result.metrics["mAP"])
    assert rows["official MATLAB"]["mAP"] == pytest.approx(result.metrics["mAP_official"])
    assert rows["torchreid"]["gallery"] == result.metrics["gallery_without_queries"]["gallery"]
    assert results.read(result.artifact)["conventions"] == result.metrics["conventions"]
    print_result(result.metrics, result.artifact)
    table = capsys.readouterr().out
    assert "counted as by" in table
    assert "open-reid cuhk03: single-gallery-shot" in table


def test_evaluate_json_with_the_rows_of_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = mars_like(tmp_path / "ours.h5")
    assert run(["evaluate", str(path), "--workspace", str(tmp_path), "--json", "--paper"]) == 0
    found = json.loads(capsys.readouterr().out)
    printed = {"rank-1": 0.867, "rank-5": 0.940, "rank-20": 0.971, "mAP": 0.793}  # in Table 5
    assert found["paper"]["paper: AMEM"] == pytest.approx(printed)
    assert found["rank"]["1"] <= 1


@pytest.mark.parametrize("name", ["theirs.npz", "theirs.h5"])
def test_evaluate_features_without_people(tmp_path: Path, name: str) -> None:
    table = mars_like(tmp_path / "theirs.h5")
    found = features.read(table)
    found = dataclasses.replace(found, person_id=np.zeros(0, np.int64))
    if name == "theirs.npz":
        columns = ("features", "camera_id", "is_query")
        np.savez(tmp_path / name, **{column: getattr(found, column) for column in columns})
    else:
        features.write(table, found, Provenance("extract-features", {}))
    with pytest.raises(BadData, match="it has no person_id, so its tracks have no identities"):
        evaluate(options(tmp_path, tmp_path / name), Silent())


def test_evaluate_conventions_over_splits(tmp_path: Path) -> None:
    """Two splits of an own manifest: means; torchreid's gallery of one tracklet each, TF-CLIP's with the queries."""
    manifest = tmp_path / "own.toml"
    manifest.write_text('name = "own"\nlayout = "folder"\n[protocol]\nsplits = 2\n[counts]\nquery_tracklets = 5\n')
    files = [as_npz(split_file(tmp_path / f"own-split{n}.h5", right, "own")) for n, right in enumerate((4, 2))]
    given = options(tmp_path, *files, protocol=str(manifest), conventions=True, calibrate=0.5)
    result = evaluate(given, Silent()).metrics
    assert [result["calibration"][f"{kind}_pairs"] for kind in ("genuine", "impostor")] == [4, 12]
    rows = {row["code_base"]: row for row in result["conventions"]}
    assert rows["torchreid"]["rank"]["1"] == rows["AP3D"]["rank"]["1"] == pytest.approx((1 + 2 / 4) / 2)
    assert (rows["torchreid"]["gallery"], rows["TF-CLIP"]["gallery"]) == (4, 8)
    assert rows["TF-CLIP"]["mAP"] == pytest.approx(
        np.mean([{r["code_base"]: r for r in split["conventions"]}["TF-CLIP"]["mAP"] for split in result["splits"]])
    )
    assert result["incomplete"] == [
        {"count": "query_tracklets", "expected": 5, "found": 4, "split": split} for split in (0, 1)
    ]


def test_evaluate_part_of_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, progress = as_npz(mars_like(tmp_path / "theirs.h5")), Silent()
    result = evaluate(options(tmp_path, path), progress)
    assert {"count": "distractor_tracklets", "expected": 3248, "found": 1} in result.metrics["incomplete"]
    assert not any(row["count"] == "junk_tracklets" for row in result.metrics["incomplete"])
    assert "not the whole of mars" in progress.warnings[0]
    print_result(result.metrics, result.artifact)
    assert "distractor_tracklets: 1 instead of 3248" in " ".join(capsys.readouterr().out.split())


def test_evaluate_strict(tmp_path: Path) -> None:
    path = as_npz(mars_like(tmp_path / "theirs.h5"))
    for made_before in (False, True):
        with pytest.raises(BadData, match=r"not the whole of mars .*leave --strict out"):
            evaluate(options(tmp_path, path, strict=True), Silent())
        assert (tmp_path / "results/mars.json").exists() == made_before
        evaluate(options(tmp_path, path), Silent())


def test_evaluate_result_of_an_earlier_version(tmp_path: Path) -> None:
    """A result without `incomplete` is not reused: it would hide that the features are a part."""
    path = as_npz(mars_like(tmp_path / "theirs.h5"))
    result = evaluate(options(tmp_path, path), Silent())
    document = json.loads(result.artifact.read_text())
    before = {name: value for name, value in document.items() if name not in ("incomplete", "checksum", "provenance")}
    provenance = Provenance(
        **{k: v for k, v in document["provenance"].items() if k in ("command", "options", "parents")}
    )
    results.write(result.artifact, before, provenance)
    again = evaluate(options(tmp_path, path), Silent())
    assert not again.reused
    assert again.metrics["incomplete"]
    assert evaluate(options(tmp_path, path), Silent()).reused


@pytest.mark.parametrize("numbered", [False, True])
def test_evaluate_calibration_of_one_person(tmp_path: Path, numbered: bool) -> None:
    one, why = split_file(tmp_path / "one.h5", 1, "own", people=1), "no pair of different people"
    if numbered:
        files = [split_file(tmp_path / f"f{number}.h5", 4, "own") for number in range(2)] + [one]
        given = options(tmp_path, *files, protocol=three_splits(tmp_path), calibrate=0.1)
    else:
        given = options(tmp_path, one, calibrate=0.1)
    where = "split 2 cannot" if numbered else "cannot"
    with pytest.raises(
        BadData, match=rf"features \S*one\.h5: {where} be calibrated: {why}.*\. Leave --calibrate out\."
    ):
        evaluate(given, Silent())
