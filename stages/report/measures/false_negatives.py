"""Estimate how often the negatives of a batch describe the image, too."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.special import gammaln

BATCH_SIZES = (512, 32_768)


def false_negative_rates(
    near: NDArray[np.float64], *, num_pairs: int, batch_sizes: Sequence[int] = BATCH_SIZES
) -> dict[str, Any]:
    """Compute what batches of pairs, drawn without replacement, hold of false negatives.

    Args:
        near: Number of the other pairs whose caption is near that of each sampled pair.
        num_pairs: Number of all pairs, 2 or more.
        batch_sizes: Sizes of the batches; in place of those larger than the corpus stands the whole of it.

    Returns:
        ``share``: share of all negatives; the same in batches of any size. ``batches``: for each size, ``mean``, the
        number of false negatives of a caption, and ``affected``, the share of captions that have one or more.

    Shapes:
        near: (sampled pairs,), float64, from 0 to num_pairs - 1.
    """
    others = num_pairs - 1
    batches = []
    for size in dict.fromkeys(min(size, num_pairs) for size in batch_sizes):
        drawn = size - 1
        batches.append(
            {
                "batch_size": size,
                "mean": float(near.mean() * drawn / others),
                "affected": float(1 - np.exp(_log_share_without(near, others=others, drawn=drawn)).mean()),
            }
        )
    return {"share": float(near.mean() / others), "batches": batches}


def _log_share_without(near: NDArray[np.float64], *, others: int, drawn: int) -> NDArray[np.float64]:
    """Compute log of C(others - near, drawn) / C(others, drawn): the chance that none of the near ones is drawn."""
    left = others - torch.from_numpy(near)
    logs = gammaln(left + 1) - gammaln(left - drawn + 1)
    whole = math.lgamma(others + 1) - math.lgamma(others - drawn + 1)
    possible: NDArray[np.float64] = torch.where(left >= drawn, logs - whole, -torch.inf).numpy()
    return possible
