"""Objectives on class labels: contrast with all pairs of a class as positives, and plain classification."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.chunked_contrast import chunked_contrast, is_large
from stages.distill.objectives.parts.embeddings import check_above_zero, check_same_shape, unit_rows
from stages.distill.objectives.parts.logit_scale import bounded_scale, new_logit_scale
from stages.distill.objectives.parts.positives import caption_numbers, even_shares, same_captions
from stages.distill.objectives.parts.soft_cross_entropy import contrast


class UniCLLoss(nn.Module):
    """Contrast each pair with all others of the batch, in both directions, pairs of one class being all positives.

    Yang et al., UniCL, 2022, arXiv:2204.03610: InfoNCE whose target is shared evenly by all pairs of the same label,
    the mean of both directions. The scale is learnt as in `InfoNCELoss`.

    A pair without a label is in a class of its own in the paper; here that class is its caption, which other pairs
    may have as well. Without any labels this is InfoNCE with ``merge_duplicates``.

    Args:
        temperature: Inverse of the scale; where the scale is learnt, of its start.
        learn_temperature: Learn the scale; otherwise it stays.
        max_scale: The scale never exceeds it.

    Raises:
        ProtoRKDError: If a number is not finite and above 0, or the temperature is below 1 / max_scale.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        rows: (batch,), int64: the corpus row of each caption; without them equal embeddings are equal captions.
        labels: (batch,), int64, -1 where unknown.
        returns: (), float32, at least 0.
    """

    def __init__(self, *, temperature: float = 0.07, learn_temperature: bool = True, max_scale: float = 100.0) -> None:
        super().__init__()
        self.logit_scale = new_logit_scale(
            "unicl", temperature=temperature, learn_temperature=learn_temperature, max_scale=max_scale
        )
        self.max_scale = max_scale

    def forward(
        self, *, student: Tensor, teacher: Tensor, rows: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Return the mean of both directions' cross-entropies."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            student = bounded_scale(self.logit_scale, self.max_scale, training=self.training) * unit_rows(student)
            captions = unit_rows(teacher.detach()).to(student.dtype)
            numbers = caption_numbers(teacher, rows)

            def shares(part: slice) -> Tensor:
                positives = numbers[part, None] == numbers  # (rows, batch)
                if labels is not None:
                    is_known = labels[part, None] >= 0
                    positives = (labels[part, None] == labels) & (is_known | positives)
                return even_shares(positives, captions.dtype)

            if is_large(len(student), len(captions)):
                return chunked_contrast(student, captions, shares=lambda part: (shares(part),) * 2)
            return contrast(student @ captions.T, shares(slice(None)))


class CrossEntropyLoss(nn.Module):
    """Classify images, by their labels or, where pairs have none, by their captions.

    With labels: cross-entropy of W s / temperature, W a trainable row for each label; pairs whose label is unknown are
    left out of the mean, and the teacher plays no part. Beside another objective it adds supervision.

    Without labels: the distinct captions of the batch are the classes, and their embeddings the rows of W. This is the
    image's direction of InfoNCE at a fixed scale, each caption counted once.

    Args:
        dim: Width of the embeddings.
        num_labels: How many labels there are; each costs dim float32, and again as much for gradient and optimizer
            each. 0 classifies by captions.
        temperature: Temperature of the scores; it stays constant.

    Raises:
        ProtoRKDError: If the temperature is not finite and above 0.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        rows: (batch,), int64: the corpus row of each caption; without them equal embeddings are equal captions.
        labels: (batch,), int64, below num_labels, -1 where unknown; where all are unknown the loss is 0.
        returns: (), float32, at least 0.
    """

    def __init__(self, *, dim: int, num_labels: int = 0, temperature: float = 0.07) -> None:
        super().__init__()
        check_above_zero("cross-entropy", temperature=temperature)
        self.temperature = temperature
        # Rows of length 1 on average, as captions have.
        self.weight = nn.Parameter(torch.randn(num_labels, dim) / math.sqrt(dim)) if num_labels else None

    def forward(
        self, *, student: Tensor, teacher: Tensor, rows: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Return the mean cross-entropy over pairs whose class is known.

        Raises:
            ProtoRKDError: If there are labels to train on and none are given.
        """
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            student = unit_rows(student) / self.temperature
            if self.weight is None:
                return _caption_loss(student, teacher.detach(), rows)
            if labels is None:
                raise ProtoRKDError(
                    f"labels of cross-entropy must be given where num_labels is {len(self.weight)}; got none. "
                    "Pass labels=, -1 where unknown."
                )
            total = cross_entropy(student @ self.weight.to(student.dtype).T, labels, ignore_index=-1, reduction="sum")
            return total / (labels >= 0).sum().clamp_min(1)


def _caption_loss(student: Tensor, teacher: Tensor, rows: Tensor | None) -> Tensor:
    first = same_captions(teacher, rows).byte().argmax(dim=1)  # of the pairs with this caption
    is_copy = first != torch.arange(len(first), device=first.device)
    logits = (student @ unit_rows(teacher).to(student.dtype).T).masked_fill(is_copy, -math.inf)
    return cross_entropy(logits, first)
