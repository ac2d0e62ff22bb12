"""The result of an evaluation as JSON."""

import json
import re

import pytest
from writers import some_result

from amem_cli.artifacts import atomic, results
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, InputMissing

PROVENANCE = Provenance("evaluate", {"protocol": "mars"})
RESULT = some_result(mAP=0.1 + 0.2, rank={"1": 1.0, "5": 1.0, "10": 1.0, "20": 1.0})


def test_roundtrip(tmp_path):
    path = results.write(tmp_path / "mars.json", RESULT, PROVENANCE)
    found = results.read(path)
    assert RESULT.items() <= found.items()
    assert PROVENANCE.differences(found["provenance"]) == []
    assert json.loads(path.read_text())["kind"] == "amem-results"
    path.write_text(path.read_text().replace('"1": 1.0', '"1": 0.9'))
    with pytest.raises(BadData, match="does not match its own SHA-256"):
        results.read(path)


def test_write_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        results.write(tmp_path / "mars.json", {"mAP": float("nan")}, PROVENANCE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"kind": "other", "schema": 1}, "is of kind other, not amem-results"),
        ({"kind": results.KIND, "schema": 2}, r"another version of amem \(schema 2\)"),
        ({"kind": results.KIND, "schema": 1, "protocol": "mars"}, "missing required field"),
    ],
)
def test_read_other_documents(tmp_path, document, message):
    text = json.dumps(document | {"checksum": atomic.CHECKSUM_BLANK.decode()})
    path = atomic.write_bytes(tmp_path / "mars.json", atomic.fill_checksum(text.encode()))
    with pytest.raises(BadData, match=message):
        results.read(path)


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"protocol": 5}, "$.protocol"),
        ({"chance": []}, "$.chance"),
        ({"chance": {}}, "$.chance"),
        ({"cmc": [0.5, "x"]}, "$.cmc[1]"),
        ({"mAP": 1.5}, "$.mAP"),
        ({"rank": {"1": 0.5}}, "$.rank"),
        ({"queries": "8"}, "$.queries"),
        ({"interval": {"rank-1": ["0", 1], "mAP": [0, 1]}}, "$.interval"),
        ({"calibration": "0"}, "$.calibration"),
        ({"incomplete": [{"count": "images"}]}, "$.incomplete[0]"),
        ({"splits": [{"rank": None}]}, "$.splits[0]"),
        ({"gallery_without_queries": {"rank": 5}}, "$.rank"),
        ({"conventions": [5]}, "$.conventions[0]"),
        ({"provenance": []}, "array"),
    ],
)
def test_read_malformed(tmp_path, changed, place):
    document = {"kind": results.KIND, "schema": 1, "checksum": atomic.CHECKSUM_BLANK.decode()} | some_result()
    path = atomic.write_bytes(tmp_path / "r.json", atomic.fill_checksum(json.dumps(document).encode()))
    assert results.read(path)["queries"] == 8
    atomic.write_bytes(path, atomic.fill_checksum(json.dumps(document | changed).encode()))
    with pytest.raises(BadData, match=rf"is malformed.*{re.escape(place)}"):
        results.read(path)


def test_read_rounded_rates(tmp_path):
    chance = some_result()["chance"] | {"mAP": 1 + 2**-50}
    path = results.write(tmp_path / "mars.json", some_result(chance=chance), PROVENANCE)
    assert results.read(path)["chance"] == chance


def test_rows_of_a_gallery_without_queries():
    for counts, label in (
        ({"queries": 8}, "without queries"),
        ({"queries": 8, "valid_queries": 8}, "without queries"),
        ({"queries": 8, "valid_queries": 5}, "without queries, 5 with a match"),
    ):
        other = some_result()["chance"] | counts
        labels = [label for label, _ in results.rows_of(some_result(gallery_without_queries=other))]
        assert labels == ["result", label, "chance"]


def test_read_missing(tmp_path):
    with pytest.raises(InputMissing, match="amem evaluate writes such a file"):
        results.read(tmp_path / "none.json")
