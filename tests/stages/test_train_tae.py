"""The TAE stage around its loop: initial weights, too few images."""

from pathlib import Path

import pytest
import torch
from toys import tae_options

from amem_cli.artifacts import checkpoint
from amem_cli.data.manifest import load_manifest
from amem_cli.data.tracklets import images_digest
from amem_cli.errors import BadData
from amem_cli.models.image_networks import ImageMaps
from amem_cli.models.tae import TAE, Discriminator
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Silent
from amem_cli.stages import train_tae

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_train_tae_starts_from_the_weights(walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tae, "train_step", lambda *given: {"mse": 1.0})
    monkeypatch.setattr(train_tae, "measure_textures", lambda *given: None)
    synchronised = []
    monkeypatch.setattr(Processes, "synchronise_batch_norm", lambda processes, model: synchronised.append(type(model)))
    weights = tmp_path / "image.pth"
    torch.save(ImageMaps("mobilenet_v2").network.state_dict(), weights)
    artifact = train_tae.train_tae(tae_options(walkers, tmp_path, weights=str(weights)), Silent()).artifact
    assert not synchronised
    saved = checkpoint.load(artifact, "amem-tae").tensors
    expected = torch.load(weights)["features.0.0.weight"]
    assert any(torch.equal(tensor, expected) for tensor in saved.values())
    recorded = checkpoint.read_description(artifact)["provenance"]
    assert set(recorded["parents"]) == {"weights"}
    assert recorded["data"] == images_digest(
        train_tae.training_images(load_manifest("market1501"), walkers, Silent())[0]
    )
    train_tae.train_tae(tae_options(walkers, tmp_path / "sync", sync_batchnorm=True), Silent())
    assert synchronised == [TAE, Discriminator]


def test_train_tae_needs_two_images(walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tae, "training_images", lambda *given: ([walkers / "one.jpg"], [1]))
    with pytest.raises(BadData, match="1 found, at least 2 are needed"):
        train_tae.train_tae(tae_options(walkers, tmp_path), Silent())
