"""Contrast a batch whose matrix of scores is too large to be held: block by block of rows, with its exact gradient."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MOST_SCORES = 1 << 26
"""Scores of a batch that are held at once, of which some temporaries are as large; more are taken in blocks."""

_BLOCK_SCORES, _BLOCK_SCORES_GPU = 1 << 23, 1 << 25  # a CPU maps larger tensors anew each time, page by page

Shares = Callable[[slice], tuple[Tensor, Tensor]]
"""From rows of the batch to the targets of each among all columns, (rows, columns), and to its part in the target of
each caption of the batch, (rows, batch)."""

Adjust = Callable[[slice, Tensor], object]
"""Changes scores of rows of the batch, (rows, columns), in place, by what counts as constant in the gradient."""


def is_large(batch: int, columns: int) -> bool:
    """Tell whether a batch has more scores than are held at once."""
    return batch * columns > MOST_SCORES


def chunked_contrast(
    student: Tensor,
    keys: Tensor,
    *,
    shares: Shares | None = None,
    adjust: Adjust | None = None,
) -> Tensor:
    """Average both directions' cross-entropies, as `contrast` does, from blocks of rows that are computed twice.

    The first pass finds the normalisers of rows and columns, the second the gradient: three matrix products in place
    of two. Equal to the whole up to rounding; differentiable once, in the student alone.

    Args:
        student: Embeddings, scaled.
        keys: Captions of the batch, then other negatives, which images alone are told from; constants.
        shares: Targets of both directions; None is each row's own column alone.
        adjust: Raises negatives, and brings to the lowest number of their type the scores of columns that a row does
            without, none of them a positive; None leaves the scores as they are.

    Shapes:
        student: (batch, dim), float32 or float64.
        keys: (columns, dim), the same type; columns at least batch.
        returns: ().
    """
    with_gradient = torch.is_grad_enabled() and student.requires_grad
    loss: Tensor = _ChunkedContrast.apply(student, _Blocks(student.detach(), keys, adjust), shares, with_gradient)
    return loss


class _ChunkedContrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, blocks: "_Blocks", shares: Shares | None, with_gradient: bool) -> Tensor:
        by_row, by_column, wanted = _normalisers(blocks, shares)
        if with_gradient:
            ctx.save_for_backward(_gradient(blocks, shares, by_row, by_column))
        return (by_row.sum() + by_column.sum() - wanted) / (2 * len(student))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_loss * gradient, None, None, None


class _Blocks:
    """Blocks of rows of the scores, (rows, columns), computed whenever they are asked for."""

    def __init__(self, student: Tensor, keys: Tensor, adjust: Adjust | None) -> None:
        self.student, self.keys = student, keys
        self._adjust = adjust

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        most = _BLOCK_SCORES_GPU if self.student.device.type == "cuda" else _BLOCK_SCORES
        size = max(1, most // len(self.keys))
        for start in range(0, len(self.student), size):
            part = slice(start, min(start + size, len(self.student)))
            scores = self.student[part] @ self.keys.T
            if self._adjust is not None:
                self._adjust(part, scores)
            yield part, scores


def _normalisers(blocks: _Blocks, shares: Shares | None) -> tuple[Tensor, Tensor, Tensor]:
    """Find the logsumexp of each row and each caption's column, (batch,) both, and the sum of wanted scores, ()."""
    student, keys = blocks.student, blocks.keys
    batch = len(student)
    by_row = student.new_empty(batch)
    greatest, total = student.new_full((batch,), -torch.inf), student.new_zeros(batch)
    wanted = 2 * torch.linalg.vecdot(student, keys[:batch]).sum() if shares is None else student.new_zeros(())
    for part, scores in blocks:
        by_row[part] = scores.logsumexp(dim=1)
        own = scores[:, :batch]
        if shares is not None:
            to_text, to_image = shares(part)
            wanted += torch.vdot(to_text.flatten(), scores.flatten())
            wanted += torch.vdot(to_image.flatten(), own.flatten())
        now_greatest = torch.maximum(greatest, own.amax(dim=0))
        total.mul_((greatest - now_greatest).exp_()).add_((own - now_greatest).exp_().sum(dim=0))
        greatest = now_greatest
    return by_row, greatest + total.log(), wanted


def _gradient(blocks: _Blocks, shares: Shares | None, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Compute the loss's gradient in the student, (batch, dim), from the normalisers of rows and columns."""
    student, keys = blocks.student, blocks.keys
    batch = len(student)
    gradient = torch.empty_like(student)
    for part, scores in blocks:
        of_columns = (scores[:, :batch] - by_column).exp_()
        of_scores = scores.sub_(by_row[part, None]).exp_()
        of_scores[:, :batch] += of_columns
        if shares is not None:
            to_text, to_image = shares(part)
            of_scores -= to_text
            of_scores[:, :batch] -= to_image
        gradient[part] = of_scores @ keys
    if shares is None:
        gradient.sub_(keys[:batch], alpha=2)
    return gradient.mul_(1 / (2 * batch))
