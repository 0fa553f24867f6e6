"""Measure how many directions rows fill: their covariance, and the effective rank of its spectrum."""

import torch
from torch import Tensor

from stages.components.metrics.ranking import TIE_TOLERANCE

_BLOCK = 8192  # rows turned to float64 at a time


def covariance_of(rows: Tensor) -> Tensor:
    """Compute the covariance of the columns: (dim, dim), float64."""
    centroid = centroid_of(rows)
    covariance = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for block in blocks_of(rows):
        centred = block.double() - centroid
        covariance += centred.T @ centred
    return covariance / len(rows)


def effective_ranks(variances: Tensor) -> Tensor:
    """Compute the effective rank of each spectrum: (spectra, dim), float64, to (spectra,), float64."""
    variances = variances.clamp_min(0)
    sums = variances.sum(dim=1)
    share = variances / sums.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    ranks = torch.special.entr(share).sum(dim=1).exp()
    # Rows this close differ by rounding alone, and the shares say nothing.
    return torch.where(sums > TIE_TOLERANCE**2, ranks, 0.0)


def blocks_of(rows: Tensor) -> tuple[Tensor, ...]:
    """Split rows into the blocks that are turned to float64 one at a time."""
    return torch.split(rows, _BLOCK)


def centroid_of(rows: Tensor) -> Tensor:
    """Average the rows: (dim,), float64."""
    return rows.mean(dim=0, dtype=torch.float64)
