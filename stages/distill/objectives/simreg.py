"""SimReg: regress the student's embedding onto the teacher's, both as unit vectors."""

from torch import Tensor, nn

from stages.distill.objectives.parts.embeddings import check_same_shape, unit_rows


class SimRegLoss(nn.Module):
    """Pull each image's embedding onto its caption's: mean squared difference of unit vectors.

    Navaneet et al., SimReg, 2022, arXiv:2201.05131; here the teacher is a text model.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        returns: (), float32, from 0 to 4 / dim.
    """

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over elements of the squared difference."""
        check_same_shape(student=student, teacher=teacher)
        return nn.functional.mse_loss(unit_rows(student), unit_rows(teacher.detach()))


class SimRegL1Loss(nn.Module):
    """SimReg with the absolute difference, which a few far elements sway less.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        returns: (), float32, from 0 to 2 / sqrt(dim).
    """

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over elements of the absolute difference."""
        check_same_shape(student=student, teacher=teacher)
        return nn.functional.l1_loss(unit_rows(student), unit_rows(teacher.detach()))


class SimRegSmoothL1Loss(nn.Module):
    """SimReg with the Huber difference: half the square below 1, linear above.

    Elements of unit vectors seldom differ by more than 1, so this is close to half of `SimRegLoss`.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        returns: (), float32, from 0 to 2 / dim.
    """

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over elements of the Huber difference."""
        check_same_shape(student=student, teacher=teacher)
        return nn.functional.smooth_l1_loss(unit_rows(student), unit_rows(teacher.detach()))
