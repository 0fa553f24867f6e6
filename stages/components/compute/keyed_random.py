"""Random numbers as functions of a key: without state or order, the same on any machine."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of each number on its own, as SplitMix64 does: (any), uint64, to the same."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


def keyed_numbers(stream: Sequence[int], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw a random number from 0 to 2^63 - 1 for each key, independent of the other keys.

    Args:
        stream: Numbers that tell streams apart, such as a seed and an epoch.
        keys: What the numbers are drawn for, such as rows.

    Shapes:
        keys: (any), int64.
        returns: the same.
    """
    start = np.random.SeedSequence(stream).generate_state(1, np.uint64).astype(np.uint64)
    return (mixed(keys.astype(np.uint64) * _STEP + start) >> np.uint64(1)).astype(np.int64)


def uniform_numbers(seeds: NDArray[np.int64], num: int) -> NDArray[np.float64]:
    """Draw ``num`` random numbers from 0 to below 1 for each seed: (seeds,), int64, to (seeds, num)."""
    states = seeds.astype(np.uint64)[:, None] + np.arange(1, num + 1, dtype=np.uint64) * _STEP
    return (mixed(states) >> np.uint64(11)).astype(np.float64) * 2.0**-53
