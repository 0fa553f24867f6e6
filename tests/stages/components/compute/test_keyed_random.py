"""Random numbers by key: pinned, for runs are resumed on other machines, and as even as they should be."""

import numpy as np

from stages.components.compute.keyed_random import keyed_numbers, uniform_numbers


def test_uniform_numbers__are_those_of_splitmix64() -> None:
    # the first outputs of the reference code of SplitMix64 for the seed 1234567
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    found = uniform_numbers(np.array([1234567]), 3)
    assert np.array_equal(found[0], [(output >> 11) / 2**53 for output in outputs])


def test_uniform_numbers__are_even_and_depend_on_their_seed_alone() -> None:
    seeds = np.arange(20_000)
    numbers = uniform_numbers(seeds, 5)
    assert (numbers.min() >= 0, numbers.max() < 1) == (True, True)
    assert np.abs(numbers.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(numbers.T) - np.eye(5)).max() < 0.03
    assert np.array_equal(uniform_numbers(seeds[7:9], 5), numbers[7:9])


def test_keyed_numbers__differ_by_stream_and_key() -> None:
    keys = np.array([3, 5, 3])
    found = keyed_numbers([0, 1], keys)
    assert found[0] == found[2] != found[1]
    assert found.min() >= 0
    assert not np.any(found == keyed_numbers([0, 2], keys))
