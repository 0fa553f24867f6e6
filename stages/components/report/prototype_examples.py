"""Choose which prototypes to show, and the captions nearest to each centroid."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from data_schemas.prototypes import UNASSIGNED, Prototypes

GROUPS = {
    "largest": ("The largest", "What most captions are about."),
    "smallest": ("The smallest", "What hardly any caption is about; empty prototypes are left out."),
    "tightest": ("The tightest", "Captions most alike, among the prototypes of at least median size."),
    "spread": ("Across all sizes", "Spread evenly, from large to small."),
}
PROTOTYPES_PER_GROUP = 6


class NearestCaptions:
    """The captions of each prototype, the nearest to its centroid first, the earlier row first among equals."""

    def __init__(self, prototypes: Prototypes) -> None:
        self._order = np.lexsort((-prototypes.cosines, prototypes.assignment))  # stable
        self._sorted = prototypes.assignment[self._order]

    def rows(self, number: int, num: int) -> list[int]:
        """Return the rows of at most ``num`` captions of a prototype."""
        start, stop = np.searchsorted(self._sorted, (number, number + 1))
        rows: list[int] = self._order[start : min(stop, start + num)].tolist()
        return rows


def cosine_sums(prototypes: Prototypes) -> NDArray[np.float64]:
    """Add up the cosines between each prototype's captions and its centroid.

    Shapes:
        returns: (num_prototypes,), float64; 0 for an empty one.
    """
    is_known = prototypes.assignment != UNASSIGNED
    sums: NDArray[np.float64] = np.bincount(
        prototypes.assignment[is_known],
        weights=prototypes.cosines[is_known].astype(np.float64),
        minlength=len(prototypes.centroids),
    ).astype(np.float64)
    return sums


def choose_examples(
    sizes: NDArray[np.int64], means: NDArray[np.float64], *, num: int = PROTOTYPES_PER_GROUP
) -> dict[str, list[int]]:
    """Choose prototypes to show, by group; no prototype comes twice, and none is empty.

    Args:
        sizes: Number of captions of each prototype.
        means: Mean cosine of the captions with their prototype's centroid.
        num: Largest number of prototypes in a group.
    """
    numbers = np.flatnonzero(sizes)
    by_size = numbers[np.lexsort((numbers, -sizes[numbers]))]
    common = numbers[sizes[numbers] >= np.median(sizes[numbers])]
    by_mean = common[np.lexsort((common, -means[common]))]
    chosen: dict[str, list[int]] = {}
    for group, order in (("largest", by_size), ("smallest", by_size[::-1]), ("tightest", by_mean)):
        chosen[group] = _without(order, chosen)[:num]
    left = _without(by_size, chosen)
    num_spread = min(num, len(left))
    chosen["spread"] = [left[int((place + 0.5) * len(left) / num_spread)] for place in range(num_spread)]
    return chosen


def _without(order: NDArray[np.int64], chosen: Mapping[str, list[int]]) -> list[int]:
    taken = {number for numbers in chosen.values() for number in numbers}
    return [number for number in order.tolist() if number not in taken]
