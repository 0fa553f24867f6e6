"""Unit rows on a GPU: products and sums are computed there, and no block waits for the host."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, linear

from stages.components.compute.device_table import DeviceTable, has_room
from stages.prototypes.rows import MAX_GPU_SCORES


@dataclass(frozen=True)
class DeviceRows:
    """`Rows` in a `DeviceTable`, with centroids on the same device.

    Only exact rows are kept: a block is rounded just before its products, which takes hardly any time beside them.

    Args:
        table: Table of the rows.
        dtype: Type of the products.
        mean: Mean of the rows, (dim,), float32, on the device; zero for products in float32.
    """

    table: DeviceTable
    dtype: torch.dtype
    mean: Tensor

    @classmethod
    def of(cls, table: DeviceTable, dtype: torch.dtype) -> "DeviceRows":
        """Compute the mean of a table's rows, unless products are in float32."""
        total = torch.zeros(table.host.shape[1], dtype=torch.float64, device=table.device)
        if dtype != torch.float32:
            for block in table.blocks():
                total += block.sum(dim=0, dtype=torch.float64)
        return cls(table, dtype, (total / len(table.host)).float())

    def __len__(self) -> int:
        return len(self.table.host)

    def take(self, numbers: Tensor) -> Tensor:
        """Return rows by number, as `Rows` says."""
        return self.table.host[numbers].to(self.table.device)

    def some(self, numbers: Tensor) -> "DeviceRows":
        """Choose rows by number, as `Rows` says."""
        host, device = self.table.host[numbers], self.table.device
        table = DeviceTable.of(host, device, is_resident=has_room(host.nbytes, device))
        return DeviceRows(table, self.dtype, self.mean)

    def nearest(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Find nearest centroids, as `Rows` says; the results are on the device."""
        weight, bias = self._prepare(centroids)
        cosines, nearest = [], []
        for block in self.table.blocks():
            scores, indices = self._nearest(block, weight, bias)
            cosines.append(scores.float() + block @ self.mean)
            nearest.append(indices)
        return torch.cat(cosines), torch.cat(nearest)

    def sums(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Add up rows by centroid, as `Rows` says; the results are on the device, and the same every time."""
        weight, bias = self._prepare(centroids)
        sums = torch.zeros_like(weight, dtype=torch.float64)
        sizes = torch.zeros(len(weight), dtype=torch.int64, device=self.table.device)
        for block in self.table.blocks():
            _, nearest = self._nearest(block, weight, bias)
            part_sums, part_sizes = cluster_sums(block, nearest, len(weight))
            sums += part_sums
            sizes += part_sizes
        return sums.float(), sizes

    def _prepare(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        centroids = centroids.to(self.table.device)
        bias = centroids @ self.mean - self.mean @ self.mean
        return (centroids - self.mean).to(self.dtype), bias.to(self.dtype)

    def _nearest(self, block: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Find the largest score of each row, without its part along the mean, and that centroid's number."""
        parts = torch.split((block - self.mean).to(self.dtype), max(1, MAX_GPU_SCORES // len(weight)))
        best = [linear(part, weight, bias).max(dim=1) for part in parts]
        return torch.cat([each.values for each in best]), torch.cat([each.indices for each in best])


def cluster_sums(rows: Tensor, nearest: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Add up the rows of each cluster, in row order, and count them.

    On a GPU, `index_add_` adds in any order. Here rows are sorted by cluster, and one thread computes each sum, so that
    it is the same every time. Sums of float32 are nearly exact in float64, so it hardly matters where blocks end.

    Shapes:
        rows: (rows, dim), float32; nearest: (rows,), int64, below num_clusters.
        returns: (num_clusters, dim), float64, and (num_clusters,), int64.
    """
    ordered, order = nearest.sort(stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(num_clusters + 1, device=rows.device))
    return embedding_bag(order, rows.double(), bounds[:-1], mode="sum"), bounds.diff()
