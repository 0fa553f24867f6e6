"""Unit rows for k-means: the nearest centroid of each row, and the sum of the rows nearest to each centroid."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

MAX_GPU_SCORES = 1 << 27  # rows of a block times centroids
_MAX_SCORES = 1 << 22  # so many in bf16 fit into a core's cache
_BLOCK_ROWS = 1 << 16


class Rows(Protocol):
    """Rows of unit length that k-means clusters.

    Scores are computed after the rows' mean is subtracted from rows and centroids, and corrected for it: if all
    embeddings point in about one direction, bf16 could not tell them apart otherwise.
    """

    def __len__(self) -> int:
        """Return the number of rows."""

    def take(self, numbers: Tensor) -> Tensor:
        """Return rows by number, (numbers, dim), float32, on the device of centroids."""

    def some(self, numbers: Tensor) -> "Rows":
        """Choose rows by number; the mean stays that of all rows."""

    def nearest(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Return each row's cosine with its nearest centroid and that one's number, (rows,) each, block by block."""

    def sums(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the rows nearest to each centroid, (centroids, dim), float32, and their number, int64."""


@dataclass(frozen=True)
class HostRows:
    """Rows in RAM, with centroids on the CPU; products may be computed on another device.

    Args:
        exact: Rows, (rows, dim), float32, on the CPU.
        centred: Rows minus their mean, in the dtype of the products.
        mean: Mean of the rows, (dim,), float32, on the CPU.
        along_mean: Dot product of each row with the mean, (rows,), float32.
        device: Device of the products.
    """

    exact: Tensor
    centred: Tensor
    mean: Tensor
    along_mean: Tensor
    device: torch.device

    @classmethod
    def of(cls, rows: Tensor, device: torch.device, dtype: torch.dtype) -> "HostRows":
        """Subtract the mean and round to the dtype of the products; for float32 rows stay as they are."""
        if dtype == torch.float32:
            return cls(rows, rows, rows.new_zeros(rows.shape[1]), rows.new_zeros(len(rows)), device)
        mean = rows.mean(dim=0)
        centred = torch.empty_like(rows, dtype=dtype)
        for into, part in zip(torch.split(centred, _BLOCK_ROWS), torch.split(rows, _BLOCK_ROWS), strict=True):
            into.copy_(part - mean)
        return cls(rows, centred, mean, rows @ mean, device)

    def __len__(self) -> int:
        return len(self.exact)

    def take(self, numbers: Tensor) -> Tensor:
        """Return rows by number, as `Rows` says."""
        return self.exact[numbers]

    def some(self, numbers: Tensor) -> "HostRows":
        """Choose rows by number, as `Rows` says."""
        return HostRows(self.exact[numbers], self.centred[numbers], self.mean, self.along_mean[numbers], self.device)

    def nearest(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Find nearest centroids, as `Rows` says."""
        weight = (centroids - self.mean).to(self.device, self.centred.dtype)
        bias = (centroids @ self.mean - self.mean @ self.mean).to(self.device, self.centred.dtype)
        most = _MAX_SCORES if self.device.type == "cpu" else MAX_GPU_SCORES
        blocks = torch.split(self.centred, max(1, most // len(centroids)))
        best = [linear(block.to(self.device), weight, bias).max(dim=1) for block in blocks]
        cosines = torch.cat([each.values.cpu() for each in best]).float() + self.along_mean
        return cosines, torch.cat([each.indices.cpu() for each in best])

    def sums(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Add up rows by centroid, as `Rows` says, in row order, so that sums are the same every time."""
        _, nearest = self.nearest(centroids)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, self.exact)
        return sums, nearest.bincount(minlength=len(centroids))
