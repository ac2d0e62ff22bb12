"""Weight files: every key accounted for, every kind of broken file told apart, nothing in them run."""

import argparse
import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.models.backbones import build_backbone
from amem_cli.models.i3d import I3D, I3DClassifier
from amem_cli.models.p3d import P3D199
from amem_cli.models.resnet3d import ResNet3D50
from amem_cli.weights.loading import imagenet_resnet, inspect_weights, load_pretrained
from amem_cli.weights.normalisation import IMAGENET, PLUS_MINUS_ONE


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return {key: value.half() if value.is_floating_point() else value for key, value in I3D().state_dict().items()}


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def refusal(path: Path, name: str = "i3d", **options) -> str:
    with pytest.raises(BadData) as caught:
        build_backbone(name, weights=path, **options)
    message = str(caught.value)
    assert message.startswith(f"weights {path}: ")
    assert message.endswith(".")
    assert "\n" not in message
    return message


# ---- every key is accounted for ------------------------------------------------------------------------------------


def test_every_key_that_does_not_fit_is_listed(tmp_path, state):
    broken = dict(state)
    del broken["Mixed_3b.b0.bn.weight"], broken["Conv3d_2b_1x1.conv3d.weight"]
    broken["Mixed_9z.b0.bn.weight"] = torch.ones(3)
    broken["Mixed_4c.b0.bn.bias"] = torch.ones(7)
    broken["Mixed_5c.b0.bn.bias"] = torch.full((384,), float("nan"))
    broken["Mixed_5b.b0.conv3d.weight"] = torch.full((256, 832, 1, 1, 1), float("inf"))
    broken["Mixed_5b.b0.bn.running_var"] = -torch.ones(256)
    broken["Mixed_4d.b0.bn.bias"] = torch.ones(128, dtype=torch.int64)
    message = refusal(saved(tmp_path / "w.pt", broken))
    for row in (
        "missing Mixed_3b.b0.bn.weight",
        "missing Conv3d_2b_1x1.conv3d.weight",
        "left over Mixed_9z.b0.bn.weight",
        "Mixed_4c.b0.bn.bias is (7,) where (160,) belongs",
        "Mixed_5c.b0.bn.bias has values that are NaN, infinite or beyond float32",
        "Mixed_5b.b0.conv3d.weight has values that are NaN, infinite or beyond float32",
        "Mixed_5b.b0.bn.running_var has negative variances",
        "Mixed_4d.b0.bn.bias is torch.int64, not floating point",
    ):
        assert row in message
    assert message.count(";") == 7


def test_a_refused_file_changes_nothing(tmp_path, state):
    net = I3D()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(BadData):
        load_pretrained(net, saved(tmp_path / "w.pt", state | {"other": torch.zeros(1)}), "i3d")
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_a_head_that_is_asked_for_must_be_there(tmp_path, state):
    path = saved(tmp_path / "w.pt", state)
    assert build_backbone("i3d", weights=path).pretrained.head_classes is None
    assert "missing logits.conv3d.weight; missing logits.conv3d.bias" in refusal(path, head=True)
    head = {"logits.conv3d.weight": torch.zeros(157, 1024, 1, 1, 1), "logits.conv3d.bias": torch.zeros(157)}
    path = saved(tmp_path / "charades.pt", state | head)
    assert build_backbone("i3d", weights=path).pretrained.head_classes == 157
    assert "(157, 1024, 1, 1, 1) where (400, 1024, 1, 1, 1) belongs" in refusal(path, head=True)


def test_the_flow_network_is_told(tmp_path, state):
    flow = state | {"Conv3d_1a_7x7.conv3d.weight": torch.zeros(64, 2, 7, 7, 7)}
    assert "optical-flow network, take the RGB one" in refusal(saved(tmp_path / "flow_imagenet.pt", flow))


def test_two_keys_with_one_meaning_are_not_merged(tmp_path, state):
    twice = state | {"mixed_3b.branch_0.conv3d.weight": state["Mixed_3b.b0.conv3d.weight"]}
    assert "left over mixed_3b.branch_0.conv3d.weight" in refusal(saved(tmp_path / "w.pt", twice))


@pytest.mark.parametrize("first", [True, False])
def test_a_second_key_of_one_meaning_never_wins(tmp_path, state, first):
    ours, theirs = "Mixed_3b.b0.conv3d.weight", "mixed_3b.branch_0.conv3d.weight"
    stray = {ours: torch.zeros_like(state[ours])}
    port = {theirs if key == ours else key: value for key, value in state.items()}
    path = saved(tmp_path / "w.pt", stray | port if first else port | stray)
    second = theirs if first else ours
    assert inspect_weights(path).problems == (f"left over {second} (a second {ours})",)
    assert f"a second {ours}" in refusal(path)


def test_values_beyond_float32_are_told(tmp_path, state):
    large = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
    large["Conv3d_1a_7x7.conv3d.weight"] *= 1e300
    problem = "Conv3d_1a_7x7.conv3d.weight has values that are NaN, infinite or beyond float32"
    assert inspect_weights(saved(tmp_path / "w.pt", large)).problems == (problem,)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."])
def test_what_torch_compile_and_dataparallel_put_before_names(tmp_path, state, prefix):
    report = inspect_weights(saved(tmp_path / "w.pt", {prefix + key: value for key, value in state.items()}))
    assert (report.architecture, report.fits) == ("i3d", True)


def test_one_prefix_of_all_names_is_told_in_one_line(tmp_path, state):
    message = refusal(saved(tmp_path / "w.pt", {f"backbone.{key}": value for key, value in state.items()}))
    assert "and all begin with backbone." in message
    assert len(message) < 700


def test_what_is_no_tensor_is_named(tmp_path, state):
    message = refusal(saved(tmp_path / "w.pt", state | {"epoch": 3, "note": "x"}))
    assert "among its tensors are other things: epoch; note" in message


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_protocol_that_cannot_be_opened_safely_is_named(tmp_path, state, zipped):
    path = tmp_path / "w.pt"
    torch.save(state, path, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    assert "it was saved with pickle protocol 4" in refusal(path)


def test_an_image_networks_file_is_told_where_it_can_be_used(tmp_path):
    path = saved(tmp_path / "w.pt", imagenet_resnet(50).state_dict())
    with pytest.raises(BadData, match=r"Give weights of resnet18, or train an ARM with --backbone resnet50"):
        imagenet_resnet(18, path)


def test_another_networks_file(tmp_path, state):
    path = saved(tmp_path / "w.pt", state)
    message = refusal(path, "r3d")
    assert "they are of i3d (I3D, PyTorch port with Mixed_*.b*), not of r3d" in message
    assert "Use --backbone i3d" in message
    with pytest.raises(BadData, match=r"not of resnet18\. Give weights of resnet18"):
        imagenet_resnet(18, path)
    cut = {key: value for key, value in state.items() if key != "Conv3d_2b_1x1.conv3d.weight"}
    message = refusal(saved(path, cut), "r3d")
    assert "missing conv1.weight" in message
    assert f"`amem weights inspect {path}` says what the file is" in message


def test_every_key_is_told_however_many(tmp_path, state):
    missing = list(state)[:30]
    mixed = {key: value for key, value in state.items() if key not in missing}
    mixed |= {f"other.{number}": torch.zeros(1) for number in range(25)}
    path = saved(tmp_path / "w.pt", mixed)
    counted = [f"missing {key}" for key in missing if not key.endswith("num_batches_tracked")]
    expected = {*counted, *(f"left over other.{number}" for number in range(25))}
    assert set(inspect_weights(path).problems) == expected
    message = refusal(path)
    assert all(row in message for row in expected)


def test_a_file_that_resembles_nothing_shows_its_keys(tmp_path, state):
    (problem,) = inspect_weights(saved(tmp_path / "w.pt", {f"net.{k}": v for k, v in state.items()})).problems
    assert "resemble none of i3d" in problem
    assert "net.Conv3d_1a_7x7.conv3d.weight (64, 3, 7, 7, 7)" in problem


def test_a_head_is_there_whole_or_not_at_all(tmp_path, state):
    weight, bias = "logits.conv3d.weight", "logits.conv3d.bias"
    half = saved(tmp_path / "half.pt", state | {weight: torch.zeros(400, 1024, 1, 1, 1)})
    assert f"missing {bias}, a part of the head" in refusal(half)
    wrong = state | {weight: torch.zeros(157, 17, 1, 1, 1), bias: torch.zeros(99)}
    message = refusal(saved(tmp_path / "wrong.pt", wrong))
    assert "the head's weight is (157, 17, 1, 1, 1) and its bias (99,)" in message
    assert "the head takes 17 channels where the network gives 1024" in message


def test_tensors_that_are_not_plain_are_told(tmp_path, state):
    key = "Conv3d_2b_1x1.conv3d.weight"
    path = saved(tmp_path / "w.pt", state | {key: state[key].to_sparse()})
    assert f"sparse, quantised or empty shells, not plain tensors: {key}." in refusal(path)
    path = saved(path, state | {key: torch.zeros(1).expand(1 << 40)})
    assert "not plain tensors" in refusal(path)


def test_checkpoints_of_trainings_open(tmp_path, state):
    about = {"best": np.float64(3.2), "epoch": np.int64(7), "args": argparse.Namespace(lr=0.1, name="x")}
    assert inspect_weights(saved(tmp_path / "a.pt", about | {"state_dict": state})).fits
    assert inspect_weights(saved(tmp_path / "b.pt", {"model": {"state_dict": state, "step": 3}})).fits
    assert "only an empty dictionary" in refusal(saved(tmp_path / "c.pt", {}))


# ---- files that are no weights -------------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 49297000\n"
NO_WEIGHTS = {
    "empty": (b"", "it is empty", "Download it again"),
    "zeros": (bytes(4096), "all its 4096 bytes are zero", "Download it again"),
    "web page": (b"\n<!DOCTYPE html><html><head><title>Sign in", "it is a web page", "direct address"),
    "web page in capitals": (b"\xef\xbb\xbf<HTML>\xc3\xa9", "it is a web page", "direct address"),
    "web page of the middle": ("<body><h1>Anmeldung nötig – ".encode(), "it is a web page", "direct address"),
    "web page in UTF-16": ("<html>é".encode("utf-16"), "it is a web page", "direct address"),
    "denied": (b"<Error><Code>AccessDenied</Code>", "it is a web page", "direct address"),
    "text beyond ASCII": ("Zugriff verweigert für alle ".encode() * 30, "a text file that begins 'Zugriff", "Download"),
    "LFS pointer with a mark": (b"\xef\xbb\xbf" + POINTER, "it is a Git LFS pointer", "git lfs pull"),
    "LFS pointer": (POINTER, "it is a Git LFS pointer", "git lfs pull"),
    "message": (b"404: Not Found", "a text file that begins '404: Not Found'", "Download it again"),
    "JSON": (b'{"error": "quota exceeded"}', 'a text file that begins \'{"error"', "Download it again"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "compressed by gzip", "Unpack it first"),
    "tar": (b"a" + bytes(256) + b"ustar" + bytes(250), "it is a tar archive", "Unpack it first"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "it is an HDF5 file", "Take the PyTorch"),
    "noise": (bytes(range(128, 256)) * 9, "damaged, or no weight file", "Download it again"),
    "image": (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(range(256)), "no weight file", "Download it again"),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_is_no_weight_file_is_said(kind, tmp_path):
    content, why, remedy = NO_WEIGHTS[kind]
    path = tmp_path / "rgb_imagenet.pt"
    path.write_bytes(content)
    message = refusal(path)
    assert why in message
    assert remedy in message
    with pytest.raises(BadData, match=r"^weights "):
        inspect_weights(path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(InputMissing, match="not found"):
        build_backbone("i3d", weights=tmp_path / "none.pt")
    assert "this is a folder" in refusal(tmp_path)


def test_a_tensorflow_checkpoint_is_told_by_its_name(tmp_path):
    path = tmp_path / "model.ckpt.data-00000-of-00001"
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    assert "part of a TensorFlow checkpoint" in refusal(path)


# ---- truncated and damaged files -----------------------------------------------------------------------------------


def small(path: Path) -> Path:
    """A weight file of each format, by the ending of its name."""
    tensors = {f"layer.{i}.weight": torch.randn(40, 30) for i in range(5)}
    if path.suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in tensors.items()})
    elif path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=path.suffix == ".pt")
    return path


FORMATS = ("w.pt", "w.legacy", "w.npz", "w.safetensors")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99, 0.9999])
def test_a_truncated_file_is_told(name, share, tmp_path):
    path = small(tmp_path / name)
    inspect_weights(path)  # whole, it can be read
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    message = refusal(path)
    assert "cut off" in message or "damaged" in message
    assert "Download it again" in message


@pytest.mark.parametrize("name", ["w.pt", "w.npz"])
def test_one_flipped_bit_is_found(name, tmp_path):
    path = small(tmp_path / name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "does not match its checksum" in refusal(path)


# ---- nothing is run ------------------------------------------------------------------------------------------------


class Trap:
    """What a hostile file does: unpickling it would make a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_pickle_is_told_by_what_it_would_call(protocol, tmp_path):
    trap, path = tmp_path / "sprung", tmp_path / "w.pt"
    path.write_bytes(pickle.dumps(Trap(trap), protocol))
    message = refusal(path)
    assert "mkdir), and opening it would run code from the file" in message
    assert "weights_only" not in message
    assert not trap.exists()


def test_a_zip_around_a_weight_file_is_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("rgb_imagenet.pt", b"weights")
    message = refusal(tmp_path / "w.pt")
    assert "a zip archive that holds rgb_imagenet.pt" in message
    assert "Unpack it first" in message


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_needs_code_is_refused_and_not_run(new_format, tmp_path):
    trap, path = tmp_path / "sprung", tmp_path / "w.pt"
    torch.save({"state_dict": {}, "extra": Trap(trap)}, path, _use_new_zipfile_serialization=new_format)
    message = refusal(path)
    assert "mkdir" in message
    assert "would run code" in message
    assert "save its state_dict() alone" in message
    assert not trap.exists()


def test_a_whole_pickled_network_is_refused(tmp_path):
    message = refusal(saved(tmp_path / "w.pt", torch.nn.Linear(2, 2)))
    assert "(torch.nn.modules.linear.Linear)" in message


def test_a_torchscript_program_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("net/code/__torch__.py", "class Net(Module): ...")
        archive.writestr("net/constants.pkl", b"")
    (tmp_path / "w.pt").write_bytes(buffer.getvalue())
    assert "a TorchScript program" in refusal(tmp_path / "w.pt")


def test_arrays_of_objects_are_refused(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    assert "would run code" in refusal(tmp_path / "w.npz")
    assert not (tmp_path / "sprung").exists()


def test_arrays_of_text_are_refused(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array(["hello"]))
    assert "no plain numbers" in refusal(tmp_path / "w.npz")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"a": 1}}, {}, {1: torch.ones(2)}, "text"])
def test_a_file_without_a_state_dict(content, tmp_path):
    assert "no state dict of tensors in it" in refusal(saved(tmp_path / "w.pt", content))


# ---- amem weights inspect ------------------------------------------------------------------------------------------


def test_inspect_says_what_a_file_is(tmp_path):
    torch.manual_seed(0)
    path = saved(tmp_path / "w.pt", I3DClassifier().state_dict())
    report = inspect_weights(path)
    assert (report.architecture, report.dialect) == ("i3d", "I3D, PyTorch port with Mixed_*.b*")
    assert (report.fits, report.problems, report.container) == (True, (), "PyTorch")
    assert (report.keys, report.head_classes) == (344, 400)
    assert report.parameters == 12_287_264 + 400 * 1024 + 400
    assert report.normalisation == PLUS_MINUS_ONE
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.bytes == path.stat().st_size
    assert build_backbone("i3d", weights=path).pretrained.sha256 == report.sha256


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("mc3_18", torchvision.models.video.mc3_18),
        ("s3d", torchvision.models.video.s3d),
        ("resnet18", torchvision.models.resnet18),
        pytest.param("r3d", ResNet3D50, marks=pytest.mark.slow),
        pytest.param("p3d", P3D199, marks=pytest.mark.slow),
        pytest.param("r3d_18", torchvision.models.video.r3d_18, marks=pytest.mark.slow),
        pytest.param("r2plus1d_18", torchvision.models.video.r2plus1d_18, marks=pytest.mark.slow),
        pytest.param("resnet50", torchvision.models.resnet50, marks=pytest.mark.slow),
    ],
)
def test_inspect_recognises_every_architecture(name, build, tmp_path):
    state = {key: value.half() if value.is_floating_point() else value for key, value in build().state_dict().items()}
    report = inspect_weights(saved(tmp_path / "w.pt", {"state_dict": state}))
    assert (report.architecture, report.fits, report.problems) == (name, True, ())


def test_inspect_of_a_file_that_almost_fits_and_of_a_stranger(tmp_path, state):
    almost = {key: value for key, value in state.items() if key != "Mixed_3b.b0.bn.weight"}
    report = inspect_weights(saved(tmp_path / "w.pt", almost))
    assert (report.architecture, report.fits) == ("i3d", False)
    assert report.problems == ("missing Mixed_3b.b0.bn.weight",)
    report = inspect_weights(saved(tmp_path / "w.pt", {"a": torch.ones(3)}))
    assert (report.architecture, report.dialect, report.fits) == (None, None, False)
    assert "resemble none of i3d, r3d" in report.problems[0]


# ---- ImageNet ResNets for ARM and TAE ------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "channels"), [(18, 512), (50, 2048)])
def test_imagenet_resnet_from_a_file(depth, channels, tmp_path):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    path = saved(tmp_path / "w.pth", theirs.state_dict())
    ours = imagenet_resnet(depth, path).eval()
    images = torch.randn(2, 3, 64, 32)
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
    assert ours.normalisation == IMAGENET
    dense = imagenet_resnet(depth, path, last_stride=1).eval()
    maps = torch.nn.Sequential(*list(dense.children())[:-2])
    with torch.no_grad():
        assert maps(images).shape == (2, channels, 4, 2)
    with pytest.raises(BadData, match=f"not of resnet{68 - depth}"):
        imagenet_resnet(68 - depth, path)


def test_imagenet_resnet_by_name_needs_the_network_or_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(url, *args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputMissing, match="copy the file here"):
        imagenet_resnet(18, "imagenet")
    state = torchvision.models.resnet18(weights=None).state_dict()
    saved(tmp_path / "checkpoints" / "resnet18-f37072fd.pth", state)
    assert torch.equal(imagenet_resnet(18, "imagenet").conv1.weight, state["conv1.weight"])
    with pytest.raises(UsageError, match="Choose 18 or 50"):
        imagenet_resnet(34)
