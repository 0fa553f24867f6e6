"""Unit rows on a GPU: products and sums are computed there, and no block of them waits for the host."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, linear

from stages.prototypes.device_table import DeviceTable, has_room
from stages.prototypes.rows import MAX_GPU_SCORES


@dataclass(frozen=True)
class DeviceRows:
    """Rows as a table of a device, with centroids beside it; `Rows` says what they are asked for.

    Only exact rows are kept: a block is rounded when its turn comes, which takes next to nothing beside its products.

    Args:
        table: the rows.
        dtype: of the products.
        mean: (dim,), float32, on the device.
    """

    table: DeviceTable
    dtype: torch.dtype
    mean: Tensor

    @classmethod
    def of(cls, table: DeviceTable, dtype: torch.dtype) -> "DeviceRows":
        """Find the mean, which products in float32 do without."""
        total = torch.zeros(table.host.shape[1], dtype=torch.float64, device=table.device)
        if dtype != torch.float32:
            for block in table.blocks():
                total += block.sum(dim=0, dtype=torch.float64)
        return cls(table, dtype, (total / len(table.host)).float())

    def __len__(self) -> int:
        return len(self.table.host)

    def take(self, numbers: Tensor) -> Tensor:
        """As `Rows` says."""
        return self.table.host[numbers].to(self.table.device)

    def some(self, numbers: Tensor) -> "DeviceRows":
        """As `Rows` says."""
        host, device = self.table.host[numbers], self.table.device
        table = DeviceTable.of(host, device, is_resident=has_room(host.nbytes, device))
        return DeviceRows(table, self.dtype, self.mean)

    def nearest(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """As `Rows` says; on the device."""
        weight, bias = self._prepare(centroids)
        cosines, nearest = [], []
        for block in self.table.blocks():
            scores, indices = self._nearest(block, weight, bias)
            cosines.append(scores.float() + block @ self.mean)
            nearest.append(indices)
        return torch.cat(cosines), torch.cat(nearest)

    def sums(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """As `Rows` says; on the device, the same every time."""
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
        """The largest score of each row, without what it has along the mean, and whose it is."""
        parts = torch.split((block - self.mean).to(self.dtype), max(1, MAX_GPU_SCORES // len(weight)))
        found = [linear(part, weight, bias).max(dim=1) for part in parts]
        return torch.cat([best.values for best in found]), torch.cat([best.indices for best in found])


def cluster_sums(rows: Tensor, nearest: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Add up the rows of each cluster, in row order, and count them.

    An `index_add_` on a GPU adds in any order. Here rows are sorted by cluster, and each sum is one thread's: the same
    every time. Sums of float32 are all but exact in float64, so it hardly matters where blocks of rows end.

    Shapes:
        rows: (rows, dim), float32; nearest: (rows,), int64, below num_clusters.
        returns: (num_clusters, dim), float64, and (num_clusters,), int64.
    """
    ordered, order = nearest.sort(stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(num_clusters + 1, device=rows.device))
    return embedding_bag(order, rows.double(), bounds[:-1], mode="sum"), bounds.diff()
