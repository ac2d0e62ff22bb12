"""`label-videos`: means over all frames, shards, reuse and refusal."""

from pathlib import Path

import numpy as np
import pytest
import torch

from amem_cli.artifacts import atomic, checkpoint, pseudo_labels
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import ATTRIBUTES, GROUP_SIZES
from amem_cli.data.clips import shortened
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.data.tracklets import Tracklet
from amem_cli.data.transforms import read_image
from amem_cli.errors import BadData, InputMissing, OutputExists
from amem_cli.models.arm import ARM
from amem_cli.models.checkpoints import load_arm
from amem_cli.options import LabelVideosOptions
from amem_cli.runtime import sharding
from amem_cli.runtime.progress import Silent
from amem_cli.stages import label_videos as stage
from amem_cli.stages.label_videos import label_videos

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def arm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained ARM with probabilities above and below 0.5."""
    torch.manual_seed(0)
    arm = ARM("mobilenet_v2", GROUP_SIZES)
    described = {"backbone": "mobilenet_v2", "attributes": list(ATTRIBUTES), "image_size": "32x32"}
    path = tmp_path_factory.mktemp("arm") / "arm.safetensors"
    return checkpoint.save(path, "amem-arm", arm.state_dict(), Provenance("train-arm", {}), model=described)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "FRAMES_PER_SHARD", 40)


def options(walkers: Path, arm_file: Path, workspace: Path, **changed: object) -> LabelVideosOptions:
    return LabelVideosOptions(data_root=walkers, workspace=workspace, arm=str(arm_file), device="cpu", **changed)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.usefixtures("small_shards")
def test_label_videos_mean_over_all_frames(walkers: Path, arm_file: Path, tmp_path: Path) -> None:
    result = label_videos(options(walkers, arm_file, tmp_path, batch_size=7), Silent())
    assert result.artifact == tmp_path / "labels" / "mars.h5"
    assert not result.reused
    found = pseudo_labels.read(result.artifact)
    tracklets = read_videos(load_manifest("mars"), walkers).splits[0].train
    assert found.tracklet == [tracklet.name for tracklet in tracklets]
    assert found.person_id.tolist() == [tracklet.person_id for tracklet in tracklets]
    assert found.camera_id.tolist() == [tracklet.camera_id for tracklet in tracklets]
    assert found.frames.tolist() == [len(tracklet) for tracklet in tracklets]
    assert len(set(found.frames.tolist())) > 1  # else a mean over equal parts would pass too
    assert found.attributes == ATTRIBUTES

    arm, _ = load_arm(arm_file)
    arm.eval()
    expected = np.zeros((len(tracklets), 105))
    with torch.no_grad():
        for row, tracklet in enumerate(tracklets):
            for frame in tracklet.frames:
                pixels = torch.from_numpy(read_image(frame, 32, 32).copy()).permute(2, 0, 1)[None] / 255
                expected[row] += torch.sigmoid(arm(pixels))[0].numpy()
            expected[row] /= len(tracklet)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert np.array_equal(found.labels, found.probabilities > 0.5)
    assert 0 < found.labels.mean() < 1
    assert not list(tmp_path.rglob("*.parts"))


@pytest.mark.slow
@pytest.mark.usefixtures("small_shards")
def test_label_videos_rerun_computes_missing_shards(
    walkers: Path, arm_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = label_videos(options(walkers, arm_file, tmp_path / "complete"), Silent()).artifact.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(pseudo_labels, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            label_videos(options(walkers, arm_file, tmp_path / "cut"), Silent())
    parts = sorted((tmp_path / "cut").rglob("0*.safetensors"))
    assert len(parts) > 2
    kept = {part: part.stat().st_mtime_ns for part in parts}
    parts[1].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:-5])  # truncated

    labelled: list[int] = []
    original = stage.label_tracklets

    def counting(tracklets: list, *rest: object, **how: object) -> dict[str, np.ndarray]:
        labelled.append(len(tracklets))
        return original(tracklets, *rest, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "label_tracklets", counting)
    again = label_videos(options(walkers, arm_file, tmp_path / "cut"), Silent())
    assert len(labelled) == 2
    assert again.artifact.read_bytes() == complete
    assert len(kept) == len(parts)


@pytest.mark.slow
def test_label_videos_reused_or_refused(walkers: Path, arm_file: Path, tmp_path: Path) -> None:
    first = label_videos(options(walkers, arm_file, tmp_path), Silent())
    content = first.artifact.read_bytes()
    again = label_videos(options(walkers, arm_file, tmp_path, batch_size=5), Silent())
    assert again.reused
    assert again.metrics == first.metrics
    threshold = float(pseudo_labels.read(first.artifact).probabilities[0, 0])  # exceeded by others, not by itself
    with pytest.raises(OutputExists, match=r"threshold: 0\.5 there, ") as caught:
        label_videos(options(walkers, arm_file, tmp_path, threshold=threshold), Silent())
    assert caught.value.exit_code == 73
    assert first.artifact.read_bytes() == content
    forced = label_videos(options(walkers, arm_file, tmp_path, threshold=threshold, force=True), Silent())
    labels = pseudo_labels.read(forced.artifact)
    assert labels.threshold == threshold
    assert labels.labels[0, 0] == 0
    assert np.array_equal(labels.labels, labels.probabilities > threshold)


def test_select_tracklets_several_splits(walkers: Path, arm_file: Path, tmp_path: Path) -> None:
    found = pseudo_labels.read(
        label_videos(options(walkers, arm_file, tmp_path, dataset="prid2011"), Silent()).artifact
    )
    dataset = read_videos(load_manifest("prid2011"), walkers)
    every_tracklet = {t.name for split in dataset.splits for t in (*split.train, *split.test)}
    assert set(found.tracklet) == every_tracklet
    assert len(found.tracklet) == len(every_tracklet)


def test_label_videos_without_arm(walkers: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="amem train-arm"):
        label_videos(LabelVideosOptions(data_root=walkers, workspace=tmp_path, device="cpu"), Silent())


def test_label_videos_arm_replaced_after_it_was_loaded(
    walkers: Path, arm_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = tmp_path / "arm.safetensors"
    atomic.write_bytes(arm, arm_file.read_bytes())
    monkeypatch.setattr(stage, "warn_about_counts", lambda *given: atomic.write_bytes(arm, b"of another training"))
    with pytest.raises(BadData, match="it was replaced while this run read it"):
        label_videos(options(walkers, arm, tmp_path), Silent())


def test_select_tracklets_subsets(walkers: Path) -> None:
    dataset = read_videos(load_manifest("mars"), walkers)
    split = dataset.splits[0]
    train, test, every = (stage.select_tracklets(dataset, subset) for subset in ("train", "test", "all"))
    assert train == list(split.train)
    assert test == list(split.test)
    assert every == sorted({*train, *test}, key=lambda tracklet: tracklet.name)


def test_label_videos_frames(walkers: Path, arm_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(shards: object, tracklets: list[Tracklet], *more: object) -> None:
        assert tracklets == [shortened(tracklet, 1, 2) for tracklet in train]
        raise LookupError

    train = read_videos(load_manifest("mars"), walkers).splits[0].train
    monkeypatch.setattr(sharding.Shards, "compute", stop)
    with pytest.raises(LookupError):
        label_videos(options(walkers, arm_file, tmp_path, frames=2), Silent())
