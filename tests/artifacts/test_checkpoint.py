"""Checkpoints: the same content gives the same bytes, misfits are named, a saved state continues exactly."""

import json

import pytest
import torch
from faults import flip_bit

from amem_cli.artifacts import atomic, checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData

PROVENANCE = Provenance("train-arm", {"seed": 0, "epochs": 2}, {"weights": {"name": "w", "sha256": "0"}}, "data")
TENSORS = {
    "strided": torch.arange(6.0).reshape(2, 3).T,
    "half": torch.tensor([1.5, -2], dtype=torch.bfloat16),
    "count": torch.tensor(3),
    "empty": torch.zeros(0, 4),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def save(path, **described):
    return checkpoint.save(path, "amem-arm", TENSORS, PROVENANCE, **described)


def test_roundtrip(tmp_path):
    path = save(tmp_path / "arm.safetensors", model={"depth": 18}, weights="amem-seal-sha256:.pt")
    found = checkpoint.load(path, "amem-arm")
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
    head = {"kind": "amem-arm", "schema": 1, "model": {"depth": 18}, "weights": "amem-seal-sha256:.pt"}
    assert head.items() <= found.description.items()
    assert PROVENANCE.differences(found.description["provenance"]) == []
    assert checkpoint.read_description(path) == found.description


def test_save_same_bytes(tmp_path):
    found = []
    for tensors in (TENSORS, dict(reversed(TENSORS.items()))):
        provenance = Provenance("c", dict.fromkeys(tensors, 1))
        found.append(checkpoint.save(tmp_path / "x", "amem-arm", tensors, provenance).read_bytes())
    assert found[0] == found[1]


def test_load_not_finite(tmp_path):
    tensors = {"good": torch.ones(2), "odd": torch.tensor([1.0, float("nan")])}
    path = checkpoint.save(tmp_path / "arm.safetensors", "amem-arm", tensors, PROVENANCE)
    with pytest.raises(BadData, match="NaN or infinity in odd"):
        checkpoint.load(path, "amem-arm")


def test_load_other_kind_or_schema(tmp_path):
    path = save(tmp_path / "x")
    with pytest.raises(BadData, match=r"is of kind amem-arm, not amem-tae. amem train-tae writes such a file"):
        checkpoint.load(path, "amem-tae")
    path.write_bytes(file_of(json.dumps({"__metadata__": {"amem": HEAD.replace('"schema": 1', '"schema": 2')}})))
    with pytest.raises(BadData, match=r"another version of amem \(schema 2\)"):
        checkpoint.load(path, "amem-arm")


def file_of(header: str, tensors: bytes = b"") -> bytes:
    """A safetensors file with any header, and a valid checksum, as an attacker can make it."""
    return atomic.fill_checksum(len(header.encode()).to_bytes(8, "little") + header.encode() + tensors)


BLANK = atomic.CHECKSUM_BLANK.decode()
HEAD = json.dumps({"kind": "amem-arm", "schema": 1, "checksum": BLANK})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02}q\x00.",  # a pickle
        (2**63).to_bytes(8, "little") + atomic.CHECKSUM_BLANK,
        file_of(json.dumps([BLANK])),
        file_of(json.dumps({"__metadata__": None, "checksum": BLANK})),
        file_of(json.dumps({"__metadata__": {"amem": "[]"}, "checksum": BLANK})),
        file_of(json.dumps({"__metadata__": {"amem": "[" * 200_000}, "checksum": BLANK})),
        file_of('{"checksum": "' + BLANK + '", "x": ' + "[" * 200_000),
        file_of(json.dumps({"__metadata__": {"amem": HEAD}, "w": {"dtype": "F32", "shape": [9]}})),
    ],
)  # fmt: skip
def test_load_no_checkpoint(tmp_path, content):
    path = tmp_path / "arm.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadData) as raised:
        checkpoint.load(path, "amem-arm")
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_read_description_header_too_long(tmp_path):
    (tmp_path / "x").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(BadData, match="not a complete safetensors file"):
        checkpoint.read_description(tmp_path / "x")


def test_described_by(tmp_path):
    saved = checkpoint.load(save(tmp_path / "arm.safetensors"), "amem-arm")
    with pytest.raises(BadData, match=r"\(KeyError: 'model'\). amem train-arm writes such a file"):
        with checkpoint.described_by(saved):
            saved.description["model"]
    for error in (MemoryError, torch.OutOfMemoryError):  # the file is not at fault: nobody should start again
        with pytest.raises(error), checkpoint.described_by(saved):
            raise error


def test_load_with_too_little_memory(tmp_path, monkeypatch):
    """It is not damage: a state that is taken for damaged would be replaced by that of a new training."""
    path = checkpoint.save(tmp_path / "state-00000500.safetensors", "amem-state", {"x": torch.ones(1)}, PROVENANCE)

    def load(content):
        raise MemoryError

    monkeypatch.setattr("safetensors.torch.load", load)
    with pytest.raises(MemoryError):
        checkpoint.newest_state(tmp_path, print, lambda saved: saved)
    assert path.is_file()


def loaded(tmp_path, tensors):
    return checkpoint.load(checkpoint.save(tmp_path / "x", "amem-arm", tensors, PROVENANCE), "amem-arm")


def test_load_into_prefix(tmp_path):
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    saved = loaded(tmp_path, checkpoint.prefixed("arm/", source) | {"other/x": torch.ones(1)})
    checkpoint.load_into(target, saved, "arm/")
    assert torch.equal(source.weight, target.weight)


def test_load_into_names_every_misfit(tmp_path):
    saved = loaded(tmp_path, {"weight": torch.ones(2, 4), "scale": torch.ones(1)})
    with pytest.raises(BadData) as raised:
        checkpoint.load_into(torch.nn.Linear(3, 2), saved)
    for part in ('Unexpected key(s) in state_dict: "scale"', 'Missing key(s) in state_dict: "bias"', "[2, 4]"):
        assert part in str(raised.value)


# -- training state ----------------------------------------------------------------------------------------------------


def network_and_optimizers(seed):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    modules = {"net": net, "discriminator": torch.nn.Linear(4, 1)}
    optimizers = {
        "adam": torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=5e-4),
        "adam of discriminator": torch.optim.Adam(modules["discriminator"].parameters(), lr=0.1, betas=(0.5, 0.999)),
    }
    return modules, optimizers


def train(modules, optimizers, steps):
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        for name, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
            optimizer.zero_grad()
            out = modules["net"](torch.randn(5, 3, generator=draw))
            loss = modules["discriminator"](out).square().mean() * (-1 if "discriminator" in name else 1)
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("stop", [0, 3])
def test_load_state_continues_exactly(tmp_path, stop):
    uninterrupted, first, second = network_and_optimizers(0), network_and_optimizers(0), network_and_optimizers(99)
    train(*uninterrupted, range(5))
    train(*first, range(stop))
    checkpoint.save_state(tmp_path, stop, *first, PROVENANCE, {"epoch": 1, "step_in_epoch": 2})
    saved = checkpoint.newest_state(tmp_path, pytest.fail, lambda state: state)
    assert saved.description["position"] == {"epoch": 1, "step_in_epoch": 2, "step": stop}
    checkpoint.load_state(saved, *second)
    train(*second, range(stop, 5))
    states = [
        checkpoint.save_state(tmp_path / str(n), 5, *run, PROVENANCE, {})
        for n, run in enumerate((uninterrupted, second))
    ]
    assert states[0].read_bytes() == states[1].read_bytes()


def save_states(folder, *steps):
    for step in steps:
        checkpoint.save_state(folder, step, *network_and_optimizers(step), PROVENANCE, {})
    return [path.name for path in sorted(folder.iterdir())]


def test_save_state_keeps_two(tmp_path):
    assert save_states(tmp_path, 1, 2, 10, 100) == ["state-00000010.safetensors", "state-00000100.safetensors"]
    checkpoint.remove_states(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_save_state_removes_later_steps(tmp_path):
    """--resume PATH went back to step 10, or the newer states were damaged."""
    save_states(tmp_path, 10, 20)
    assert save_states(tmp_path, 15) == ["state-00000010.safetensors", "state-00000015.safetensors"]


def step_of(state):
    return state.description["position"]["step"]


def test_newest_state_damaged(tmp_path):
    save_states(tmp_path, 1, 2)
    flip_bit(tmp_path / "state-00000002.safetensors")
    warnings = []
    assert checkpoint.newest_state(tmp_path, warnings.append, step_of) == 1
    assert "state-00000002.safetensors" in warnings[0]
    assert warnings[0].endswith("Falling back to state-00000001.safetensors.")
    flip_bit(tmp_path / "state-00000001.safetensors")
    assert checkpoint.newest_state(tmp_path, warnings.append, step_of) is None
    assert len(warnings) == 3
    assert warnings[2].endswith("No state is left: starting again.")
    assert checkpoint.newest_state(tmp_path / "none", pytest.fail, step_of) is None
