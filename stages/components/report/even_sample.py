"""Samples spread evenly, which are the same on every machine."""

import math

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def choose_queries(num: int, total: int, seed: int = 0) -> list[int]:
    """Choose rows spread evenly over a set, whatever the student makes of them: the same ones for every student.

    Args:
        num: how many rows; all of them where there are fewer.
        total: number of rows in the set.
        seed: another seed shifts the choice within its even steps.

    Example:
        >>> choose_queries(4, 2000)
        [250, 750, 1250, 1750]
    """
    num = min(num, total)
    shift = (0.5 + seed * GOLDEN_RATIO) % 1
    return [int((place + shift) * total / num) for place in range(num)]
