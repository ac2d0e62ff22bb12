"""One process or several: shards, collectives, DistributedDataParallel over gloo."""

import os
from pathlib import Path

import processes
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from amem_cli.errors import BadData, UsageError
from amem_cli.runtime import distributed
from amem_cli.runtime.distributed import Processes, gradient_sync, process_group, unwrapped

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@given(items=st.lists(st.integers(), max_size=50), world=st.integers(1, 4))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_shard_every_item_once(items: list[int], world: int) -> None:
    shards = [Processes(rank, world, CPU).shard(list(enumerate(items))) for rank in range(world)]
    assert sorted(item for shard in shards for item in shard) == list(enumerate(items))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_require_divisible() -> None:
    two = Processes(0, 2, CPU)
    two.require_divisible("--batch-size", 4, least=2)
    for count in (3, 2):
        with pytest.raises(UsageError, match="Use a multiple of 2, at least 4"):
            two.require_divisible("--batch-size", count, least=2)


@pytest.mark.parametrize(
    ("processes", "count", "why"),
    [(1, 2, ""), (1, 1, "1 found, at least 2 are needed."), (3, 3, ""),
     (3, 2, "2 found, at least 3 are needed for 3 processes. Start fewer processes, or add images.")],
)  # fmt: skip
def test_require_images(processes: int, count: int, why: str) -> None:
    group = Processes(0, processes, torch.device("cpu"))
    if not why:
        return group.require_images(count, "peta")
    with pytest.raises(BadData) as caught:
        group.require_images(count, "peta")
    assert str(caught.value) == f"training images peta: {why}"


def test_process_group_one_process() -> None:
    with process_group("cpu") as alone:
        assert (alone.rank, alone.world_size, alone.device, alone.is_main) == (0, 1, CPU, True)
        alone.barrier()
        assert (alone.any(True), alone.any(False), alone.gather(3)) == (True, False, [3])
        layer = nn.Linear(2, 1)
        assert alone.data_parallel(layer) is layer is alone.synchronise_batch_norm(layer)
        with gradient_sync(layer, enabled=False):
            layer(torch.ones(1, 2)).sum().backward()
        assert layer.weight.grad is not None
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("device", "local", "expected"),
    [("auto", (1, 2), "cuda:1"), ("cuda", (0, 2), "cuda:0"), ("cuda:1", (0, 1), "cuda:1"), ("cpu", (2, 3), "cpu"),
     ("cuda:2", (0, 1), "there are 2 CUDA devices. Use a lower number"),
     ("cuda:1", (0, 2), "2 processes need a GPU each, .* has 2. Use --device cuda and --nproc-per-node 2"),
     ("auto", (2, 3), "3 processes need a GPU each, and this machine has 2")],
)  # fmt: skip
def test_choose_device_of_two_gpus(
    device: str, local: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(("LOCAL_RANK", "LOCAL_WORLD_SIZE"), local, strict=True):
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    used: list[torch.device] = []
    cuda = {"is_available": lambda: True, "device_count": lambda: 2, "set_device": used.append}
    for name, function in cuda.items():
        monkeypatch.setattr(torch.cuda, name, function)
    tf32 = torch.backends.cudnn.allow_tf32
    try:
        if " " in expected:
            with pytest.raises(UsageError, match=expected):
                distributed.choose_device(device)
            return
        assert str(distributed.choose_device(device)) == expected
        on_gpu = expected != "cpu"
        assert [str(one) for one in used] == [expected] * on_gpu
        assert torch.are_deterministic_algorithms_enabled() is on_gpu
        assert torch.is_deterministic_algorithms_warn_only_enabled() is on_gpu
        assert torch.backends.cudnn.allow_tf32 is (tf32 and not on_gpu)
        assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None) == (":4096:8" if on_gpu else None)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.allow_tf32 = tf32


def test_process_group_keeps_standard_output_pure(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    def loud(*arguments: object, **named: object) -> None:
        os.write(1, b"[Gloo] Rank 0 is connected\n")
        raise ValueError("enough")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", loud)
    monkeypatch.setattr(distributed, "_end_with_parent", lambda: None)
    with pytest.raises(ValueError, match="enough"), process_group("cpu"):
        pass
    print("result")
    out, err = capfd.readouterr()
    assert (out, "[Gloo]" in err) == ("result\n", True)


def test_process_group_without_cuda() -> None:
    for device in ("cuda", "cuda:0"):
        with pytest.raises(UsageError, match=r"--device cuda.*no CUDA device"), process_group(device):
            pytest.fail("the context was entered")
    with process_group("auto") as alone:
        assert alone.device == CPU


def toy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def batches() -> torch.Tensor:
    return torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))  # 2 batches of 4


def test_collectives_and_data_parallel_two_processes(tmp_path: Path) -> None:
    """Two processes with half of each batch get the gradient of one process with the full batches."""

    def work(rank: int) -> None:
        with process_group("cpu") as group:
            assert (group.rank, group.world_size, group.is_main) == (rank, 2, rank == 0)
            assert group.gather(rank * 10) == [0, 10]
            assert group.any(rank == 1) is True
            assert group.any(False) is False
            norm = nn.BatchNorm1d(2)
            norm.running_mean.fill_(rank)
            group.broadcast_buffers(norm)
            assert norm.running_mean.tolist() == [0, 0]
            with pytest.raises(UsageError, match="--sync-batchnorm"):
                group.synchronise_batch_norm(norm)
            network = toy()
            parallel = group.data_parallel(network)
            assert unwrapped(parallel) is network
            for number, batch in enumerate(batches()):
                mine = torch.stack(list(group.shard(list(batch))))
                with gradient_sync(parallel, enabled=number == 1):
                    (parallel(mine).square().mean() / 2).backward()
                if number == 0:
                    local = network[0].weight.grad.clone()
                    assert not torch.equal(*group.gather(local))  # no averaging inside no_sync
            torch.save([p.grad for p in network.parameters()], tmp_path / f"{rank}.pt")

    assert processes.together(work, 2, tmp_path / "printed").codes == [0, 0]
    network = toy()
    for batch in batches():
        (network(batch).square().mean() / 2).backward()
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for gradient, parameter in zip(found, network.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad)


def test_process_group_other_process_dies(tmp_path: Path) -> None:
    import os
    import signal

    def work(rank: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to rank 0 as soon as rank 1 has ended
        with process_group("cpu") as group:
            group.barrier()
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            group.barrier()

    ended = processes.together(work, 2, tmp_path)
    assert ended.codes[1] == -signal.SIGKILL
    assert ended.codes[0] != 0
    assert "another process ended" in ended.text
