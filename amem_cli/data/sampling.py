"""The samples of each batch of an epoch: pure functions of (seed, epoch), so that training resumes at any step."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np

from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import BadData, listing
from amem_cli.randomness import keyed_generator

HELD_OUT_BY = {  # the option, and the remedy when there are too few people
    "validation people": ("--validate", "Leave --validate out"),
    "test people": ("--hold-out", "Use --partition none"),
}


def shuffled_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The indices 0 ... count-1 in a new order for each epoch, cut into full batches (int64); the rest is left out.
    With fewer than `batch_size` items all of them make one batch."""
    order = keyed_generator(seed, "images", epoch).permutation(count)
    full = max(1, count // batch_size)
    return [order[start : start + batch_size] for start in range(0, full * batch_size, batch_size)]


def people_clips_batches(
    tracklets: Sequence[Tracklet], people_per_batch: int, clips_per_person: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """P x K batches: `clips_per_person` clips of each of `people_per_batch` people, as tracklet indices (P * K,) int64.

    The shuffled tracklets of each person are cut into groups of K; a short last group is filled with other tracklets of
    the person, drawn a second time, or, where there are too few, with the same ones, which give other clips. A batch
    consists of a group from each of P different people, drawn in proportion to their remaining groups. The epoch ends
    when fewer than P people have one left, so their remaining tracklets are not used in it. The clips of a person are
    adjacent: batch.reshape(P, K).
    """
    generator = keyed_generator(seed, "people", epoch)
    by_person: dict[int, list[int]] = defaultdict(list)
    for index, tracklet in enumerate(tracklets):
        by_person[tracklet.person_id].append(index)
    groups: dict[int, list[np.ndarray]] = {}
    for person, members in sorted(by_person.items()):
        order = generator.permutation(members)
        if missing := -len(order) % clips_per_person:
            full = order[: len(order) // clips_per_person * clips_per_person]
            order = np.concatenate([order, np.resize(generator.permutation(full) if len(full) else order, missing)])
        groups[person] = list(order.reshape(-1, clips_per_person))
    batches = []
    while len(groups) >= people_per_batch:
        left = np.array([len(group) for group in groups.values()], dtype=float)
        chosen = generator.choice(sorted(groups), people_per_batch, replace=False, p=left / left.sum())
        batches.append(np.concatenate([groups[person].pop() for person in chosen.tolist()]))
        groups = {person: group for person, group in groups.items() if group}
    return batches


def hold_out_people(
    person_ids: Sequence[int] | np.ndarray,
    fraction: float,
    seed: int,
    least: int = 1,
    purpose: Literal["validation people", "test people"] = "validation people",
) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and rows of the people held out, (n,) int64 each, sorted; no person is in both.

    `fraction` of the people, rounded, but at least `least` and not all, are drawn by (seed, purpose); with 0 no person
    is. Raises `BadData` if no person would remain for training.
    """
    person_ids = np.asarray(person_ids)
    if not fraction:
        return np.arange(len(person_ids)), np.array([], dtype=np.int64)
    numbers = np.unique(person_ids)
    if len(numbers) <= least:
        option, remedy = HELD_OUT_BY[purpose]
        why = f"there are {len(numbers)}, and {option} {fraction:g} holds out {least} or more"
        raise BadData("training people", why=why, remedy=remedy)
    count = min(max(round(fraction * len(numbers)), least), len(numbers) - 1)
    held_out = np.isin(person_ids, keyed_generator(seed, purpose).permutation(numbers)[:count])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def check_people(tracklets: Sequence[Tracklet], people_per_batch: int, clip_frames: int) -> None:
    """Raise `BadData` when the people cannot fill a P x K batch, or if all clips of a person would be the same."""
    frames: dict[int, list[int]] = defaultdict(list)
    for tracklet in tracklets:
        frames[tracklet.person_id].append(len(tracklet))
    if len(frames) < people_per_batch:
        why = f"there are {len(frames)}, and a batch needs {people_per_batch}"
        enough = f"Use --people-per-batch {len(frames)} or less"
        raise BadData("training people", why=why, remedy=enough if len(frames) > 1 else "Two are the least: add people")
    alone = {person: lengths[0] for person, lengths in sorted(frames.items()) if len(lengths) == 1}
    short = {person: length for person, length in alone.items() if length <= clip_frames}
    if poor := [f"person {person} has one tracklet of {length} frames" for person, length in short.items()]:
        why = f"too few clips to compare a person with themselves ({listing(poor)})"
        raise BadData("training people", why=why, remedy="Give them a second tracklet or leave them out")
