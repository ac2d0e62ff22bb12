"""Keyed draws: the same key, the same numbers, in any process and order."""

import os
import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from amem_cli.randomness import keyed_generator, keyed_seed

parts = st.one_of(st.integers(), st.text(st.characters(exclude_characters="\0", codec="utf-8")))


def test_known_seeds_never_change():
    """These numbers stand in every result that was ever made: a change here changes all of them."""
    assert keyed_seed(0, "augment", 3, 7) == 5966268816100037348
    assert keyed_seed() == 0xE3B0C44298FC1C14 >> 1  # of the SHA-256 of nothing


def test_the_same_in_another_process():
    script = "from amem_cli.randomness import keyed_seed; print(keyed_seed(1, 'é', 2))"
    environment = os.environ | {"PYTHONHASHSEED": "5"}
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert int(printed.stdout) == keyed_seed(1, "é", 2)


def test_numpy_integers_are_integers():
    assert keyed_seed(np.int64(3), "x") == keyed_seed(3, "x")


@given(key=st.lists(parts, max_size=4), other=st.lists(parts, max_size=4))
def test_seeds_fit_and_keys_tell_apart(key, other):
    seed = keyed_seed(*key)
    assert 0 <= seed < 2**63
    assert seed == keyed_seed(*key)
    # "" and () write the same text, as do 1 and "1"; all else must differ
    if "\0".join(map(str, key)) != "\0".join(map(str, other)):
        assert seed != keyed_seed(*other)


def test_generators_start_from_the_key_and_do_not_share():
    first = keyed_generator(0, "sampling", 1)
    first.random(100)
    np.testing.assert_array_equal(
        keyed_generator(0, "sampling", 1).random(5), keyed_generator(0, "sampling", 1).random(5)
    )
    assert keyed_generator(0, "sampling", 1).random() != keyed_generator(0, "sampling", 2).random()
    means = [keyed_generator(0, "sampling", index).random() for index in range(2000)]
    assert abs(np.mean(means) - 0.5) < 0.03, "first draws of neighbouring keys are not independent"
