"""Compute p-values of paired differences by permutation: how often chance gives a difference at least as large."""

from collections.abc import Iterator, Sequence

import numpy as np

from stages.evaluate.statistics.bootstrap import Places, Values

NUM_PERMUTATIONS = 2000
_MAX_DRAWS = 2**20  # coins tossed at once
_ROUNDING = 1e-9  # relative; equal sums added in another order differ by less


def sign_flip_p_value(gains: Values, *, seed: int, num_permutations: int = NUM_PERMUTATIONS) -> float:
    """Compute the two-sided p-value of a sum whose terms are as likely to be positive as negative.

    Exact where all nonzero terms have one size, as for images that one student gets right and the other wrong; else
    by random signs.

    Args:
        gains: Term of each image in the sum.
        seed: Seed of the random signs.
        num_permutations: Number of lists of signs that are drawn.

    Shapes:
        gains: (images,), float64.
    """
    sizes = np.abs(gains[gains != 0])
    if len(sizes) == 0:
        return 1.0
    if np.ptp(sizes) <= _ROUNDING * sizes.max():
        return _fair_coin_p_value(int(np.count_nonzero(gains > 0)), int(np.count_nonzero(gains < 0)))
    observed = abs(float(gains.sum()))
    tosses = _coin_flips(len(sizes), seed=seed, num_permutations=num_permutations)
    sums = np.concatenate([2 * (heads @ sizes) - sizes.sum() for heads in tosses])
    return _share_at_least(np.abs(sums), observed, scale=float(sizes.sum()))


def swap_p_value(
    *, first: Values, second: Values, groups: Places, seed: int, num_permutations: int = NUM_PERMUTATIONS
) -> float:
    """Compute the two-sided p-value of a difference of medians by swapping the two students' values of an image.

    Args:
        first: Values of student A.
        second: Values of student B, of the same queries.
        groups: Image of each value, numbered from 0; its values are swapped together.
        seed: Seed of the swaps.
        num_permutations: Number of times that a swap is drawn for all images.

    Shapes:
        first, second: (values,), float64; groups: (values,), int64.
    """
    observed = abs(float(np.median(second) - np.median(first)))
    sizes = []
    for heads in _coin_flips(int(groups.max()) + 1, seed=seed, num_permutations=num_permutations):
        swapped = heads[:, groups] > 0  # (block, values)
        one, other = np.where(swapped, second, first), np.where(swapped, first, second)
        sizes.append(np.abs(np.median(other, axis=1) - np.median(one, axis=1)))
    return _share_at_least(np.concatenate(sizes), observed, scale=float(np.abs(first).max()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values that are looked at together: chance gives one of 0.05 or less in at most one family of twenty.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979: multiply the smallest of m by m, the next by
    m - 1, and so on; none ends below a smaller one, and none above 1.

    Example:
        >>> holm([0.01, 0.5, 0.02])
        [0.03, 0.5, 0.04]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _fair_coin_p_value(heads: int, tails: int) -> float:
    """Compute the two-sided probability of a split at least as uneven as this."""
    total = heads + tails
    numbers = np.arange(min(heads, tails))
    # log C(total, k) for k below the smaller part, each from the one before
    logs = np.concatenate([[0.0], np.cumsum(np.log(total - numbers) - np.log(numbers + 1))])
    return min(1.0, 2 * float(np.exp(logs - total * np.log(2)).sum()))


def _share_at_least(sizes: Values, observed: float, *, scale: float) -> float:
    """Compute the share of outcomes at least as large as the observed one, which counts as one of them."""
    return float((1 + np.count_nonzero(sizes >= observed - _ROUNDING * scale)) / (1 + len(sizes)))


def _coin_flips(num_pictures: int, *, seed: int, num_permutations: int) -> Iterator[Values]:
    """Yield a coin toss per image and permutation, in blocks: (block, images), 0 or 1."""
    generator = np.random.default_rng(seed)
    block = max(1, _MAX_DRAWS // num_pictures)
    for start in range(0, num_permutations, block):
        rows = min(block, num_permutations - start)
        yield generator.integers(2, size=(rows, num_pictures), dtype=np.uint8).astype(np.float64)
