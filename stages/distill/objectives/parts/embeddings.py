"""Check and scale the two embeddings that every objective takes."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from data_schemas.errors import ProtoRKDError


def check_same_batch(*, student: Tensor, teacher: Tensor) -> None:
    """Refuse embeddings that are not two matrices with one row per pair.

    Raises:
        ProtoRKDError: If either is not a matrix, or their numbers of rows differ.
    """
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise ProtoRKDError(
            "Student and teacher must be matrices with equally many rows; "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}. Pass one embedding per image and per caption."
        )


def check_same_shape(*, student: Tensor, teacher: Tensor) -> None:
    """Refuse embeddings that cannot be compared element by element.

    Raises:
        ProtoRKDError: If either is not a matrix, or their shapes differ.
    """
    check_same_batch(student=student, teacher=teacher)
    if student.shape != teacher.shape:
        raise ProtoRKDError(
            "Student and teacher must have the same width; "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}. Build the student with the teacher's "
            "embedding_dim, or choose an objective on relations, such as --loss rkd."
        )


def full_precision(embeddings: Tensor) -> Tensor:
    """Widen half precision to float32; float32 and float64 stay as they are."""
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def unit_rows(embeddings: Tensor) -> Tensor:
    """Scale each row to length 1, in float32 or wider; a row of zeros stays zero.

    Shapes:
        embeddings: (batch, dim), float, any scale.
        returns: (batch, dim), float32 or float64.
    """
    units: Tensor = _UnitRows.apply(full_precision(embeddings))
    return units


class _UnitRows(torch.autograd.Function):
    """Like `torch.nn.functional.normalize`, with a gradient of three passes instead of ten."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(1e-12)
        units = rows / lengths
        ctx.save_for_backward(units, lengths)
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        units, lengths = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, units)[:, None]
        found: Tensor = (units * -along).add_(gradient).div_(lengths)
        return found


def check_above_zero(objective: str, **options: float) -> None:
    """Refuse an option, by its name, that is not a finite number above 0.

    Raises:
        ProtoRKDError: If one is not.
    """
    for name, value in options.items():
        if not (math.isfinite(value) and value > 0):
            raise ProtoRKDError(f"{name} of {objective} must be a finite number above 0; got {value}.")
