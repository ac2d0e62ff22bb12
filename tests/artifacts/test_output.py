"""Reuse of an existing output, refusal to overwrite it, and the provenance inside an artifact of any format."""

import os

import pytest
import torch
from faults import flip_bit
from writers import write

from amem_cli.artifacts import atomic, checkpoint, output
from amem_cli.artifacts.output import locked
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, DiskError, Locked, OutputExists
from amem_cli.options import Options, TrainAmemOptions, TrainArmOptions
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.sharding import Shards

MADE, OTHER = Provenance("evaluate", {"seed": 0}), Provenance("evaluate", {"seed": 1})
FORMATS = ["result.json", "labels.h5", "arm.safetensors"]


@pytest.mark.parametrize("name", FORMATS)
def test_is_current(tmp_path, name):
    path, image, warnings = tmp_path / name, tmp_path / "1.jpg", []
    image.touch()
    os.utime(image, (1, 1))

    def made(provenance=MADE, resume="auto", force=False):
        with output.output_slot("thing", path, Options(resume=resume, force=force)) as slot:
            return slot.is_current(provenance, [image], warnings.append)

    assert made() is False
    write(path, provenance=MADE)
    assert made() is True
    assert warnings == []
    os.utime(image, (path.stat().st_mtime + 1,) * 2)
    assert made() is True
    same = "but names and sizes are the same, as in a copy of the data set"
    again = "If their content changed, make it again (--force, for all splits --resume never)"
    assert warnings == [f"{path} is older than 1 of its images, {same}. {again}"]
    image.unlink()
    assert made() is True
    assert len(warnings) == 1
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


def test_is_current_forced_splits_continue(tmp_path):
    """`--split all --force`, interrupted, keeps the splits that it has finished."""
    path = tmp_path / "labels.h5"

    warnings = []

    def made(provenance, **changed):
        forced = TrainAmemOptions(**{"split": "all", "force": True} | changed)
        with output.output_slot("thing", path, forced) as slot:
            return slot.is_current(provenance, [], warnings.append)

    assert made(MADE) is False
    write(path, provenance=MADE)
    assert made(MADE) is True
    kept = f"--force: {path} is finished with these options and kept. To make it again: --resume never"
    assert warnings == [kept]
    assert [made(MADE, split="0"), made(MADE, resume="never"), made(OTHER)] == [False] * 3
    flip_bit(path)
    assert made(MADE) is False


@pytest.mark.parametrize("name", ["result.json", "arm.safetensors"])
def test_is_current_damaged_mark(tmp_path, name):
    path = tmp_path / name
    write(path, provenance=MADE)
    flip_bit(path, path.read_bytes().find(atomic.CHECKSUM_MARK), 7)
    with pytest.raises(BadData, match="has no amem checksum"):
        output.OutputSlot("thing", path, Options()).is_current(MADE, [], print)


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


def test_output_slot_folder_in_its_place(tmp_path):
    (tmp_path / "mars.h5").mkdir()
    with pytest.raises(DiskError, match=r"a folder is in its place\. Move it away"):
        with output.output_slot("features", tmp_path / "mars.h5", Options()):
            pass


def test_stage_result_as_json(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    found = output.StageResult("evaluate", path, True, {"a": 1}).as_json()
    assert found.pop("sha256").startswith("e3b0c442")
    assert found == {"stage": "evaluate", "artifact": str(path), "reused": True, "metrics": {"a": 1}}


@pytest.mark.parametrize("name", ["labels.h5", "arm.safetensors"])
def test_is_current_sweeps_what_a_killed_run_left(tmp_path, name):
    path = tmp_path / name
    write(path, provenance=MADE)
    left = [tmp_path / "state-00000003.safetensors", tmp_path / "state-00000004.safetensors"]
    for state, provenance in zip(left, (MADE, OTHER), strict=True):
        checkpoint.save(state, "amem-state", {}, provenance)
    alone = Processes(0, 1, torch.device("cpu"))
    shards = [Shards(path, provenance, alone, fresh=False).folder for provenance in (MADE, OTHER)]
    assert output.OutputSlot("thing", path, Options()).is_current(MADE, [], print)
    assert [shard.exists() for shard in shards] == [False, True]  # those of other options can be continued
    assert [state.exists() for state in left] == [name.endswith(".h5"), True]


def test_is_current_names_the_files_of_a_training_that_another_was_to_replace(tmp_path):
    path, warnings = tmp_path / "arm.safetensors", []
    checkpoint.save(path, "amem-arm", {}, MADE)
    (tmp_path / "previous").mkdir()
    slot = output.OutputSlot("thing", path, Options())
    for later, expected in ((-10, 0), (10, 1)):  # the artifact is the other's, or the first's
        at = path.stat().st_mtime + later
        os.utime(tmp_path / "previous", (at, at))
        assert slot.is_current(MADE, [], warnings.append)
        assert len(warnings) == expected
    assert f"best weights, samples and metrics of {path} are in {tmp_path / 'previous'}" in warnings[0]


def test_is_current_does_not_continue_from_a_state(tmp_path):
    path, state, warnings = tmp_path / "arm.safetensors", tmp_path / "state-00000003.safetensors", []
    checkpoint.save(path, "amem-arm", {}, MADE)
    checkpoint.save(state, "amem-state", {}, MADE)
    slot = output.OutputSlot("thing", path, TrainArmOptions(resume=str(state)))
    assert slot.is_current(MADE, [], warnings.append)
    assert warnings == [f"--resume {state} has no effect: {path} is complete. --force trains again from it"]
    assert state.exists()


@pytest.mark.parametrize("provenance", [[], "text", {"options": []}, {"parents": {"tae": 1}}])
def test_read_provenance_of_other_types(tmp_path, monkeypatch, provenance):
    monkeypatch.setattr(Provenance, "as_json", lambda self: provenance)
    checkpoint.save(tmp_path / "arm.safetensors", "amem-arm", {}, MADE)
    with pytest.raises(BadData, match=r"arm\.safetensors"):
        output.read_provenance(tmp_path / "arm.safetensors")


def test_read_description_metrics(tmp_path):
    path = tmp_path / "arm.safetensors"
    checkpoint.save(path, "amem-arm", {}, MADE)
    assert checkpoint.read_description(path)["metrics"] == {}
    checkpoint.save(path, "amem-arm", {}, MADE, metrics=[])
    with pytest.raises(BadData, match="metrics"):
        checkpoint.read_description(path)
