"""The chain of artifacts: its states, and the commands that repeat the user's options."""

import os
from pathlib import Path

import h5py
import pytest
import torch
from faults import flip_bit
from PIL import Image
from writers import some_features, some_labels

from amem_cli.artifacts import checkpoint, features, paths, pseudo_labels, results
from amem_cli.artifacts.provenance import Provenance, parent
from amem_cli.data import chain as chains
from amem_cli.data.chain import Chain
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import Manifest, load_manifest
from amem_cli.data.readers.splits import Protocol
from amem_cli.data.tracklets import tracklets_digest
from amem_cli.runtime.progress import Silent

STAGES = ["train-arm", "label-videos", "train-tae", "train-amem", "extract-features", "evaluate"]
TENSORS = {"w": torch.ones(2)}


@pytest.fixture
def finished(tmp_path):
    """A workspace with the six artifacts, each with its parents."""
    place = paths.Workspace(tmp_path / "my runs")
    checkpoint.save(place.arm, "amem-arm", TENSORS, Provenance("train-arm", {}))
    checkpoint.save(place.tae, "amem-tae", TENSORS, Provenance("train-tae", {}))
    labelled = Provenance("label-videos", {"threshold": 0.4, "dataset": "mars"}, {"arm": parent(place.arm)})
    pseudo_labels.write(place.labels("mars"), some_labels(), labelled)
    save_amem(place, {"labels": parent(place.labels("mars")), "tae": parent(place.tae)})
    main = {"amem-main": parent(place.amem_main("mars", None))}
    features.write(place.features("mars", None), some_features(), Provenance("extract-features", {}, main))
    scored = Provenance("evaluate", {}, {"features": parent(place.features("mars", None))})
    results.write(place.results("mars"), {"protocol": "mars", "choices": {}}, scored)
    return place


def save_amem(place, parents, options=None):
    for path, kind in ((place.amem("mars", None), "amem-model"), (place.amem_main("mars", None), "amem-main")):
        checkpoint.save(path, kind, TENSORS, Provenance("train-amem", options or {"modules": "mem"}, parents))


def states(place, deep=False):
    return {link.stage: link for link in Chain(load_manifest("mars"), place.root).states(deep=deep)}


def own(path: str, name: str, splits: int) -> Manifest:
    protocol = Protocol(f"{name}-splits", "cross-camera-splits", splits)
    return Manifest(name=name, layout="folder", protocol=protocol, path=Path(path), shipped=False)


def test_chain_finished(finished):
    chain = states(finished, deep=True)
    assert list(chain) == STAGES
    assert {(link.state, link.command) for link in chain.values()} == {("ready", "")}
    assert chain["label-videos"].provenance["command"] == "label-videos"


def test_chain_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    links = Chain(load_manifest("mars"), Path("workspace")).states()
    assert [(link.state, link.command) for link in links] == [
        ("missing", "amem train-arm"),
        ("missing", "amem label-videos --dataset mars"),
        ("missing", "amem train-tae"),
        ("missing", "amem train-amem --dataset mars"),
        ("missing", "amem extract-features --dataset mars"),
        ("missing", "amem evaluate --protocol mars"),
    ]


def test_chain_split_of_own_manifest(tmp_path):
    root = tmp_path / "my runs"
    links = Chain(own("my.toml", "mine", 5), root, 3).states()
    assert [link.command for link in links][-3:] == [
        f"amem train-amem --dataset my.toml --split 3 --workspace '{root}'",
        f"amem extract-features --dataset my.toml --split 3 --workspace '{root}'",
        f"amem evaluate --protocol my.toml --workspace '{root}'",
    ]
    assert links[-2].path == root / "features" / "mine-split3.h5"


def test_chain_changed_parent(finished):
    checkpoint.save(finished.arm, "amem-arm", {"w": torch.zeros(2)}, Provenance("train-arm", {"seed": 1}))
    chain = states(finished)
    assert [link.state for link in chain.values()] == ["ready", "stale", "ready", "stale", "stale", "stale"]
    assert chain["label-videos"].why == f"made from another arm than {finished.arm}"
    assert chain["evaluate"].why == "a parent is stale (extract-features)"
    commands = [f"amem label-videos --dataset mars --threshold 0.4 --workspace '{finished.root}' --force"]
    commands += [f"amem train-amem --dataset mars --modules mem --workspace '{finished.root}' --force"]
    assert [chain["label-videos"].command, chain["train-amem"].command] == commands
    checkpoint.save(finished.arm, "amem-arm", TENSORS, Provenance("train-arm", {}))
    finished.labels("mars").unlink()
    assert [link.state for link in states(finished).values()] == ["ready", "missing", *["ready"] * 4]


def test_chain_baseline_needs_no_labels(finished):
    save_amem(finished, {})
    checkpoint.save(finished.arm, "amem-arm", {"w": torch.zeros(2)}, Provenance("train-arm", {"seed": 1}))
    assert states(finished)["train-amem"].state == "ready"
    for path in (finished.arm, finished.tae, finished.labels("mars")):
        path.unlink()
    assert [link.state for link in states(finished).values()][:4] == ["unused", "unused", "unused", "ready"]


def test_warn_about_stale_names_what_comes_before(finished):
    def warnings(stage):
        progress = Silent()
        Chain(load_manifest("mars"), finished.root).warn_about_stale(stage, progress)
        return progress.warnings

    checkpoint.save(finished.tae, "amem-tae", {"w": torch.zeros(2)}, Provenance("train-tae", {"seed": 1}))
    assert warnings("train-amem") == []
    (model,) = warnings("extract-features")
    assert f"amem train-amem --dataset mars --modules mem --workspace '{finished.root}' --force" in model


def test_chain_one_of_the_splits_changed(tmp_path):
    place, manifest = paths.Workspace(tmp_path), own("p.toml", "p", 3)
    for number in range(3):
        features.write(place.features("p", number), some_features(), Provenance("extract-features", {"split": number}))
    scored = {f"features {number}": parent(place.features("p", number)) for number in range(3)}
    results.write(place.results("p-splits"), {}, Provenance("evaluate", {}, scored))
    assert Chain(manifest, tmp_path, 0).states()[-1].state == "ready"
    features.write(place.features("p", 2), some_features(2), Provenance("extract-features", {"split": 2}))
    assert Chain(manifest, tmp_path, 0).states()[-1].state == "stale"


def test_chain_deep_finds_another_split_of_the_people(tmp_path):
    """After the seed of the manifest has changed; what was made from those features is stale, too."""
    for person in range(4):
        for camera in "ab":
            frame = tmp_path / "mine" / f"{person:04d}" / camera / "1.jpg"
            frame.parent.mkdir(parents=True)
            Image.new("RGB", (8, 16)).save(frame)
    file, place = tmp_path / "mine.toml", paths.Workspace(tmp_path / "w")
    text = 'name = "mine"\nlayout = "folder"\nfolders = "person/camera"\n[protocol]\nsplits = 1\nseed = {}\n'
    file.write_text(text.format(0))
    split = read_videos(load_manifest(str(file)), tmp_path).splits[0]
    options = {"split": 0, "dataset": str(file), "split_source": split.source}
    made = Provenance("extract-features", options, {}, tracklets_digest(split.test))
    features.write(place.features("mine", 0), some_features(), made)
    scored = Provenance("evaluate", {}, {"features 0": parent(place.features("mine", 0))})
    results.write(place.results("mine"), {}, scored)

    def last_two():
        return Chain(load_manifest(str(file)), place.root, data_root=tmp_path).states(deep=True)[-2:]

    assert [state.state for state in last_two()] == ["ready", "ready"]
    file.write_text(text.format(5))
    extracted, evaluated = last_two()
    assert (extracted.state, evaluated.state) == ("stale", "stale")
    assert extracted.why == "made with another split (drawn with seed 0 there, drawn with seed 5 now)"
    assert evaluated.why == "a parent is stale (extract-features)"


@pytest.mark.parametrize("stage", STAGES)
def test_chain_deep_finds_a_flipped_bit(finished, stage):
    path = states(finished)[stage].path
    flip_bit(path)
    link = states(finished, deep=True)[stage]
    assert link.state == "damaged"
    assert link.command.endswith("--force")
    assert str(path) in link.why


def test_chain_damaged_model_keeps_options(finished):
    """The undamaged amem-main has the options of the damaged model, and vice versa."""
    command = f"amem train-amem --dataset mars --modules mem --workspace '{finished.root}'"
    flip_bit(finished.amem("mars", None))
    assert states(finished)["train-amem"].state == "ready"
    assert states(finished, deep=True)["train-amem"].command == f"{command} --force"
    flip_bit(finished.amem("mars", None))
    main = finished.amem_main("mars", None)
    flip_bit(main)
    link = states(finished, deep=True)["train-amem"]
    assert (link.state, link.command) == ("damaged", command)  # without --force: amem-model exists
    assert str(main) in link.why
    main.unlink()
    link = states(finished)["train-amem"]
    assert (link.state, link.why, link.command) == ("missing", f"{main} is missing", command)


def test_chain_folder_and_truncated_file(finished):
    finished.tae.unlink()
    finished.tae.mkdir()
    for path in (finished.arm, finished.labels("mars"), finished.results("mars")):
        path.write_bytes(path.read_bytes()[:100])
    chain = states(finished)
    assert chain["train-tae"].why == f"{finished.tae} is a folder: move it away"
    assert {chain[stage].state for stage in ("train-arm", "label-videos", "train-tae", "evaluate")} == {"damaged"}


def test_chain_pipe_and_link_loop(finished):
    finished.tae.unlink()
    os.mkfifo(finished.tae)
    finished.arm.unlink()
    finished.arm.symlink_to(finished.arm)
    chain = states(finished)
    for stage, path in (("train-arm", finished.arm), ("train-tae", finished.tae)):
        assert (chain[stage].state, chain[stage].why) == ("damaged", f"{path} is a pipe or a broken link: move it away")


def test_chain_features_of_another_program(finished):
    with h5py.File(finished.features("mars", None), "w") as file:
        file.attrs["kind"] = features.KIND
    link = states(finished)["extract-features"]
    assert (link.state, link.provenance) == ("ready", {})


@pytest.mark.parametrize(
    ("stage", "options", "flags"),
    [
        ("train-arm", {"dataset": "my peta", "seed": 0, "lr_step": 25, "unknown": 1}, " --dataset 'my peta'"),
        ("train-amem", {"dataset": "mars", "split": 3, "modules": "aem", "sync_batchnorm": True, "crop": 0.0},
         " --sync-batchnorm --modules aem --crop 0.0"),
        ("train-tae", {"image_size": "128x64", "warmup_steps": 50, "validate_epochs": 2, "adversarial_weight": 0.0,
                       "epochs": 2, "batch_size": 16, "learning_rate": 2e-3, "seed": 5}, " --preset small --seed 5"),
        ("extract-features", {"split": None, "image_size": "256x128", "precision": "bf16"}, " --precision bf16"),
        ("extract-features", {"adapt_cameras": True}, " --adapt-cameras"),
        ("evaluate", {"image_size": "", "protocol": "mars", "rerank": True}, " --rerank"),
        ("train-amem", {}, ""),
    ],
)  # fmt: skip
def test_repeated_flags(stage, options, flags):
    given = {"train-amem": " --dataset mars --split 3", "evaluate": " --protocol mars"}.get(stage, "")
    assert chains.repeated_flags(stage, given, {"options": options}) == flags


def test_repeated_flags_of_a_flag_that_the_preset_sets():
    for adapts, flags in ((True, ""), (False, " --no-adapt-cameras")):
        found = chains.repeated_flags("extract-features", "", {"options": {"adapt_cameras": adapts}, "preset": "small"})
        assert found == f" --preset small{flags}"


def test_chain_features_of_a_recogniser_need_no_earlier_stage(tmp_path):
    place = paths.Workspace(tmp_path)
    made = Provenance("extract-features", {"dataset": "mars"}, {"amem-arm": {"name": "arm.safetensors", "sha256": "1"}})
    features.write(place.features("mars", None), some_features(), made)
    found = states(place)
    assert [found[stage].state for stage in STAGES] == ["missing", *["unused"] * 3, "ready", "missing"]


def test_chain_names_own_data_sets_by_their_files(tmp_path):
    """The ARM and the TAE can be of other data than the chain's; only their names are recorded."""
    place, manifest = paths.Workspace(tmp_path), own("sets/p.toml", "p", 2)
    for path, name in ((place.arm, "MY PETA"), (place.tae, "p")):
        state = path.with_name("state-00000001.safetensors")
        stage = f"train-{path.stem}"
        checkpoint.save(state, "amem-state", TENSORS, Provenance(stage, {"dataset": name}), position={"step": 1})
    found = {one.stage: one.command for one in Chain(manifest, tmp_path).states()}
    assert found["train-arm"] == f"amem train-arm --dataset 'MY PETA.toml' --workspace {tmp_path}"
    assert found["train-tae"] == f"amem train-tae --dataset sets/p.toml --workspace {tmp_path}"


def test_chain_repeats_the_model_of_features(tmp_path):
    """Those of the other splits, made by the workspace's ARM or by a model of other data."""
    place, manifest = paths.Workspace(tmp_path), own("p.toml", "p", 2)
    checkpoint.save(place.arm, "amem-arm", TENSORS, Provenance("train-arm", {}))
    arm = {"amem-arm": parent(place.arm)}
    elsewhere = {"amem-arm": {"name": "their arm", "sha256": "1"}}
    best = place.amem_main("p", 1).with_name("amem-main-best.safetensors")
    checkpoint.save(best, "amem-main", TENSORS, Provenance("train-amem", {}))
    name = "amem-main.safetensors"
    other = {"amem-main": {"name": name, "sha256": "1", "dataset": "mars"}}
    same = {"amem-main": {"name": name, "sha256": "1", "dataset": "p", "people": "generated"}}
    for parents, flag in ((arm, f" --model {place.arm}"), (elsewhere, " --model 'their arm'"),
                          (other, f" --model {name}"), (same, ""), ({}, ""),
                          ({"amem-main": parent(best) | {"dataset": "p"}}, f" --model {best}")):  # fmt: skip
        made = Provenance("extract-features", {"dataset": "p", "split": 0, "parts": 4}, parents)
        features.write(place.features("p", 0), some_features(), made)
        command = Chain(manifest, tmp_path, 1).command("extract-features")
        assert command == f"amem extract-features --dataset p.toml --split 1 --parts 4{flag} --workspace {tmp_path}"


@pytest.mark.parametrize(
    ("name", "sha256", "word"),
    [("kinetics (s3d.pth)", "1", "kinetics"), ("auto (a.safetensors)", "1", "auto"), ("My.pt", "1", "My.pt")],
)
def test_repeated_flags_weights(name, sha256, word):
    provenance = {"options": {"seed": 0}, "parents": {"weights": {"name": name, "sha256": sha256}}}
    assert chains.repeated_flags("train-amem", "", provenance) == f" --weights {word}"
    assert chains.repeated_flags("train-amem", "", {}) == ""
