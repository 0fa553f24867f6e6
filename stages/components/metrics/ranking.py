"""Ranks and hits that count tied scores fairly."""

import torch
from torch import Tensor

# Two cosines closer than this count as tied: float32 sums of equal rows may differ by the order of addition.
TIE_TOLERANCE = 1e-6


def expected_hits(*, greater: Tensor, tied: Tensor, positives: Tensor, k: int) -> Tensor:
    """Compute the chance that a right answer is among the first k, if tied answers come in random order.

    The best right answers share one score: ``greater`` wrong answers lie above it, ``tied`` wrong ones share it. The
    remaining m = k - greater places go to a random draw of the ``positives + tied`` answers, so a hit is missed with
    probability C(tied, m) / C(tied + positives, m).

    Shapes:
        greater, tied, positives: (queries,), int64; positives from 1.
        returns: (queries,), float64, from 0 to 1.
    """
    places = k - greater
    missed = torch.ones(len(greater), dtype=torch.float64, device=greater.device)
    for place in range(k):
        factor = (tied - place).clamp_min(0) / (tied + positives - place).clamp_min(1).double()
        missed = torch.where(place < places, missed * factor, missed)
    return 1 - missed


def expected_ranks(*, greater: Tensor, tied: Tensor, positives: Tensor) -> Tensor:
    """Compute the mean rank, from 1, of the first right answer, if tied answers come in random order.

    Shapes:
        greater, tied, positives: (queries,), int64; positives from 1.
        returns: (queries,), float64.
    """
    return 1 + greater + tied / (positives + 1).double()


def expected_label_hits(*, scores: Tensor, labels: Tensor, k: int, tolerance: float) -> Tensor:
    """Compute the chance that each row's label is among its k best classes, if tied classes come in random order.

    Shapes:
        scores: (rows, classes), float.
        labels: (rows,), int64, from 0 to classes - 1.
        returns: (rows,), float64, from 0 to 1.
    """
    own = scores.gather(1, labels[:, None])
    greater = (scores > own + tolerance).sum(dim=1)
    tied = (scores >= own - tolerance).sum(dim=1) - greater - 1
    return expected_hits(greater=greater, tied=tied, positives=torch.ones_like(tied), k=k)


def check_labels(labels: Tensor, *, num_rows: int, num_classes: int) -> None:
    """Refuse labels that do not fit their embeddings.

    Raises:
        ValueError: there are no labels, another number of them than rows, or one out of range.
    """
    if labels.shape != (num_rows,) or num_rows == 0:
        raise ValueError(f"labels must have shape ({num_rows},) and not be empty; got {tuple(labels.shape)}.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels must lie from 0 to {num_classes - 1}; got {low} to {high}.")
