"""What is particular to `train-tae`."""

from pathlib import Path

import pytest

from amem_cli.artifacts import checkpoint
from amem_cli.models import tae as texture
from amem_cli.options import TrainTaeOptions
from amem_cli.runtime.progress import Silent
from amem_cli.stages.train_tae import train_tae

pytestmark = pytest.mark.usefixtures("one_thread")


def test_without_an_adversarial_term_no_discriminator_is_run(
    walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: texture.Discriminator, images: object) -> None:
        raise AssertionError("the discriminator was run")

    monkeypatch.setattr(texture.Discriminator, "forward", refuse)

    def train(weight: float) -> Path:
        how = {"image_size": "32x32", "epochs": 1, "batch_size": 8, "device": "cpu", "adversarial_weight": weight}
        return train_tae(TrainTaeOptions(data_root=walkers, workspace=tmp_path / str(weight), **how), Silent()).artifact  # type: ignore[arg-type]

    with pytest.raises(AssertionError, match="was run"):
        train(0.001)
    assert set(checkpoint.load(train(0.0), "amem-tae").description["metrics"]) >= {"mse"}
    assert "adversarial" not in (tmp_path / "0.0" / "tae" / "metrics.jsonl").read_text()
