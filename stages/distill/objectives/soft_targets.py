"""Cross-entropies against shares, with their gradient written down: as few passes over the scores as can be.

What torch derives by itself keeps logarithms, shares and products of them, each as large as the scores. Here one
exponential makes the shares; they become the gradient in place.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Scores that are held at once. Larger tensors come fresh from the system each time on a CPU, page by page.
_BLOCK_ELEMENTS_CPU, _BLOCK_ELEMENTS_GPU = 1 << 22, 1 << 26


def soft_cross_entropy(scores: Tensor, targets: Tensor, *, once: bool = False) -> Tensor:
    """Cross-entropy from each row's targets to the softmax of its scores. Differentiable once in the scores.

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
    """Kullback-Leibler divergence of the softmax of each row's scores from that of the wanted scores, constants.

    Equal scores give 0 exactly: both sides are computed alike.

    Shapes:
        scores, wanted: (rows, columns), float32 or float64.
        returns: (rows,), at least 0 up to rounding.
    """
    with torch.no_grad():
        targets = wanted.softmax(dim=1)
        entropies: Tensor = _normaliser(wanted, targets, 1) - torch.linalg.vecdot(targets, wanted)
    return soft_cross_entropy(scores, targets, once=once) - entropies


def contrast(logits: Tensor, shares: Tensor | None) -> Tensor:
    """The mean of both directions' cross-entropies: each row's among its columns, each column's among its rows.

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


def assignment_loss(
    *,
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor,
    student_bias: Tensor | None,
    teacher_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy from the teacher's assignment to prototypes to the student's, averaged over the batch.

    Both are softmaxes of products with the prototypes as unit rows, plus a bias. Rows are taken block by block, and
    the gradient at once, so that no tensor of batch times prototypes is ever held. Differentiable once, in the student
    and in the prototypes.

    Args:
        student: Unit rows over the student's temperature.
        teacher: Unit rows over the teacher's temperature; constants.
        prototypes: Of any length; trainable.
        student_bias: Added to each of the student's rows; a constant.
        teacher_bias: Added to each of the teacher's rows.

    Shapes:
        student, teacher: (batch, dim).
        prototypes: (num_prototypes, dim).
        student_bias, teacher_bias: (num_prototypes,).
        returns: the loss, (); the mean of the teacher's assignments, (num_prototypes,).
    """
    with_gradient = torch.is_grad_enabled()
    constants = _Constants(
        teacher=teacher,
        student_bias=student_bias,
        teacher_bias=teacher_bias,
        for_student=with_gradient and student.requires_grad,
        for_prototypes=with_gradient and prototypes.requires_grad,
    )
    found: tuple[Tensor, Tensor] = _Assignment.apply(student, prototypes, constants)
    return found


def blocks(rows: Tensor, num_columns: int) -> Iterator[slice]:
    """Cut a matrix into blocks of rows whose scores against so many columns are held at once."""
    most = _BLOCK_ELEMENTS_GPU if rows.device.type == "cuda" else _BLOCK_ELEMENTS_CPU
    size = max(1, most // num_columns)
    return (slice(start, start + size) for start in range(0, len(rows), size))


def _normaliser(scores: Tensor, shares: Tensor, dim: int) -> Tensor:
    """Find the logsumexp of scores whose softmax is known: from the greatest of both, which no rounding brings to 0."""
    normaliser: Tensor = scores.amax(dim) - shares.amax(dim).log()
    return normaliser


class _SoftCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Tensor, once: bool) -> Tensor:
        shares = scores.softmax(dim=1)
        losses: Tensor = _normaliser(scores, shares, 1) - torch.linalg.vecdot(targets, scores)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(shares.sub_(targets))
        ctx.once = once
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        # In place, a second call is refused by torch, which sees that what was saved has changed.
        found: Tensor = (gradient.mul_ if ctx.once else gradient.mul)(grad_losses[:, None])
        return found, None, None


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, shares: Tensor | None) -> Tensor:
        size = len(logits)
        by_row, by_column = logits.softmax(dim=1), logits.softmax(dim=0)
        normalisers = _normaliser(logits, by_row, 1) + _normaliser(logits, by_column, 0)
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


class _Constants(NamedTuple):
    """What `assignment_loss` takes no gradient of, and which gradients are wanted."""

    teacher: Tensor
    student_bias: Tensor | None
    teacher_bias: Tensor | None
    for_student: bool
    for_prototypes: bool


class _Assignment(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, prototypes: Tensor, constants: _Constants) -> tuple[Tensor, Tensor]:
        size = len(student)
        lengths = torch.linalg.vector_norm(prototypes, dim=1, keepdim=True).clamp_min_(1e-12)  # as F.normalize
        units = prototypes / lengths
        loss, mean_assignment = student.new_zeros(()), student.new_zeros(len(units))
        for_student = torch.empty_like(student) if constants.for_student else None
        for_units = torch.zeros_like(units) if constants.for_prototypes else None
        for part in blocks(student, len(units)):
            targets = _scores(constants.teacher[part], units, constants.teacher_bias).softmax(dim=1)
            mean_assignment += targets.sum(dim=0)
            scores = _scores(student[part], units, constants.student_bias)
            shares = scores.softmax(dim=1)
            loss += (_normaliser(scores, shares, 1) - torch.linalg.vecdot(targets, scores)).sum()
            shares -= targets
            if for_student is not None:
                torch.mm(shares, units, out=for_student[part])
            if for_units is not None:
                for_units.addmm_(shares.T, student[part])
        if for_units is not None:  # through the scaling to unit length
            along = torch.linalg.vecdot(for_units, units)[:, None]
            for_units.sub_(units.mul_(along)).div_(lengths * size)
        ctx.save_for_backward(for_student if for_student is None else for_student.div_(size), for_units)
        mean_assignment /= size
        ctx.mark_non_differentiable(mean_assignment)
        return loss / size, mean_assignment

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        found = [None if gradient is None else grad_loss * gradient for gradient in ctx.saved_tensors]
        return *found, None


def _scores(embeddings: Tensor, units: Tensor, bias: Tensor | None) -> Tensor:
    return embeddings @ units.T if bias is None else torch.addmm(bias, embeddings, units.T)
