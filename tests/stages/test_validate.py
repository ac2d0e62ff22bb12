"""`--validate`: the best weights by held-out training people, kept beside the last, exact through a resume."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amem_cli.artifacts import checkpoint
from amem_cli.data.manifest import load_manifest, read_videos
from amem_cli.data.tracklets import people
from amem_cli.errors import BadData, Interrupted
from amem_cli.options import ExtractFeaturesOptions, TrainAmemOptions, TrainArmOptions, TrainTaeOptions
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Silent
from amem_cli.stages import train_amem as amem_stage
from amem_cli.stages.extract_features import extract_features
from amem_cli.stages.train_amem import train_amem
from amem_cli.stages.train_arm import train_arm
from amem_cli.stages.train_tae import train_tae

pytestmark = pytest.mark.usefixtures("one_thread", "tiny_backbone")

ALONE = Processes(0, 1, torch.device("cpu"))
FILES = {
    "amem": ("amem/mars/amem-main.safetensors", "amem/mars/amem-main-best.safetensors", "amem-main"),
    "arm": ("arm/arm.safetensors", "arm/arm-best.safetensors", "amem-arm"),
    "tae": ("tae/tae.safetensors", "tae/tae-best.safetensors", "amem-tae"),
}


def train(stage: str, walkers: Path, workspace: Path, **changed: object) -> None:
    how: dict[str, object] = {
        "data_root": walkers, "workspace": workspace, "device": "cpu", "image_size": "32x32", "epochs": 3,
        "validate": 0.5, "validate_epochs": 1, "log_steps": 1,
    } | changed  # fmt: skip
    if stage == "amem":
        how |= {"modules": "baseline", "branch": "conv2d", "people_per_batch": 2, "clips_per_person": 2}
        train_amem(TrainAmemOptions(**how, clip_frames=4, predict_frames=2, gradient_steps=0), Silent())  # type: ignore[arg-type]
    elif stage == "arm":
        train_arm(TrainArmOptions(**how, backbone="resnet18", batch_size=32, partition="none"), Silent())  # type: ignore[arg-type]
    else:
        train_tae(TrainTaeOptions(**how, batch_size=8), Silent())  # type: ignore[arg-type]


def validations(metrics: Path) -> list[dict]:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [line | line["validation"] for line in lines if "validation" in line]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "metric", "better"), [("amem", "mAP", max), ("arm", "mA", max), ("tae", "mse", min)])
def test_best_is_the_best_of_what_was_logged_and_survives_any_stop(
    stage: str, metric: str, better: object, walkers: Path, tmp_path: Path
) -> None:
    last, best, kind = FILES[stage]
    train(stage, walkers, tmp_path / "whole")
    folder = (tmp_path / "whole" / last).parent
    logged = validations(folder / "metrics.jsonl")
    assert [line["epoch"] for line in logged] == [1, 2, 3]
    recorded = checkpoint.load(tmp_path / "whole" / best, kind).description["validation"]
    winner = next(line for line in logged if line[metric] == better(line[metric] for line in logged))  # type: ignore[operator]
    assert (recorded["metric"], recorded["value"]) == (metric, winner[metric])
    assert (recorded["epoch"], recorded["step"]) == (winner["epoch"], winner["step"])

    stops = 0
    while True:
        try:
            train(stage, walkers, tmp_path / "cut", time_limit="0s")
            break
        except Interrupted:
            stops += 1
    assert stops >= 2
    assert (tmp_path / "cut" / best).read_bytes() == (tmp_path / "whole" / best).read_bytes()
    tensors = [checkpoint.load(tmp_path / run / last, kind).tensors for run in ("whole", "cut")]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    again = validations((tmp_path / "cut" / last).parent / "metrics.jsonl")
    assert [line[metric] for line in again] == [line[metric] for line in logged]


@pytest.fixture(scope="module")
def tracklets(walkers: Path) -> list:
    return list(read_videos(load_manifest("mars"), walkers).splits[0].train)


def options(walkers: Path, workspace: Path, **changed: object) -> TrainAmemOptions:
    how = {"image_size": "32x32", "clip_frames": 4, "predict_frames": 2, "branch": "conv2d"} | changed
    return TrainAmemOptions(data_root=walkers, workspace=workspace, device="cpu", **how)  # type: ignore[arg-type]


def test_the_figures_by_hand(walkers: Path, tracklets: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that are the person give 1; with one camera only the query itself is left out; nobody twice is told."""
    chosen = options(walkers, tmp_path, modules="baseline")
    main = amem_stage.build_main_model(amem_stage.describe(chosen, 4))
    before = {name: tensor.clone() for name, tensor in main.state_dict().items()}
    main.train()

    def by_person(rows: list, *_: object, **__: object) -> dict[str, np.ndarray]:
        return {"features": np.eye(512, dtype=np.float32)[[tracklet.person_id for tracklet in rows]]}

    monkeypatch.setattr(amem_stage, "extract_tracklets", by_person)
    look = (chosen, "fp32", ALONE, Silent())
    found = amem_stage.validate(main, tracklets, *look)
    assert (found["mAP"], found["rank-1"], found["people"]) == (1.0, 1.0, len(people(tracklets)))
    assert 0 < found["queries"] <= len(tracklets)
    assert main.training
    assert all(parameter.requires_grad for parameter in main.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in main.state_dict().items())

    one_camera = [dataclasses.replace(tracklet, camera_id=1) for tracklet in tracklets]
    assert amem_stage.validate(main, one_camera, *look)["queries"] == len(tracklets)
    alone = [dataclasses.replace(tracklet, person_id=row) for row, tracklet in enumerate(tracklets)]
    with pytest.raises(BadData, match=r"held-out training people.*--validate"):
        amem_stage.validate(main, alone, *look)


@pytest.mark.slow
def test_a_new_run_forgets_the_best_of_another_and_best_can_be_extracted(walkers: Path, tmp_path: Path) -> None:
    train("amem", walkers, tmp_path, epochs=1)
    best = tmp_path / FILES["amem"][1]
    assert best.is_file()
    (result,) = extract_features(
        ExtractFeaturesOptions(data_root=walkers, workspace=tmp_path, model=str(best), device="cpu"), Silent()
    )
    assert result.metrics["dimensions"] == 512
    train("amem", walkers, tmp_path, epochs=1, validate=0.0, force=True)
    assert not best.exists()
    main = checkpoint.load(tmp_path / FILES["amem"][0], "amem-main").description
    assert main["model"]["people"] == 4  # without --validate everybody is trained on


def test_too_few_people_are_told(walkers: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="training people"):
        train("amem", walkers, tmp_path, validate=0.9)
