"""Draw samples that are spread evenly and the same on every machine."""

import math

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def choose_queries(num: int, total: int, seed: int = 0) -> list[int]:
    """Choose rows spread evenly over a set, the same for every student.

    Args:
        num: Number of rows to choose, or all if there are fewer.
        total: Number of rows in the set.
        seed: Seed of the choice, which shifts it within its even steps.

    Example:
        >>> choose_queries(4, 2000)
        [250, 750, 1250, 1750]
    """
    num = min(num, total)
    shift = (0.5 + seed * GOLDEN_RATIO) % 1
    return [int((place + shift) * total / num) for place in range(num)]
