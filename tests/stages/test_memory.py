"""Trainings refuse batches whose activations do not fit, before the first step."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from toys import amem_options, arm_options, tae_options

from amem_cli.errors import UsageError
from amem_cli.models.amem import MainModel
from amem_cli.models.arm import ARM
from amem_cli.models.tae import TAE
from amem_cli.runtime import schedule
from amem_cli.runtime.progress import Silent
from amem_cli.stages.train_amem.stage import train_amem
from amem_cli.stages.train_arm import train_arm
from amem_cli.stages.train_tae import train_tae

STAGES: dict[str, tuple[Any, Any, type, str]] = {
    "train-arm": (train_arm, arm_options, ARM, "--batch-size"),
    "train-tae": (train_tae, tae_options, TAE, "--batch-size"),
    "train-amem": (train_amem, amem_options, MainModel, "--clip-frames"),
}


@pytest.mark.usefixtures("one_thread", "tiny_backbone")
@pytest.mark.parametrize("stage", STAGES)
def test_training_refuses_activations_that_do_not_fit(
    stage: str, walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, options_of, network_class, flag = STAGES[stage]
    options = options_of(walkers, tmp_path, **({"modules": "baseline"} if stage == "train-amem" else {}))
    frames = (options.clip_frames,) if stage == "train-amem" else ()
    measured = []

    def bytes_of(network: nn.Module, forward: Any, *shape: int, **_: bool) -> int:
        measured.append((type(network), shape))
        return 1 << 60

    monkeypatch.setattr(schedule, "saved_bytes", bytes_of)
    with pytest.raises(UsageError, match=f"{flag} .* GB of memory"):
        train(options, Silent())
    assert measured == [(network_class, (2, 3, *frames, *options.height_width))]
