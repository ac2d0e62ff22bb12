"""The training loops: schedule, accumulation, data order, logs, validation, resume."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import Complete, amem_options, arm_options, tae_options, tensors_equal, write_labels, write_tae

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import ATTRIBUTES
from amem_cli.data import loading
from amem_cli.data.datasets import read_attributes, read_dataset, read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData, InputMissing, Interrupted, OutputExists, UsageError
from amem_cli.models.amem import AMEM
from amem_cli.models.arm import ARM
from amem_cli.models.checkpoints import load_tae, save_arm
from amem_cli.models.config import ArmConfig
from amem_cli.models.tae import TAE
from amem_cli.runtime.progress import Progress, Silent
from amem_cli.stages import train_arm as arm_stage
from amem_cli.stages import train_tae as tae_stage
from amem_cli.stages.train_amem import inputs as amem_inputs
from amem_cli.stages.train_amem import stage as amem_stage
from amem_cli.stages.train_amem.inputs import initial_weights
from amem_cli.stages.train_amem.step import StepResult
from amem_cli.stages.train_arm import train_arm
from amem_cli.stages.train_tae import train_tae

pytestmark = pytest.mark.usefixtures("one_thread", "tiny_backbone")
SCHEDULE = {"epochs": 3, "learning_rate": 0.1, "lr_schedule": "cosine", "warmup_steps": 2}


@pytest.fixture(scope="module")
def inputs(walkers: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An untrained TAE and made-up labels for the MARS-like walkers."""
    folder = tmp_path_factory.mktemp("inputs")
    names = [tracklet.name for tracklet in read_videos(load_manifest("mars"), walkers).splits[0].train]
    labels = write_labels(folder / "labels.h5", names)
    return {"tae": str(write_tae(folder / "tae.safetensors")), "labels": str(labels)}


def run(stage: str, walkers: Path, workspace: Path, inputs: dict[str, str], **changed: Any) -> Path:
    if stage == "train-arm":
        return train_arm(arm_options(walkers, workspace, **changed), Complete()).artifact
    if stage == "train-tae":
        return train_tae(tae_options(walkers, workspace, **changed), Complete()).artifact
    (result,) = amem_stage.train_amem(amem_options(walkers, workspace, **(inputs | changed)), Complete())
    return result.artifact


def lines_of(artifact: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.parent / "metrics.jsonl").read_text().splitlines()]


class Recorder:
    """In place of train_step: records the rates and the batches of each step, trains nothing."""

    def __init__(self, stage: str):
        self.stage = stage
        self.rates: list[list[float]] = []
        self.batches: list[list[Any]] = []
        self.measured: list[bool] = []
        self.reported: list[type] = []  # networks whose weight files are logged
        self.batch_norm_modes: list[set[bool]] = []  # of the TAE: True is training mode

    def __call__(self, networks: Any, *given: Any, measure_gradients: bool = False) -> Any:
        optimizer = given[0] if self.stage == "train-arm" else networks.adam
        self.rates.append([group["lr"] for group in optimizer.param_groups])
        self.batches.append(list(given[1] if self.stage == "train-arm" else given[0]))
        self.measured.append(measure_gradients)
        if self.stage == "train-tae":
            layers = [layer for layer in networks.tae.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
            self.batch_norm_modes.append({layer.training for layer in layers})
        losses = {"weighted_id": float(len(self.rates))}
        return StepResult(losses, {"id": 1.0} if measure_gradients else {}) if self.stage == "train-amem" else losses


@pytest.fixture
def recorder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder(request.param)
    module = {"train-arm": arm_stage, "train-tae": tae_stage, "train-amem": amem_stage}[request.param]
    monkeypatch.setattr(module, "train_step", found)
    monkeypatch.setattr(module, "log_pretrained", lambda model, log: found.reported.append(type(model)))
    return found


STAGES = ["train-arm", "train-tae", "train-amem"]


@pytest.mark.slow
@pytest.mark.parametrize("recorder", STAGES, indirect=True)
def test_loop_schedule_and_accumulation(
    recorder: Recorder, walkers: Path, inputs: dict[str, str], tmp_path: Path
) -> None:
    changed: dict[str, Any] = SCHEDULE | {"accumulate": 2, "log_steps": 2}
    changed |= (
        {"backbone_lr_factor": 0.6, "fc_lr_factor": 0.2, "mem_lr_factor": 0.3, "gradient_steps": 2}
        if recorder.stage == "train-amem"
        else {}
    )
    changed |= {"batch_size": 4} if recorder.stage == "train-tae" else {}
    artifact = run(recorder.stage, walkers, tmp_path, inputs, **changed)
    steps = len(recorder.rates)
    assert steps % 3 == 0
    per_epoch = steps // 3
    assert per_epoch >= 2
    warmup = [0.5, 1.0, *[1.0] * steps]
    expected = [0.05 * (1 + np.cos(np.pi * number / steps)) * warmup[number] for number in range(steps)]
    assert [rates[0] for rates in recorder.rates] == pytest.approx(expected)
    if recorder.stage == "train-amem":
        for group, factor in ((1, 0.6), (2, 0.2), (3, 0.3)):
            assert [rates[group] for rates in recorder.rates] == pytest.approx([factor * rate for rate in expected])
        assert recorder.measured == [number % 2 == 0 for number in range(steps)]
        norms = [line["step"] for line in lines_of(artifact) if "gradient_norms" in line]
        assert norms == list(range(0, steps, 2))
    assert recorder.reported == [{"train-arm": ARM, "train-tae": TAE, "train-amem": AMEM}[recorder.stage]]
    sizes = [len(batches) for batches in recorder.batches]
    assert set(sizes[: per_epoch - 1]) == {2}
    assert sizes[:per_epoch] == sizes[per_epoch : 2 * per_epoch]
    logged = [line for line in lines_of(artifact) if "weighted_id" in line]
    assert [line["step"] for line in logged] == sorted({*range(1, steps, 2), steps - 1})
    assert logged[0]["weighted_id"] == 1.5  # the mean of the first two steps
    assert not list(artifact.parent.glob("state-*"))


@pytest.mark.slow
@pytest.mark.parametrize("recorder", ["train-tae"], indirect=True)
def test_loop_freeze_bn(recorder: Recorder, walkers: Path, inputs: dict[str, str], tmp_path: Path) -> None:
    run("train-tae", walkers, tmp_path, inputs, epochs=2, freeze_bn=0.5)
    half = len(recorder.batch_norm_modes) // 2
    assert recorder.batch_norm_modes == [{True}] * half + [{False}] * half


class Numbered:
    """In place of ImageBatches: each image is filled with its row number."""

    augment: list[Any] = []  # noqa: RUF012

    def __init__(self, paths: Any, batches: Any, size: tuple[int, int], *, augment: Any):
        self.batches, self.size = batches, size
        Numbered.augment.append(augment)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(np.asarray(self.batches[step], dtype=np.int64))
        return rows.to(torch.uint8)[:, None, None, None].expand(-1, *self.size, 3), rows


@pytest.mark.parametrize("recorder", ["train-arm", "train-tae"], indirect=True)
def test_image_loop_data(
    recorder: Recorder, walkers: Path, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "ImageBatches", Numbered)
    Numbered.augment.clear()
    run(recorder.stage, walkers, tmp_path, inputs, epochs=2, batch_size=4, seed=7)
    assert Numbered.augment == [(7, 0), (7, 1)]
    if recorder.stage == "train-arm":
        data = read_attributes(load_manifest("peta"), walkers)
        seen = [row for batches in recorder.batches for images, _ in batches for row in images[:, 0, 0, 0].tolist()]
        for images, labels in (batch for batches in recorder.batches for batch in batches):
            assert np.array_equal(labels.numpy(), data.labels[images[:, 0, 0, 0].numpy()])
        count = len(data.paths)
    else:
        seen = [row for batches in recorder.batches for images in batches for row in images[:, 0, 0, 0].tolist()]
        count = len(read_dataset(load_manifest("market1501"), walkers).paths)
    epochs = [seen[: len(seen) // 2], seen[len(seen) // 2 :]]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) > count - 4  # each image once, less an incomplete batch
    assert epochs[0] != epochs[1]


def test_training_images_are_the_frames_of_a_video_data_set(walkers: Path) -> None:
    for name, split in (("mars", {}), ("ilids-vid", {"split": 0})):  # so that a test on its people is noticed
        found = tae_stage.training_images(load_manifest(name), walkers, Silent())
        frames = [(f, t.person_id) for t in read_videos(load_manifest(name), walkers).splits[0].train for f in t.frames]
        assert (list(zip(*found[:2], strict=True)), found[2]) == (frames, split)


@pytest.mark.slow
@pytest.mark.parametrize("recorder", ["train-amem"], indirect=True)
@pytest.mark.parametrize("modules", ["amem", "baseline"])
def test_clip_loop_data(
    modules: str,
    recorder: Recorder,
    walkers: Path,
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: dict[int, tuple[Any, ...]] = {}
    original = amem_inputs.ClipBatches

    def recording(*given: Any) -> Any:
        calls[given[3]] = given  # by epoch
        return original(*given)

    monkeypatch.setattr(amem_inputs, "ClipBatches", recording)
    changed = {"flip": 0.25, "crop": 0.75, "erase": 1.0, "seed": 5, "epochs": 2, "modules": modules}
    run("train-amem", walkers, tmp_path, inputs, **changed)
    assert sorted(calls) == [0, 1]
    assert {(given[2].flip, given[2].crop, given[2].seed) for given in calls.values()} == {(0.25, 0.75, 5)}
    tracklets = read_videos(load_manifest("mars"), walkers).splits[0].train
    people = sorted({tracklet.person_id for tracklet in tracklets})
    labels = {t.name: [len(t.name + a) % 2 for a in ATTRIBUTES] for t in tracklets}
    order = [rows for epoch in (0, 1) for rows in calls[epoch][1]]
    batches = [batch for step in recorder.batches for batch in step]
    assert len(order) == len(batches) >= 4
    for rows, batch in zip(order, batches, strict=True):
        chosen = [tracklets[row] for row in rows]
        assert batch.identity.tolist() == [people.index(tracklet.person_id) for tracklet in chosen]
        assert batch.identity[0] == batch.identity[1] != batch.identity[2] == batch.identity[3]  # P x K
        assert (batch.clip.shape, batch.clip.dtype) == ((4, 4, 32, 32, 3), torch.uint8)
        assert batch.clip.min() < batch.clip.max()
        assert (batch.erased[:, 2:] > batch.erased[:, :2]).all()
        if modules == "amem":
            assert batch.attributes.tolist() == [labels[tracklet.name] for tracklet in chosen]
            assert set(batch.start.tolist()) == {1}  # 0 < t < T - c = 2
        else:
            assert batch.attributes is None


def test_initial_weights_auto_takes_the_arm_of_the_same_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(amem_inputs, "weight_file", lambda *given: asked.append(given) or Path(given[0]))
    options = amem_options(tmp_path, tmp_path, weights="auto", backbone="mobilenet_v2")
    initial_weights(options, Silent())
    arm, config = ARM("mobilenet_v2"), ArmConfig(backbone="mobilenet_v2", image_size="32x32")
    path = save_arm(Workspace(tmp_path).arm, arm, config, Provenance("train-arm", {}))
    initial_weights(options, Silent())
    initial_weights(dataclasses.replace(options, backbone="resnet50"), Silent())
    initial_weights(dataclasses.replace(options, backbone="i3d"), Silent())
    initial_weights(dataclasses.replace(options, backbone="r3d"), Silent())
    assert initial_weights(dataclasses.replace(options, weights="file.pt"), Silent()) == Path("file.pt")
    assert asked == [
        ("imagenet", "mobilenet_v2"), (str(path), "mobilenet_v2"), ("imagenet", "resnet50"), ("kinetics", "i3d"),
        ("imagenet", "r3d"), ("file.pt", "mobilenet_v2"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_stopped_after_each_step_gives_the_same_weights(
    stage: str, walkers: Path, inputs: dict[str, str], tmp_path: Path
) -> None:
    changed: dict[str, Any] = {"epochs": 2, "accumulate": 2, "validate": 0.3, "validate_epochs": 1}
    if stage == "train-amem":
        changed |= {"validate": 0.5, "neck": "bn", "average_weights": 0.5, "lr_schedule": "cosine", "warmup_steps": 2}
        changed |= {"erase": 0.5, "jitter": 0.5}
    if stage == "train-arm":
        changed |= {"batch_size": 20}  # two steps per epoch: also stopped within one
    complete = run(stage, walkers, tmp_path / "complete", inputs, **changed)
    with pytest.raises(Interrupted, match="--time-limit 0s after step 1;"):
        run(stage, walkers, tmp_path / "stopped", inputs, **changed, time_limit="0s")
    resumed = None
    while resumed is None:
        with contextlib.suppress(Interrupted):
            resumed = run(stage, walkers, tmp_path / "stopped", inputs, **changed, time_limit="0s")
    for one in sorted(complete.parent.glob("*.safetensors")):
        other = resumed.with_name(one.name)
        kind = checkpoint.read_description(one)["kind"]
        assert tensors_equal(checkpoint.load(one, kind).tensors, checkpoint.load(other, kind).tensors), one.name
    assert {path.name for path in complete.parent.rglob("*.png")} == {
        path.name for path in resumed.parent.rglob("*.png")
    }
    timeless = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in lines_of(a)] for a in (complete, resumed)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "metric", "better"), [("train-arm", "mA", max), ("train-tae", "mse", min),
                                                         ("train-amem", "mAP", max)])  # fmt: skip
def test_validation_keeps_the_best(
    stage: str, metric: str, better: Any, walkers: Path, inputs: dict[str, str], tmp_path: Path
) -> None:
    changed = {"validate": 0.5 if stage == "train-amem" else 0.3, "validate_epochs": 1, "epochs": 3}
    artifact = run(stage, walkers, tmp_path, inputs, **changed)
    logged = [line for line in lines_of(artifact) if "validation" in line]
    assert [line["epoch"] for line in logged] == [1, 2, 3]
    best = next(artifact.parent.glob("*-best.safetensors"))
    recorded = checkpoint.read_description(best)["validation"]
    values = [line["validation"][metric] for line in logged]
    winner = logged[values.index(better(values))]
    assert (recorded["metric"], recorded["value"]) == (metric, better(values))
    assert (recorded["epoch"], recorded["step"]) == (winner["epoch"], winner["step"])
    assert checkpoint.read_description(artifact)["metrics"]["best"] == recorded
    if stage == "train-tae":  # of which MEM can start
        assert checkpoint.load(best, "amem-tae").tensors["encoder.texture_mean"].any()
    samples = sorted(path.name for path in artifact.parent.rglob("step-*.png"))
    assert samples == ([] if stage == "train-arm" else [f"step-{line['step']:06d}.png" for line in logged])


@pytest.mark.slow
@pytest.mark.parametrize("recorder", ["train-tae"], indirect=True)
def test_finished_run_is_reused_or_refused(
    recorder: Recorder, walkers: Path, inputs: dict[str, str], tmp_path: Path
) -> None:
    artifact = run("train-tae", walkers, tmp_path, inputs)
    before = checkpoint.load(artifact, "amem-tae").tensors
    steps = len(recorder.rates)
    assert train_tae(tae_options(walkers, tmp_path, save_seconds=5.0), Silent()).reused
    assert len(recorder.rates) == steps
    with pytest.raises(OutputExists, match=r"learning_rate: 0\.001 there, 0\.01 now"):
        run("train-tae", walkers, tmp_path, inputs, learning_rate=0.01)
    assert not train_tae(tae_options(walkers, tmp_path, resume="never"), Silent()).reused
    assert tensors_equal(checkpoint.load(artifact, "amem-tae").tensors, before)
    assert not train_tae(tae_options(walkers, tmp_path, learning_rate=0.01, force=True), Silent()).reused


@pytest.mark.slow
@pytest.mark.parametrize("recorder", ["train-amem"], indirect=True)
def test_train_amem_inputs(recorder: Recorder, walkers: Path, inputs: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="amem label-videos --dataset mars"):
        run("train-amem", walkers, tmp_path, {"tae": inputs["tae"]})
    with pytest.raises(InputMissing, match="amem train-tae"):
        run("train-amem", walkers, tmp_path, {"labels": inputs["labels"]})
    with pytest.raises(UsageError, match="was trained at 32x32"):
        run("train-amem", walkers, tmp_path, inputs, image_size="64x32")
    few = write_labels(tmp_path / "few.h5", ["a"], attributes=("hairLong",))
    other = write_labels(tmp_path / "other.h5", ["a"], dataset="other")
    for labels, message in ((few, "104 attributes are missing"), (other, "of data set 'other', not 'mars'")):
        with pytest.raises(BadData, match=message):
            run("train-amem", walkers, tmp_path, inputs | {"labels": str(labels)})
    artifact = run("train-amem", walkers, tmp_path, inputs)
    tae = load_tae(Path(inputs["tae"]), "32x32")
    saved = checkpoint.load(artifact, "amem-model").tensors
    for part, prefix in zip(tae[:3], ("amem.mem.encoder.", "amem.mem.decoder.", "discriminator."), strict=True):
        assert all(torch.equal(tensor, saved[prefix + name]) for name, tensor in part.state_dict().items())
    main = artifact.with_name("amem-main.safetensors")
    content = main.read_bytes()
    for damage in (main.unlink, lambda: checkpoint.save(main, "amem-main", {}, Provenance("train-amem", {}))):
        damage()  # missing, and of a later training that was killed before it had written the other file
        assert run("train-amem", walkers, tmp_path, inputs) == artifact
        assert main.read_bytes() == content
    with pytest.raises(UsageError, match="--people-per-batch 1"):
        run("train-amem", walkers, tmp_path / "b", inputs, people_per_batch=1)


@pytest.mark.parametrize("recorder", ["train-amem"], indirect=True)
def test_train_amem_splits_and_weights_of_another_split(
    recorder: Recorder, walkers: Path, inputs: dict[str, str], tmp_path: Path
) -> None:
    how = {"dataset": "ilids-vid", "modules": "baseline", "people_per_batch": 2}
    results = amem_stage.train_amem(amem_options(walkers, tmp_path, split="all", **how), Silent())
    assert [r.artifact.parent.name for r in results] == [f"ilids-vid-split{n}" for n in range(10)]
    main = results[1].artifact.with_name("amem-main.safetensors")
    with pytest.raises(UsageError, match=r"split 1 of ilids-vid, with \d+ test people"):
        run("train-amem", walkers, tmp_path / "b", {}, weights=str(main), split="0", **how)
    run("train-amem", walkers, tmp_path / "b", {}, weights=str(main), modules="baseline")  # of another data set


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_bad_image_stops_or_is_skipped(stage: str, walkers: Path, inputs: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(walkers, data)
    name = {"train-arm": "peta", "train-tae": "market1501", "train-amem": "mars"}[stage]
    manifest = load_manifest(name)
    if stage == "train-arm":
        broken = [read_attributes(manifest, data).paths[3]]
    elif stage == "train-tae":
        broken = [read_dataset(manifest, data).paths[3]]
    else:
        broken = read_videos(manifest, data).splits[0].train[0].frames[1:-1]  # some are in every clip
    for path in broken:
        path.write_bytes(b"no image")
    with pytest.raises(BadData, match="cannot be decoded"):
        run(stage, data, tmp_path / "stop", inputs)
    progress = Progress(quiet=True)
    monkey = pytest.MonkeyPatch()
    monkey.setattr("amem_cli.data.unreadable.MOST_SKIPPED", 0.2)
    try:
        if stage == "train-arm":
            artifact = train_arm(arm_options(data, tmp_path, on_bad_image="skip"), progress).artifact
        elif stage == "train-tae":
            artifact = train_tae(tae_options(data, tmp_path, on_bad_image="skip"), progress).artifact
        else:
            options = amem_options(data, tmp_path, on_bad_image="skip", **inputs)
            artifact = amem_stage.train_amem(options, progress)[0].artifact
    finally:
        monkey.undo()
    listed = artifact.with_suffix(".unreadable.txt").read_text()
    assert all(path.name in listed for path in broken)
    assert any(f"{len(broken)} unreadable" in warning for warning in progress.warnings)
