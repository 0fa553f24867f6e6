"""Cross-entropies against shares, with their gradient written down: as few passes over the scores as can be.

What torch derives by itself keeps logarithms, shares and products of them, each as large as the scores. Here one
exponential makes the shares; they become the gradient in place.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stages.components.compute.device import rows_at_a_time

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
    the gradient at once, so that no tensor of batch times prototypes is ever held. Differentiable in the student and in
    the prototypes, and the gradient is taken once at most; its memory is then used again.

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
    """Prototypes are as large as scores, or larger: their unit rows are never formed, the scores are scaled instead."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, prototypes: Tensor, constants: _Constants) -> tuple[Tensor, Tensor]:
        size, num = len(student), len(prototypes)
        scales = 1 / torch.linalg.vector_norm(prototypes, dim=1).clamp_min_(1e-12)  # as F.normalize
        loss, mean_assignment = student.new_zeros(()), student.new_zeros(num)
        for_student = torch.empty_like(student) if constants.for_student else None
        for_prototypes = torch.empty_like(prototypes) if constants.for_prototypes else None
        for part in blocks(student, num):
            targets = _scores(constants.teacher[part], prototypes, scales, constants.teacher_bias).softmax(dim=1)
            mean_assignment += targets.sum(dim=0)
            scores = _scores(student[part], prototypes, scales, constants.student_bias)
            shares = scores.softmax(dim=1)
            loss += (_normaliser(scores, shares, 1) - torch.linalg.vecdot(targets, scores)).sum()
            shares.sub_(targets).mul_(scales / size)
            if for_student is not None:
                torch.mm(shares, prototypes, out=for_student[part])
            if for_prototypes is not None:
                so_far = 0 if part.start == 0 else 1  # what is there at first is not looked at
                torch.addmm(for_prototypes, shares.T, student[part], beta=so_far, out=for_prototypes)
        if for_prototypes is not None:
            _through_unit_length(for_prototypes, prototypes, scales)
        ctx.save_for_backward(for_student, for_prototypes)
        mean_assignment /= size
        ctx.mark_non_differentiable(mean_assignment)
        return loss / size, mean_assignment

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # In place: a second call is refused by torch, which sees that what was saved has changed.
        found = [None if gradient is None else gradient.mul_(grad_loss) for gradient in ctx.saved_tensors]
        return *found, None


def _scores(embeddings: Tensor, prototypes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    scores = embeddings @ prototypes.T
    return scores.mul_(scales) if bias is None else torch.addcmul(bias, scores, scales, out=scores)


def _through_unit_length(gradient: Tensor, prototypes: Tensor, scales: Tensor) -> None:
    """Take off a scaled gradient what lies along the prototypes, in place; rows are read once, and no copy is made."""
    size = rows_at_a_time(gradient)
    parts = (torch.split(each, size) for each in (gradient, prototypes, scales))
    for part, rows, scale in zip(*parts, strict=True):
        along = torch.linalg.vecdot(part, rows).mul_(scale).mul_(scale)
        part.addcmul_(rows, along[:, None], value=-1)
