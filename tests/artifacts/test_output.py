"""Reuse of an existing output, refusal to overwrite it, and the provenance inside an artifact of any format."""

import pytest
from faults import flip_bit
from writers import write

from amem_cli.artifacts import atomic, output
from amem_cli.artifacts.lock import locked
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, Locked, OutputExists
from amem_cli.options import Options

MADE, OTHER = Provenance("evaluate", {"seed": 0}), Provenance("evaluate", {"seed": 1})
FORMATS = ["result.json", "labels.h5", "arm.safetensors"]


@pytest.mark.parametrize("name", FORMATS)
def test_is_current(tmp_path, name):
    path = tmp_path / name

    def made(provenance=MADE, resume="auto", force=False):
        with output.output_slot("thing", path, Options(resume=resume, force=force)) as slot:
            return slot.is_current(provenance)

    assert made() is False
    write(path, provenance=MADE)
    assert made() is True
    assert made(resume="never") is False
    assert made(force=True) is False
    for resume in ("auto", "never"):
        with pytest.raises(OutputExists, match="seed: 0 there, 1 now"):
            made(OTHER, resume)
    assert made(OTHER, force=True) is False
    flip_bit(path)
    with pytest.raises(BadData, match=r"damaged.*--force"):
        made()
    assert made(force=True) is False


@pytest.mark.parametrize("name", ["result.json", "arm.safetensors"])
def test_is_current_damaged_mark(tmp_path, name):
    path = tmp_path / name
    write(path, provenance=MADE)
    flip_bit(path, path.read_bytes().find(atomic.CHECKSUM_MARK), 7)
    with pytest.raises(BadData, match="has no amem checksum"):
        output.OutputSlot("thing", path, Options()).is_current(MADE)


@pytest.mark.parametrize("name", FORMATS)
def test_read_provenance(tmp_path, name):
    path = tmp_path / name
    write(path, provenance=MADE)
    assert MADE.differences(output.read_provenance(path)) == []
    assert output.is_complete(path)
    path.write_bytes(b"[]")
    assert not output.is_complete(path)
    with pytest.raises(BadData):
        output.read_provenance(path)


def test_output_slot_lock(tmp_path):
    path = tmp_path / "result.json"
    with output.output_slot("result", path, Options()):
        with pytest.raises(Locked, match="another run is writing it"), locked(path):
            pytest.fail("locked twice")
        with output.output_slot("result", path, Options(), is_main=False):
            pass
    with locked(path):
        pass


def test_stage_result_as_json(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    found = output.StageResult("evaluate", path, True, {"a": 1}).as_json()
    assert found.pop("sha256").startswith("e3b0c442")
    assert found == {"stage": "evaluate", "artifact": str(path), "reused": True, "metrics": {"a": 1}}
