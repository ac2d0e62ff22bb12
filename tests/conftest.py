"""Fixtures for many tests: one thread, generated walkers, and toy parts of the models."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
os.environ["OMP_NUM_THREADS"] = "1"  # a forked process would wait forever for the threads of its parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests first, so that the processes of `make test` end together."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def plain_environment() -> Iterator[None]:
    """Without the variables of the user or of a build server that commands read."""
    colours = ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "TTY_COMPATIBLE", "GITHUB_ACTIONS")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AMEM_DATA", "AMEM_WORKSPACE", "TERMINAL_WIDTH", *colours):
            patch.delenv(name, raising=False)
        patch.setenv("COLUMNS", "80")
        yield


@pytest.fixture(scope="session", autouse=True)
def autograd_started() -> None:
    """Start autograd before a test makes fake tensors, which it counts as a device: it forbids forks from then on."""
    import torch

    torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def without_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide GPUs from all tests but those marked `gpu`, so that they do the same on every machine."""
    if "gpu" not in request.keywords:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the processes that a test starts


@pytest.fixture(scope="session")
def walkers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with four generated people per data set, in boxes of 64 x 32 pixels; read-only."""
    from amem_cli.walkers.layouts import write_walkers
    from amem_cli.walkers.options import WalkerOptions

    options = WalkerOptions(people=4, frames=(6, 12), images_per_person=3, height=64, width=32)
    return write_walkers(tmp_path_factory.mktemp("walkers"), options)


@pytest.fixture
def default_hangup() -> Iterator[None]:
    """SIGHUP ends a process, as in a terminal; under nohup it is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One torch thread, so that the order of sums is the same on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tests/tiny3d.py` in place of I3D."""
    from amem_cli.options import BACKBONES

    monkeypatch.setitem(BACKBONES, "i3d", "tiny3d:Tiny3D")


@pytest.fixture(scope="module")
def tiny_backbones() -> Iterator[None]:
    """`tests/tiny3d.py` in place of I3D, also for the other fixtures of a file."""
    from amem_cli.options import BACKBONES

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "i3d", "tiny3d:Tiny3D")
        yield
