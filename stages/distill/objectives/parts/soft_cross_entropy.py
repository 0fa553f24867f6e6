"""Cross-entropies against shares, with their gradient written down, in as few passes over the scores as possible.

What torch derives by itself keeps logarithms, shares and products of them, each as large as the scores. Here one
exponential makes the shares; they become the gradient in place.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def soft_cross_entropy(scores: Tensor, targets: Tensor, *, once: bool = False) -> Tensor:
    """Compute the cross-entropy from each row's targets to the softmax of its scores. Differentiable once.

    Args:
        scores: Scaled; where they are the lowest number of their type, the target must be 0.
        targets: Shares that add up to 1 in each row; constants.
        once: The gradient is taken once at most; its memory is then used again.

    Shapes:
        scores, targets: (rows, columns), float32 or float64.
        returns: (rows,).
    """
    losses: Tensor = _SoftCrossEntropy.apply(scores, targets, once)
    return losses


def divergence(scores: Tensor, wanted: Tensor, *, once: bool = False) -> Tensor:
    """Compute the KL divergence from the softmax of each row's wanted scores, constants, to that of its scores.

    Equal scores give 0 exactly: both sides are computed alike.

    Shapes:
        scores, wanted: (rows, columns), float32 or float64.
        returns: (rows,), at least 0 up to rounding.
    """
    with torch.no_grad():
        targets = wanted.softmax(dim=1)
        entropies: Tensor = normaliser(wanted, targets, 1) - torch.linalg.vecdot(targets, wanted)
    return soft_cross_entropy(scores, targets, once=once) - entropies


def contrast(logits: Tensor, shares: Tensor | None) -> Tensor:
    """Average both directions' cross-entropies: each row's among its columns, each column's among its rows.

    Differentiable once in the logits.

    Args:
        logits: Scaled scores of all pairs.
        shares: Targets of both directions, constants: symmetric, rows and columns add up to 1. None is the identity,
            each row's own column alone.

    Shapes:
        logits, shares: (batch, batch), float32 or float64.
        returns: ().
    """
    loss: Tensor = _Contrast.apply(logits, shares)
    return loss


def normaliser(scores: Tensor, shares: Tensor, dim: int) -> Tensor:
    """Find the logsumexp of scores whose softmax is known: from the greatest of both, which no rounding brings to 0."""
    logsumexp: Tensor = scores.amax(dim) - shares.amax(dim).log()
    return logsumexp


class _SoftCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Tensor, once: bool) -> Tensor:
        shares = scores.softmax(dim=1)
        losses: Tensor = normaliser(scores, shares, 1) - torch.linalg.vecdot(targets, scores)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(shares.sub_(targets))
        ctx.once = once
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        # In place: torch refuses a second call, since a saved tensor has changed.
        found: Tensor = (gradient.mul_ if ctx.once else gradient.mul)(grad_losses[:, None])
        return found, None, None


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, shares: Tensor | None) -> Tensor:
        size = len(logits)
        by_row, by_column = logits.softmax(dim=1), logits.softmax(dim=0)
        normalisers = normaliser(logits, by_row, 1) + normaliser(logits, by_column, 0)
        wanted = logits.diagonal().sum() if shares is None else torch.vdot(shares.flatten(), logits.flatten())
        if ctx.needs_input_grad[0]:
            gradient = by_row.add_(by_column).mul_(0.5 / size)
            if shares is None:
                gradient.diagonal().sub_(1 / size)
            else:
                gradient.sub_(shares, alpha=1 / size)
            ctx.save_for_backward(gradient)
        return (normalisers.sum() / 2 - wanted) / size

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss, None
