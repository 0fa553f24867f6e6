"""Compare two spaces of the same rows: which neighbours they share, and how alike their similarities are."""

import torch
from torch import Tensor

from stages.components.metrics.ranking import TIE_TOLERANCE

MIN_ROWS = 4  # that the debiased similarity measures need
_MAX_SCORES = 2**24  # similarities held at once: 64 MiB of float32


def neighbour_overlap(first: Tensor, second: Tensor, *, k: int) -> float:
    """Measure how many of the k nearest other rows two spaces share, as a percentage (arXiv:2405.07987).

    Equal similarities count as the mean over all orders of the tied neighbours, in each space separately.

    Args:
        first: Rows of one space.
        second: The same rows in the other space.
        k: Number of neighbours of each row, below the number of rows.

    Shapes:
        first: (rows, first_dim), float32, of unit length; second: (rows, second_dim), float32, of unit length.
    """
    num_rows = len(first)
    total = 0.0
    for own in torch.split(torch.arange(num_rows), max(1, _MAX_SCORES // num_rows)):
        shared = _neighbours(first, own, k=k) * _neighbours(second, own, k=k)
        total += float(shared.sum(dtype=torch.float64))
    return 100 * total / (k * num_rows)


def debiased_cka(first: Tensor, second: Tensor) -> float:
    """Measure the linear centred kernel alignment of two spaces, at most 1 (Kornblith et al., arXiv:1905.00414).

    By the unbiased estimator (Nguyen et al., arXiv:2010.15327): unrelated spaces give 0 on average, however few the
    rows; so does a collapsed space.

    Args:
        first: Inner products of the rows of one space.
        second: Inner products of the same rows in the other.

    Shapes:
        first, second: (rows, rows), float64, of `MIN_ROWS` rows or more.
    """
    first, second = _centred(first), _centred(second)
    strengths = [float(kernel.square().mean().sqrt()) for kernel in (first, second)]
    if min(strengths) <= TIE_TOLERANCE:  # in a collapsed space only rounding is left
        return 0.0
    return float((first * second).mean()) / (strengths[0] * strengths[1])


def _neighbours(rows: Tensor, own: Tensor, *, k: int) -> Tensor:
    """Compute the chance that a row is among the k nearest of each query, with equal similarities in random order.

    Shapes:
        rows: (rows, dim), float32.
        own: (block,), int64, the query rows; none is its own neighbour.
        returns: (block, rows), float32, from 0 to 1; each row sums to k.
    """
    scores = rows[own] @ rows.T
    scores[torch.arange(len(own)), own] = -torch.inf
    last = scores.topk(k, dim=1).values[:, -1:]
    is_nearer = scores > last + TIE_TOLERANCE
    is_level = (scores >= last - TIE_TOLERANCE) & ~is_nearer
    places = k - is_nearer.sum(dim=1, keepdim=True)
    return is_nearer + is_level * (places / is_level.sum(dim=1, keepdim=True))


def _centred(kernel: Tensor) -> Tensor:
    """Subtract the mean of every row and column, leaving the diagonal out (U-centring)."""
    num_rows = len(kernel)
    kernel = kernel.clone().fill_diagonal_(0)
    sums = kernel.sum(dim=0)
    means = (sums[:, None] + sums) / (num_rows - 2) - sums.sum() / ((num_rows - 1) * (num_rows - 2))
    return (kernel - means).fill_diagonal_(0)
