"""torchrun on two hosts: two network namespaces joined by a veth pair; one host dies and the job is resumed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import tensors_equal

from amem_cli.artifacts import checkpoint

pytestmark = pytest.mark.slow
HOSTS = {"amem-test-a": "10.77.0.1", "amem-test-b": "10.77.0.2"}
PORT = 29_577
SECONDS = 240  # of one job


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    """Two network namespaces that reach each other at the addresses of `HOSTS`."""
    if shutil.which("ip") is None:
        pytest.skip("the command ip is not installed")
    try:
        ip("netns", "add", next(iter(HOSTS)))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made: {error.stderr.decode().strip()}")
    try:
        (one, _), (other, _) = HOSTS.items()
        ip("netns", "add", other)
        ip("link", "add", "veth-a", "netns", one, "type", "veth", "peer", "name", "veth-b", "netns", other)
        for name, device in ((one, "veth-a"), (other, "veth-b")):
            ip("-n", name, "addr", "add", f"{HOSTS[name]}/24", "dev", device)
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield HOSTS
    finally:
        for name in HOSTS:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def launch(walkers: Path, workspace: Path) -> list[subprocess.Popen[str]]:
    """The same torchrun command on both hosts, one process each."""
    launched = []
    for (name, address), device in zip(HOSTS.items(), ("veth-a", "veth-b"), strict=True):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{HOSTS['amem-test-a']}:{PORT}"]
        # both namespaces have the same host name, from which torchrun would infer the rendezvous host
        torchrun += ["--rdzv-conf", f"is_host={int(address == HOSTS['amem-test-a'])}"]
        torchrun += ["--rdzv-id", "amem", "--local-addr", address]
        torchrun += ["-m", "amem_cli", "train-arm", "--device", "cpu", "--quiet", "--backbone", "mobilenet_v2"]
        torchrun += ["--image-size", "32x32", "--batch-size", "64", "--partition", "none", "--epochs", "6"]
        torchrun += ["--save-seconds", "0", "--data-root", str(walkers), "--workspace", str(workspace)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": device}
        command = ["ip", "netns", "exec", name, *torchrun]
        launched.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment))
    return launched


def kill_host(name: str) -> None:
    """Kill every process in a namespace: torchrun and its worker."""
    found = subprocess.run(["ip", "netns", "pids", name], check=True, capture_output=True, text=True).stdout
    for process in map(int, found.split()):
        os.kill(process, signal.SIGKILL)


def ended(launched: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    errors = [process.communicate(timeout=SECONDS)[1] for process in launched]
    return [process.returncode for process in launched], "\n".join(errors)


def test_torchrun_two_hosts_one_killed_and_resumed(hosts: dict[str, str], walkers: Path, tmp_path: Path) -> None:
    codes, errors = ended(launch(walkers, tmp_path / "complete"))
    assert codes == [0, 0], errors

    launched = launch(walkers, tmp_path / "killed")
    try:
        end = time.monotonic() + SECONDS
        while not list(tmp_path.glob("killed/arm/state-*.safetensors")) and time.monotonic() < end:
            assert launched[0].poll() is None, launched[0].communicate()[1]
            time.sleep(0.05)
        kill_host("amem-test-b")
        codes, errors = ended(launched)
    finally:
        for process in launched:
            process.kill()
    assert 0 not in codes, errors
    assert not (tmp_path / "killed" / "arm" / "arm.safetensors").exists()

    codes, errors = ended(launch(walkers, tmp_path / "killed"))
    assert codes == [0, 0], errors
    files = [tmp_path / run / "arm" / "arm.safetensors" for run in ("complete", "killed")]
    weights = [checkpoint.load(file, "amem-arm") for file in files]
    assert tensors_equal(weights[0].tensors, weights[1].tensors)
