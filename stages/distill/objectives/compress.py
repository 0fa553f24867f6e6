"""CompRess: the student ranks a queue of embeddings as the teacher does."""

import torch
from torch import Tensor, nn

from stages.distill.objectives.parts.corpus import Corpus
from stages.distill.objectives.parts.embeddings import check_above_zero, check_same_shape, unit_rows
from stages.distill.objectives.parts.negatives import EmbeddingQueue, build_negatives, mean_over_rows, starting_rows
from stages.distill.objectives.parts.soft_cross_entropy import divergence


class Compress1QLoss(nn.Module):
    """Give each image the similarities to a queue of captions that its own caption has.

    Abbasi Koohpayegani et al., CompRess, 2020, arXiv:2010.14713, with one queue:
    KL(softmax(t Q / temperature) || softmax(s Q / temperature)), averaged over the batch, Q the last ``queue_size``
    teacher embeddings before this batch. It is 0 where image and caption embedding are equal.

    We depart from the paper in that the teacher is constant: a queue that starts as a sample of the corpus holds true
    captions from the first step, and with ``negatives="corpus"`` there is no queue at all, but other rows of the whole
    corpus at every step.

    Args:
        dim: Width of the embeddings.
        corpus: All teacher embeddings; without them the queue starts with random directions.
        queue_size: Captions to compare with; each costs dim float32 of memory.
        temperature: Temperature of both softmaxes; a lower one looks at fewer neighbours.
        negatives: "queue", or "corpus" for a fresh draw of ``queue_size`` captions at each step.

    Raises:
        ProtoRKDError: If queue_size is below 1, the temperature is not finite and above 0, negatives is neither, or
            it is "corpus" and there is none.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        returns: (), float32, at least 0 up to rounding.
    """

    def __init__(
        self,
        *,
        dim: int,
        corpus: Corpus | None = None,
        queue_size: int = 65536,
        temperature: float = 0.04,
        negatives: str = "queue",
    ) -> None:
        super().__init__()
        check_above_zero("compress-1q", temperature=temperature)
        self.temperature = temperature
        self.negatives = build_negatives(
            "compress-1q", negatives=negatives, queue_size=queue_size, dim=dim, corpus=corpus
        )

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean divergence; in training, let the teacher's embeddings into the queue after that."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            keys, _ = self.negatives.keys()
            student, teacher = unit_rows(student).to(keys.dtype), unit_rows(teacher.detach()).to(keys.dtype)
            loss = mean_over_rows(
                lambda block, part: _divergences(block, keys, teacher[part], keys, self.temperature), student
            )
            if self.training:
                self.negatives.advance(teacher)
        return loss


class Compress2QLoss(nn.Module):
    """CompRess with a queue for each side: images are compared with earlier images, captions with their captions.

    KL(softmax(t Q_t / temperature) || softmax(s Q_s / temperature)), averaged over the batch. Row k of Q_s is what the
    student made of the image whose caption is row k of Q_t, when that batch was trained on. A gap between the two
    spaces does not matter; but once the queues have turned over, nothing ties the student's space to the teacher's,
    so retrieval across the two needs a second objective beside it.

    We depart from arXiv:2010.14713 in the start: both queues hold the same rows (of the corpus where there is one), as
    if an agreeing student had been there, instead of unrelated ones.

    Args:
        dim: Width of the embeddings.
        corpus: All teacher embeddings; without them the queues start with random directions.
        queue_size: Pairs to compare with; each costs 2 dim float32 of memory.
        temperature: Temperature of both softmaxes.

    Raises:
        ProtoRKDError: If queue_size is below 1 or the temperature is not finite and above 0.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        returns: (), float32, at least 0 up to rounding.
    """

    def __init__(
        self, *, dim: int, corpus: Corpus | None = None, queue_size: int = 65536, temperature: float = 0.04
    ) -> None:
        super().__init__()
        check_above_zero("compress-2q", temperature=temperature)
        self.temperature = temperature
        rows = starting_rows("compress-2q", size=queue_size, dim=dim, corpus=corpus)
        self.teacher_queue = EmbeddingQueue(rows)
        self.student_queue = EmbeddingQueue(rows.clone())

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean divergence; in training, let both sides into their queues after that."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            teacher_keys, student_keys = self.teacher_queue.rows, self.student_queue.rows
            student = unit_rows(student).to(student_keys.dtype)
            teacher = unit_rows(teacher.detach()).to(teacher_keys.dtype)
            loss = mean_over_rows(
                lambda block, part: _divergences(block, student_keys, teacher[part], teacher_keys, self.temperature),
                student,
            )
            if self.training:
                self.teacher_queue.advance(teacher)
                self.student_queue.advance(student.detach())
        return loss


def _divergences(
    student: Tensor, student_keys: Tensor, teacher: Tensor, teacher_keys: Tensor, temperature: float
) -> Tensor:
    """KL divergence of each row's similarities, teacher from student: (rows,)."""
    with torch.no_grad():
        wanted = (teacher / temperature) @ teacher_keys.T  # (rows, keys)
    return divergence((student / temperature) @ student_keys.T, wanted, once=True)
