"""Search the nearest other rows of rows: exact cosines, block by block."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_schemas.neighbours import NO_NEIGHBOUR, Neighbours
from stages.components.compute.device_table import DeviceTable, has_room
from stages.components.metrics.unit_rows import exact_scores

_QUERIES = 1024  # compared at a time; a GPU needs more of them to be busy
_QUERIES_GPU = 4096
_MAX_SCORES = 1 << 24  # held at once: 64 MB of float32
_MAX_SCORES_GPU = 1 << 27


class NearestRows:
    """Unit rows, in which the nearest others of each are searched.

    Args:
        rows: All rows, on the CPU.
        device: Device of the computation; it keeps the rows if it has room, and is sent them block by block if not.

    Shapes:
        rows: (rows, dim), float32, of unit length.
    """

    def __init__(self, rows: Tensor, device: torch.device) -> None:
        self._rows = rows
        if device.type == "cpu":
            self._table = DeviceTable(rows, device, resident=rows)
        else:
            self._table = DeviceTable.of(rows, device, is_resident=has_room(rows.nbytes, device))

    @exact_scores()
    def of(self, start: int, stop: int, *, num_neighbours: int) -> Neighbours:
        """Find the nearest other rows of rows ``start`` to ``stop``, the earlier first among equally near ones.

        Where equally near rows are more than there are places left, any of them are taken, but always the same on one
        device.

        Args:
            start: First row whose neighbours are searched.
            stop: Row after the last.
            num_neighbours: Neighbours of each; where there are fewer other rows, places stay empty.
        """
        num = stop - start
        rows = np.full((num, num_neighbours), NO_NEIGHBOUR, np.int64)
        cosines = np.zeros((num, num_neighbours), np.float32)
        most = min(num_neighbours, len(self._rows) - 1)
        size = _QUERIES if self._table.device.type == "cpu" else _QUERIES_GPU
        for first in range(start, stop if most else start, size):
            last = min(first + size, stop)
            found, scores = self._search(first, last, most)
            place = slice(first - start, last - start)
            rows[place, :most], cosines[place, :most] = _in_order(found.cpu().numpy(), scores.cpu().numpy())
        return Neighbours(rows=rows, cosines=cosines)

    def _search(self, first: int, last: int, num: int) -> tuple[Tensor, Tensor]:
        """Find the nearest rows of a few, in any order: (queries, num), int64, and their cosines, float32."""
        queries = self._rows[first:last].to(self._table.device)
        best = queries.new_empty(len(queries), 0)
        best_rows = best.long()
        for start, block in self._blocks(len(queries)):
            scores = queries @ block.T  # (queries, block)
            low, high = max(first, start), min(last, start + len(block))
            own = torch.arange(low, max(low, high), device=scores.device)
            scores[own - first, own - start] = -torch.inf
            top = scores.topk(min(num, len(block)), dim=1)
            best = torch.cat([best, top.values], dim=1)
            best_rows = torch.cat([best_rows, top.indices + start], dim=1)
            if best.shape[1] > num:
                best, chosen = best.topk(num, dim=1)
                best_rows = best_rows.gather(1, chosen)
        return best_rows, best.clamp(-1, 1)

    def _blocks(self, num_queries: int) -> Iterator[tuple[int, Tensor]]:
        """Yield all rows in blocks, with the number of each one's first row."""
        most = _MAX_SCORES if self._table.device.type == "cpu" else _MAX_SCORES_GPU
        start = 0
        for table_block in self._table.blocks():
            for block in torch.split(table_block, max(1, most // num_queries)):
                yield start, block
                start += len(block)


def _in_order(rows: NDArray[np.int64], cosines: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    order = np.lexsort((rows, -cosines), axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(cosines, order, axis=1)
