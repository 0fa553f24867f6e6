"""VICReg: regression onto the caption, while the dimensions of the batch stay spread and uncorrelated."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.embeddings import check_same_shape, unit_rows

# Added to a variance before its root, as in the paper: without spread the gradient of the root would be infinite.
_EPS = 1e-4


class VICRegLoss(nn.Module):
    """Pull each image's embedding onto its caption's, keep every dimension spread, and decorrelate dimensions.

    Bardes et al., VICReg, 2021, arXiv:2105.04906: the mean squared difference, a hinge that holds each dimension's
    standard deviation over the batch at 1 or more, and the squared covariances of different dimensions divided by dim.

    We depart from the paper in two ways. The teacher is constant, so only the student has a variance and a covariance
    term. The paper's embeddings are of free length; here they are compared by cosine, so both sides are unit vectors,
    scaled by sqrt(dim): the mean square of an element is then 1, and the standard deviations of 1 that the hinge asks
    for are attained by embeddings that are centred and use all dimensions alike. Those of text models do neither in
    full, so a student that agrees with its teacher still has a loss, and is pulled a little away from it.

    A batch of one has no spread: only the first term has a gradient.

    Args:
        invariance_weight: Weight of the mean squared difference.
        variance_weight: Weight of the hinge.
        covariance_weight: Weight of the covariances.

    Raises:
        ProtoRKDError: If a weight is negative or not finite, or all are 0.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        returns: (), float32, at least 0.
    """

    def __init__(
        self, *, invariance_weight: float = 25.0, variance_weight: float = 25.0, covariance_weight: float = 1.0
    ) -> None:
        super().__init__()
        weights = (invariance_weight, variance_weight, covariance_weight)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
            raise ProtoRKDError(
                "invariance_weight, variance_weight and covariance_weight of vicreg must be finite, not negative and "
                f"not all 0; got {', '.join(map(str, weights))}. The paper's are 25, 25 and 1."
            )
        self.invariance_weight, self.variance_weight, self.covariance_weight = weights

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the weighted sum of the three terms."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = spread_unit_rows(student), spread_unit_rows(teacher.detach())
            invariance = nn.functional.mse_loss(student, teacher.to(student.dtype))
            centred = student - student.mean(dim=0)
            covariance = _gram(centred) / max(len(student) - 1, 1)  # (dim, dim)
            deviation = (covariance.diagonal() + _EPS).sqrt()
            return (
                self.invariance_weight * invariance
                + self.variance_weight * (1 - deviation).relu().mean()
                + self.covariance_weight * off_diagonal_squares(covariance) / len(covariance)
            )


def spread_unit_rows(embeddings: Tensor) -> Tensor:
    """Scale each row to length sqrt(dim), in float32 or wider, where the mean square of its elements is 1."""
    return unit_rows(embeddings) * math.sqrt(embeddings.shape[1])


def off_diagonal_squares(matrix: Tensor) -> Tensor:
    """Add up the squares of a square matrix beside its diagonal: (size, size) to (). Differentiable once."""
    squares: Tensor = _OffDiagonalSquares.apply(matrix)
    return squares


def _gram(columns: Tensor) -> Tensor:
    """Compute inner products of columns: (rows, columns) to (columns, columns). Differentiable once."""
    products: Tensor = _Gram.apply(columns)
    return products


class _OffDiagonalSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        others = matrix.clone().fill_diagonal_(0)
        ctx.save_for_backward(others)
        return torch.vdot(others.flatten(), others.flatten())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (others,) = ctx.saved_tensors
        found: Tensor = others * (2 * gradient)
        return found


class _Gram(torch.autograd.Function):
    """Product of a matrix with itself: one product gives the gradient of both factors."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor) -> Tensor:
        ctx.save_for_backward(columns)
        return columns.T @ columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (columns,) = ctx.saved_tensors
        found: Tensor = columns @ (gradient + gradient.T)
        return found
