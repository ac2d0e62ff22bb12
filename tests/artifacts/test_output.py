"""The output slot: one writer, reuse, refusal."""

from pathlib import Path

import pytest

from amem_cli.artifacts import results
from amem_cli.artifacts.lock import locked
from amem_cli.artifacts.output import StageResult, is_complete, output_slot
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, Locked, OutputExists
from amem_cli.options import EvaluateOptions

CONTENT = {"protocol": "mars", "choices": {}}
ONE, OTHER = Provenance("evaluate", {"seed": 0}), Provenance("evaluate", {"seed": 1})


def test_output_slot_is_current(tmp_path: Path) -> None:
    path = tmp_path / "results" / "mars.json"
    with output_slot("result", path, EvaluateOptions()) as slot:
        assert not slot.is_current(ONE)
        results.write(path, CONTENT, ONE)
        assert slot.is_current(ONE)
        with pytest.raises(OutputExists, match="seed: 0 there, 1 now"):
            slot.is_current(OTHER)
    with output_slot("result", path, EvaluateOptions(force=True)) as slot:
        assert not slot.is_current(OTHER)
    with output_slot("result", path, EvaluateOptions(resume="never")) as slot:
        assert not slot.is_current(ONE)
        with pytest.raises(OutputExists):
            slot.is_current(OTHER)


def test_output_slot_damaged(tmp_path: Path) -> None:
    path = results.write(tmp_path / "mars.json", CONTENT, ONE)
    path.write_bytes(path.read_bytes().replace(b"mars", b"mart"))
    assert not is_complete(path)
    with output_slot("result", path, EvaluateOptions()) as slot, pytest.raises(BadData, match="Use --force"):
        slot.is_current(ONE)


def test_output_slot_lock(tmp_path: Path) -> None:
    path = tmp_path / "mars.json"
    with output_slot("result", path, EvaluateOptions()):
        with pytest.raises(Locked, match="another run is writing it"), locked(path):
            pytest.fail("locked twice")
        with output_slot("result", path, EvaluateOptions(), is_main=False):
            pass
    with locked(path):
        pass


def test_stage_result_as_json(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    found = StageResult("evaluate", path, True, {"a": 1}).as_json()
    assert found["sha256"].startswith("e3b0c442")
    assert (found["stage"], found["artifact"], found["reused"], found["metrics"]) == (
        "evaluate",
        str(path),
        True,
        {"a": 1},
    )
