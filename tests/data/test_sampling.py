"""P x K batches and shuffled batches: what an epoch covers, and that it is keyed."""

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
    files = tuple(f"{n}.jpg" for n in range(frames))
    return [
        Tracklet(f"p{person}t{number}", 10 * person + 3, number % 2 + 1, "/nowhere", files)
        for person, count in enumerate(counts)
        for number in range(count)
    ]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=8),
    people=st.integers(2, 4),
    clips=st.integers(2, 4),
    epoch=st.integers(0, 100),
)
def test_every_batch_holds_p_people_with_k_adjacent_clips(
    counts: list[int], people: int, clips: int, epoch: int
) -> None:
    made = tracklets(counts)
    batches = people_clips_batches(made, people, clips, 0, epoch)
    assert bool(batches) is (len(counts) >= people)
    used: Counter[int] = Counter()
    for batch in batches:
        assert batch.shape == (people * clips,)
        rows = batch.reshape(people, clips)
        ids = [{made[index].person_id for index in row} for row in rows.tolist()]
        assert all(len(row) == 1 for row in ids)
        assert len(set.union(*ids)) == people
        used.update(batch.tolist())
    groups_used = Counter(made[batch[at]].person_id for batch in batches for at in range(0, people * clips, clips))
    left = 0
    for person, count in enumerate(counts):
        groups = -(-count // clips)
        drawn = groups_used[10 * person + 3]
        assert drawn <= groups
        members = [index for index, t in enumerate(made) if t.person_id == 10 * person + 3]
        filled = -count % clips
        assert sum(used[index] for index in members) == drawn * clips
        assert sum(max(0, used[index] - 1) for index in members) <= filled  # only the last group repeats
        if drawn == groups:
            assert all(used[index] >= 1 for index in members)
        else:
            left += 1
    assert left < people  # an epoch ends when fewer than P people have any group left


def test_equal_people_are_covered_completely() -> None:
    made = tracklets([4] * 6)
    covered = {index for batch in people_clips_batches(made, 6, 2, 0, 0) for index in batch.tolist()}
    assert covered == set(range(24))


def test_batches_are_keyed_by_seed_and_epoch() -> None:
    made = tracklets([5, 6, 7, 8])

    def drawn(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in people_clips_batches(made, 2, 3, seed, epoch)]

    assert drawn(0, 0) == drawn(0, 0)
    assert drawn(0, 0) != drawn(0, 1)
    assert drawn(0, 0) != drawn(1, 0)
    before = np.random.get_state()[1].tolist()
    drawn(0, 0)
    assert np.random.get_state()[1].tolist() == before


def test_shuffled_batches_are_full_and_take_each_index_at_most_once() -> None:
    for count in range(1, 40):
        for size in (1, 2, 7, 16):
            batches = shuffled_batches(count, size, 0, 3)
            flat = np.concatenate(batches).tolist()
            assert len(set(flat)) == len(flat)
            assert set(flat) <= set(range(count))
            assert [len(batch) for batch in batches] == ([size] * (count // size) if count >= size else [count])


def test_shuffled_batches_are_keyed() -> None:
    def drawn(seed: int, epoch: int) -> list[int]:
        return np.concatenate(shuffled_batches(50, 5, seed, epoch)).tolist()

    assert drawn(0, 0) == drawn(0, 0)
    assert len({tuple(drawn(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_over_epochs_every_image_is_seen() -> None:
    seen = {i for epoch in range(20) for batch in shuffled_batches(17, 8, 0, epoch) for i in batch.tolist()}
    assert seen == set(range(17))


# -- check_people ------------------------------------------------------------------------------------------------------


def test_too_few_people_name_the_option() -> None:
    with pytest.raises(BadData, match=r"there are 3, a batch wants 8.*--people-per-batch 3"):
        check_people(tracklets([2, 2, 2]), 8, 8)


def test_someone_with_one_short_tracklet_is_named() -> None:
    made = tracklets([2, 2]) + tracklets([1], frames=8)[:1]
    lonely = Tracklet("lonely", 77, 1, "/nowhere", tuple("abcdefgh"))
    with pytest.raises(BadData, match="person 77 has one tracklet of 8 frames"):
        check_people([*made[:-1], lonely], 2, 8)


def test_every_such_person_is_listed_at_once() -> None:
    made = [Tracklet(f"t{p}", p, 1, "/nowhere", ("a.jpg",) * p) for p in range(1, 30)]
    with pytest.raises(BadData) as caught:
        check_people(made, 2, 28)
    assert "person 1 has" in str(caught.value)
    assert "(28 in all)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_long_tracklet_gives_different_clips() -> None:
    check_people(tracklets([1, 1], frames=9), 2, 8)
    check_people(tracklets([2, 2], frames=3), 2, 8)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    ids=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    fraction=st.floats(0.01, 0.99),
    least=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_held_out_people_are_a_fraction_and_nobody_is_on_both_sides(
    ids: list[int], fraction: float, least: int, seed: int
) -> None:
    numbers = set(ids)
    if len(numbers) <= least:
        with pytest.raises(BadData, match="training people"):
            hold_out_people(ids, fraction, seed, least)
        return
    fit, aside = hold_out_people(ids, fraction, seed, least)
    assert sorted([*fit, *aside]) == list(range(len(ids)))
    inside, outside = {ids[row] for row in fit}, {ids[row] for row in aside}
    assert not inside & outside
    assert len(outside) == min(max(round(fraction * len(numbers)), least), len(numbers) - 1)
    again = hold_out_people(ids[::-1], fraction, seed, least)[1]
    assert {ids[::-1][row] for row in again} == outside  # who it is does not depend on the order of the rows


def test_a_fifth_of_the_people_is_one_of_people_not_of_images() -> None:
    ids = np.repeat(np.arange(50), np.r_[[500] * 5, [3] * 45])  # five people own nearly all images
    train, test = hold_out_people(ids, 0.2, 0, whom="test people")
    assert len(np.unique(ids[test])) == 10
    assert not set(ids[train].tolist()) & set(ids[test].tolist())


def test_test_people_and_validation_people_are_drawn_apart() -> None:
    ids = list(range(100))
    assert hold_out_people(ids, 0.2, 0)[1].tolist() != hold_out_people(ids, 0.2, 0, whom="test people")[1].tolist()
    for whom, words in (("validation people", "--validate 0.2.*Leave"), ("test people", "--hold-out 0.2.*none")):
        with pytest.raises(BadData, match=words):
            hold_out_people([7, 7], 0.2, 0, whom=whom)  # type: ignore[arg-type]


def test_nobody_is_held_out_by_default_and_the_seed_decides_who() -> None:
    assert [len(rows) for rows in hold_out_people([5, 5, 6], 0.0, 0)] == [3, 0]
    ids = list(range(100))
    assert len({tuple(hold_out_people(ids, 0.2, seed)[1]) for seed in range(5)}) == 5
