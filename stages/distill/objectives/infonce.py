"""InfoNCE: each image is to find its own caption among all of the batch, and each caption its image."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.chunked_contrast import chunked_contrast, is_large
from stages.distill.objectives.parts.corpus import Corpus
from stages.distill.objectives.parts.embeddings import check_above_zero, check_same_shape, full_precision, unit_rows
from stages.distill.objectives.parts.negatives import CorpusDraw
from stages.distill.objectives.parts.soft_cross_entropy import contrast


class InfoNCELoss(nn.Module):
    """Contrast each pair with all other pairs of the batch, in both directions.

    Radford et al., CLIP, 2021, arXiv:2103.00020: cross-entropy of scale * s t^T against the diagonal, along rows and
    along columns, the mean of both. The scale is learnt through its logarithm and brought back to ``max_scale`` before
    a step uses it, so that its gradient does not vanish there.

    We depart from the paper in that the teacher is constant: every caption of the corpus can be a negative at the cost
    of a look-up. ``corpus_negatives`` of them, others at every step, join those that an image is told from; captions
    have no more images to be told from.

    Args:
        corpus: All teacher embeddings; needed for corpus_negatives.
        temperature: Inverse of the scale; where the scale is learnt, of its start.
        learn_temperature: Learn the scale; otherwise it stays.
        max_scale: The scale never exceeds it.
        label_smoothing: Share of the target that is spread evenly over all that is compared.
        merge_duplicates: Equal captions of the batch share the target, instead of being negatives of one another.
        corpus_negatives: Captions drawn from the corpus at each step; each costs dim and a few times batch float32.

    Raises:
        ProtoRKDError: If a number is out of range, or corpus_negatives is above 0 without a corpus.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        rows: (batch,), int64: the corpus row of each caption; without them equal embeddings are equal captions, and
            a pair's own caption may be drawn as its negative.
        returns: (), float32, at least 0.
    """

    def __init__(
        self,
        *,
        corpus: Corpus | None = None,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        max_scale: float = 100.0,
        label_smoothing: float = 0.0,
        merge_duplicates: bool = False,
        corpus_negatives: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ProtoRKDError(f"label_smoothing of infonce must be at least 0 and below 1; got {label_smoothing}.")
        self.logit_scale = new_logit_scale(
            "infonce", temperature=temperature, learn_temperature=learn_temperature, max_scale=max_scale
        )
        self.max_scale = max_scale
        self.label_smoothing = label_smoothing
        self.merge_duplicates = merge_duplicates
        self.negatives = _draw_from(corpus, corpus_negatives) if corpus_negatives else None

    def forward(self, *, student: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the mean of both directions' cross-entropies; in training, go on to the next negatives after that."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            student = bounded_scale(self.logit_scale, self.max_scale, training=self.training) * unit_rows(student)
            captions = unit_rows(teacher.detach()).to(student.dtype)
            if is_large(len(student), len(teacher) + (0 if self.negatives is None else self.negatives.size)):
                return self._large(student, captions, caption_numbers(teacher, rows), rows)
            positives = self._positives(teacher, rows)
            teacher = captions
            logits = student @ teacher.T
            if self.negatives is None:
                return contrast(logits, None if positives is None else self._shares(positives, logits.dtype))
            if positives is None:
                positives = torch.eye(len(teacher), dtype=torch.bool, device=teacher.device)
            to_image = positive_loss(logits.T, positives, label_smoothing=self.label_smoothing)
            keys, key_rows = self.negatives.keys()
            is_own = None if rows is None else pad(rows[:, None] == key_rows, (len(teacher), 0))
            to_text = positive_loss(
                torch.cat([logits, student @ keys.to(student.dtype).T], dim=1),  # (batch, batch + negatives)
                pad(positives, (0, len(keys))),
                label_smoothing=self.label_smoothing,
                left_out=is_own,
            )
            if self.training:
                self.negatives.advance(teacher)
            return (to_text + to_image) / 2

    def _large(self, student: Tensor, captions: Tensor, numbers: Tensor, rows: Tensor | None) -> Tensor:
        """Return the same loss without the whole matrix of scores.

        Shapes:
            student: (batch, dim), scaled.
            captions: (batch, dim), unit rows.
            numbers: (batch,), int64: equal for equal captions.
        """
        batch, left_out = len(captions), None
        keys, key_rows = captions, None
        if self.negatives is not None:
            drawn, key_rows = self.negatives.keys()
            keys = torch.cat([captions, drawn.to(student.dtype)])
            if rows is not None:

                def left_out(part: slice) -> Tensor:
                    return pad(rows[part, None] == key_rows, (batch, 0))

        def shares(part: slice) -> tuple[Tensor, Tensor]:
            places = torch.arange(batch, device=numbers.device) if not self.merge_duplicates else numbers
            positives = places[part, None] == places  # (rows, batch)
            to_image = self._shares(positives, captions.dtype)
            if key_rows is None:
                return to_image, to_image
            to_text = even_shares(pad(positives, (0, len(keys) - batch)), captions.dtype)
            if self.label_smoothing:
                compared = torch.ones_like(to_text, dtype=torch.bool) if left_out is None else ~left_out(part)
                to_text = to_text.lerp(even_shares(compared, captions.dtype), self.label_smoothing)
            return to_text, to_image

        is_plain = not self.merge_duplicates and not self.label_smoothing
        loss = chunked_contrast(student, keys, shares=None if is_plain else shares, left_out=left_out)
        if self.negatives is not None and self.training:
            self.negatives.advance(captions)
        return loss

    def _positives(self, teacher: Tensor, rows: Tensor | None) -> Tensor | None:
        """Find the pairs that share a pair's target, (batch, batch); None where each has only its own."""
        if self.merge_duplicates:
            return same_captions(teacher, rows)
        return torch.eye(len(teacher), dtype=torch.bool, device=teacher.device) if self.label_smoothing else None

    def _shares(self, positives: Tensor, dtype: torch.dtype) -> Tensor:
        shares = even_shares(positives, dtype)
        return shares.lerp(shares.new_full((), 1 / shares.shape[1]), self.label_smoothing)


def positive_loss(
    logits: Tensor, positives: Tensor, *, label_smoothing: float = 0.0, left_out: Tensor | None = None
) -> Tensor:
    """Compute the cross-entropy of each row's scores against its positives in equal shares, averaged over rows.

    Args:
        logits: Scaled scores.
        positives: Which columns are positives of a row; each row has one at least.
        label_smoothing: Share of the target that is spread evenly over all columns.
        left_out: Which columns a row does without; none of them a positive.

    Shapes:
        logits: (rows, columns).
        positives, left_out: (rows, columns), bool.
        returns: ().
    """
    wanted = even_shares(positives, logits.dtype)
    if label_smoothing:
        compared = torch.ones_like(positives) if left_out is None else ~left_out
        wanted = wanted.lerp(even_shares(compared, logits.dtype), label_smoothing)
    if left_out is not None:
        logits = logits.masked_fill(left_out, torch.finfo(logits.dtype).min)  # -inf * 0 would be NaN
    return cross_entropy(logits, wanted)


def same_captions(teacher: Tensor, rows: Tensor | None) -> Tensor:
    """Say which pairs have the same caption: by corpus row, or where those are unknown, by equal embeddings.

    Shapes:
        teacher: (batch, dim).
        rows: (batch,), int64.
        returns: (batch, batch), bool; the diagonal is true.
    """
    numbers = caption_numbers(teacher, rows)
    return numbers[:, None] == numbers


def caption_numbers(teacher: Tensor, rows: Tensor | None) -> Tensor:
    """Number the captions of a batch, equal ones alike: (batch, dim) to (batch,), int64; corpus rows do where known."""
    if rows is None:
        _, rows = torch.unique(full_precision(teacher.detach()), dim=0, return_inverse=True)
    return rows


def new_logit_scale(objective: str, *, temperature: float, learn_temperature: bool, max_scale: float) -> nn.Parameter:
    """Make the logarithm of the scale that a temperature stands for; a trainable parameter if it is to be learnt.

    Raises:
        ProtoRKDError: If a number is not finite and above 0, or the temperature is below 1 / max_scale.
    """
    check_above_zero(objective, temperature=temperature, max_scale=max_scale)
    if 1 / temperature > max_scale:
        raise ProtoRKDError(
            f"temperature of {objective} must be at least 1 / max_scale, {1 / max_scale:g}; got {temperature}. "
            "Start higher, or raise max_scale."
        )
    return nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=learn_temperature)


def bounded_scale(logit_scale: Tensor, max_scale: float, *, training: bool) -> Tensor:
    """Return the scale; in training the parameter itself is brought back first, as CLIP's authors do after a step."""
    if not training:
        return logit_scale.clamp(max=math.log(max_scale)).exp()
    with torch.no_grad():
        logit_scale.clamp_(max=math.log(max_scale))
    return logit_scale.exp()


def even_shares(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Share each row out evenly among its true columns: (rows, columns), bool, to the dtype."""
    return mask.to(dtype) / mask.sum(dim=1, keepdim=True)


def _draw_from(corpus: Corpus | None, size: int) -> CorpusDraw:
    if size < 0:
        raise ProtoRKDError(f"corpus_negatives of infonce must not be negative; got {size}. 0 draws none.")
    if corpus is None:
        raise ProtoRKDError(
            f"corpus_negatives of infonce must be 0 where no corpus of teacher embeddings is given; got {size}. "
            "Pass corpus=, or leave the option out."
        )
    return CorpusDraw(corpus, size)
