"""P x K batches, shuffled batches, people held out: the content of an epoch, and keyed draws."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amem_cli.data.sampling import check_people, hold_out_people, people_clips_batches, shuffled_batches
from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import BadData


def tracklets(counts: list[int], frames: int = 20) -> list[Tracklet]:
    """`counts[i]` tracklets of person 10 i + 3."""
    return [
        Tracklet(f"p{person}t{number}", 10 * person + 3, number % 2 + 1, "/nowhere", ("1.jpg",) * frames)
        for person, count in enumerate(counts)
        for number in range(count)
    ]


def test_known_draws():
    """Published results depend on these numbers."""
    batches = people_clips_batches(tracklets([2, 3, 5]), 2, 2, 0, 1)
    assert [batch.tolist() for batch in batches] == [[8, 9, 3, 4], [1, 0, 4, 2]]
    assert [batch.tolist() for batch in shuffled_batches(10, 4, 0, 3)] == [[9, 7, 4, 0], [6, 8, 1, 5]]
    assert hold_out_people(range(20), 0.2, 0)[1].tolist() == [5, 10, 14, 19]
    assert hold_out_people(range(20), 0.2, 0, purpose="test people")[1].tolist() == [7, 15, 18, 19]


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=8),
    people=st.integers(2, 4),
    clips=st.integers(2, 4),
    epoch=st.integers(0, 100),
)
def test_people_clips_batches_p_people_with_k_clips(counts, people, clips, epoch):
    made = tracklets(counts)
    batches = people_clips_batches(made, people, clips, 0, epoch)
    assert bool(batches) is (len(counts) >= people)
    used: Counter[int] = Counter()
    groups: Counter[int] = Counter()
    for batch in batches:
        rows = batch.reshape(people, clips)
        owners = [{made[index].person_id for index in row} for row in rows.tolist()]
        assert all(len(owner) == 1 for owner in owners)
        assert len(set.union(*owners)) == people
        used.update(batch.tolist())
        groups.update(set.union(*owners))
    left = 0
    for person, count in enumerate(counts):
        members = [index for index, tracklet in enumerate(made) if tracklet.person_id == 10 * person + 3]
        drawn, most = groups[10 * person + 3], -(-count // clips)
        assert drawn <= most
        assert sum(max(0, used[index] - 1) for index in members) <= -count % clips  # only a short group repeats
        if drawn == most:
            assert all(used[index] for index in members)
        else:
            left += 1
    assert left < people  # the epoch ends when fewer than P people have a group left


@pytest.mark.parametrize(("tracks", "clips"), [(3, 2), (5, 2), (5, 4), (7, 4)])
def test_people_clips_batches_fill_with_other_tracklets(tracks, clips):
    for epoch in range(20):
        for batch in people_clips_batches(tracklets([tracks] * 4), 2, clips, 0, epoch):
            assert all(len(set(row)) == clips for row in batch.reshape(2, clips).tolist())


def test_people_clips_batches_cover_equal_people():
    batches = people_clips_batches(tracklets([4] * 6), 6, 2, 0, 0)
    assert sorted(index for batch in batches for index in batch.tolist()) == list(range(24))


@pytest.mark.parametrize("draw", [lambda *key: people_clips_batches(tracklets([5, 6, 7, 8]), 2, 3, *key),
                                  lambda *key: shuffled_batches(50, 5, *key)])  # fmt: skip
def test_batches_keyed_by_seed_and_epoch(draw):
    def drawn(*key):
        return str([batch.tolist() for batch in draw(*key)])

    assert drawn(0, 0) == drawn(0, 0)
    assert len({drawn(seed, epoch) for seed in range(2) for epoch in range(2)}) == 4


@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 2), (8, 4), (15, 7), (3, 16)])
def test_shuffled_batches_full_and_disjoint(count, size):
    batches = shuffled_batches(count, size, 0, 3)
    flat = np.concatenate(batches).tolist()
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(range(count))
    assert [len(batch) for batch in batches] == ([size] * (count // size) if count >= size else [count])


def test_check_people():
    check_people(tracklets([1, 1], frames=9), 2, 8)
    check_people(tracklets([2, 2], frames=3), 2, 8)
    with pytest.raises(BadData, match=r"there are 3, .*--people-per-batch 3"):
        check_people(tracklets([2, 2, 2]), 8, 8)
    with pytest.raises(BadData, match=r"there are 1, .*add people"):
        check_people(tracklets([2]), 8, 8)
    made = [Tracklet(f"t{p}", p, 1, "/nowhere", ("a.jpg",) * p) for p in range(1, 30)]
    with pytest.raises(BadData, match=r"person 1 has one tracklet of 1 frames.*\(28 in all\)"):
        check_people(made, 2, 28)


@settings(max_examples=40, deadline=None)
@given(
    ids=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    fraction=st.floats(0.01, 0.99),
    least=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_hold_out_people_a_fraction_of_people(ids, fraction, least, seed):
    numbers = set(ids)
    if len(numbers) <= least:
        with pytest.raises(BadData, match="training people"):
            hold_out_people(ids, fraction, seed, least)
        return
    rows, held_out = hold_out_people(ids, fraction, seed, least)
    assert sorted([*rows, *held_out]) == list(range(len(ids)))
    inside, outside = {ids[row] for row in rows}, {ids[row] for row in held_out}
    assert not inside & outside
    assert len(outside) == min(max(round(fraction * len(numbers)), least), len(numbers) - 1)
    again = hold_out_people(ids[::-1], fraction, seed, least)[1]
    assert {ids[::-1][row] for row in again} == outside  # whatever the order of the rows


def test_hold_out_people_none_and_errors():
    assert [len(rows) for rows in hold_out_people([5, 5, 6], 0.0, 0)] == [3, 0]
    assert len(hold_out_people(range(20), 0.01, 0)[1]) == 1
    for purpose, words in (("validation people", "--validate 0.2.*Leave"), ("test people", "--hold-out 0.2.*none")):
        with pytest.raises(BadData, match=words):
            hold_out_people([7, 7], 0.2, 0, purpose=purpose)
