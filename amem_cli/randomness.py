"""Keyed randomness: every draw depends on a key (seed, purpose, position) and not on earlier draws.

So a run that was stopped and resumed, or one with another number of workers or processes, draws the same numbers.
"""

import hashlib

import numpy as np


def keyed_seed(*key: int | str) -> int:
    """A 63-bit seed from a key such as `(seed, "augment", epoch, index)`; the same on every machine."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def keyed_generator(*key: int | str) -> np.random.Generator:
    """A NumPy generator that starts from `keyed_seed(*key)`."""
    return np.random.Generator(np.random.PCG64(keyed_seed(*key)))
