"""ProtoCLIP: the student's scores against prototypes follow the teacher's soft assignment."""

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.corpus import PrototypeSource
from stages.distill.objectives.parts.embeddings import check_above_zero, check_same_shape, unit_rows
from stages.distill.objectives.parts.prototype_map import build_map, build_student_scale
from stages.distill.objectives.parts.soft_cross_entropy import soft_cross_entropy

TARGETS = ("prototype", "caption")


class ProtoLoss(nn.Module):
    """Assign each image to the prototype that its caption belongs to, and a little to that prototype's neighbours.

    Chen et al., ProtoCLIP, 2022, arXiv:2206.10996, its prototypical loss from captions to images: cross-entropy from
    softmax(c C^T / target_temperature) to softmax(s C_s^T / student_temperature), averaged over the batch, where c is
    the prototype nearest to the caption. With back translation, row k of C_s is the running mean of the student's own
    embeddings of the members of prototype k; without, C_s = C.

    We depart from the paper in that the teacher is constant: prototypes are computed once over the whole corpus
    instead of anew every episode, C_s runs along with training instead of standing still for an episode, and as our
    prototypes have unit length, so has C_s. It starts as C, and counts as a constant in the gradient, as in the paper.
    Without a source of prototypes, the captions of the batch are the prototypes.

    Args:
        dim: Width of the embeddings.
        prototypes: Where prototypes come from.
        num_prototypes: How many; each costs dim float32, and the same again with back translation.
        target_temperature: Temperature of the target; lower is nearer to one-hot.
        student_temperature: Temperature of the student's scores; where it is learnt, at the first step.
        learn_temperature: Learn the student's temperature, not below 0.01.
        targets: Embedding scored against prototypes for a target: the nearest "prototype", or the "caption" itself.
        back_translation: Score images against the student's own means, so that a gap between the two spaces does not
            matter; little then ties the student's space to the teacher's, so retrieval needs a second objective.
        momentum: Share of a running mean that a batch leaves in place.

    Raises:
        ProtoRKDError: If num_prototypes is below 2, a temperature is not finite and above 0 (or learnt from below
            0.01), targets is neither, the momentum is not from 0 to 1, or the prototypes have another width.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        returns: (), float32, at least 0.
    """

    def __init__(
        self,
        *,
        dim: int,
        prototypes: PrototypeSource | None = None,
        num_prototypes: int = 1024,
        target_temperature: float = 0.01,
        student_temperature: float = 0.07,
        learn_temperature: bool = False,
        targets: str = "prototype",
        back_translation: bool = True,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        check_above_zero("proto", target_temperature=target_temperature)
        if targets not in TARGETS:
            raise ProtoRKDError(f"targets of proto must be one of {', '.join(TARGETS)}; got {targets!r}.")
        self.target_temperature = target_temperature
        self.targets = targets
        self.back_translation = back_translation
        self.student_scale = build_student_scale(
            "proto", student_temperature=student_temperature, learn_temperature=learn_temperature
        )
        self.map = build_map(
            "proto",
            prototypes=prototypes,
            num_prototypes=num_prototypes,
            dim=dim,
            momentum=momentum,
            with_means=back_translation,
        )

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean cross-entropy, this batch counted in the student's means; in training, keep these."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            student = unit_rows(student)
            teacher = unit_rows(teacher.detach()).to(student.dtype)
            prototypes = self.map.prototypes(teacher)
            scores = (teacher / self.target_temperature) @ prototypes.T  # (batch, num_prototypes)
            nearest = scores.argmax(dim=1)
            if self.targets == "prototype":
                scores = (prototypes[nearest] / self.target_temperature) @ prototypes.T
            translated = prototypes
            if self.back_translation:
                translated = self.map.translate(student=student.detach(), nearest=nearest, prototypes=prototypes)
            logits = (self.student_scale() * student) @ translated.T
            return soft_cross_entropy(logits, scores.softmax(dim=1)).mean()
