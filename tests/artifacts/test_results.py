"""The result of an evaluation as JSON."""

import json

import pytest

from amem_cli.artifacts import atomic, results
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, InputMissing

PROVENANCE = Provenance("evaluate", {"protocol": "mars"})


def test_roundtrip(tmp_path):
    figures = {"mAP": 0.1 + 0.2, "rank": {"1": 1.0}}
    counts = {"protocol": "mars", "choices": {}, "queries": 1, "gallery": 2}
    path = results.write(tmp_path / "mars.json", counts | figures, PROVENANCE)
    found = results.read(path)
    assert found["mAP"] == 0.1 + 0.2
    assert found["rank"] == {"1": 1.0}
    assert PROVENANCE.differences(found["provenance"]) == []
    assert json.loads(path.read_text())["kind"] == results.KIND


def test_a_result_without_its_conventions_is_none(tmp_path):
    path = results.write(tmp_path / "mars.json", {"protocol": "mars", "mAP": 0.1, "rank": {}, "queries": 1}, PROVENANCE)
    with pytest.raises(BadData, match="lacks choices, or they are"):
        results.read(path)


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        results.write(tmp_path / "mars.json", {"mAP": float("nan")}, PROVENANCE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"kind": "other", "schema": 1}, "is not a result of amem evaluate"),
        ({"kind": results.KIND, "schema": 2}, r"another version of amem does \(schema 2\)"),
        ([], "not a JSON object"),
    ],
)
def test_other_documents(tmp_path, document, message):
    seal = atomic.CHECKSUM_BLANK.decode()
    document = [*document, seal] if isinstance(document, list) else document | {"seal": seal}
    path = atomic.write_bytes(tmp_path / "mars.json", atomic.fill_checksum(json.dumps(document).encode()))
    with pytest.raises(BadData, match=message):
        results.read(path)


def test_an_edited_result_is_found(tmp_path):
    path = results.write(tmp_path / "mars.json", {"mAP": 0.25}, PROVENANCE)
    path.write_text(path.read_text().replace("0.25", "0.95"))
    with pytest.raises(BadData, match="does not match its own SHA-256"):
        results.read(path)


def test_missing(tmp_path):
    with pytest.raises(InputMissing, match="Run: amem evaluate"):
        results.read(tmp_path / "none.json")
