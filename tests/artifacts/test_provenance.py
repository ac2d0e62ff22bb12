"""Provenance: every difference is named; versions are recorded and not compared."""

import dataclasses
import json
from pathlib import Path

import pytest

from amem_cli.artifacts.atomic import sha256_file, write_bytes
from amem_cli.artifacts.provenance import (
    Provenance,
    check_provenance,
    identities,
    parent,
    parse_json_object,
    require_same,
    weights_parent,
)
from amem_cli.errors import BadData, InputMissing, OutputExists

HERE = Provenance(
    "train-amem",
    {"seed": 0, "margin": 0.2, "modules": "amem"},
    {"labels": {"name": "mars.h5", "sha256": "1"}, "tae": {"name": "tae.safetensors", "sha256": "2"}},
    "listing",
)


def there(**changed):
    """HERE as stored in a file, with changes."""
    return json.loads(json.dumps(HERE.as_json())) | changed


def test_differences_none():
    assert HERE.as_json()["versions"].keys() >= {"amem", "python", "torch", "torchvision", "numpy", "pillow", "h5py"}
    assert dataclasses.replace(HERE, engine="openvino 1").as_json()["versions"]["engine"] == "openvino 1"
    renamed = {role: entry | {"name": "other"} for role, entry in HERE.parents.items()}
    assert HERE.differences(there(parents=renamed, versions={"torch": "0.1"})) == []


def test_differences_every_kind(tmp_path):
    other = there(
        options={"seed": 1, "margin": 0.2, "modules": "mem", "warmup": "x" * 60},
        parents={"labels": {"name": "mars.h5", "sha256": "9"}},
        data="other",
        command="train-tae",
    )
    assert HERE.differences(other) == [
        'modules: "mem" there, "amem" now',
        "seed: 1 there, 0 now",
        f'warmup: "{"x" * 36}... there, null now',
        "another labels",
        "another tae",
        "other data (files or times were added, removed, renamed or replaced)",
        "made by train-tae",
    ]
    HERE.check_same("checkpoint", tmp_path, there())
    with pytest.raises(OutputExists, match=r"\(modules: .*; seed: 1 there, 0 now.*--force"):
        HERE.check_same("checkpoint", tmp_path, other)


def test_check_same_says_how_to_continue_on_another_machine(tmp_path):
    def refusal(now, before):
        with pytest.raises(OutputExists) as refused:
            now.check_same("checkpoint", tmp_path, before.as_json())
        return refused.value.remedy

    usual = refusal(Provenance("train-arm", {"seed": 1}), Provenance("train-arm", {"seed": 2}))
    here, there_ = (Provenance("train-arm", {"precision": precision}) for precision in ("fp32", "bf16"))
    assert refusal(here, there_) == f"Give --precision bf16 to continue with it. {usual}"
    assert refusal(Provenance("train-arm", {"precision": "fp32"}), Provenance("train-arm", {})) == usual
    files = [tmp_path / name for name in ("arm.safetensors", "wts.pt")]
    for file in files:
        file.write_text(file.name)
    recogniser, imagenet = (Provenance("train-amem", {}, weights_parent("auto", file)) for file in files)
    by_name = "It started from wts.pt: --weights imagenet or kinetics continues it."
    assert refusal(recogniser, imagenet) == f"{by_name} {usual}"
    assert refusal(imagenet, recogniser) == usual


def test_differences_option_that_had_an_effect_in_an_earlier_version():
    for command in ("label-videos", "extract-features"):
        made = Provenance(command, {"dataset": "mars"})
        assert made.differences(made.as_json() | {"options": {"dataset": "mars", "seed": 3}}) == []


def test_differences_generated_people_are_not_compared():
    """Models of earlier versions do not say it."""
    earlier = Provenance("train-arm", {"seed": 1}).as_json()
    now = Provenance("train-arm", {"seed": 1, "generated": True})
    assert now.differences(earlier) == Provenance("train-arm", {"seed": 1}).differences(now.as_json()) == []


def test_differences_option_added_later():
    """An artifact of an older version was made with the later option's default."""
    older = there(options={"seed": 0, "margin": 0.2})
    assert HERE.differences(older) == []
    changed = dataclasses.replace(HERE, options={**HERE.options, "modules": "mem"})
    assert changed.differences(older) == ['modules: "amem" there, "mem" now']


def test_fingerprint(monkeypatch):
    known = Provenance("c", {"b": 1, "a": "é"}).fingerprint()
    assert known == "54edddf4cfc9d0bf"
    monkeypatch.setattr("amem_cli.artifacts.provenance.versions", lambda: {"torch": "other"})
    assert Provenance("c", {"a": "é", "b": 1}).fingerprint() == known
    for change in ({"command": "x"}, {"options": {}}, {"parents": {}}, {"data": ""}):
        assert dataclasses.replace(HERE, **change).fingerprint() != HERE.fingerprint()


def test_parent(tmp_path, monkeypatch):
    path = tmp_path / "arm.safetensors"
    path.write_bytes(b"weights")
    assert parent(path) == {"name": "arm.safetensors", "sha256": sha256_file(path)}
    monkeypatch.chdir(tmp_path)
    for given in (str(path), "./arm.safetensors"):
        assert weights_parent(given, Path(given)) == {"weights": parent(path)}
    by_name = {"name": "kinetics (arm.safetensors)", "sha256": sha256_file(path)}
    assert weights_parent("kinetics", path) == {"weights": by_name}
    assert weights_parent("", None) == {}
    with pytest.raises(InputMissing, match=r"--weights none.pt: not found\."):
        weights_parent("none.pt", Path("none.pt"))


def test_require_same(tmp_path):
    path, missing = tmp_path / "arm.safetensors", tmp_path / "none"
    write_bytes(path, b"weights")
    before = identities(path, missing, None)
    require_same(before)
    for content in (b"weights", b"others!"):  # the time alone differs, too
        write_bytes(path, content)
        with pytest.raises(BadData, match=r"arm\.safetensors: it was replaced while this run read it\. Run the same"):
            require_same(before)
    before = identities(path)
    path.unlink()
    with pytest.raises(BadData):
        require_same(before)


@pytest.mark.parametrize("text", ["", "[]", "null", 3, None, b"\xff", "[" * 100_000])
def test_parse_json_object_refuses(text):
    with pytest.raises(BadData):
        parse_json_object(text, "file", Path("x"))


def test_check_provenance():
    for good in ({}, there(), {"options": {}, "more": 1}):
        assert check_provenance(good, "file", Path("x")) == good
        assert check_provenance(json.dumps(good), "file", Path("x")) == good
    for bad in ([], "x", None, {"options": 1}, {"parents": []}, {"parents": {"arm": "sha"}}):
        with pytest.raises(BadData):
            check_provenance(bad, "file", Path("x"))
