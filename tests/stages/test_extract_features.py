"""`extract-features`: mean over all clips of a tracklet, shards, splits, reuse and refusal."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import write_main

from amem_cli.artifacts import atomic, features
from amem_cli.artifacts.features import Extraction
from amem_cli.artifacts.provenance import Provenance
from amem_cli.data.clips import evenly_spaced, inference_clips, shortened
from amem_cli.data.datasets import read_videos
from amem_cli.data.loading import read_frames
from amem_cli.data.manifest import load_manifest
from amem_cli.data.tracklets import Tracklet, VideoDataset, people, tracklets_digest
from amem_cli.data.transforms import read_image
from amem_cli.errors import BadData, InputMissing, OutputExists, UsageError
from amem_cli.models.adaptation import adapted_to_camera
from amem_cli.models.checkpoints import load_main_model, save_main
from amem_cli.options import ExtractFeaturesOptions
from amem_cli.runtime import sharding
from amem_cli.runtime.engine import as_pixels, prepare
from amem_cli.runtime.progress import Progress, Silent
from amem_cli.stages import extract_features as stage
from amem_cli.stages.extract_features import extract_features

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def main_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_main(tmp_path_factory.mktemp("main") / "amem-main.safetensors")


@pytest.fixture(scope="module")
def extracted(walkers: Path, main_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("extracted")
    (result,) = extract_features(options(walkers, main_file, workspace), Silent())
    assert result.artifact == workspace / "features" / "mars.h5"
    return result.artifact


def options(walkers: Path, main_file: Path, workspace: Path, **changed: object) -> ExtractFeaturesOptions:
    return ExtractFeaturesOptions(data_root=walkers, workspace=workspace, model=str(main_file), device="cpu", **changed)  # type: ignore[arg-type]


@pytest.mark.slow
def test_extract_features_mean_over_clips_normalised(walkers: Path, main_file: Path, extracted: Path) -> None:
    found = features.read(extracted)
    split = read_videos(load_manifest("mars"), walkers).splits[0]
    assert found.tracklet == [tracklet.name for tracklet in split.test]
    assert found.is_query.tolist() == list(split.is_query)
    assert found.person_id.tolist() == [tracklet.person_id for tracklet in split.test]
    assert found.features.shape == (len(split.test), 512)
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=1), 1, atol=1e-6)

    model, config = load_main_model(main_file)
    model.eval()
    frames = config.clip_frames
    with torch.no_grad():
        for row, tracklet in enumerate(split.test):
            images = [
                torch.from_numpy(read_image(path, 32, 32).copy()).permute(2, 0, 1) / 255 for path in tracklet.frames
            ]
            reflected = images + images[-2:0:-1]  # the reflection rule
            total = torch.zeros(512)
            clips = -(-len(images) // frames)
            for clip in range(clips):
                chosen = [reflected[(clip * frames + at) % len(reflected)] for at in range(frames)]
                total += model(torch.stack(chosen, dim=1)[None])[0]
            expected = torch.nn.functional.normalize(total / clips, dim=0).numpy()
            np.testing.assert_allclose(found.features[row], expected, atol=2e-5)
    lengths = {len(tracklet) for tracklet in split.test}
    assert any(length % frames for length in lengths)
    spread = found.features.std(axis=0).max()
    assert spread > 1e-3  # rows differ


@pytest.mark.slow
def test_extract_features_batches_and_shards(
    walkers: Path, main_file: Path, extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "FRAMES_PER_SHARD", 30)
    (result,) = extract_features(options(walkers, main_file, tmp_path, batch_size=7), Silent())
    found = features.read(result.artifact).features
    np.testing.assert_allclose(found, features.read(extracted).features, atol=2e-5)
    assert not list(tmp_path.rglob("*.parts"))


@pytest.mark.slow
def test_extract_features_same_bytes(walkers: Path, main_file: Path, extracted: Path, tmp_path: Path) -> None:
    shutil.copytree(extracted.parent, tmp_path / "features")
    (again,) = extract_features(options(walkers, main_file, tmp_path, resume="never"), Silent())
    assert not again.reused
    assert again.artifact.stat().st_mtime_ns > extracted.stat().st_mtime_ns
    assert again.artifact.read_bytes() == extracted.read_bytes()


def test_extract_features_reused_or_refused(walkers: Path, main_file: Path, extracted: Path) -> None:
    workspace = extracted.parent.parent
    (again,) = extract_features(options(walkers, main_file, workspace, batch_size=3), Silent())
    assert again.reused
    with pytest.raises(OutputExists, match='image_size: "32x32" there, "64x32" now'):
        extract_features(options(walkers, main_file, workspace, image_size="64x32"), Silent())


def test_extract_features_model_replaced_after_it_was_loaded(
    walkers: Path, main_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "amem-main.safetensors"
    atomic.write_bytes(model, main_file.read_bytes())
    again = model.read_bytes()
    monkeypatch.setattr(stage, "require_rows", lambda *given: atomic.write_bytes(model, again))
    with pytest.raises(BadData, match="it was replaced while this run read it"):
        extract_features(options(walkers, model, tmp_path), Silent())


@pytest.mark.slow
def test_extract_features_of_every_frame_are_others(walkers: Path, extracted: Path, tmp_path: Path) -> None:
    """Features of an inflated network from before the test saw every frame are not reused."""
    assert "every_frame" not in features.read(extracted).provenance["options"]
    inflated = write_main(tmp_path / "m.safetensors", backbone="mobilenet_v2", mirror="on")
    (result,) = extract_features(options(walkers, inflated, tmp_path), Silent())
    found = features.read(result.artifact)
    assert found.provenance["options"]["every_frame"] is True
    assert [found.model("mirror"), features.read(extracted).model("mirror")] == ["on", ""]


@pytest.mark.slow
def test_extract_features_records_the_best_epoch(
    walkers: Path, main_file: Path, extracted: Path, tmp_path: Path
) -> None:
    best = save_main(
        tmp_path / "m.safetensors", *load_main_model(main_file), Provenance("x", {}), validation={"mAP": 1}
    )
    (result,) = extract_features(options(walkers, best, tmp_path), Silent())
    assert [features.read(path).model("epoch") for path in (result.artifact, extracted)] == ["best", ""]


@pytest.mark.slow
def test_extract_features_all_splits(walkers: Path, main_file: Path, tmp_path: Path) -> None:
    how = {"dataset": "ilids-vid", "split": "all"}
    results = extract_features(options(walkers, main_file, tmp_path, **how), Silent())
    assert [result.artifact.name for result in results] == [f"ilids-vid-split{n}.h5" for n in range(10)]
    dataset = read_videos(load_manifest("ilids-vid"), walkers)
    for result, split in zip(results, dataset.splits, strict=True):
        assert features.read(result.artifact).tracklet == [tracklet.name for tracklet in split.test]
    (one,) = extract_features(options(walkers, main_file, tmp_path, dataset="ilids-vid", split="3"), Silent())
    assert one.reused  # of --split all


def test_extract_features_without_model(walkers: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="amem train-amem"):
        extract_features(ExtractFeaturesOptions(data_root=walkers, workspace=tmp_path, device="cpu"), Silent())


def test_extract_features_engine_is_recorded_not_compared(walkers: Path, main_file: Path, tmp_path: Path) -> None:
    (result,) = extract_features(options(walkers, main_file, tmp_path, engine="eager"), Silent())
    provenance = features.read(result.artifact).provenance
    assert provenance["versions"]["engine"] == "eager"
    assert "engine" not in provenance["options"]
    (again,) = extract_features(options(walkers, main_file, tmp_path, engine="torch"), Silent())
    assert again.reused
    assert features.read(again.artifact).provenance["versions"]["engine"] == "eager"  # of the first run


@pytest.mark.slow
def test_check_test_people(walkers: Path, main_file: Path, tmp_path: Path) -> None:
    dataset = read_videos(load_manifest("ilids-vid"), walkers)
    model, config = load_main_model(main_file)

    def warnings(trained_on: int, number: int, of: VideoDataset = dataset, data: str | None = None) -> list[str]:
        digest = tracklets_digest(dataset.splits[trained_on].train) if data is None else data
        provenance = Provenance("train-amem", {"dataset": "ilids-vid", "split": trained_on}, data=digest)
        file = save_main(tmp_path / "main.safetensors", model, config, provenance)
        progress = Progress(quiet=True)
        stage.check_test_people(file, of, number, progress)
        return progress.warnings

    sides = [(set(people(split.train)), set(people(split.test))) for split in dataset.splits]
    other = next(k for k, (train, _) in enumerate(sides) if train & sides[0][1])
    with pytest.raises(BadData, match=rf"split {other}, with \d test people of split 0"):
        warnings(other, 0)
    assert warnings(1, 1) == []
    twin = replace(dataset, splits=(dataset.splits[0],) * 2)  # two numbers, the same people
    assert warnings(0, 1, of=twin) == []
    with pytest.raises(BadData, match="of other data than these"):
        warnings(0, 1, of=twin, data="0" * 64)
    assert "of other data than these" in warnings(0, 0, data="0" * 64)[0]
    assert "not on 'mars'" in warnings(0, 0, of=replace(dataset, name="mars"))[0]


def test_extract_tracklets_by_hand(walkers: Path) -> None:
    """An engine whose feature is the mean image, so that the mean over clips is that over the padded frames."""
    tracklets = read_videos(load_manifest("mars"), walkers).splits[0].test[:3]
    with Silent().loop("clips", 1) as bar:
        found = stage.extract_tracklets(
            tracklets, bar, clip_shape=(4, 32, 16), engine=lambda pixels: pixels.float().mean(dim=(1, 4)).flatten(1),
            device=torch.device("cpu"), batch_size=2, workers=0, flip=True,
        )  # fmt: skip
    for row, tracklet in enumerate(tracklets):
        frames = np.stack([read_image(path, 32, 16).mean(axis=2) for path in tracklet.frames])
        image = np.pad(frames, ((0, -len(frames) % 4), (0, 0), (0, 0)), mode="reflect").sum(axis=0)
        for column, expected in (("features", image), ("features_flip", image + image[:, ::-1])):
            np.testing.assert_allclose(found[column][row], expected.ravel() / np.linalg.norm(expected), atol=1e-6)


def test_extract_features_clips(
    walkers: Path, main_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(shards: object, tracklets: tuple[Tracklet, ...], *more: object) -> None:
        assert tracklets == tuple(shortened(tracklet, 4, 1) for tracklet in split.test)
        raise LookupError

    split = read_videos(load_manifest("mars"), walkers).splits[0]
    monkeypatch.setattr(sharding.Shards, "compute", stop)
    with pytest.raises(LookupError):
        extract_features(options(walkers, main_file, tmp_path, clips=1), Silent())


@pytest.mark.slow
@pytest.mark.parametrize("most", [64, 2])
def test_extract_features_adapt_cameras(
    most: int, walkers: Path, main_file: Path, extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each camera by its own network, made once, also where a shard has tracklets of several cameras."""
    made: list[int] = []
    monkeypatch.setattr(stage, "adapted_to_camera", lambda *given: made.append(1) or adapted_to_camera(*given))
    monkeypatch.setattr(sharding, "FRAMES_PER_SHARD", 60)
    monkeypatch.setattr(stage, "ADAPTATION_CLIPS", most)
    monkeypatch.setattr(stage, "ADAPTATION_BATCH", 4)
    monkeypatch.setattr(features, "FEW_TRACKLETS", 99)
    progress = Silent()
    (result,) = extract_features(options(walkers, main_file, tmp_path, adapt_cameras=True, flip=True), progress)
    assert any("say little about a camera" in warning for warning in progress.warnings)
    found = features.read(result.artifact)
    assert found.extraction == Extraction(adapt_cameras=True)
    tracklets = read_videos(load_manifest("mars"), walkers).splits[0].test
    model, config = load_main_model(main_file)
    cameras = {tracklet.camera_id for tracklet in tracklets}
    assert len(cameras) == len(made) > 1
    for camera in cameras:
        own = [tracklet for tracklet in tracklets if tracklet.camera_id == camera]
        chosen = evenly_spaced(own, most)
        clips = [inference_clips(len(one), config.clip_frames) for one in chosen]
        middle = [read_frames(one, each[len(each) // 2], (32, 32)) for one, each in zip(chosen, clips, strict=True)]
        pixels, count = as_pixels(torch.from_numpy(np.stack(middle)), torch.device("cpu")), -(-len(middle) // 4)
        adapted = adapted_to_camera(model, [pixels[start::count] for start in range(count)])
        engine = prepare(adapted, torch.device("cpu"), "fp32", "eager")
        with Silent().loop("clips", 1) as bar:
            expected = stage.extract_tracklets(
                own, bar, clip_shape=(config.clip_frames, 32, 32), engine=engine, device=torch.device("cpu"), flip=True
            )
        rows = [row for row, tracklet in enumerate(tracklets) if tracklet.camera_id == camera]
        np.testing.assert_allclose(found.features[rows], expected["features"], atol=2e-5)
        np.testing.assert_allclose(found.features_flip[rows], expected["features_flip"], atol=2e-5)
    assert np.abs(found.features - features.read(extracted).features).max() > 1e-3
    with pytest.raises(OutputExists, match="adapt_cameras: true there, false now"):
        extract_features(options(walkers, main_file, tmp_path, flip=True), Silent())


def test_few_tracklets_of_a_camera() -> None:
    assert features.few_tracklets([2] * 9 + [1] * 8) == ""
    few = "fewer than 8 tracklets say little about a camera (camera door: 7; camera hall: 1)"
    expected = f"--adapt-cameras: {few}. Features that are not adapted may be better"
    assert features.few_tracklets(["hall"] + ["yard"] * 8 + ["door"] * 7) == expected


def test_extract_features_parts(walkers: Path, main_file: Path, extracted: Path, tmp_path: Path) -> None:
    """Without a neck the mean of the parts' f_s is f_s, but for its length."""
    (result,) = extract_features(options(walkers, main_file, tmp_path, parts=2), Silent())
    found = features.read(result.artifact)
    assert found.extraction == Extraction(parts=2)
    assert found.features.shape == (len(found.tracklet), 2 * 512)
    mean = found.features.reshape(-1, 2, 512).mean(axis=1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(mean, features.read(extracted).features, atol=1e-5)
    with pytest.raises(UsageError, match=r"^--parts 3: maps of 32x32 pixels have 2 rows"):
        extract_features(options(walkers, main_file, tmp_path, parts=3), Silent())


def test_camera_engines_without_memory(walkers: Path, main_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(stage, "adapted_to_camera", full)
    tracklets, model = read_videos(load_manifest("mars"), walkers).splits[0].test, load_main_model(main_file)[0]
    engine_of = stage.camera_engines(model, full, tracklets, clip_shape=(4, 32, 32), device=torch.device("cpu"))
    with pytest.raises(UsageError, match=r"^--adapt-cameras: 16 clips do not fit .* Use --device cpu"):
        engine_of(tracklets[0].camera_id)


def test_extract_features_flip(walkers: Path, main_file: Path, extracted: Path, tmp_path: Path) -> None:
    (result,) = extract_features(options(walkers, main_file, tmp_path, flip=True), Silent())
    found = features.read(result.artifact)
    plain = features.read(extracted).features
    np.testing.assert_allclose(found.features, plain, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.features_flip, axis=1), 1, atol=1e-6)
    assert np.abs(found.features_flip - plain).max() > 1e-4
