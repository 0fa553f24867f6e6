"""DINO: the student's assignment to trainable prototypes follows the teacher's, centred and sharpened."""

import torch
from torch import Tensor, nn

from stages.distill.objectives.parts.embeddings import check_same_shape
from stages.distill.objectives.parts.prototype_assignment import (
    assignment_loss,
    check_assignment_options,
    random_prototypes,
    unit_rows_like,
)


class DINOLoss(nn.Module):
    """Assign each image to prototypes as its caption is assigned, after a running centre is taken off.

    Caron et al., DINO, 2021, arXiv:2104.14294: cross-entropy of softmax((P t - c) / teacher_temperature) and
    softmax(P s / student_temperature), averaged over the batch. c, the running mean of P t over earlier batches,
    starts at 0 and keeps a few prototypes from taking all captions.

    We depart from the paper in that the teacher is a constant text model and no average of the student: P is the only
    layer of its head, rows of unit length (its weight normalisation), and both sides score against the same P, as the
    student last changed it. The teacher's side gives P no gradient, and its temperature does not warm up.

    Args:
        dim: Width of the embeddings.
        num_prototypes: Rows of P; each costs dim float32, and again as much for gradient and optimizer each.
        teacher_temperature: Temperature of the target; lower is sharper.
        student_temperature: Temperature of the student's scores.
        momentum: Share of the centre that a batch leaves in place; 1 never moves it.

    Raises:
        ProtoRKDError: If num_prototypes is below 2, a temperature is not finite and above 0, or the momentum is not
            from 0 to 1.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        returns: (), float32, at least 0.
    """

    centre: Tensor

    def __init__(
        self,
        *,
        dim: int,
        num_prototypes: int = 65536,
        teacher_temperature: float = 0.04,
        student_temperature: float = 0.1,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        check_assignment_options(
            "dino",
            num_prototypes=num_prototypes,
            teacher_temperature=teacher_temperature,
            student_temperature=student_temperature,
            momentum=momentum,
        )
        self.teacher_temperature = teacher_temperature
        self.student_temperature = student_temperature
        self.momentum = momentum
        self.prototypes = random_prototypes(num_prototypes, dim)
        self.register_buffer("centre", torch.zeros(num_prototypes))

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean cross-entropy; in training, move the centre after that."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = unit_rows_like(self.prototypes, student=student, teacher=teacher)
            loss, _ = assignment_loss(
                student=student,
                teacher=teacher,
                prototypes=self.prototypes,
                student_temperature=self.student_temperature,
                teacher_temperature=self.teacher_temperature,
                student_bias=None,
                teacher_bias=-self.centre / self.teacher_temperature,
            )
            if self.training:
                self._move_centre(teacher.mean(dim=0))
            return loss

    @torch.no_grad()
    def _move_centre(self, mean: Tensor) -> None:
        """Move the centre by the batch's mean score, which is the score of the batch's mean."""
        lengths = torch.linalg.vector_norm(self.prototypes, dim=1).clamp_min_(1e-12)
        self.centre.lerp_((self.prototypes @ mean) / lengths, 1 - self.momentum)
