"""The AMEM stage around its loop: what the progress shows, inputs that are missing, stale or recorded."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import CPU, amem_options, write_labels, write_tae

from amem_cli.artifacts import atomic, checkpoint, pseudo_labels
from amem_cli.artifacts.provenance import Provenance
from amem_cli.data.chain import Chain
from amem_cli.data.clips import shortened
from amem_cli.data.datasets import read_videos, trained_test_people
from amem_cli.data.manifest import load_manifest
from amem_cli.data.tracklets import tracklets_digest
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Loop, Progress, Silent
from amem_cli.stages.train_amem import inputs, stage
from amem_cli.stages.train_amem.step import StepResult

pytestmark = pytest.mark.usefixtures("one_thread", "tiny_backbone")


@pytest.mark.slow
def test_train_amem_shows_the_weighted_losses_and_their_sum(
    walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    losses = {"id": 9.0, "weighted_id": 1.5, "weighted_tri": 1.0, "accuracy": 0.5}
    monkeypatch.setattr(stage, "train_step", lambda *given, **how: StepResult(losses, {}))
    monkeypatch.setattr(Loop, "advance", lambda loop, amount, **terms: shown.append((loop.title, amount, terms)))
    how: dict[str, Any] = {"dataset": "ilids-vid", "split": "3", "modules": "baseline"}
    stage.train_amem(amem_options(walkers, tmp_path, **how), Silent())
    assert shown
    assert all(one == ("train-amem split 3", 1, {"total": 2.5, "id": 1.5, "tri": 1.0}) for one in shown)


@pytest.mark.slow
def test_train_amem_saves_the_best_weights_when_they_are_better(
    walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, saved = iter([0.2, 0.5, 0.3]), []
    monkeypatch.setattr(stage, "train_step", lambda *given, **how: StepResult({"weighted_id": 1.0}, {}))
    monkeypatch.setattr(stage, "validate", lambda *given: {"mAP": next(rates)})
    monkeypatch.setattr(stage, "save_main", lambda path, *given, validation: saved.append(validation["value"]))
    how: dict[str, Any] = {"modules": "baseline", "epochs": 3, "validate": 0.5, "validate_epochs": 1}
    stage.train_amem(amem_options(walkers, tmp_path, **how), Silent())
    assert saved == [0.2, 0.5]


def test_train_amem_needs_two_people_in_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "process_group", lambda device: nullcontext(Processes(0, 2, CPU)))
    with pytest.raises(UsageError, match="--people-per-batch 2: cannot be divided among 2 processes with at least 2"):
        stage.train_amem(amem_options(tmp_path, tmp_path), Silent())


def test_train_amem_missing_tae_before_the_first_split(walkers: Path, tmp_path: Path) -> None:
    options = amem_options(walkers, tmp_path, dataset="ilids-vid", split="all", modules="mem")
    with pytest.raises(InputMissing, match="amem train-tae"):
        stage.train_amem(options, Silent())
    assert not list(tmp_path.iterdir())  # no folder or lock of a split


class Stopped(Exception):
    """Ends a stage before it trains."""


def stop(*given: object) -> None:
    raise Stopped


def test_train_amem_warns_about_stale_labels_of_the_workspace(
    walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [tracklet.name for tracklet in read_videos(load_manifest("mars"), walkers).splits[0].train]
    (tmp_path / "labels").mkdir()
    labels = write_labels(tmp_path / "labels/mars.h5", names)
    warned: list[str] = []
    monkeypatch.setattr(Chain, "warn_about_stale", lambda chain, before, progress: warned.append(before))
    monkeypatch.setattr(inputs, "initial_weights", stop)
    for modules, given, expected in (("aem", "", 1), ("aem", str(labels), 0), ("baseline", "", 0)):
        warned.clear()
        with pytest.raises(Stopped):
            stage.train_amem(amem_options(walkers, tmp_path, modules=modules, labels=given), Silent())
        assert warned == ["train-tae"] * expected


@pytest.mark.slow
def test_train_amem_records_its_inputs(walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracklets = read_videos(load_manifest("mars"), walkers).splits[0].train
    labels = write_labels(tmp_path / "labels.h5", [tracklet.name for tracklet in tracklets])
    tae = write_tae(tmp_path / "tae.safetensors")
    monkeypatch.setattr(stage, "train_step", lambda *given, **how: StepResult({"weighted_id": 1.0}, {}))
    options = amem_options(walkers, tmp_path, labels=str(labels), tae=str(tae))
    (result,) = stage.train_amem(options, Silent())
    recorded = checkpoint.read_description(result.artifact)["provenance"]
    assert set(recorded["parents"]) == {"labels", "tae"}
    assert recorded["data"] == tracklets_digest(list(tracklets))
    assert "all_images" not in recorded["options"]
    assert recorded["options"]["generated"] is True


def test_train_amem_tae_replaced_after_its_digest(
    walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tae, config = write_tae(tmp_path / "tae.safetensors"), stage.model_config
    replacing = lambda *given: atomic.write_bytes(tae, tae.read_bytes()) and config(*given)  # noqa: E731
    monkeypatch.setattr(stage, "model_config", replacing)
    with pytest.raises(BadData, match="it was replaced while this run read it"):
        stage.train_amem(amem_options(walkers, tmp_path, modules="mem", tae=str(tae)), Silent())


@pytest.mark.slow
def test_train_amem_without_a_bad_image_knows_its_people(
    walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise every extraction would warn that test people may be among them."""
    dataset = read_videos(load_manifest("mars"), walkers)
    rest = [
        dataclasses.replace(t, files=t.files[1:]) if not row else t for row, t in enumerate(dataset.splits[0].train)
    ]
    monkeypatch.setattr(stage, "without_unreadable", lambda *given: rest)
    monkeypatch.setattr(stage, "train_step", lambda *given, **how: StepResult({"weighted_id": 1.0}, {}))
    (result,) = stage.train_amem(amem_options(walkers, tmp_path, modules="baseline"), Silent())
    recorded = checkpoint.read_description(result.artifact)["provenance"]
    assert recorded["data"] == tracklets_digest(rest) != recorded["options"]["all_images"]
    assert trained_test_people(recorded, dataset, None) == 0


@pytest.mark.slow
def test_train_amem_warns_about_a_tae_of_test_people(
    walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Provenance("train-tae", {"dataset": "ilids-vid", "split": 0})
    tae = checkpoint.save(tmp_path / "tae.safetensors", "amem-tae", {"x": torch.zeros(1)}, recorded)
    for name in ("_train_split", "inputs.initial_tae"):
        monkeypatch.setattr(f"{stage.__name__}.{name}", lambda *given: None)
    progress = Progress(quiet=True)
    several = {"dataset": "ilids-vid", "split": "all", "modules": "mem", "tae": str(tae)}
    stage.train_amem(amem_options(walkers, tmp_path, **several), progress)
    assert any("on images of test people of split 1, 2" in warning for warning in progress.warnings)


@pytest.mark.parametrize(
    ("recorded", "changed", "warned"),
    [
        ({}, {}, False),
        ({"frames": 2}, {}, False),
        ({}, {"files": ("1.jpg",)}, True),
        ({}, {"person_id": 9}, True),
        ({"on_bad_image": "skip"}, {"files": ("1.jpg",)}, False),
        ({"on_bad_image": "skip"}, {"person_id": 9}, True),
    ],
)
def test_train_amem_warns_about_labels_of_other_data(
    walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: dict, changed: dict, warned: bool
) -> None:
    now = list(read_videos(load_manifest("mars"), walkers).splits[0].train)
    then = [dataclasses.replace(now[0], **changed), *now[1:]]
    path = write_labels(tmp_path / "labels.h5", [tracklet.name for tracklet in then])
    ids = {name: np.array([getattr(one, name) for one in then]) for name in ("person_id", "camera_id")}
    data = tracklets_digest([shortened(one, 1, recorded.get("frames", 0)) for one in then])
    labels = dataclasses.replace(pseudo_labels.read(path), **ids)
    pseudo_labels.write(path, labels, Provenance("label-videos", recorded, data=data))
    monkeypatch.setattr(stage, "_train_split", lambda *given: None)
    progress = Silent()
    stage.train_amem(amem_options(walkers, tmp_path, modules="aem", labels=str(path)), progress)
    why = f"{path}: it was made from other people or images than these. Check --labels"
    assert (why in progress.warnings) == warned


@pytest.mark.slow
def test_train_amem_resumes_from_one_state_of_one_split(walkers: Path, tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    several = {"dataset": "ilids-vid", "split": "all", "resume": str(tmp_path / "state")}
    options = amem_options(walkers, tmp_path, modules="baseline", **several)
    with pytest.raises(UsageError, match="the state of one split"):
        stage.train_amem(options, Silent())
