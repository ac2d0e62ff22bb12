"""`train-amem` as a whole on walkers: its artifacts, its record of the terms, resuming, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amem_cli.artifacts import checkpoint, pseudo_labels
from amem_cli.artifacts.atomic import sha256_file
from amem_cli.artifacts.provenance import Provenance
from amem_cli.artifacts.pseudo_labels import PseudoLabels
from amem_cli.attributes import ATTRIBUTES
from amem_cli.data.manifest import load_manifest, read_videos
from amem_cli.errors import BadData, InputMissing, Interrupted, OutputExists, UsageError
from amem_cli.models.tae import Discriminator, TextureDecoder, TextureEncoder
from amem_cli.options import TrainAmemOptions
from amem_cli.runtime.progress import Silent
from amem_cli.stages.extract_features import load_main_model
from amem_cli.stages.train_amem import build_amem, describe, parameter_groups, train_amem, training_labels

pytestmark = pytest.mark.usefixtures("one_thread")


def write_labels(path: Path, names: list[str], attributes: tuple[str, ...] = ATTRIBUTES) -> Path:
    """Labels that are a function of the tracklet's and the attribute's name, whatever the order of both."""
    labels = np.array([[len(a + b) % 2 for b in attributes] for a in names], dtype=np.uint8)
    ids = np.arange(len(names), dtype=np.int64)
    table = PseudoLabels("mars", names, ids, ids, ids + 1, labels.astype(np.float32), labels, attributes, 0.5, {})
    return pseudo_labels.write(path, table, Provenance("label-videos", {}))


@pytest.fixture(scope="module")
def names(walkers: Path) -> list[str]:
    return [tracklet.name for tracklet in read_videos(load_manifest("mars"), walkers).splits[0].train]


@pytest.fixture(scope="module")
def inputs(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An untrained TAE and made-up labels."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    parts = {"encoder.": TextureEncoder(), "decoder.": TextureDecoder(), "discriminator.": Discriminator(32, 32)}
    tensors = {name: t for prefix, part in parts.items() for name, t in checkpoint.prefixed(prefix, part).items()}
    tae = checkpoint.save(
        folder / "tae.safetensors", "amem-tae", tensors, Provenance("train-tae", {}), model={"image_size": "32x32"}
    )
    return {"tae": str(tae), "labels": str(write_labels(folder / "labels.h5", names))}


def options(walkers: Path, workspace: Path, **changed: object) -> TrainAmemOptions:
    how: dict[str, object] = {
        "image_size": "32x32", "clip_frames": 4, "predict_frames": 2, "branch": "conv2d", "people_per_batch": 2,
        "clips_per_person": 2, "epochs": 1, "log_steps": 1, "gradient_steps": 2, "device": "cpu",
    }  # fmt: skip
    return TrainAmemOptions(data_root=walkers, workspace=workspace, **(how | changed))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(walkers: Path, inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("trained")
    (result,) = train_amem(options(walkers, workspace, **inputs), Silent())
    assert result.artifact == workspace / "amem" / "mars" / "amem.safetensors"
    assert not result.reused
    return workspace


def test_both_checkpoints_stand_and_no_state_is_left(trained: Path) -> None:
    folder = trained / "amem" / "mars"
    assert {"amem.safetensors", "amem-main.safetensors", "metrics.jsonl"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("state-*"))
    whole = checkpoint.load(folder / "amem.safetensors", "amem-model")
    main = checkpoint.load(folder / "amem-main.safetensors", "amem-main")
    assert all(torch.equal(tensor, whole.tensors[f"amem.main.{name}"]) for name, tensor in main.tensors.items())
    model, described = load_main_model(folder / "amem-main.safetensors")
    assert described["people"] == 4
    assert model.eval()(torch.rand(1, 3, 4, 32, 32)).isfinite().all()


def test_the_frozen_encoder_is_the_tae_s_and_the_decoder_has_moved(trained: Path, inputs: dict[str, str]) -> None:
    whole = checkpoint.load(trained / "amem" / "mars" / "amem.safetensors", "amem-model").tensors
    tae = checkpoint.load(Path(inputs["tae"]), "amem-tae").tensors
    prefix = "amem.motion_enhancement."
    for name, tensor in tae.items():
        if name.startswith("encoder."):
            assert torch.equal(tensor, whole[prefix + name]), name
    for part, name in ((prefix, "decoder.layers.0.weight"), ("", "discriminator.layers.0.weight")):
        assert not torch.equal(tae[name], whole[part + name])


def test_every_term_is_recorded_weighted_and_unweighted(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "amem" / "mars" / "metrics.jsonl").read_text().splitlines()]
    terms = [line for line in lines if "id" in line]
    norms = [line["gradient_norms"] for line in lines if "gradient_norms" in line]
    names = {"id", "tri", "aem", "image", "texture", "adversarial"}
    assert len(terms) >= 3
    chosen = TrainAmemOptions()
    weights = {"id": 1.0, "tri": 1.0, "aem": chosen.lambda_a, "image": chosen.lambda_m}
    weights |= {"texture": chosen.lambda_m * chosen.texture_weight}
    weights |= {"adversarial": chosen.lambda_m * chosen.adversarial_weight}
    for line in terms:
        for name, weight in weights.items():
            assert line[f"weighted_{name}"] == pytest.approx(weight * line[name], rel=1e-4)
        assert {"discriminator", "copy_image", "accuracy"} <= set(line)
    assert norms
    assert set(norms[0]) >= names
    assert all(norm > 0 for norm in norms[0].values())


def test_the_same_run_is_reused_and_another_refused(trained: Path, walkers: Path, inputs: dict[str, str]) -> None:
    (again,) = train_amem(options(walkers, trained, **inputs, save_seconds=5.0), Silent())
    assert again.reused
    with pytest.raises(OutputExists, match=r"lambda_m: 10\.0 there, 1\.0 now"):
        train_amem(options(walkers, trained, **inputs, lambda_m=1.0), Silent())


def test_missing_inputs_name_their_commands(walkers: Path, inputs: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="amem label-videos --dataset mars"):
        train_amem(options(walkers, tmp_path, tae=inputs["tae"]), Silent())
    with pytest.raises(InputMissing, match="amem train-tae"):
        train_amem(options(walkers, tmp_path, labels=inputs["labels"]), Silent())


def test_labels_are_found_by_name_whatever_their_order(walkers: Path, names: list[str], tmp_path: Path) -> None:
    tracklets = list(read_videos(load_manifest("mars"), walkers).splits[0].train)
    plain = write_labels(tmp_path / "a.h5", names)
    turned = write_labels(tmp_path / "b.h5", ["another", *names[::-1]], (*ATTRIBUTES[::-1], "accessoryShawl"))
    found = [training_labels(options(walkers, tmp_path, labels=str(p)), "mars", tracklets)[0] for p in (plain, turned)]
    assert torch.equal(*found)
    assert found[0].shape == (len(names), 105)
    assert found[0].dtype == torch.float32


def test_labels_that_do_not_cover_everybody_are_refused(walkers: Path, names: list[str], tmp_path: Path) -> None:
    tracklets = list(read_videos(load_manifest("mars"), walkers).splits[0].train)
    some = write_labels(tmp_path / "a.h5", names[2:])
    with pytest.raises(BadData, match=f"does not cover 2 of {len(names)} training tracklets.*{names[0]}"):
        training_labels(options(walkers, tmp_path, labels=str(some)), "mars", tracklets)
    few = write_labels(tmp_path / "b.h5", names, ATTRIBUTES[1:])
    with pytest.raises(BadData, match=f"lack 1 of PETA's attributes.*{ATTRIBUTES[0]}"):
        training_labels(options(walkers, tmp_path, labels=str(few)), "mars", tracklets)


@pytest.mark.usefixtures("tiny_backbone")
def test_checkpointed_activations_give_the_same_bytes(walkers: Path, inputs: dict[str, str], tmp_path: Path) -> None:
    """After the steps of two epochs, with each term's gradient measured, and with statistics that were updated once."""
    files = []
    for checkpointed in (False, True):
        workspace = tmp_path / str(checkpointed)
        chosen = options(walkers, workspace, **inputs, epochs=2, checkpoint_activations=checkpointed)
        files.append(train_amem(chosen, Silent())[0].artifact)
    plain, recomputed = (checkpoint.load(path, "amem-model").tensors for path in files)
    assert set(plain) == set(recomputed)
    assert all(torch.equal(tensor, recomputed[name]) for name, tensor in plain.items())
    assert len({sha256_file(path.with_name("amem-main.safetensors")) for path in files}) == 1
    steps = json.loads(files[0].with_name("metrics.jsonl").read_text().splitlines()[-1])["step"] + 1
    assert steps >= 3
    assert plain["amem.main.motion_branch.layers.1.num_batches_tracked"] == steps


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize(("modules", "accumulate"), [("baseline", 1), ("amem", 1), ("amem", 2)])
def test_interrupted_and_resumed_gives_the_same_bytes(
    modules: str, accumulate: int, walkers: Path, inputs: dict[str, str], tmp_path: Path
) -> None:
    how = inputs | {"modules": modules, "accumulate": accumulate, "epochs": accumulate}
    whole = train_amem(options(walkers, tmp_path / "whole", **how), Silent())[0].artifact.read_bytes()
    stops = 0
    while True:
        try:
            (result,) = train_amem(options(walkers, tmp_path / "cut", **how, time_limit="0s"), Silent())
            break
        except Interrupted:
            stops += 1
            state = tmp_path / "cut" / "amem" / "mars" / f"state-{stops:08d}.safetensors"
            assert state.is_file()  # a step further each time
    assert stops >= 2
    tensors = [
        checkpoint.load(path / "amem" / "mars" / "amem.safetensors", "amem-model").tensors
        for path in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    main = [path / "amem" / "mars" / "amem-main.safetensors" for path in (tmp_path / "whole", tmp_path / "cut")]
    assert main[0].read_bytes() == main[1].read_bytes()
    assert len(result.artifact.read_bytes()) == len(whole)


@pytest.mark.slow
def test_mem_alone_has_a_learning_rate_of_its_own() -> None:
    described = describe(TrainAmemOptions(modules="mem"), 2)
    with torch.device("meta"):
        model, _ = build_amem(described, None)
        baseline, _ = build_amem(describe(TrainAmemOptions(modules="baseline"), 2), None)
    rest, mem = parameter_groups(model, TrainAmemOptions(modules="mem", mem_lr_factor=0.25))
    assert (rest["factor"], mem["factor"]) == (1.0, 0.25)
    own = model.motion_enhancement
    assert {id(p) for p in mem["params"]} == {id(p) for p in (*own.embedding.parameters(), *own.decoder.parameters())}
    everything = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in (*rest["params"], *mem["params"])} == everything
    (only,) = parameter_groups(baseline, TrainAmemOptions(modules="baseline"))
    assert only["factor"] == 1.0


@pytest.mark.usefixtures("tiny_backbone")
def test_another_seed_gives_another_model(walkers: Path, tmp_path: Path) -> None:
    made = [
        train_amem(options(walkers, tmp_path / str(seed), modules="baseline", seed=seed), Silent())[0].artifact
        for seed in (0, 1)
    ]
    assert made[0].read_bytes() != made[1].read_bytes()


def test_weights_of_another_split_are_refused_before_anything_is_read_from_them(walkers: Path, tmp_path: Path) -> None:
    provenance = Provenance("train-amem", {"dataset": "ilids-vid", "split": 3})
    path = checkpoint.save(tmp_path / "amem-main.safetensors", "amem-main", {"x": torch.zeros(1)}, provenance)
    options = TrainAmemOptions(
        dataset="ilids-vid", split="1", modules="baseline", data_root=walkers, workspace=tmp_path, weights=str(path),
        people_per_batch=2,
    )  # fmt: skip
    with pytest.raises(UsageError, match="trained on split 3 of ilids-vid"):
        train_amem(options, Silent())
