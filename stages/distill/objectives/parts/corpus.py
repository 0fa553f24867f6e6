"""Give objectives the teacher's embeddings of the whole corpus, beside the batch: all on disk, and constant."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Corpus(Protocol):
    """The cached teacher embeddings of all distinct captions."""

    @property
    def num_captions(self) -> int:
        """Number of captions."""

    def gather(self, rows: Tensor) -> Tensor:
        """Take the embeddings of caption rows: (rows,), int64, to (rows, dim), float32, on the training device."""


PrototypeSource = Callable[[int], Tensor]
"""From a number of prototypes to their unit-length centroids, (num_prototypes, dim), float32. A source that stands for
one given set of prototypes returns that set, whatever the number."""
