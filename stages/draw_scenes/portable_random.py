"""Random choices that are the same on every machine."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class PortableRandom:
    """Random choices that depend only on (seed, stream, index).

    Scene 7 is therefore the same scene whether ten or a million are drawn. The choices are made from raw Philox words,
    which NumPy promises never to change; it makes no such promise for its distributions.

    Args:
        seed: Seed, from 0 to 2**64 - 1.
        stream: Number that separates uses of a seed, such as train and test; from 0 to 2**16 - 1.
        index: Number that separates the items of a stream; from 0 to 2**48 - 1.
    """

    def __init__(self, *, seed: int, stream: int, index: int) -> None:
        self._philox = np.random.Philox(key=(seed << 64) | (stream << 48) | index)
        self._words: list[int] = []

    def below(self, limit: int) -> int:
        """Return an integer from 0 to ``limit - 1``."""
        if not self._words:
            self._words = self._philox.random_raw(64).tolist()
        return self._words.pop() % limit

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.below(len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Return ``count`` different options, in random order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(count)]
