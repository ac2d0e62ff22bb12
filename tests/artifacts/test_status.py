"""The workspace: who may write, what is made already, and the state of the chain."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from faults import temporaries

from amem_cli.artifacts import (
    atomic,
    checkpoint,
    features,
    lock,
    metrics_log,
    output,
    paths,
    pseudo_labels,
    results,
    status,
)
from amem_cli.artifacts.provenance import Provenance, parent
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData, DiskError, Locked, OutputExists
from amem_cli.options import ExtractFeaturesOptions
from amem_cli.runtime.progress import Silent
from amem_cli.stages.output import warn_of_stale


def test_paths_are_those_of_the_contract():
    place = paths.Workspace(Path("w"))
    found = [place.arm, place.tae, place.labels("mars"), place.amem("mars", None), place.amem_main("ilids-vid", 3)]
    found += [place.features("mars", None), place.features("ilids-vid", 0), place.results("ilids-10split")]
    assert [path.as_posix() for path in found] == [
        "w/arm/arm.safetensors",
        "w/tae/tae.safetensors",
        "w/labels/mars.h5",
        "w/amem/mars/amem.safetensors",
        "w/amem/ilids-vid-split3/amem-main.safetensors",
        "w/features/mars.h5",
        "w/features/ilids-vid-split0.h5",
        "w/results/ilids-10split.json",
    ]


# -- the lock ----------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from amem_cli.artifacts.lock import locked
with locked(Path(sys.argv[1])):
    print("holding", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """(output, a process that holds its lock)"""
    output = tmp_path / "features" / "mars.h5"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, output], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holding\n"
    yield output, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_is_told_who_holds_and_a_dead_one_holds_nothing(holder):
    output, process = holder
    with pytest.raises(Locked, match=rf"another run writes it \(process {process.pid} on ") as raised:
        with lock.locked(output):
            pytest.fail("locked twice")
    assert raised.value.exit_code == 75
    with lock.locked(output.with_name("other.h5")):
        pass
    with lock.locked(output, owner=False):
        pass

    stale = output.with_name(".mars.h5.abcd1234.amem-tmp")
    stale.touch()
    process.kill()
    process.wait()
    with lock.locked(output):
        assert not stale.exists()
        assert f"process {os.getpid()} on " in output.with_name(".mars.h5.holder").read_text()
    assert temporaries(output.parent) == []


def test_the_name_of_a_dead_holder_holds_nothing_even_where_its_number_lives_again(tmp_path):
    output = tmp_path / "x.h5"
    output.with_name(".x.h5.lock").touch()
    output.with_name(".x.h5.holder").write_text(f"process {os.getppid()} on here")
    with lock.locked(output):
        assert f"process {os.getpid()} on " in output.with_name(".x.h5.holder").read_text()


def test_the_lock_is_free_after_an_error(tmp_path):
    output = tmp_path / "x.h5"
    for _ in range(2):
        with pytest.raises(RuntimeError, match="inside"), lock.locked(output):
            raise RuntimeError("inside")
    assert [path.name for path in tmp_path.iterdir()] == [".x.h5.lock"]


def test_the_lock_file_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with lock.locked(tmp_path / "x.h5"):
            modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert len(modes) == 1
    assert not modes.pop() & 0o027


def test_a_folder_that_cannot_be_written_is_a_disk_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError), lock.locked(tmp_path / "file" / "x.h5"):
        pass

    def full(self, text):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DiskError, match="no space left"), lock.locked(tmp_path / "x.h5"):
        pytest.fail("went on")
    monkeypatch.undo()
    with lock.locked(tmp_path / "x.h5"):
        pass


# -- what is made already ----------------------------------------------------------------------------------------------

MADE = Provenance("evaluate", {"seed": 0})


def kinds_of_artifacts(folder):
    """One artifact of each format from MADE."""
    labels = pseudo_labels.PseudoLabels(
        "mars", ["a"], np.ones(1), np.ones(1), np.ones(1), np.ones((1, 1)), np.ones((1, 1)), ("hat",), 0.5, {}
    )
    return {
        "json": results.write(folder / "r.json", {"mAP": 1.0}, MADE),
        "h5": pseudo_labels.write(folder / "l.h5", labels, MADE),
        "safetensors": checkpoint.save(folder / "a.safetensors", "amem-arm", {"w": torch.ones(2)}, MADE),
    }


@pytest.mark.parametrize("kind", ["json", "h5", "safetensors"])
def test_already_made(tmp_path, kind):
    path = kinds_of_artifacts(tmp_path)[kind]
    other = Provenance("evaluate", {"seed": 1})

    def made(output=path, provenance=MADE, resume="auto", force=False):
        return output.already_made("thing", output, provenance, resume=resume, force=force)

    assert made() is True
    assert made(resume="never") is False
    assert made(force=True) is False
    assert made(output=tmp_path / "none") is False
    for resume in ("auto", "never"):
        with pytest.raises(OutputExists, match="seed: 0 there, 1 now"):
            made(provenance=other, resume=resume)
    assert made(provenance=other, force=True) is False

    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadData, match=r"damaged.*--force"):
        made()
    assert made(force=True) is False


@pytest.mark.parametrize("kind", ["json", "h5", "safetensors"])
def test_provenance_of_any_artifact(tmp_path, kind):
    path = kinds_of_artifacts(tmp_path)[kind]
    assert MADE.differences(output.read_provenance(path)) == []
    for content in (b"", b"{}{", b"\xff\xfe", b"[]"):
        path.write_bytes(content)
        with pytest.raises(BadData):
            output.read_provenance(path)


# -- the chain ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path):
    """A workspace with the six artifacts, each naming its parents."""
    place = paths.Workspace(tmp_path / "workspace")
    tensors = {"w": torch.ones(2)}
    checkpoint.save(place.arm, "amem-arm", tensors, Provenance("train-arm", {}))
    checkpoint.save(place.tae, "amem-tae", tensors, Provenance("train-tae", {}))
    labels = pseudo_labels.PseudoLabels(
        "mars", ["a"], np.ones(1), np.ones(1), np.ones(1), np.ones((1, 1)), np.ones((1, 1)), ("hat",), 0.5, {}
    )
    pseudo_labels.write(place.labels("mars"), labels, Provenance("label-videos", {}, {"arm": parent(place.arm)}))
    parents = {"labels": parent(place.labels("mars")), "tae": parent(place.tae)}
    for path, kind in ((place.amem("mars", None), "amem-model"), (place.amem_main("mars", None), "amem-main")):
        checkpoint.save(path, kind, tensors, Provenance("train-amem", {}, parents))
    rows = features.Features("mars", ["a"], np.ones(1), np.ones(1), np.ones(1), np.eye(1), {})
    main = {"amem-main": parent(place.amem_main("mars", None))}
    features.write(place.features("mars", None), rows, Provenance("extract-features", {}, main))
    scored = {"features": parent(place.features("mars", None))}
    result = {"mAP": 1.0, "protocol": "mars", "choices": {}, "queries": 1, "gallery": 1, "rank": {}}
    results.write(place.results("mars"), result, Provenance("evaluate", {}, scored))
    return place


def states(place, deep=False):
    links = status.chain(place.root, "mars", "mars", None, "mars", None, deep=deep)
    return {link.stage: link for link in links}


def test_a_finished_chain_is_ready_in_order(finished):
    chain = states(finished, deep=True)
    assert list(chain) == ["train-arm", "label-videos", "train-tae", "train-amem", "extract-features", "evaluate"]
    assert {link.state for link in chain.values()} == {"ready"}
    assert {link.command for link in chain.values()} == {""}
    assert chain["label-videos"].provenance["command"] == "label-videos"


def test_an_empty_workspace_is_missing_with_the_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chain = states(paths.Workspace(Path("workspace")))
    assert {link.state for link in chain.values()} == {"missing"}
    assert [link.command for link in chain.values()] == [
        "amem train-arm",
        "amem label-videos --dataset mars",
        "amem train-tae",
        "amem train-amem --dataset mars",
        "amem extract-features --dataset mars",
        "amem evaluate --protocol mars",
    ]


def test_commands_of_a_split_of_an_own_manifest_and_of_another_workspace(tmp_path):
    root = tmp_path / "my runs"
    links = status.chain(root, "my.toml", "mine", 3, "mine-splits", 5)
    assert [link.command for link in links][-3:-1] == [
        f"amem train-amem --dataset my.toml --split 3 --workspace '{root}'",
        f"amem extract-features --dataset my.toml --split 3 --workspace '{root}'",
    ]
    assert links[-2].path == root / "features" / "mine-split3.h5"


def test_a_link_whose_parent_was_made_anew_is_stale_and_so_is_all_that_depends_on_it(finished):
    checkpoint.save(finished.arm, "amem-arm", {"w": torch.zeros(2)}, Provenance("train-arm", {"seed": 1}))
    chain = states(finished)
    depending = ["label-videos", "train-amem", "extract-features", "evaluate"]
    assert [stage for stage, link in chain.items() if link.state == "stale"] == depending
    assert {chain[stage].state for stage in ("train-arm", "train-tae")} == {"ready"}
    assert "made from another arm" in chain["label-videos"].why
    assert [chain[stage].why for stage in depending[1:]] == [
        f"made from what is stale ({stage})" for stage in depending[:-1]
    ]
    assert chain["label-videos"].command == f"amem label-videos --dataset mars --workspace {finished.root} --force"


def test_a_model_that_was_made_without_labels_does_not_depend_on_them(finished):
    """A baseline has neither labels nor TAE among its parents."""
    for path, kind in ((finished.amem("mars", None), "amem-model"), (finished.amem_main("mars", None), "amem-main")):
        checkpoint.save(path, kind, {"w": torch.ones(2)}, Provenance("train-amem", {}))
    checkpoint.save(finished.arm, "amem-arm", {"w": torch.zeros(2)}, Provenance("train-arm", {"seed": 1}))
    stale = [stage for stage, link in states(finished).items() if link.state == "stale"]
    assert "label-videos" in stale
    assert "train-amem" not in stale


def test_a_stage_warns_of_what_is_stale_above_it(finished):
    manifest, options = load_manifest("mars"), ExtractFeaturesOptions(workspace=finished.root)

    def warnings(stage):
        progress = Silent()
        warn_of_stale(options, manifest, None, stage, progress)
        return progress.warnings

    assert warnings("evaluate") == []
    checkpoint.save(finished.tae, "amem-tae", {"w": torch.zeros(2)}, Provenance("train-tae", {"seed": 1}))
    assert warnings("train-amem") == []
    (model,) = warnings("extract-features")
    assert str(finished.amem("mars", None)) in model
    assert f"amem train-amem --dataset mars --workspace {finished.root} --force" in model
    assert len(warnings("evaluate")) == 2


def test_one_of_ten_features_files_made_anew_makes_the_result_stale(tmp_path):
    place = paths.Workspace(tmp_path)
    rows = features.Features("p", ["a"], np.ones(1), np.ones(1), np.ones(1), np.eye(1), {})
    for number in range(3):
        features.write(place.features("p", number), rows, Provenance("extract-features", {"split": number}))
    scored = {f"features {number}": parent(place.features("p", number)) for number in range(3)}
    results.write(place.results("p3"), {}, Provenance("evaluate", {}, scored))
    assert status.chain(tmp_path, "p", "p", 0, "p3", 3)[-1].state == "ready"
    features.write(place.features("p", 2), rows, Provenance("extract-features", {"split": "2 again"}))
    assert status.chain(tmp_path, "p", "p", 0, "p3", 3)[-1].state == "stale"


@pytest.mark.parametrize(
    "stage", ["train-arm", "label-videos", "train-tae", "train-amem", "extract-features", "evaluate"]
)
def test_one_flipped_bit_is_damage_when_verified(finished, stage):
    path = states(finished)[stage].path
    content = bytearray(path.read_bytes())
    content[-2] ^= 8
    path.write_bytes(content)
    link = states(finished, deep=True)[stage]
    assert link.state == "damaged"
    assert link.command.endswith("--force")
    assert str(path) in link.why


def test_amem_main_is_a_part_of_the_chain(finished):
    main = finished.amem_main("mars", None)
    content = bytearray(main.read_bytes())
    content[-2] ^= 8
    main.write_bytes(content)
    link = states(finished, deep=True)["train-amem"]
    assert link.state == "damaged"
    assert str(main) in link.why
    assert link.command.startswith("amem train-amem --dataset mars")
    assert "--force" not in link.command  # the whole model is there, of which it is made anew
    assert not output.is_complete(main)
    main.unlink()
    link = states(finished)["train-amem"]
    assert (link.state, link.why) == ("missing", f"{main} is gone")


def test_weights_beside_an_artifact_are_verified_too(finished):
    best = finished.arm.with_name("arm-best.safetensors")
    best.write_bytes(finished.arm.read_bytes()[:-1] + b"x")
    assert states(finished)["train-arm"].state == "ready"
    assert str(best) in states(finished, deep=True)["train-arm"].why


def test_a_folder_in_the_place_of_an_artifact_is_damage(finished):
    finished.tae.unlink()
    finished.tae.mkdir()
    assert (states(finished)["train-tae"].state, states(finished)["train-tae"].why) == (
        "damaged",
        f"{finished.tae} is a folder",
    )


def test_labels_whose_seal_is_gone_are_damaged(finished):
    path = finished.labels("mars")
    path.write_bytes(bytes(512) + path.read_bytes()[512:])
    assert "its seal is gone" in states(finished, deep=True)["label-videos"].why
    with pytest.raises(BadData, match="its seal is gone"):
        pseudo_labels.read(path)


@pytest.mark.parametrize("seconds", ["1e400", "NaN", '"x"', "{}"])
def test_seconds_that_are_none_are_passed_over(tmp_path, seconds):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "seconds": 7.5}\n{"step": 2, "seconds": ' + seconds + "}\n")
    assert metrics_log.recorded_seconds(path) == 7.5


def test_a_file_cut_short_is_damage_at_once(finished):
    for path in (finished.arm, finished.labels("mars"), finished.results("mars")):
        path.write_bytes(path.read_bytes()[:100])
    chain = states(finished)
    assert {chain[stage].state for stage in ("train-arm", "label-videos", "evaluate")} == {"damaged"}


def test_features_of_another_program_are_ready(finished):
    path = finished.features("mars", None)
    with h5py.File(path, "w") as file:
        file.attrs["kind"] = features.KIND
    link = states(finished)["extract-features"]
    assert (link.state, link.provenance) == ("ready", {})


# -- metrics.jsonl -----------------------------------------------------------------------------------------------------


def test_metrics_grow_line_by_line_and_a_torn_line_spoils_no_other(tmp_path):
    path = tmp_path / "amem" / "metrics.jsonl"
    metrics_log.append_metrics(path, {"step": 1})
    metrics_log.append_metrics(path, {"step": 2})
    path.write_bytes(path.read_bytes()[:-6])  # as a crash tears it
    metrics_log.append_metrics(path, {"step": 3})
    lines = path.read_text().splitlines()
    assert [json.loads(lines[0]), lines[1], json.loads(lines[2])] == [{"step": 1}, '{"step', {"step": 3}]


def test_metrics_on_a_full_disk_are_a_disk_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError):
        metrics_log.append_metrics(tmp_path / "file" / "metrics.jsonl", {})


def test_a_checkpoint_with_a_broken_mark_is_not_taken_for_one_that_carries_none(tmp_path):
    path = checkpoint.save(tmp_path / "arm.safetensors", "amem-arm", {"w": torch.zeros(2)}, MADE)
    content = bytearray(path.read_bytes())
    content[content.find(atomic.CHECKSUM_MARK)] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadData, match="carries no amem seal"):
        output.already_made("ARM checkpoint", path, MADE, resume="auto", force=False)


def test_a_damaged_result_with_a_broken_mark_is_bad_data_not_a_bug(tmp_path):
    """Bit 7 of the mark: no seal is found, and the text is no UTF-8 any more."""
    path = results.write(tmp_path / "r.json", {}, MADE)
    content = bytearray(path.read_bytes())
    content[content.find(atomic.CHECKSUM_MARK)] ^= 128
    path.write_bytes(content)
    with pytest.raises(BadData):
        output.already_made("result", path, MADE, resume="auto", force=False)
