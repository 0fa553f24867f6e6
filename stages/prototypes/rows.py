"""Unit rows, as k-means asks for them: which centroid is nearest to each, and the sum of those nearest to each."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

MAX_GPU_SCORES = 1 << 27  # rows of a block times centroids
_MAX_SCORES = 1 << 22  # what a core's cache holds in bf16
_BLOCK_ROWS = 1 << 16


class Rows(Protocol):
    """Unit rows.

    Rows and centroids are compared after the rows' mean is taken off both, which changes no cosine: where all
    embeddings point one way, bf16 would tell none of them apart by what they have in common.
    """

    def __len__(self) -> int:
        """How many."""

    def take(self, numbers: Tensor) -> Tensor:
        """Rows of the given numbers, (numbers, dim), float32, where centroids are wanted."""

    def some(self, numbers: Tensor) -> "Rows":
        """Those of the given numbers; the mean stays that of all."""

    def nearest(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine with the nearest centroid and which that is, (rows,) each; never all scores at once."""

    def sums(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the rows nearest to each centroid, (centroids, dim), float32, and how many, (centroids,), int64."""


@dataclass(frozen=True)
class HostRows:
    """Rows in RAM, with centroids beside them; products may be computed on another device.

    Args:
        exact: (rows, dim), float32, on the CPU.
        centred: the same without their mean, in the dtype of the products.
        mean: (dim,), float32, on the CPU.
        along_mean: (rows,), float32: cosine of each row with the mean, times the mean's length.
        device: where products are computed.
    """

    exact: Tensor
    centred: Tensor
    mean: Tensor
    along_mean: Tensor
    device: torch.device

    @classmethod
    def of(cls, rows: Tensor, device: torch.device, dtype: torch.dtype) -> "HostRows":
        """Take the mean off, and round to the dtype of the products; float32 stays as it is."""
        if dtype == torch.float32:
            return cls(rows, rows, rows.new_zeros(rows.shape[1]), rows.new_zeros(len(rows)), device)
        mean = rows.mean(dim=0)
        centred = torch.empty_like(rows, dtype=dtype)
        for to, part in zip(torch.split(centred, _BLOCK_ROWS), torch.split(rows, _BLOCK_ROWS), strict=True):
            to.copy_(part - mean)
        return cls(rows, centred, mean, rows @ mean, device)

    def __len__(self) -> int:
        return len(self.exact)

    def take(self, numbers: Tensor) -> Tensor:
        """As `Rows` says."""
        return self.exact[numbers]

    def some(self, numbers: Tensor) -> "HostRows":
        """As `Rows` says."""
        return HostRows(self.exact[numbers], self.centred[numbers], self.mean, self.along_mean[numbers], self.device)

    def nearest(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """As `Rows` says."""
        weight = (centroids - self.mean).to(self.device, self.centred.dtype)
        bias = (centroids @ self.mean - self.mean @ self.mean).to(self.device, self.centred.dtype)
        most = _MAX_SCORES if self.device.type == "cpu" else MAX_GPU_SCORES
        blocks = torch.split(self.centred, max(1, most // len(centroids)))
        found = [linear(block.to(self.device), weight, bias).max(dim=1) for block in blocks]
        cosines = torch.cat([best.values.cpu() for best in found]).float() + self.along_mean
        return cosines, torch.cat([best.indices.cpu() for best in found])

    def sums(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """As `Rows` says; added up in row order, so the same every time."""
        _, nearest = self.nearest(centroids)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, self.exact)
        return sums, nearest.bincount(minlength=len(centroids))
