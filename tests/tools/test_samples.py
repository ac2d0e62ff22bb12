"""Sample pictures of a training: written at every look at held-out people, swept with their run, changing nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amem_cli.artifacts import checkpoint, pseudo_labels
from amem_cli.artifacts.atomic import sha256_file
from amem_cli.artifacts.metrics_log import keep_samples, recorded_seconds
from amem_cli.artifacts.paths import sample_path, sample_pictures
from amem_cli.artifacts.provenance import Provenance
from amem_cli.artifacts.pseudo_labels import PseudoLabels
from amem_cli.attributes import ATTRIBUTES
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.models.tae import Discriminator, TextureDecoder, TextureEncoder
from amem_cli.options import TrainAmemOptions, TrainArmOptions, TrainTaeOptions
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Silent
from amem_cli.runtime.training import Run
from amem_cli.stages import train_amem, train_arm, train_tae
from amem_cli.tools import samples

pytestmark = pytest.mark.usefixtures("one_thread")

DRAWN_BY = {
    "amem": (train_amem, "sample_clips", "amem/mars/amem.safetensors"),
    "arm": (train_arm, "sample_attributes", "arm/arm.safetensors"),
    "tae": (train_tae, "sample_reconstructions", "tae/tae.safetensors"),
}


@pytest.fixture(scope="module")
def inputs(walkers: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An untrained TAE, and labels made up for every training tracklet."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    parts = {"encoder.": TextureEncoder(), "decoder.": TextureDecoder(), "discriminator.": Discriminator(32, 32)}
    tensors = {name: t for prefix, part in parts.items() for name, t in checkpoint.prefixed(prefix, part).items()}
    how = {"model": {"image_size": "32x32"}}
    checkpoint.save(folder / "tae.safetensors", "amem-tae", tensors, Provenance("train-tae", {}), **how)
    names = [tracklet.name for tracklet in read_videos(load_manifest("mars"), walkers).splits[0].train]
    labels = np.random.default_rng(0).integers(0, 2, (len(names), len(ATTRIBUTES)), dtype=np.uint8)
    ids = np.arange(len(names), dtype=np.int64)
    table = PseudoLabels("mars", names, ids, ids, ids + 1, labels.astype(np.float32), labels, ATTRIBUTES, 0.5, {})
    pseudo_labels.write(folder / "labels.h5", table, Provenance("label-videos", {}))
    return {"tae": str(folder / "tae.safetensors"), "labels": str(folder / "labels.h5")}


def train(stage: str, walkers: Path, workspace: Path, inputs: dict[str, str], **changed: object) -> None:
    how: dict[str, object] = {
        "data_root": walkers, "workspace": workspace, "device": "cpu", "image_size": "32x32", "epochs": 2,
        "validate": 0.5, "validate_epochs": 1,
    } | changed  # fmt: skip
    if stage == "amem":
        how |= inputs | {"branch": "conv2d", "people_per_batch": 2, "clips_per_person": 2, "gradient_steps": 0}
        train_amem.train_amem(TrainAmemOptions(**how, clip_frames=4, predict_frames=2), Silent())  # type: ignore[arg-type]
    elif stage == "arm":
        train_arm.train_arm(TrainArmOptions(**how, backbone="resnet18", batch_size=16, partition="none"), Silent())  # type: ignore[arg-type]
    else:
        train_tae.train_tae(TrainTaeOptions(**how, batch_size=4), Silent())  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("stage", DRAWN_BY)
def test_pictures_at_every_look_change_nothing(
    stage: str, walkers: Path, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, drawn_by, artifact = DRAWN_BY[stage]
    train(stage, walkers, tmp_path / "with", inputs)
    folder = (tmp_path / "with" / artifact).parent
    steps = [step for step, _ in sample_pictures(folder)]
    assert len(steps) == 2
    assert steps[1] == 2 * steps[0]  # the ends of both epochs
    first, second = (np.asarray(Image.open(path)) for _, path in sample_pictures(folder))
    assert first.shape == second.shape  # the same people each time
    assert (first != second).any()  # by another model

    monkeypatch.setattr(module, drawn_by, lambda *_: Image.new("RGB", (1, 1)))
    train(stage, walkers, tmp_path / "without", inputs)
    assert sha256_file(tmp_path / "without" / artifact) == sha256_file(tmp_path / "with" / artifact)


@pytest.mark.slow
def test_a_new_run_sweeps_the_pictures_of_another(walkers: Path, tmp_path: Path) -> None:
    train("tae", walkers, tmp_path, {}, epochs=1)
    assert sample_pictures(tmp_path / "tae")
    train("tae", walkers, tmp_path, {}, epochs=1, validate=0.0, force=True)
    assert sample_pictures(tmp_path / "tae") == []


def test_a_model_is_looked_at_without_a_trace(walkers: Path) -> None:
    """Weights, statistics of batch norm, modes and the global random state are as before."""
    torch.manual_seed(0)
    encoder, decoder = TextureEncoder().train(), TextureDecoder().train()
    state = torch.nn.ModuleList([encoder, decoder]).state_dict
    before = {name: tensor.clone() for name, tensor in state().items()}
    random = torch.get_rng_state()
    paths = sorted(walkers.rglob("bbox_train/*/*.jpg"))[:3]
    picture = samples.sample_reconstructions(encoder, decoder, paths, (32, 32))
    assert picture.mode == "RGB"
    after = state()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for part in (encoder, decoder) for module in part.modules())


def test_pictures_after_the_step_where_a_run_continues_are_swept(tmp_path: Path) -> None:
    for step in (2, 7, 1_234_567):
        sample_path(tmp_path, step).parent.mkdir(exist_ok=True)
        Image.new("RGB", (1, 1)).save(sample_path(tmp_path, step))
    (tmp_path / "samples" / "step-x.png").write_text("mine")
    (tmp_path / "samples" / ".step-000007.png.abc.amem-tmp").write_text("torn")
    keep_samples(tmp_path, 7)
    assert [step for step, _ in sample_pictures(tmp_path)] == [2, 7]
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {
        "step-000002.png", "step-000007.png", "step-x.png",
    }  # fmt: skip
    keep_samples(tmp_path / "not there", 0)


def test_a_picture_is_named_after_the_steps_done_and_goes_to_tensorboard(tmp_path: Path) -> None:
    options = TrainTaeOptions()
    run = Run(tmp_path, options, Provenance("train-tae", {}), Processes(0, 1, torch.device("cpu")), Silent(), {}, {})

    class Board:
        def add_image(self, name: str, pixels: np.ndarray, step: int, dataformats: str) -> None:
            self.told = (pixels.shape, step, dataformats)

    run._board = board = Board()
    run.step = 4
    run.keep_sample(Image.new("RGB", (3, 2), "red"))
    assert [step for step, _ in sample_pictures(tmp_path)] == [4]
    assert board.told == ((2, 3, 3), 4, "HWC")


def test_seconds_go_on_where_a_run_continues(tmp_path: Path) -> None:
    def begin(step: int) -> Run:
        module = torch.nn.Linear(1, 1)
        provenance, alone = Provenance("train-tae", {}), Processes(0, 1, torch.device("cpu"))
        run = Run(tmp_path, TrainTaeOptions(), provenance, alone, Silent(), {"linear": module}, {})
        run.step = step
        return run

    run = begin(3)
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "seconds": 100.5}\n{"step": 5, "seconds": 900}\n{"st')
    assert recorded_seconds(tmp_path / "metrics.jsonl") == 900  # the torn line is none
    run.save()
    continued = begin(4)
    continued.log({"loss": 1.0})
    assert 100.5 <= recorded_seconds(tmp_path / "metrics.jsonl") < 900  # with the lost work gone
    assert recorded_seconds(tmp_path / "nothing.jsonl") == 0
