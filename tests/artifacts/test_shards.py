"""Long inference in shards: planned without regard to the number of processes, resumed where it broke off."""

import errno

import numpy as np
import pytest
import torch
from faults import KILL, hit, in_child, steps_of
from hypothesis import given, settings
from hypothesis import strategies as st

from amem_cli.artifacts import shards as module
from amem_cli.artifacts.metrics_log import recorded_seconds
from amem_cli.artifacts.paths import metrics_path
from amem_cli.artifacts.provenance import Provenance
from amem_cli.artifacts.shards import Shards, plan_shards
from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import DiskError
from amem_cli.runtime.distributed import Processes

PROVENANCE = Provenance("extract-features", {"seed": 0})
ALONE = Processes(0, 1, torch.device("cpu"))


def tracklets(lengths):
    return [Tracklet(f"t{row}", row, 0, "/", ("f.jpg",) * length) for row, length in enumerate(lengths)]


@given(lengths=st.lists(st.integers(1, 3000), max_size=40))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_plan_covers_each_tracklet_once_in_order(lengths):
    plan = plan_shards(tracklets(lengths))
    assert [row for rows in plan for row in rows] == list(range(len(lengths)))
    for rows in plan[:-1]:
        assert sum(lengths[row] for row in rows) >= module.FRAMES_PER_SHARD
    for rows in plan:
        assert sum(lengths[row] for row in rows[:-1]) < module.FRAMES_PER_SHARD


def test_a_plan_by_hand():
    assert plan_shards(tracklets([4096, 1, 4094, 1, 5])) == [range(0, 1), range(1, 4), range(4, 5)]


def columns(number, rows=3):
    return {
        "features": np.full((rows, 2), number, np.float32),
        "frames": np.arange(rows) + 10 * number,
    }


def make(output, *, fresh=False, provenance=PROVENANCE):
    return Shards(output, provenance, fresh=fresh, processes=ALONE)


def test_merging_keeps_the_order_whoever_wrote_first(tmp_path):
    shards = make(tmp_path / "mars.h5")
    for number in (2, 0, 11, *range(3, 11), 1):
        shards.write(number, columns(number, rows=number % 3 + 1))
    merged = shards.merge(12)
    np.testing.assert_array_equal(
        merged["frames"], np.concatenate([columns(n, n % 3 + 1)["frames"] for n in range(12)])
    )
    assert merged["features"].dtype == np.float32
    assert merged["frames"].dtype == np.int64


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_each_shard_is_done_by_exactly_one_process(world):
    plan = list(enumerate(plan_shards(tracklets([2000] * 23))))
    shares = [Processes(rank, world, torch.device("cpu")).shard(plan) for rank in range(world)]
    done = sorted(number for share in shares for number, _ in share)
    assert done == list(range(len(plan)))


def test_a_rerun_goes_on_at_the_first_missing_or_damaged_shard(tmp_path):
    shards = make(tmp_path / "mars.h5")
    for number in range(4):
        shards.write(number, columns(number))
    path = shards.path(1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    shards.path(2).write_bytes(shards.path(2).read_bytes()[:50])
    shards.path(3).unlink()
    again = make(tmp_path / "mars.h5")
    assert [again.has(number) for number in range(4)] == [True, False, False, False]
    for number in (1, 2, 3):
        again.write(number, columns(number))
    np.testing.assert_array_equal(again.merge(4)["features"][:, 0], np.repeat(np.arange(4.0), 3))


def test_other_provenance_sees_no_shards_and_fresh_forgets(tmp_path):
    make(tmp_path / "mars.h5").write(0, columns(0))
    assert not make(tmp_path / "mars.h5", provenance=Provenance("extract-features", {"seed": 1})).has(0)
    assert not make(tmp_path / "prid2011.h5").has(0)
    assert make(tmp_path / "mars.h5").has(0)
    assert not make(tmp_path / "mars.h5", fresh=True).has(0)


def test_removing_takes_the_parts_of_other_configurations_along(tmp_path):
    shards = make(tmp_path / "mars.h5")
    shards.write(0, columns(0))
    make(tmp_path / "mars.h5", provenance=Provenance("extract-features", {"seed": 1})).write(0, columns(0))
    make(tmp_path / "prid2011.h5").write(0, columns(0))
    shards.remove()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [".prid2011.h5.parts"]


def test_the_time_of_all_runs_is_told_beside_the_output(tmp_path, monkeypatch):
    clock = iter([10.0, 13.0, 100.0, 105.0, 200.0, 201.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    output = tmp_path / "mars.h5"
    make(output).write(0, columns(0))
    make(output).write(1, columns(1))  # continues
    assert recorded_seconds(metrics_path(output)) == 3 + 5
    make(output, fresh=True).write(0, columns(0))
    assert recorded_seconds(metrics_path(output)) == 1


def test_a_fault_at_every_step_of_every_shard_costs_that_shard_at_most(tmp_path):
    """Written with errors and kills in between, merged as if nothing had happened."""

    def write_all(folder):
        shards = make(folder / "x.h5")
        for number in range(2):
            if not shards.has(number):
                shards.write(number, columns(number))

    steps = steps_of(lambda: write_all(tmp_path / "whole"))
    whole = make(tmp_path / "whole" / "x.h5").merge(2)
    assert len(steps) == 14
    for at in range(len(steps)):
        for fault in (errno.ENOSPC, KILL):
            folder = tmp_path / f"{at} {fault}"

            def run(at=at, fault=fault, folder=folder):
                with hit(at, fault):
                    write_all(folder)

            if fault == KILL:
                assert in_child(run) == 137
            else:
                with pytest.raises(DiskError):
                    run()
            shards = make(folder / "x.h5")
            assert all(shards.has(number) for number in range(at // 7))
            write_all(folder)
            for name, values in shards.merge(2).items():
                np.testing.assert_array_equal(values, whole[name])
