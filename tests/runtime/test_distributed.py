"""One process or several: shares, flags and gradients; the group is a real one, over gloo."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amem_cli.errors import UsageError
from amem_cli.runtime.distributed import Processes, process_group

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@given(items=st.lists(st.integers(), max_size=50), world=st.integers(1, 4))
@settings(deadline=None, derandomize=True)
def test_shares_cover_each_item_exactly_once(items, world):
    shares = [Processes(rank, world, CPU).share(list(enumerate(items))) for rank in range(world)]
    assert sorted(item for share in shares for item in share) == list(enumerate(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_needs_no_group():
    with process_group("cpu") as alone:
        assert (alone.rank, alone.world_size, alone.device, alone.is_main) == (0, 1, CPU, True)
        alone.barrier()
        assert alone.any(True) is True
        assert alone.any(False) is False
        layer = torch.nn.Linear(2, 1)
        layer(torch.ones(1, 2)).sum().backward()
        before = layer.weight.grad.clone()
        alone.average_gradients(list(layer.parameters()))
        assert torch.equal(layer.weight.grad, before)
        assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there():
    for device in ("cuda", "cuda:0"):
        with pytest.raises(UsageError, match=r"--device cuda.*no CUDA device"), process_group(device):
            pytest.fail("went on")
    with process_group("auto") as alone:
        assert alone.device == CPU


WORKER = """
import sys
import torch
from amem_cli.runtime.distributed import process_group

with process_group("cpu") as processes:
    layer = torch.nn.Linear(2, 1)
    layer(torch.full((1, 2), float(processes.rank))).sum().backward()
    unused = torch.nn.Parameter(torch.ones(3))
    processes.average_gradients([*layer.parameters(), unused])
    flags = processes.any(processes.rank == 1), processes.any(False)
    processes.barrier()
    line = (processes.rank, processes.world_size, processes.is_main, processes.shard(list(range(5))))
    sys.stdout.write(repr((*line, layer.weight.grad.tolist(), layer.bias.grad.tolist(), flags)) + "\\n")
"""


def test_two_processes_form_a_group():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [worker.communicate(timeout=240)[0].strip() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    means = "[[0.5, 0.5]], [1.0], (True, False)"
    assert printed == [f"(0, 2, True, [0, 2, 4], {means})", f"(1, 2, False, [1, 3], {means})"]


def test_synchronised_batch_norm_needs_cuda_or_one_process():
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    assert Processes(0, 1, CPU).synchronise_batch_norm(layers) is layers
    with pytest.raises(UsageError, match=r"--sync-batchnorm: .*CUDA.*one process") as raised:
        Processes(0, 2, CPU).synchronise_batch_norm(layers)
    assert raised.value.exit_code == 2
    converted = Processes(0, 2, torch.device("cuda")).synchronise_batch_norm(layers)
    assert isinstance(converted[1], torch.nn.SyncBatchNorm)
    assert list(converted.state_dict()) == list(layers.state_dict())


def test_one_process_gathers_itself():
    assert Processes(0, 1, CPU).gather({"a": 1}) == [{"a": 1}]
