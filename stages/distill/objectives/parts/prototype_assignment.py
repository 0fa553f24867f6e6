"""Assign embeddings to trainable prototypes, as DINO and ProtoCPC do."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from data_schemas.errors import ProtoRKDError
from stages.components.compute.device import rows_at_a_time
from stages.distill.objectives.parts.embeddings import check_above_zero, unit_rows
from stages.distill.objectives.parts.soft_cross_entropy import normaliser

# Scores held at once. Larger tensors come fresh from the system each time on a CPU, page by page.
_BLOCK_ELEMENTS_CPU, _BLOCK_ELEMENTS_GPU = 1 << 22, 1 << 26


def check_assignment_options(
    objective: str, *, num_prototypes: int, teacher_temperature: float, student_temperature: float, momentum: float
) -> None:
    """Refuse options that leave nothing to assign to, or make scores or a running mean diverge.

    Raises:
        ProtoRKDError: If num_prototypes is below 2, a temperature is not finite and above 0, or the momentum is not
            from 0 to 1.
    """
    check_above_zero(objective, teacher_temperature=teacher_temperature, student_temperature=student_temperature)
    if num_prototypes < 2:
        raise ProtoRKDError(
            f"num_prototypes of {objective} must be at least 2; got {num_prototypes}. The default is 65536."
        )
    if not 0 <= momentum <= 1:
        raise ProtoRKDError(f"momentum of {objective} must be from 0 to 1; got {momentum}. The default is 0.9.")


def random_prototypes(num_prototypes: int, dim: int) -> nn.Parameter:
    """Draw directions from torch's global generator, (num_prototypes, dim), float32; training may change lengths."""
    return nn.Parameter(unit_rows(torch.randn(num_prototypes, dim)))


def unit_rows_like(prototypes: Tensor, *, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each embedding to length 1, in the prototypes' type; the teacher's are constants.

    Shapes:
        student, teacher: (batch, dim), float, any scale.
        returns: the same of both, in the dtype of the prototypes.
    """
    return unit_rows(student).to(prototypes.dtype), unit_rows(teacher.detach()).to(prototypes.dtype)


def assignment_loss(
    *,
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor,
    student_temperature: float,
    teacher_temperature: float,
    student_bias: Tensor | None,
    teacher_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy from the teacher's assignment to the student's, averaged over the batch.

    Both are softmaxes of cosines with the prototypes over a temperature, plus a bias. Rows are taken block by block,
    and the gradient at once, so that no tensor of batch times prototypes is ever held. Differentiable in the student
    and in the prototypes, and the gradient is taken once at most; its memory is then used again.

    Args:
        student: Embeddings of the images.
        teacher: Embeddings of the captions; constants.
        prototypes: Trainable directions, of any length.
        student_temperature: Temperature of the student's scores.
        teacher_temperature: Temperature of the teacher's scores; lower is sharper.
        student_bias: Numbers that are added to each row of the student's scores; constants.
        teacher_bias: Numbers that are added to each row of the teacher's scores; constants.

    Shapes:
        student, teacher: (batch, dim), unit rows.
        prototypes: (num_prototypes, dim).
        student_bias, teacher_bias: (num_prototypes,).
        returns: the loss, (); the mean of the teacher's assignments, (num_prototypes,).
    """
    with_gradient = torch.is_grad_enabled()
    constants = _Constants(
        teacher=teacher / teacher_temperature,
        student_bias=student_bias,
        teacher_bias=teacher_bias,
        for_student=with_gradient and student.requires_grad,
        for_prototypes=with_gradient and prototypes.requires_grad,
    )
    found: tuple[Tensor, Tensor] = _Assignment.apply(student / student_temperature, prototypes, constants)
    return found


class _Constants(NamedTuple):
    """Arguments of `assignment_loss` without a gradient, and which gradients are wanted."""

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
        for part in _blocks(student, num):
            targets = _scores(constants.teacher[part], prototypes, scales, constants.teacher_bias).softmax(dim=1)
            mean_assignment += targets.sum(dim=0)
            scores = _scores(student[part], prototypes, scales, constants.student_bias)
            shares = scores.softmax(dim=1)
            loss += (normaliser(scores, shares, 1) - torch.linalg.vecdot(targets, scores)).sum()
            shares.sub_(targets).mul_(scales / size)
            if for_student is not None:
                torch.mm(shares, prototypes, out=for_student[part])
            if for_prototypes is not None:
                so_far = 0 if part.start == 0 else 1  # overwritten without being read
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
        # In place: torch refuses a second call, since a saved tensor has changed.
        found = [None if gradient is None else gradient.mul_(grad_loss) for gradient in ctx.saved_tensors]
        return *found, None


def _scores(embeddings: Tensor, prototypes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    scores = embeddings @ prototypes.T
    return scores.mul_(scales) if bias is None else torch.addcmul(bias, scores, scales, out=scores)


def _through_unit_length(gradient: Tensor, prototypes: Tensor, scales: Tensor) -> None:
    """Remove a scaled gradient's part along the prototypes, in place; rows are read once, and no copy is made."""
    size = rows_at_a_time(gradient)
    parts = (torch.split(each, size) for each in (gradient, prototypes, scales))
    for part, rows, scale in zip(*parts, strict=True):
        along = torch.linalg.vecdot(part, rows).mul_(scale).mul_(scale)
        part.addcmul_(rows, along[:, None], value=-1)


def _blocks(rows: Tensor, num_columns: int) -> Iterator[slice]:
    """Cut a matrix into blocks of rows whose scores against so many columns are held at once."""
    most = _BLOCK_ELEMENTS_GPU if rows.device.type == "cuda" else _BLOCK_ELEMENTS_CPU
    size = max(1, most // num_columns)
    return (slice(start, start + size) for start in range(0, len(rows), size))
