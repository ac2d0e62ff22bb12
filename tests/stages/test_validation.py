"""What the trainings measure beside their losses, with toys for the networks."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from toys import ALONE, Complete, amem_options, arm_options, tae_options

from amem_cli.data.sampling import hold_out_people
from amem_cli.data.tracklets import AttributeDataset, Tracklet
from amem_cli.errors import BadData, UsageError
from amem_cli.runtime.progress import Silent
from amem_cli.stages import train_arm, train_tae
from amem_cli.stages.train_amem import stage as amem_stage
from amem_cli.stages.train_amem.inputs import training_data

NOWHERE = Path("nowhere")


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Five pictures of noise, 32 x 32."""
    generator = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(5)]
    for number, file in enumerate(files):
        Image.fromarray(generator.integers(0, 50 * (number + 1), (32, 32, 3), dtype=np.uint8)).save(file)
    return files


def pixels_of(paths: list[Path]) -> np.ndarray:
    """(N, 3, H, W) in [0, 1]."""
    return np.stack([np.asarray(Image.open(path)) for path in paths]).transpose(0, 3, 1, 2) / 255


# -- TAE ---------------------------------------------------------------------------------------------------------------


class Toy(nn.Module):
    """As texture encoder the mean colours of 16 x 16 squares, or half the image; nothing of it in training mode."""

    channels = 3

    def __init__(self, encoder: bool):
        super().__init__()
        self.encoder = encoder
        self.factor = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("texture_mean", torch.zeros(3))
        self.register_buffer("texture_std", torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return F.avg_pool2d(images, 16) if self.encoder else self.factor * images


def test_measure_textures_over_all_positions(paths: list[Path]) -> None:
    encoder = Toy(encoder=True)
    train_tae.measure_textures(encoder, paths, tae_options(NOWHERE, NOWHERE, batch_size=2), Complete())  # type: ignore[arg-type]
    textures = pixels_of(paths).reshape(5, 3, 2, 16, 2, 16).mean(axis=(3, 5))
    np.testing.assert_allclose(encoder.texture_mean, textures.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(encoder.texture_std, textures.std(axis=(0, 2, 3)), rtol=1e-4)


def test_validate_tae_mean_over_all_images(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tae, "VALIDATION_BATCH", 2)
    monkeypatch.setattr(train_tae, "SAMPLES", 1)
    network = Toy(encoder=False)
    figures, (true, halved) = train_tae.validate(network, paths, tae_options(NOWHERE, NOWHERE), "fp32", Complete())  # type: ignore[arg-type]
    images = pixels_of(paths)
    assert figures == {"mse": pytest.approx(np.mean((images / 2) ** 2), rel=1e-5), "images": 5}
    np.testing.assert_allclose(true, images[:1], atol=1e-6)
    np.testing.assert_allclose(halved, images[:1] / 2, atol=1e-6)
    assert network.training


# -- ARM ---------------------------------------------------------------------------------------------------------------

# hat, bag, hairBlue (never); the first row is not one of those that are scored
LABELS = np.array([[0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], np.uint8)
PROBABILITIES = np.array([[0.9, 0.2, 0.1], [0.4, 0.1, 0.6], [0.3, 0.7, 0.0], [0.1, 0.9, 0.2]], np.float32)
ROWS = np.arange(1, 5)


def attribute_data(**changed: Any) -> AttributeDataset:
    partitions = tuple(
        {"train": np.array(train), "val": np.array(val), "test": np.array(test)}
        for train, val, test in (([0], [1], [2, 3, 4]), ([4, 0], [2], [1, 3]))
    )
    given = {"labels": LABELS, "partitions": partitions, "evaluated": (1,), "paths": (NOWHERE,) * 5}
    people = np.array([1, 2, 3, 4, 5])
    return AttributeDataset(name="peta", person_ids=people, attributes=("hat", "bag", "hairBlue"), **(given | changed))


def test_score_attributes_by_hand() -> None:
    # hat: 1 of 2 and 2 of 2 are right; bag: 1 of 2 and 1 of 2; hairBlue never occurs
    scores = train_arm.score_attributes(PROBABILITIES, attribute_data(), ROWS)
    assert (scores["all"]["mA"], scores["all"]["left_out"]) == (0.625, ["hairBlue"])
    assert (scores["usual_35"]["mA"], scores["usual_35"]["left_out"]) == (0.5, [])
    assert [scores["per_attribute"][name]["mA"] for name in ("hat", "bag", "hairBlue")] == [0.75, 0.5, None]
    assert [scores["per_attribute"][name]["positives"] for name in ("hat", "bag", "hairBlue")] == [2, 2, 0]
    assert scores["per_attribute"]["hat"]["f1"] == 0.666667
    assert "usual_35" not in train_arm.score_attributes(PROBABILITIES, attribute_data(evaluated=()), ROWS)


def test_validate_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    def validated(**changed: Any) -> dict[str, float]:
        more = arm_options(NOWHERE, NOWHERE), "fp32", Silent()
        return train_arm.validate(nn.Identity(), attribute_data(**changed), ROWS, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(train_arm, "run_model", lambda model, data, rows, *more: PROBABILITIES)
    assert validated() == {"mA": 0.625, "mA usual 35": 0.5, "images": 4}
    assert validated(evaluated=()) == {"mA": 0.625, "images": 4}
    with pytest.raises(BadData, match="no attribute has images with it and images without it"):
        validated(labels=np.zeros_like(LABELS))


def test_run_model_probabilities_in_order(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_arm, "prepare", lambda *given: lambda pixels: pixels.float().mean(dim=(1, 2)) / 64 - 1)
    rows = np.array([3, 0, 4, 1, 2])
    data, options = attribute_data(paths=tuple(paths)), arm_options(NOWHERE, NOWHERE, batch_size=2)
    found = train_arm.run_model(nn.Linear(1, 1), data, rows, options, "fp32", Complete())  # type: ignore[arg-type]
    logits = pixels_of(paths)[rows].mean(axis=(2, 3)) * 255 / 64 - 1
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_split_rows_of_partitions_and_people() -> None:
    def rows(partition: str, readable: list[int], **changed: Any) -> list[list[int]]:
        options = arm_options(NOWHERE, NOWHERE, partition=partition, **changed)
        return [part.tolist() for part in train_arm.split_rows(attribute_data(), options, np.array(readable))]

    assert rows("random-1", [0, 1, 2, 3, 4]) == [[0, 1], [], [2, 3, 4]]
    assert rows("random-2", [0, 1, 2, 4]) == [[4, 0, 2], [], [1]]
    assert rows("none", [0, 2, 3]) == [[0, 2, 3], [], []]
    with pytest.raises(UsageError, match=r"random-3: peta has 2 partitions"):
        rows("random-3", [0, 1])
    for parts in (rows("person", [0, 1, 2, 3, 4], hold_out=0.4), rows("random-2", [0, 2, 4], validate=0.4)):
        assert sorted(row for part in parts for row in part) in ([0, 1, 2, 3, 4], [0, 2, 4])
    assert [len(part) for part in rows("person", [0, 1, 2, 3, 4], hold_out=0.4, validate=0.4)] == [2, 1, 2]
    for seed in range(3):
        people = attribute_data().person_ids
        expected = hold_out_people(people, 0.4, seed, purpose="test people")[1].tolist()
        assert rows("person", [0, 1, 2, 3, 4], hold_out=0.4, seed=seed)[2] == expected


# -- AMEM --------------------------------------------------------------------------------------------------------------


def test_validate_amem_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tracklet is a query. At 0 and 1 person 1 in camera 1, at 5 person 2; in camera 2 at 0.5 and 9."""

    def validated(people: list[int], cameras: list[int]) -> dict[str, float]:
        tracklets = [Tracklet(str(at), p, c, "", ("x",)) for at, (p, c) in enumerate(zip(people, cameras, strict=True))]

        def features(given: list[Tracklet], bar: Any, **how: Any) -> dict[str, np.ndarray]:
            assert (given, how["clip_shape"]) == (tracklets, (4, 32, 32))
            rows = np.zeros((5, 512), np.float32)
            rows[:, 0] = [0, 1, 5, 0.5, 9]
            return {"features": rows}

        monkeypatch.setattr(amem_stage, "extract_tracklets", features)
        main: Any = SimpleNamespace(for_inference=lambda: nn.Identity())
        return amem_stage.validate(main, tracklets, amem_options(NOWHERE, NOWHERE), "fp32", ALONE, Silent())

    monkeypatch.setattr(amem_stage, "prepare", lambda *given: None)
    # the first match is second for the query at 5, behind that at 1, and first for the others
    expected = {"mAP": pytest.approx(0.9), "rank-1": pytest.approx(0.8), "queries": 5, "people": 2}
    assert validated([1, 1, 2, 1, 2], [1, 1, 1, 2, 2]) == expected
    assert validated([1, 1, 2, 1, 2], [1, 1, 1, 1, 1]) == expected  # of one camera: the query itself is left out
    # person 1 alone is seen by two cameras, at 1 and 9; from 1 the match is the last of four, from 9 the second
    some = validated([3, 1, 2, 4, 1], [1, 1, 1, 1, 2])
    assert some == {"mAP": pytest.approx((1 / 4 + 1 / 2) / 2), "rank-1": 0, "queries": 2, "people": 4}


def test_training_data_without_the_validation_people() -> None:
    tracklets = [Tracklet(f"t{row}", 5 + 10 * (row % 8), 1, "", ("x",) * 9) for row in range(16)]
    options = amem_options(NOWHERE, NOWHERE, modules="baseline", validate=0.25)
    data = training_data(options, "mars", tracklets)
    people = sorted({tracklet.person_id for tracklet in data.tracklets})
    assert (len(people), len({tracklet.person_id for tracklet in data.validation})) == (6, 2)
    assert sorted([*data.tracklets, *data.validation], key=lambda t: int(t.name[1:])) == tracklets
    assert data.identities.tolist() == [people.index(tracklet.person_id) for tracklet in data.tracklets]
    assert data.labels is None
    few = training_data(dataclasses.replace(options, validate=0.01), "mars", tracklets).validation
    assert len({tracklet.person_id for tracklet in few}) == 2  # one person alone cannot be ranked
    with pytest.raises(BadData, match="none has two tracklets"):  # before the first epoch
        training_data(options, "mars", tracklets[:8])
    with pytest.raises(BadData, match="there are 6, and a batch needs 7"):
        training_data(dataclasses.replace(options, people_per_batch=7), "mars", tracklets)
