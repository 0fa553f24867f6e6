"""Barlow Twins: each dimension of the student correlates with that of the teacher, and with no other."""

import math

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.embeddings import check_same_shape
from stages.distill.objectives.vicreg import off_diagonal_squares, spread_unit_rows

# Added to a variance before its root, as the authors' batch normalisation does; elements have a mean square of 1.
_EPS = 1e-5


class BarlowTwinsLoss(nn.Module):
    """Bring the cross-correlation of the student's and the teacher's dimensions over the batch to the identity.

    Zbontar et al., Barlow Twins, 2021, arXiv:2103.03230: the sum of (1 - c_ii)^2 plus ``off_diagonal_weight`` times the
    sum of c_ij^2, where c is the cross-correlation of columns that are centred and scaled to a variance of 1.

    We depart from the paper in that both sides are unit vectors, scaled by sqrt(dim), since they are compared by
    cosine; and the teacher is constant: where its own dimensions correlate, no student brings the loss to 0.

    Correlations know neither the mean nor the spread of a column, so little ties those to the teacher's, and retrieval
    across student and teacher needs a second objective beside it. A column that is constant in the batch correlates
    with none.

    Args:
        off_diagonal_weight: Weight of the correlations between different dimensions.

    Raises:
        ProtoRKDError: If the weight is negative or not finite.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        returns: (), float32, at least 0; a sum over dimensions, about dim where nothing correlates.
    """

    def __init__(self, *, off_diagonal_weight: float = 0.0051) -> None:
        super().__init__()
        if not (math.isfinite(off_diagonal_weight) and off_diagonal_weight >= 0):
            raise ProtoRKDError(
                "off_diagonal_weight of barlow-twins must be a finite number, not negative; "
                f"got {off_diagonal_weight}. The paper's is 0.0051."
            )
        self.off_diagonal_weight = off_diagonal_weight

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the sum over all pairs of dimensions."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            student = _standardised(spread_unit_rows(student))
            teacher = _standardised(spread_unit_rows(teacher.detach())).to(student.dtype)
            correlation = student.T @ teacher / len(student)  # (dim, dim)
            on_diagonal = (1 - correlation.diagonal()).square().sum()
            return on_diagonal + self.off_diagonal_weight * off_diagonal_squares(correlation)


def _standardised(columns: Tensor) -> Tensor:
    centred = columns - columns.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + _EPS).sqrt()
