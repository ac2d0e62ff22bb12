"""The TAE stage around its loop: initial weights, too few images."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import arm_options, tae_options, write_image_weights

from amem_cli.artifacts import atomic, checkpoint
from amem_cli.data.loading import ImageBatches
from amem_cli.data.manifest import load_manifest
from amem_cli.data.tracklets import images_digest
from amem_cli.errors import BadData
from amem_cli.models.checkpoints import load_tae
from amem_cli.models.tae import TAE, Discriminator
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.engine import as_pixels
from amem_cli.runtime.progress import Silent
from amem_cli.stages import run_stage, train_arm, train_tae

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_train_tae_starts_from_the_weights(walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tae, "train_step", lambda *given: {"mse": 1.0})
    monkeypatch.setattr(train_tae, "measure_textures", lambda *given: None)
    synchronised = []
    monkeypatch.setattr(Processes, "synchronise_batch_norm", lambda processes, model: synchronised.append(type(model)))
    weights, expected = write_image_weights(tmp_path / "image.pth")
    artifact = train_tae.train_tae(tae_options(walkers, tmp_path, weights=str(weights)), Silent()).artifact
    assert not synchronised
    saved = checkpoint.load(artifact, "amem-tae").tensors
    assert any(torch.equal(tensor, expected) for tensor in saved.values())
    recorded = checkpoint.read_description(artifact)["provenance"]
    assert set(recorded["parents"]) == {"weights"}
    paths, *_ = train_tae.training_images(load_manifest("market1501"), walkers, Silent())
    assert recorded["data"] == images_digest(paths)
    train_tae.train_tae(tae_options(walkers, tmp_path / "sync", sync_batchnorm=True), Silent())
    assert synchronised == [TAE, Discriminator]


@pytest.mark.slow
def test_train_tae_patches(walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(train_tae, "TAE", lambda *given: built.append(given) or TAE(*given))
    options = tae_options(walkers, tmp_path, tae_encoder="patches", weights="auto")
    artifact = train_tae.train_tae(options, Silent()).artifact
    assert built == [("patches", "")]
    assert checkpoint.read_description(artifact)["provenance"]["parents"] == {}
    parts = load_tae(artifact, options.image_size)
    texture = parts.encoder(torch.rand(1, 3, *options.height_width))
    assert texture.shape[1] == 256
    assert parts.decoder.eval()(texture).shape == (1, 3, *options.height_width)
    assert parts.encoder.texture_std.min() > 0
    # it starts from the images' components, and batch norm stays as it starts
    paths, *_ = train_tae.training_images(load_manifest("market1501"), walkers, Silent())
    ((pixels, _),) = ImageBatches(paths, [np.arange(8)], options.height_width, augment=None)
    images = as_pixels(pixels, torch.device("cpu"))
    assert F.mse_loss(parts.decoder(parts.encoder(images)), images) < 0.002
    assert (parts.decoder.layers[1].running_mean == 0).all()


def test_train_tae_weights_replaced_while_they_are_read(
    walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, _ = write_image_weights(tmp_path / "image.pth")
    monkeypatch.setattr(train_tae, "TAE", lambda *given: atomic.write_bytes(weights, b"") and TAE(given[0]))
    with pytest.raises(BadData, match="it was replaced while this run read it"):
        train_tae.train_tae(tae_options(walkers, tmp_path, weights=str(weights)), Silent())


def test_train_tae_needs_two_images(walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tae, "training_images", lambda *given: ([walkers / "one.jpg"], [1], {}))
    with pytest.raises(BadData, match="1 found, at least 2 are needed"):
        train_tae.train_tae(tae_options(walkers, tmp_path), Silent())


@pytest.mark.parametrize("stage", ["train-arm", "train-tae"])
def test_training_of_fewer_images_than_processes(
    stage: str, walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, make = {"train-arm": (train_arm, arm_options), "train-tae": (train_tae, tae_options)}[stage]
    several = Processes(0, 1000, torch.device("cpu"))
    monkeypatch.setattr(module, "process_group", lambda device: nullcontext(several))
    with pytest.raises(BadData, match="are needed for 1000 processes"):
        run_stage(stage, make(walkers, tmp_path, batch_size=1000), Silent())
