"""Shards: planned independently of the number of processes; a second run computes the missing ones."""

import errno

import numpy as np
import pytest
import torch
from faults import KILL, flip_bit, hit, in_child

from amem_cli.artifacts.metrics_log import recorded_seconds
from amem_cli.artifacts.output import is_complete
from amem_cli.artifacts.paths import metrics_path
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import DiskError
from amem_cli.runtime import sharding as module
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.sharding import Shards, plan_shards

PROVENANCE, OTHER = Provenance("extract-features", {"seed": 0}), Provenance("extract-features", {"seed": 1})


def test_plan_by_hand():
    plan = plan_shards([range(length) for length in (4096, 1, 4094, 1, 5)])
    assert plan == [range(0, 1), range(1, 4), range(4, 5)]
    assert plan_shards([]) == []


def columns(number, rows=3):
    return {"features": np.full((rows, 2), number, np.float32), "frames": np.arange(rows) + 10 * number}


def make(output, *, fresh=False, provenance=PROVENANCE, is_main=True):
    return Shards(output, provenance, Processes(0 if is_main else 1, 1, torch.device("cpu")), fresh=fresh)


def test_merge_order_and_dtypes(tmp_path):
    shards = make(tmp_path / "mars.h5")
    for number in (2, 0, 11, *range(3, 11), 1):
        shards.write(number, columns(number, rows=number % 3 + 1))
    ends = np.cumsum([number % 3 + 1 for number in range(12)]).tolist()
    merged = shards.merge([range(start, end) for start, end in zip([0, *ends], ends, strict=False)])
    frames = np.concatenate([columns(n, n % 3 + 1)["frames"] for n in range(12)])
    np.testing.assert_array_equal(merged["frames"], frames)
    assert (merged["features"].dtype, merged["frames"].dtype) == (np.float32, np.int64)


def test_has_missing_or_damaged(tmp_path):
    shards = make(tmp_path / "mars.h5")
    for number in range(4):
        shards.write(number, columns(number))
    flip_bit(shards.path(1))
    shards.path(2).write_bytes(shards.path(2).read_bytes()[:50])
    shards.path(3).unlink()
    again = make(tmp_path / "mars.h5")
    assert [is_complete(again.path(number)) for number in range(4)] == [True, False, False, False]


def test_shards_of_other_provenance_and_fresh(tmp_path):
    make(tmp_path / "mars.h5").write(0, columns(0))
    assert not is_complete(make(tmp_path / "mars.h5", provenance=OTHER).path(0))
    assert not is_complete(make(tmp_path / "prid2011.h5").path(0))
    assert is_complete(make(tmp_path / "mars.h5", fresh=True, is_main=False).path(0))
    assert not is_complete(make(tmp_path / "mars.h5", fresh=True).path(0))


def test_main_process_makes_the_folder(tmp_path):
    assert not make(tmp_path / "mars.h5", is_main=False).folder.exists()
    assert make(tmp_path / "mars.h5").folder.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(DiskError):
        make(tmp_path / "file" / "mars.h5")


def test_remove_includes_other_configurations(tmp_path):
    shards = make(tmp_path / "mars.h5")
    make(tmp_path / "mars.h5", provenance=OTHER).write(0, columns(0))
    make(tmp_path / "prid2011.h5")
    shards.remove()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [".prid2011.h5.parts"]


def test_metrics_have_the_time_of_all_runs(tmp_path, monkeypatch):
    clock = iter([10.0, 13.0, 100.0, 105.0, 200.0, 201.0, 300.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    output = tmp_path / "mars.h5"
    make(output).write(0, columns(0))
    make(output).write(1, columns(1))  # continues
    assert recorded_seconds(metrics_path(output)) == 3 + 5
    make(output, fresh=True).write(0, columns(0))
    make(output, is_main=False).write(1, columns(0))
    assert recorded_seconds(metrics_path(output)) == 1


@pytest.mark.parametrize("fault", [errno.ENOSPC, KILL])
@pytest.mark.parametrize("at", [0, 3, 5, 7, 11])
def test_fault_loses_only_the_current_shard(tmp_path, at, fault):
    def write_all():
        shards = make(tmp_path / "x.h5")
        for number in range(2):
            if not is_complete(shards.path(number)):
                shards.write(number, columns(number))

    def run():
        with hit(at, fault):
            write_all()

    if fault == KILL:
        assert in_child(run) == 137
    else:
        with pytest.raises(DiskError):
            run()
    assert all(is_complete(make(tmp_path / "x.h5").path(number)) for number in range(at // 6))
    write_all()
    np.testing.assert_array_equal(
        make(tmp_path / "x.h5").merge([range(3), range(3, 6)])["features"][:, 0], [0, 0, 0, 1, 1, 1]
    )
