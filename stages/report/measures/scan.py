"""Compare a few rows with all rows, block by block: how many lie near each, and which is the nearest."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stages.components.metrics.unit_rows import exact_scores

_OUT_OF_REACH = -2.0  # below every cosine


class Scan(NamedTuple):
    """What lies near each query.

    Shapes:
        counts: (queries, levels), float64: weight of the rows whose cosine is at a level or above.
        cosines: (queries,), float32: cosine of the nearest row; -2 where there is none.
        rows: (queries,), int64: number of the nearest row, the first of several; -1 where there is none.
    """

    counts: Tensor
    cosines: Tensor
    rows: Tensor


@exact_scores()
def scan(
    queries: Tensor,
    blocks: Iterable[Tensor],
    *,
    levels: Sequence[float],
    weights: Tensor | None = None,
    own: Tensor | None = None,
) -> Scan:
    """Compare queries with rows.

    Args:
        queries: Unit rows to compare, on the device of the computation.
        blocks: All unit rows in order, block by block.
        levels: Cosines from which rows are counted.
        weights: Weight of each row; None counts each as one.
        own: Number of the row that each query is, which counts for nothing; None if it is none of them.

    Shapes:
        queries: (queries, dim), float32; each block: (rows, dim), float32.
        weights: (all rows,), float64, on the CPU; own: (queries,), int64, on the CPU.
    """
    device, start = queries.device, 0
    counts = torch.zeros(len(queries), len(levels), dtype=torch.float64)
    best = torch.full((len(queries),), _OUT_OF_REACH)
    rows = torch.full((len(queries),), -1, dtype=torch.int64)
    for block in blocks:
        scores = queries @ block.to(device).T  # (queries, block)
        if own is not None:
            here = ((own >= start) & (own < start + len(block))).nonzero().flatten()
            scores[here.to(device), (own[here] - start).to(device)] = _OUT_OF_REACH
        weight = None if weights is None else weights[start : start + len(block)].float().to(device)
        for place, level in enumerate(levels):
            is_near = scores >= level
            near = is_near.sum(dim=1) if weight is None else is_near.float() @ weight
            counts[:, place] += near.cpu().double()
        top, index = (found.cpu() for found in scores.max(dim=1))
        is_better = top > best
        rows[is_better] = index[is_better] + start
        best[is_better] = top[is_better]
        start += len(block)
    return Scan(counts, best, rows)
