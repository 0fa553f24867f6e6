"""SEED: the student's similarities to its own caption and to others follow the teacher's."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stages.components.metrics.unit_rows import exact_scores
from stages.distill.objectives.parts.corpus import Corpus
from stages.distill.objectives.parts.embeddings import check_above_zero, check_same_shape, unit_rows
from stages.distill.objectives.parts.negatives import build_negatives, mean_over_rows
from stages.distill.objectives.parts.soft_cross_entropy import soft_cross_entropy

# Columns before the keys': the row's own positive, and padding that aligns every row for vector instructions.
_AHEAD = 16


class SEEDLoss(nn.Module):
    """Contrast each image with its caption and a queue of others, weighted by the teacher's own similarities.

    Fang et al., SEED, 2021, arXiv:2101.04731: cross-entropy from softmax([t.t, t Q] / teacher_temperature) to
    softmax([s.t, s Q] / student_temperature), averaged over the batch, Q the last ``queue_size`` teacher embeddings
    before this batch.

    At the default teacher temperature a cosine that is lower by 0.001 weighs e^-10 as much: the target is nearly
    one-hot on the caption itself, and only its near copies share in it, so this is InfoNCE against a large queue. A
    caption that is in the queue already, from an earlier epoch, shares the weight of its copy, on both sides.

    We depart from the paper in that the teacher is constant: a queue that starts as a sample of the corpus holds true
    captions from the first step, and with ``negatives="corpus"`` there is no queue at all, but other rows of the whole
    corpus at every step, of which a pair's own caption is left out, since it is there as the positive.

    Args:
        dim: Width of the embeddings.
        corpus: All teacher embeddings; without them the queue starts with random directions.
        queue_size: Captions to compare with; each costs dim float32 of memory.
        teacher_temperature: Temperature of the target; a higher one spreads it over similar captions.
        student_temperature: Temperature of the student's similarities.
        negatives: "queue", or "corpus" for a fresh draw of ``queue_size`` captions at each step.

    Raises:
        ProtoRKDError: If queue_size is below 1, a temperature is not finite and above 0, negatives is neither, or it
            is "corpus" and there is none.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        rows: (batch,), int64: the corpus row of each caption; without them no draw is left out.
        returns: (), float32, at least 0.
    """

    def __init__(
        self,
        *,
        dim: int,
        corpus: Corpus | None = None,
        queue_size: int = 65536,
        teacher_temperature: float = 1e-4,
        student_temperature: float = 0.07,
        negatives: str = "queue",
    ) -> None:
        super().__init__()
        check_above_zero("seed", teacher_temperature=teacher_temperature, student_temperature=student_temperature)
        self.teacher_temperature = teacher_temperature
        self.student_temperature = student_temperature
        self.negatives = build_negatives("seed", negatives=negatives, queue_size=queue_size, dim=dim, corpus=corpus)

    def forward(self, *, student: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy; in training, let the teacher's embeddings into the queue after that."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            keys, key_rows = self.negatives.keys()
            student, teacher = unit_rows(student).to(keys.dtype), unit_rows(teacher.detach()).to(keys.dtype)

            def row_losses(block: Tensor, part: slice) -> Tensor:
                student_scores = _similarities(block / self.student_temperature, teacher[part], keys)
                with exact_scores():  # at a temperature of 1e-4, products in TF32 would be noise
                    teacher_scores = _similarities(teacher[part] / self.teacher_temperature, teacher[part], keys)
                if rows is not None and key_rows is not None:
                    own = rows[part, None].to(key_rows.device) == key_rows  # (rows, keys)
                    for similarities in (student_scores, teacher_scores):
                        similarities[:, _AHEAD:].masked_fill_(own, torch.finfo(keys.dtype).min)  # -inf * 0 is NaN
                return soft_cross_entropy(student_scores, teacher_scores.softmax(dim=1), once=True)

            loss = mean_over_rows(row_losses, student)
            if self.training:
                self.negatives.advance(teacher)
        return loss


def _similarities(embeddings: Tensor, positives: Tensor, keys: Tensor) -> Tensor:
    """Compute products with each row's positive, then, from column `_AHEAD`, with the keys: (rows, _AHEAD + keys)."""
    similarities: Tensor = _Similarities.apply(embeddings, positives, keys)
    return similarities


class _Similarities(torch.autograd.Function):
    """Similarities, written straight to their columns: joining two tensors would copy the larger."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, positives: Tensor, keys: Tensor) -> Tensor:
        scores = embeddings.new_empty(len(embeddings), _AHEAD + len(keys))
        scores[:, :_AHEAD] = torch.finfo(scores.dtype).min  # no share of a softmax; -inf * 0 would be NaN
        scores[:, 0] = torch.linalg.vecdot(embeddings, positives)
        torch.mm(embeddings, keys.T, out=scores[:, _AHEAD:])
        ctx.save_for_backward(positives, keys)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        positives, keys = ctx.saved_tensors
        return (gradient[:, _AHEAD:] @ keys).add_(gradient[:, :1] * positives), None, None
