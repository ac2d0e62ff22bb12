"""Weight files: formats, other files, and files that would execute code or exhaust the machine."""

import argparse
import hashlib
import io
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from amem_cli.errors import BadData, InputMissing
from amem_cli.weights import files
from amem_cli.weights.files import read_weight_file
from tests.toys import write_main
from tests.video.galleries import write_gallery

STATE = {"layer.weight": torch.arange(12.0).view(3, 4), "layer.steps": torch.tensor(7)}
FORMATS = {"w.pt": "PyTorch", "w.legacy": "PyTorch (before 1.6)", "w.npz": "NumPy .npz", "w.safetensors": "safetensors"}

HEADER = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {})
LEGACY = b"".join(pickle.dumps(value, 2) for value in HEADER)


def saved(path, content=STATE):
    """A file of the format of its suffix."""
    if path.suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in content.items()})
    elif path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=path.suffix != ".legacy")
    return path


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"w/{name.replace('_', '.')}"), content)  # no time: it is in a test's id
    return buffer.getvalue()


def refusal(path, content=None):
    """The one-line error for a file, or for bytes or an object saved as one."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        saved(path, content)
    with pytest.raises(BadData) as caught:
        read_weight_file(path)
    message = str(caught.value)
    assert message.startswith(f"weights {path}: ")
    assert message.isprintable()
    assert "weights_only" not in message
    assert message.count(str(path)) == 1
    return message


def assert_state(found):
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], STATE[key]) and found[key].dtype == STATE[key].dtype for key in STATE)


# -- what can be read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_read_weight_file_formats(name, tmp_path):
    path = saved(tmp_path / name)
    file = read_weight_file(path)
    assert_state(file.tensors)
    assert (file.path, file.container, file.module_prefix, file.normalisation) == (path, FORMATS[name], False, None)
    assert (file.bytes, file.sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


def test_read_weight_file_finds_the_prefix_module(tmp_path):
    for prefix, expected in (("module.", True), ("model.", False)):
        file = read_weight_file(saved(tmp_path / "w.pt", {prefix + key: value for key, value in STATE.items()}))
        assert (file.module_prefix, *file.tensors) == (expected, *(prefix + key for key in STATE))


@pytest.mark.parametrize("name", ["w.pt", "w.legacy"])
def test_read_weight_file_training_checkpoint(name, tmp_path):
    about = {"best": np.float64(3), "accuracy": np.float32(1), "epoch": np.int64(7), "loss": torch.tensor(1.0)}
    about |= {"args": argparse.Namespace(device=torch.device("cpu"), size=torch.Size([3])), "model": {"name": "i3d"}}
    about |= {"optimizer": {"state": {0: torch.ones(1)}, "groups": [{"betas": (0.9, 0.99)}] * 2}, "names": ("x",) * 999}
    about |= {"random": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    about |= {"hits": Counter("aab"), "seen": {3, 4}, "path": Path("runs/1"), "dtype": torch.float16, "z": 1 + 2j}
    about |= {"arrays": [np.arange(3), np.array([Path("x")]), np.array([])], "table": defaultdict(list, a=[1])}
    about |= {"end": b"x"}
    if not torch.__version__.startswith("2.10."):  # which opens no deque: such a file is refused
        about |= {"last": deque([1, 2], 3)}
    if name == "w.pt":  # modules in the old format have the text of their source, which torch refuses
        about["criterion"] = torch.nn.Linear(2, 2)
    content = saved(tmp_path / name, about | {"state_dict": {"net": STATE, "step": 3}}).read_bytes()
    file = read_weight_file(tmp_path / name)
    assert_state(file.tensors)
    path_class = f"{type(Path()).__module__}.{type(Path()).__name__}"
    assert {"argparse.Namespace", path_class, "collections.defaultdict"} <= set(file.not_opened)
    assert not {"collections.OrderedDict", "collections.Counter", "torch.device"} & set(file.not_opened)
    if name == "w.legacy":  # as saved on a GPU
        content = content.replace(b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage")
        (tmp_path / name).write_bytes(content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
        assert_state(read_weight_file(tmp_path / name).tensors)


def test_read_weight_file_arrays(tmp_path):
    path, array = tmp_path / "w.npz", np.arange(6, dtype=">f4").reshape(2, 3)
    np.savez(path, big_endian=array, fortran=np.asfortranarray(array), scalar=np.float32(2))
    tensors = read_weight_file(path).tensors
    assert tensors["big_endian"].tolist() == tensors["fortran"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["scalar"].shape == ()
    np.savez(path, a=np.array([Trap()], dtype=object), allow_pickle=True)
    assert "Object arrays cannot be loaded" in refusal(path)
    np.savez(path, a=np.array(["text"]))
    assert "damaged or not a weight file (TypeError" in refusal(path)


def test_read_weight_file_numpy_weights_in_a_pickle(tmp_path):
    arrays = {key: value.numpy() for key, value in STATE.items()}
    assert_state(read_weight_file(saved(tmp_path / "w.pt", {"model": arrays, "rng": np.arange(3)})).tensors)
    shared = np.arange(3)
    tensors = read_weight_file(saved(tmp_path / "w.pt", {"a": shared, "b": shared, "c": torch.ones(1)})).tensors
    assert tensors["a"] is tensors["b"]
    turned = {"a": np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)), "b": torch.ones(1)}
    assert read_weight_file(saved(tmp_path / "w.pt", turned)).tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for other in (np.array(["text"]), np.array([Path("x")]), np.zeros(2, "M8[s]"), np.zeros(2, "f4,f4")):
        assert "plain names: a" in refusal(tmp_path / "w.pt", turned | {"a": other})


# -- what is no weight file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>\x1b[31m<title>Sign in", r"begins '<!DOCTYPE html>\x1b[31m<title>Sign in'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "begins 'version https://git-lfs"),
        ("für alle ".encode() * 30, "begins 'für alle"),
        (bytes(4096), "damaged or not a weight file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "damaged or not a weight file"),
        (LEGACY + b"\x80\x02(l.\x80\x02].", "damaged or not a weight file. Download"),
        (zipped(), "no weights in this zip archive, which holds no files"),
        (zipped(rgb_pt=b""), "which holds w/rgb.pt. Unpack it"),
        ([1, 2], "no state dict in it, only list"),
        ({"epoch": 3, 1: 2}, "no state dict in it, only keys epoch; 1"),
        (STATE | {"epoch": 3, 1: torch.zeros(2)}, "more than dense tensors with plain names: epoch; 1"),
        (STATE | {"\x1b[31mred\n": torch.zeros(2)}, r"plain names: \x1b[31mred\n"),
        (STATE | {"a": torch.zeros(1).expand(5)}, "plain names: a"),
    ],
)
def test_read_weight_file_refuses(content, why, tmp_path):
    assert why in refusal(tmp_path / "w.pt", content)


def test_read_weight_file_missing(tmp_path):
    with pytest.raises(InputMissing, match=r"not found.*Give the path of a weight file"):
        read_weight_file(tmp_path / "w.pt")
    assert "folder" in refusal(tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_read_weight_file_damaged(name, tmp_path):
    content = saved(tmp_path / name, {"a": torch.zeros(1000)}).read_bytes()
    for share in (0.3, 0.99):
        message = refusal(tmp_path / name, content[: int(len(content) * share)])
        assert "damaged" in message
        assert "Download it again" in message
    if name in ("w.pt", "w.npz"):
        half = len(content) // 2
        flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        assert "does not match its checksum" in refusal(tmp_path / name, flipped)


def test_read_weight_file_damaged_checkpoint_of_amem(tmp_path):
    path = write_main(tmp_path / "amem-main.safetensors")
    content = path.read_bytes()
    for damaged in (content[:-9], content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]):
        path.write_bytes(damaged)
        with pytest.raises(BadData) as caught:
            read_weight_file(path)
        assert caught.value.remedy == "amem train-amem writes such a file"


def test_read_weight_file_features(tmp_path):
    path = write_gallery(tmp_path / "mars.h5", np.eye(3))
    assert "features or labels, not weights" in refusal(path)


# -- hostile files -----------------------------------------------------------------------------------------------------


class Trap:
    """Unpickling it would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("trap",)


def test_read_weight_file_refuses_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": STATE, "x": Trap()}
    saved(tmp_path / "w.legacy", content)
    for message in (
        refusal(tmp_path / "w", pickle.dumps(Trap(), 2)),
        refusal(tmp_path / "w.pt", content),
        refusal(tmp_path / "w.legacy", content),
    ):
        assert f"opening it would execute {os.mkdir.__module__}.mkdir. " in message
    assert not (tmp_path / "trap").exists()
    module = torch.nn.Linear(2, 2)
    assert "no state dict in it, only torch.nn.modules.linear.Linear. If you trust" in refusal(
        tmp_path / "w.pt", module
    )
    assert "cannot be opened safely: torch.nn.modules.linear.Linear. If" in refusal(tmp_path / "w.legacy", module)
    assert "torch._utils._rebuild_sparse_tensor" in refusal(tmp_path / "w.pt", {"a": torch.eye(2).to_sparse()})


class Calls:
    """Unpickling it would call a function, and set the state of the result."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments, state)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("name", ["w.pt", "w.legacy"])
def test_read_weight_file_runs_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(argparse.Namespace, "__setstate__", lambda *_: Path("trap").mkdir(), raising=False)
    sys.modules.pop("this", None)
    make = "__import__('os').mkdir('trap')"
    hostile = [
        Calls(eval, make),
        Calls(exec, make),
        Calls(__import__, "this"),
        Calls(subprocess.call, ["mkdir", "trap"]),
        Calls(argparse.Namespace, state={"x": Calls(eval, make), "__class__": Calls(eval, make)}),
        [{1: (Calls(Path, Calls(eval, make)),)}],
    ]
    file = read_weight_file(saved(tmp_path / name, {"hostile": hostile, "state_dict": STATE}))
    assert_state(file.tensors)
    assert {"builtins.eval", "builtins.exec", "builtins.__import__", "commands.call"} <= set(file.not_opened)
    assert not (tmp_path / "trap").exists()
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    "pickled",
    [
        b"c__builtin__\ngetattr\ncshutil\nos\nX\x05\0\0\0mkdir\x86RX\x04\0\0\0trap\x85R.",  # of what is returned
        b"c__builtin__\neval\n}X\x0c\0\0\0__setstate__cshutil\nrmtree\nsb.",  # sets the state of a stand-in
        b"(S'mkdir trap'\nios\nsystem\n.",  # instances of old classes
        b"(cos\nsystem\nS'mkdir trap'\no.",
        b"c__builtin__\nbytearray\nJ\0\0\0\x7f\x85R.",  # 2 GB
        b"ctorch._utils\n_rebuild_sparse_tensor\n.",
        b"ctorch\n_utils._rebuild_sparse_tensor\n.",
        b"ctorch.nn\nparameter.Parameter\n.",
        b"".join(b"cm\nn%d\n0" % number for number in range(1100)) + b"}.",
    ],
)
def test_read_weight_file_refuses_other_ways_to_call(pickled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (LEGACY + b"\x80\x02" + pickled, zipped(data_pkl=b"\x80\x02" + pickled, version=b"3")):
        refusal(tmp_path / "w", content)
    assert not (tmp_path / "trap").exists()


def test_read_weight_file_published_pickle_of_arrays(tmp_path, monkeypatch):
    arrays = {"params": {"Conv_0": {"kernel": np.arange(6.0).reshape(2, 3)}}, "batch_stats": {"mean": np.ones(2)}}
    path = tmp_path / "w.ckpt"
    path.write_bytes(pickle.dumps(arrays, protocol=4))
    assert "cannot be opened safely" in refusal(path)  # of an unknown file
    monkeypatch.setattr(files, "_PICKLED_ARRAYS", {hashlib.sha256(path.read_bytes()).hexdigest()})
    found = read_weight_file(path)
    assert {key: value.tolist() for key, value in found.tensors.items()} == {
        "params/Conv_0/kernel": [[0, 1, 2], [3, 4, 5]],
        "batch_stats/mean": [1, 1],
    }
    assert found.container == "pickled NumPy arrays"


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        (pickle.dumps({"mean": np.ones(2), "kernel": os.getcwd}, protocol=4), "posix.getcwd"),
        (b"\x80\x04cos\ndtype\n.", "os.dtype"),
        (b"\x80\x04cnumpy\nsave\n.", "numpy.save"),
    ],
)
def test_read_weight_file_published_pickle_of_more_than_arrays(content, holds, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PICKLED_ARRAYS", {hashlib.sha256(content).hexdigest()})
    assert f"it holds {holds}" in refusal(tmp_path / "w.ckpt", content)


@pytest.mark.parametrize("zip_format", [True, False])
def test_read_weight_file_refuses_protocol_4(zip_format, tmp_path):
    torch.save(STATE, tmp_path / "w.pt", pickle_protocol=4, _use_new_zipfile_serialization=zip_format)
    assert "it was saved with pickle protocol 4" in refusal(tmp_path / "w.pt")


LEVELS = 24  # hashing the last tuple takes 2^24 steps


@pytest.mark.parametrize("pair", [b"h%ch%c\x86", b"(h%ch%ct"], ids=["pair", "marked"])
def test_read_weight_file_refuses_hash_bombs(pair, tmp_path):
    tuples = b"".join(pair % (level, level) + b"q%c" % (level + 1) for level in range(LEVELS))
    bomb = b"\x80\x02)q\0" + tuples + b"}h%cK\x01s." % LEVELS
    in_storage_keys = b"\x80\x02}.\x80\x02)q\0" + tuples + b"]h%ca." % LEVELS
    archives = zipped(data_pkl=bomb), zipped(data_pkl=b"\x80\x02}.", DATA_PKL=bomb)
    for content in (LEGACY + bomb, LEGACY + in_storage_keys, *archives):
        assert "unbounded time" in refusal(tmp_path / "w", content)


def test_read_weight_file_refuses_zip_bombs(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(100_000))
    assert read_weight_file(tmp_path / "w.npz").tensors["a"].numel() == 100_000
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 799_999)
    assert "it would unpack to 0 GiB" in refusal(tmp_path / "w.npz")
    monkeypatch.setattr(files, "MAX_COMPRESSION", 10_000)
    assert "plain names: a" in refusal(tmp_path / "w.npz")  # one tensor above the limit
