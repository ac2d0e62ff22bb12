"""Checkpoints: the same content gives the same bytes, what does not fit is named, and a state continues exactly."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amem_cli.artifacts import atomic, checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import AmemError, BadData, InputMissing

PROVENANCE = Provenance("train-arm", {"seed": 0, "epochs": 2}, {"weights": {"name": "w", "sha256": "0"}}, "data")
TENSORS = {
    "float": torch.arange(6.0).reshape(2, 3),
    "strided": torch.arange(6.0).reshape(2, 3).T,
    "half": torch.tensor([1.5, -2], dtype=torch.bfloat16),
    "count": torch.tensor(3),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def save(path, **described):
    return checkpoint.save(path, "amem-arm", TENSORS, PROVENANCE, **described)


def resealed(text: str, tensors: bytes = b"") -> bytes:
    """A safetensors file with this header text, sealed as an attacker can."""
    raw = len(text.encode()).to_bytes(8, "little") + text.encode() + tensors
    return atomic.fill_checksum(raw)


def test_roundtrip(tmp_path):
    path = save(tmp_path / "arm.safetensors", model={"depth": 18}, metrics={"mA": None})
    found = checkpoint.load(path, "amem-arm")
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
    assert found.description["kind"] == "amem-arm"
    assert found.description["schema"] == 1
    assert found.description["model"] == {"depth": 18}
    assert found.description["metrics"] == {"mA": None}
    assert PROVENANCE.differences(found.description["provenance"]) == []
    assert checkpoint.read_description(path) == found.description
    assert safetensors.torch.load_file(path).keys() == TENSORS.keys()


SCRIPT = """
import sys, torch
from pathlib import Path
from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
names = [f"layer{i}.{part}" for i in range(40) for part in ("weight", "bias")]
if sys.argv[2] == "reversed":
    names.reverse()
tensors = {name: torch.full((2,), float(len(name))) for name in names}
options = {name: 1 for name in names}
checkpoint.save(Path(sys.argv[1]), "amem-arm", tensors, Provenance("c", options), model=options)
"""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path, value):
    tensors = {"good": torch.ones(2), "odd": torch.tensor([1.0, value])}
    path = checkpoint.save(tmp_path / "arm.safetensors", "amem-arm", tensors, PROVENANCE)
    with pytest.raises(BadData, match="NaN or infinity in odd"):
        checkpoint.load(path, "amem-arm")


def test_a_mark_in_the_description_is_not_the_seal(tmp_path):
    path = save(tmp_path / "arm.safetensors", weights="amem-seal-sha256:.pt")
    assert checkpoint.load(path, "amem-arm").description["weights"] == "amem-seal-sha256:.pt"


def test_a_description_of_no_model_is_bad_data(tmp_path):
    saved = checkpoint.load(save(tmp_path / "arm.safetensors"), "amem-arm")
    with pytest.raises(BadData, match=r"of no model of ours \(KeyError: 'model'\). Run: amem train-arm"):
        with checkpoint.described_by(saved):
            saved.description["model"]


def test_same_content_same_bytes_in_any_process(tmp_path, monkeypatch):
    environment = os.environ | {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "there", "reversed"], check=True, env=environment)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "here"), "forward"])
    exec(SCRIPT, {})
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_missing_is_told_with_the_command_that_makes_it(tmp_path):
    for kind, command in (("amem-arm", "train-arm"), ("amem-tae", "train-tae"), ("amem-main", "train-amem")):
        with pytest.raises(InputMissing, match=f"Run: amem {command}"):
            checkpoint.load(tmp_path / "none", kind)


def test_wrong_kind_and_schema(tmp_path):
    path = save(tmp_path / "x")
    with pytest.raises(BadData, match="is of kind amem-arm, not amem-tae"):
        checkpoint.load(path, "amem-tae")
    path.write_bytes(
        atomic.fill_checksum(path.read_bytes().replace(b'\\"schema\\": 1', b'\\"schema\\": 2').replace(*blank(path)))
    )
    with pytest.raises(BadData, match=r"another version of amem does \(schema 2\)"):
        checkpoint.load(path, "amem-arm")


def blank(path):
    """What turns the seal of a file back into a blank one."""
    content = path.read_bytes()
    start = content.find(atomic.CHECKSUM_MARK)
    return content[start : start + len(atomic.CHECKSUM_BLANK)], atomic.CHECKSUM_BLANK


SEALED = json.dumps({"kind": "amem-arm", "schema": 1, "checksum": atomic.CHECKSUM_BLANK.decode()})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02}q\x00.",  # a pickle
        b"<!DOCTYPE html><html>not found</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        (2**63).to_bytes(8, "little") + atomic.CHECKSUM_BLANK,
        resealed(json.dumps({"checksum": atomic.CHECKSUM_BLANK.decode()})),  # no description
        resealed(json.dumps([atomic.CHECKSUM_BLANK.decode()])),
        resealed(json.dumps({"__metadata__": None, "checksum": atomic.CHECKSUM_BLANK.decode()})),
        resealed(json.dumps({"__metadata__": {"amem": 5}, "checksum": atomic.CHECKSUM_BLANK.decode()})),
        resealed(json.dumps({"__metadata__": {"amem": "[]"}, "checksum": atomic.CHECKSUM_BLANK.decode()})),
        resealed(json.dumps({"__metadata__": {"amem": "[" * 200_000}, "checksum": atomic.CHECKSUM_BLANK.decode()})),
        resealed('{"seal": "' + atomic.CHECKSUM_BLANK.decode() + '", "x": ' + "[" * 200_000),
        resealed(
            json.dumps({"__metadata__": {"amem": SEALED}, "w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}})
        ),
        resealed(
            json.dumps(
                {"__metadata__": {"amem": SEALED}, "w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}
            ),
            b"\0" * 4,
        ),
        resealed(
            json.dumps({"__metadata__": {"amem": SEALED}, "w": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}),
            b"\0" * 4,
        ),
    ],
)
def test_what_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "arm.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadData) as raised:
        checkpoint.load(path, "amem-arm")
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_header_too_long_is_not_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(BadData, match="not a safetensors file"):
        checkpoint.read_description(path)


@given(content=st.binary(max_size=300), header=st.binary(max_size=200))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_bytes_raise_anything_else(tmp_path_factory, content, header):
    path = tmp_path_factory.getbasetemp() / "hypothesis.safetensors"
    for candidate in (
        content,
        len(header).to_bytes(8, "little") + header + content,
        _seal_anyway(len(header).to_bytes(8, "little") + header, content),
    ):
        path.write_bytes(candidate)
        for read in (lambda path: checkpoint.load(path, "amem-arm"), checkpoint.read_description):
            with pytest.raises(AmemError):
                read(path)


def _seal_anyway(head: bytes, tail: bytes) -> bytes:
    """Sealed by hand, whatever the parts hold."""
    digest = hashlib.sha256(head + atomic.CHECKSUM_BLANK + tail).hexdigest().encode()
    return head + atomic.CHECKSUM_MARK + digest + tail


# -- into a module -----------------------------------------------------------------------------------------------------


def loaded(tmp_path, tensors):
    return checkpoint.load(checkpoint.save(tmp_path / "x", "amem-arm", tensors, PROVENANCE), "amem-arm")


def test_load_into_with_a_prefix(tmp_path):
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    saved = loaded(tmp_path, checkpoint.prefixed("arm/", source) | {"other/x": torch.ones(1)})
    checkpoint.load_into(target, saved, "arm/")
    assert torch.equal(source.weight, target.weight)


def test_every_key_that_does_not_fit_is_named(tmp_path):
    saved = loaded(tmp_path, {"weight": torch.ones(2, 4), "scale": torch.ones(1)})
    layer = torch.nn.Linear(3, 2)
    before = layer.weight.clone()
    with pytest.raises(BadData) as raised:
        checkpoint.load_into(layer, saved)
    for part in ("left over scale", "missing bias", "weight is (2, 4), not (2, 3)"):
        assert part in str(raised.value)
    assert torch.equal(layer.weight, before)


# -- training state ----------------------------------------------------------------------------------------------------


def network_and_optimizers(seed):
    torch.manual_seed(seed)
    modules = {
        "net": torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)),
        "judge": torch.nn.Linear(4, 1),
    }
    optimizers = {
        "adam": torch.optim.Adam(modules["net"].parameters(), lr=1e-3, weight_decay=5e-4),
        "adam of judge": torch.optim.Adam(modules["judge"].parameters(), lr=0.1, betas=(0.5, 0.999)),
    }
    return modules, optimizers


def train(modules, optimizers, steps):
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        for name, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
            optimizer.zero_grad()
            out = modules["net"](torch.randn(5, 3, generator=draw))
            loss = modules["judge"](out).square().mean() * (-1 if "judge" in name else 1)
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_state_continues_exactly(tmp_path, stop):
    whole = network_and_optimizers(0)
    train(*whole, range(5))

    first = network_and_optimizers(0)
    train(*first, range(stop))
    checkpoint.save_state(tmp_path, stop, *first, PROVENANCE, {"epoch": 1, "step_in_epoch": 2})
    second = network_and_optimizers(99)
    position = checkpoint.load_state(checkpoint.newest_state(tmp_path, pytest.fail), *second)
    assert position == {"epoch": 1, "step_in_epoch": 2, "step": stop}
    train(*second, range(stop, 5))

    bytes_of = [
        checkpoint.save_state(tmp_path / name, 5, *run, PROVENANCE, {}).read_bytes()
        for name, run in (("whole", whole), ("resumed", second))
    ]
    assert bytes_of[0] == bytes_of[1]


def names(folder):
    return [path.name for path in sorted(folder.iterdir())]


def save_states(folder, *steps):
    for step in steps:
        checkpoint.save_state(folder, step, *network_and_optimizers(step), PROVENANCE, {})


def test_the_two_newest_states_are_kept(tmp_path):
    save_states(tmp_path, 1, 2, 10, 100)
    assert names(tmp_path) == ["state-00000010.safetensors", "state-00000100.safetensors"]
    checkpoint.remove_states(tmp_path)
    assert names(tmp_path) == []


def test_a_state_saved_after_going_back_wins_over_abandoned_ones(tmp_path):
    """--resume PATH went back to step 10, or the newer ones were damaged."""
    save_states(tmp_path, 10, 20)
    save_states(tmp_path, 15)
    assert names(tmp_path) == ["state-00000010.safetensors", "state-00000015.safetensors"]
    assert checkpoint.newest_state(tmp_path, pytest.fail).description["position"]["step"] == 15


def test_a_damaged_newest_state_falls_back_and_says_so(tmp_path):
    save_states(tmp_path, 1, 2)
    newest = tmp_path / "state-00000002.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    warnings = []
    assert checkpoint.newest_state(tmp_path, warnings.append).description["position"]["step"] == 1
    assert len(warnings) == 1
    assert "state-00000002.safetensors" in warnings[0]
    assert "damaged" in warnings[0]
    assert warnings[0].endswith("Falling back to state-00000001.safetensors.")


def test_all_states_damaged_is_said_too(tmp_path):
    save_states(tmp_path, 1)
    (tmp_path / "state-00000001.safetensors").write_bytes(b"")
    warnings = []
    assert checkpoint.newest_state(tmp_path, warnings.append) is None
    assert "starting anew" in warnings[0]
    assert checkpoint.newest_state(tmp_path / "none", pytest.fail) is None


def test_a_state_of_another_model_is_refused(tmp_path):
    save_states(tmp_path, 1)
    state = checkpoint.newest_state(tmp_path, pytest.fail)
    with pytest.raises(BadData, match="missing net/bias"):
        checkpoint.load_state(state, {"net": torch.nn.Linear(3, 4)}, {})
