"""Mean and standard deviation of each feature over a corpus, in one pass."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.distill.data.targets import EmbeddingTable

_ROWS = 8192  # at a time
_CONSTANT = 2.0**-20  # of its mean: what varies less is rounding


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of each feature over a corpus.

    Shapes:
        mean, std: (feature_dim,), float32, on the CPU; std is 0 where a feature does not vary.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def over(cls, table: EmbeddingTable, rows: NDArray[np.int64]) -> "FeatureStatistics":
        """Measure features over rows of a table, in float64, block by block.

        Means and squares about them are joined as Chan et al. do, 1979, STAN-CS-79-773: no large numbers cancel, and
        a feature that is the same everywhere has exactly no deviation.

        Args:
            table: Features.
            rows: Rows to measure, 1 or more.

        Shapes:
            rows: (rows,), int64.
        """
        count, mean, squares = 0, torch.zeros(()), torch.zeros(())
        for start in range(0, len(rows), _ROWS):
            taken = table.take(torch.from_numpy(rows[start : start + _ROWS]))
            block = (taken if taken.is_cuda else taken.cpu()).double()  # (rows, dim); other devices have no float64
            if not count:
                mean, squares = torch.zeros_like(block[0]), torch.zeros_like(block[0])
            block_mean = block.mean(dim=0)
            delta, total = block_mean - mean, count + len(block)
            squares += block.sub_(block_mean).square_().sum(dim=0) + delta.square() * (count * len(block) / total)
            mean += delta * (len(block) / total)
            count = total
        std = (squares / count).sqrt()
        std[std <= _CONSTANT * mean.abs()] = 0
        return cls(mean.float().cpu(), std.float().cpu())
