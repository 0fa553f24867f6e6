"""ProtoCPC: assignment to trainable prototypes as a contrastive objective, with a running prior over them."""

import torch
from torch import Tensor, nn

from stages.distill.objectives.parts.embeddings import check_same_shape
from stages.distill.objectives.parts.prototype_assignment import (
    assignment_loss,
    check_assignment_options,
    random_prototypes,
    unit_rows_like,
)


class ProtoCPCLoss(nn.Module):
    """Assign each image to prototypes as its caption is, relative to how captions are assigned on average.

    Lee, ProtoCPC, 2021, arXiv:2112.11390. With p = softmax(P t / teacher_temperature), scores z = P s /
    student_temperature and a prior over prototypes: logsumexp(z + log prior) - p.z, averaged over the batch. The prior
    is the running mean of num_prototypes * p over earlier batches and starts at 1, where the loss is the
    cross-entropy of `DINOLoss` without a centre. The best scores are log(p / prior), so a prototype that all captions
    share tells nothing, and cannot attract the student.

    We depart from the paper in that the teacher is a constant text model, P is the only layer of its head, rows of unit
    length, and both sides score against the same P; the teacher's side gives P no gradient. Targets are the softmax
    alone, without Sinkhorn's iterations, and the teacher's temperature does not warm up.

    Args:
        dim: Width of the embeddings.
        num_prototypes: Rows of P; each costs dim float32, and again as much for gradient and optimizer each.
        teacher_temperature: Temperature of the target; lower is sharper.
        student_temperature: Temperature of the student's scores.
        momentum: Share of the prior that a batch leaves in place; 1 keeps it uniform.

    Raises:
        ProtoRKDError: If num_prototypes is below 2, a temperature is not finite and above 0, or the momentum is not
            from 0 to 1.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        returns: (), float32; can be negative.
    """

    prior: Tensor

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
            "protocpc",
            num_prototypes=num_prototypes,
            teacher_temperature=teacher_temperature,
            student_temperature=student_temperature,
            momentum=momentum,
        )
        self.teacher_temperature = teacher_temperature
        self.student_temperature = student_temperature
        self.momentum = momentum
        self.prototypes = random_prototypes(num_prototypes, dim)
        self.register_buffer("prior", torch.ones(num_prototypes))

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean loss; in training, move the prior after that."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = unit_rows_like(self.prototypes, student=student, teacher=teacher)
            # A prototype that no caption is near fades below what float32 holds; its logarithm stays finite.
            log_prior = self.prior.clamp(min=torch.finfo(self.prior.dtype).tiny).log()
            loss, mean_assignment = assignment_loss(
                student=student,
                teacher=teacher,
                prototypes=self.prototypes,
                student_temperature=self.student_temperature,
                teacher_temperature=self.teacher_temperature,
                student_bias=log_prior,
                teacher_bias=None,
            )
            if self.training:
                self.prior.lerp_(len(self.prior) * mean_assignment, 1 - self.momentum)
            return loss + mean_assignment @ log_prior  # which the cross-entropy has subtracted
