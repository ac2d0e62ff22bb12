"""Provenance: what differs is named key by key, versions are recorded but not compared."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amem_cli.artifacts.atomic import sha256_file
from amem_cli.artifacts.provenance import Provenance, check_provenance, parent, parse_json_object
from amem_cli.errors import BadData, OutputExists

HERE = Provenance(
    "train-amem",
    {"seed": 0, "margin": 0.2, "modules": "amem"},
    {"labels": {"name": "mars.h5", "sha256": "1"}, "tae": {"name": "tae.safetensors", "sha256": "2"}},
    "listing",
)


def there(**changed):
    """HERE as it is read back from a file, with changes."""
    return json.loads(json.dumps(HERE.as_json())) | changed


def test_the_same_is_the_same_whatever_the_versions_and_names():
    assert HERE.differences(there()) == []
    assert HERE.differences(there(versions={"torch": "0.1"})) == []
    renamed = {role: entry | {"name": "other"} for role, entry in HERE.parents.items()}
    assert HERE.differences(there(parents=renamed)) == []


def test_versions_are_recorded():
    assert HERE.as_json()["versions"].keys() >= {"amem", "python", "torch", "torchvision", "numpy", "pillow", "h5py"}


def test_every_difference_is_named():
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
        "other data (files were added, removed or renamed)",
        "made by train-tae",
    ]


def test_an_option_younger_than_the_artifact_had_its_default_there():
    older = there(options={"seed": 0, "margin": 0.2})
    assert HERE.differences(older) == []
    changed = dataclasses.replace(HERE, options={**HERE.options, "modules": "mem"})
    assert changed.differences(older) == ['modules: "amem" there, "mem" now']


def test_check_same_lists_them_with_exit_73(tmp_path):
    HERE.check_same("checkpoint", tmp_path, there())
    with pytest.raises(OutputExists) as raised:
        HERE.check_same("checkpoint", tmp_path, there(options={**HERE.options, "seed": 1, "margin": 0.3}))
    assert raised.value.exit_code == 73
    assert "(margin: 0.3 there, 0.2 now; seed: 1 there, 0 now)" in str(raised.value)
    assert "--force" in str(raised.value)


def test_an_empty_provenance_differs():
    assert "made by None" in HERE.differences({})


def test_the_fingerprint_is_stable_and_changes_with_everything_but_versions(monkeypatch):
    known = HERE.fingerprint()
    assert len(known) == 16
    monkeypatch.setattr("amem_cli.artifacts.provenance.versions", lambda: {"torch": "other"})
    assert HERE.fingerprint() == known
    reordered = dataclasses.replace(HERE, options=dict(reversed(HERE.options.items())))
    assert reordered.fingerprint() == known
    for change in ({"command": "x"}, {"options": {}}, {"parents": {}}, {"data": ""}):
        assert dataclasses.replace(HERE, **change).fingerprint() != known
    script = (
        "from amem_cli.artifacts.provenance import Provenance as P; print(P('c', {'b': 1, 'a': 'é'}).fingerprint())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert printed.stdout.strip() == Provenance("c", {"a": "é", "b": 1}).fingerprint()


def test_parent(tmp_path):
    path = tmp_path / "arm.safetensors"
    path.write_bytes(b"weights")
    assert parent(path) == {"name": "arm.safetensors", "sha256": sha256_file(path)}


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", 3, None, b"\xff", "[" * 100_000])
def test_what_is_no_json_object(text):
    with pytest.raises(BadData):
        parse_json_object(text, "file", Path("x"))


def test_a_provenance_of_odd_shape_is_bad_data():
    for good in ({}, there(), {"options": {}, "more": 1}):
        assert check_provenance(good, "file", Path("x")) == good
    for bad in ([], "x", None, {"options": 1}, {"parents": []}, {"parents": {"arm": "sha"}}):
        with pytest.raises(BadData, match="provenance"):
            check_provenance(bad, "file", Path("x"))
