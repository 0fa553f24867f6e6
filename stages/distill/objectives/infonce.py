"""InfoNCE: each image is to find its own caption among all of the batch, and each caption its image."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.chunked_contrast import Shares, chunked_contrast, is_large
from stages.distill.objectives.parts.corpus import Corpus
from stages.distill.objectives.parts.embeddings import check_same_shape, unit_rows
from stages.distill.objectives.parts.logit_scale import bounded_scale, new_logit_scale
from stages.distill.objectives.parts.negatives import CorpusDraw
from stages.distill.objectives.parts.positives import PairMarks, PairRules, even_shares
from stages.distill.objectives.parts.soft_cross_entropy import contrast

_ALL = slice(None)


class InfoNCELoss(nn.Module):
    """Contrast each pair with all other pairs of the batch, in both directions.

    Radford et al., CLIP, 2021, arXiv:2103.00020: cross-entropy of scale * s t^T against the diagonal, along rows and
    along columns, the mean of both. The scale is learnt through its logarithm and brought back to ``max_scale`` before
    a step uses it, so that its gradient does not vanish there.

    We depart from the paper in that the teacher is constant: every caption of the corpus can be a negative at the cost
    of a look-up. ``corpus_negatives`` of them, others at every step, join those that an image is told from; captions
    have no more images to be told from.

    ``hard_negatives`` is the beta of Robinson et al., 2021, arXiv:2010.04592: the score z of a negative becomes
    z + beta sg(z), where sg stops the gradient, so that its term exp(z) of the normaliser is weighted by exp(beta z).
    The paper brings these weights to a mean of 1 and takes off what positives among the negatives would add; here they
    stand as they are, and such positives are named by ``spare_above``.

    Args:
        corpus: All teacher embeddings; needed for corpus_negatives.
        temperature: Inverse of the scale; where the scale is learnt, of its start.
        learn_temperature: Learn the scale; otherwise it stays.
        max_scale: The scale never exceeds it.
        label_smoothing: Share of the target that is spread evenly over all that is compared.
        merge_duplicates: Equal captions of the batch share the target, instead of being negatives of one another.
        corpus_negatives: Captions drawn from the corpus at each step; each costs dim and a few times batch float32.
        hard_negatives: How much more near negatives count than far ones; 0 takes all as they are. A learnt scale would
            run to its bound, since nothing in the gradient says what the weights do; so it must not be learnt.
        spare_above: Captions whose cosine with a pair's own is above it are no negatives of the pair, nor is their
            image of the caption; 1 spares none.
        merge_images: Pairs with the same image share the target, as several captions of one image do.

    Raises:
        ProtoRKDError: If a number is out of range, corpus_negatives is above 0 without a corpus, or hard_negatives goes
            with a scale that is learnt.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        rows: (batch,), int64: the corpus row of each caption; without them equal embeddings are equal captions, and
            a pair's own caption may be drawn as its negative.
        images: (batch,), int64: equal for equal images; needed for merge_images.
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
        hard_negatives: float = 0.0,
        spare_above: float = 1.0,
        merge_images: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ProtoRKDError(f"label_smoothing of infonce must be at least 0 and below 1; got {label_smoothing}.")
        _check_hard_negatives(hard_negatives, learn_temperature=learn_temperature)
        self.logit_scale = new_logit_scale(
            "infonce", temperature=temperature, learn_temperature=learn_temperature, max_scale=max_scale
        )
        self.max_scale = max_scale
        self.label_smoothing = label_smoothing
        self.hard_negatives = hard_negatives
        self.rules = PairRules(merge_duplicates, merge_images, spare_above)
        self.rules.check("infonce")
        self.unread = frozenset() if merge_images else frozenset({"images"})
        self.negatives = _draw_from(corpus, corpus_negatives) if corpus_negatives else None

    def forward(
        self, *, student: Tensor, teacher: Tensor, rows: Tensor | None = None, images: Tensor | None = None
    ) -> Tensor:
        """Return the mean of both directions' cross-entropies; in training, go on to the next negatives after that."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            student = bounded_scale(self.logit_scale, self.max_scale, training=self.training) * unit_rows(student)
            captions = unit_rows(teacher.detach()).to(student.dtype)
            marks = self.rules.among(captions, teacher=teacher, rows=rows, images=images)
            drawn = None
            if self.negatives is not None:
                keys, key_rows = self.negatives.keys()
                drawn = keys.to(student.dtype), key_rows
            large = is_large(len(student), len(captions) + (0 if drawn is None else len(drawn[0])))
            loss = (self._in_blocks if large else self._whole)(student, captions, marks, drawn)
            if self.negatives is not None and self.training:
                self.negatives.advance(captions)
            return loss

    def _whole(
        self, student: Tensor, captions: Tensor, marks: PairMarks, drawn: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Return the loss from the whole matrix of scores.

        Shapes:
            student: (batch, dim), scaled.
            captions: (batch, dim), unit rows.
            drawn: (negatives, dim), unit rows; (negatives,), int64: their corpus rows.
        """
        logits, spared = student @ captions.T, marks.spared(_ALL)
        is_plain = marks.is_identity and not self.label_smoothing
        if is_plain and drawn is None and not self.hard_negatives:
            return contrast(_without(logits, spared), None)
        positives = marks.positives(_ALL)
        self._raise(logits, positives)
        if drawn is None and not self._differs_by_column(marks):
            shares = None if is_plain else self._smoothed(even_shares(positives, logits.dtype), None)
            return contrast(_without(logits, spared), shares)
        to_image = positive_loss(
            logits.T, positives, label_smoothing=self.label_smoothing, left_out=None if spared is None else spared.T
        )
        if drawn is not None:
            drawn_logits = student @ drawn[0].T
            self._raise(drawn_logits, None)
            logits = torch.cat([logits, drawn_logits], dim=1)  # (batch, batch + negatives)
            spared = marks.spared_of_all(*drawn, _ALL)
            positives = pad(positives, (0, len(drawn[0])))
        to_text = positive_loss(logits, positives, label_smoothing=self.label_smoothing, left_out=spared)
        return (to_text + to_image) / 2

    def _in_blocks(
        self, student: Tensor, captions: Tensor, marks: PairMarks, drawn: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Return the same loss without the whole matrix of scores; arguments are those of `_whole`."""
        batch, keys = len(captions), captions if drawn is None else torch.cat([captions, drawn[0]])

        def left_out(part: slice) -> Tensor | None:
            return marks.spared(part) if drawn is None else marks.spared_of_all(*drawn, part)

        def adjust(part: slice, scores: Tensor) -> None:
            if self.hard_negatives:
                self._raise(scores[:, :batch], marks.positives(part))
                self._raise(scores[:, batch:], None)
            _without(scores, left_out(part))

        adjusts = self.hard_negatives or marks.spares or drawn is not None
        is_plain = marks.is_identity and not self.label_smoothing
        shares = None if is_plain else self._shares(marks, left_out, num_drawn=len(keys) - batch, dtype=captions.dtype)
        return chunked_contrast(student, keys, shares=shares, adjust=adjust if adjusts else None)

    def _shares(
        self, marks: PairMarks, left_out: Callable[[slice], Tensor | None], *, num_drawn: int, dtype: torch.dtype
    ) -> Shares:
        """Give the targets of both directions by blocks of rows."""
        counts = compared_counts = None
        if differs := self._differs_by_column(marks):
            counts, compared_counts = marks.count(marks.positives), marks.count(marks.compared)

        def shares(part: slice) -> tuple[Tensor, Tensor]:
            positives = marks.positives(part)  # (rows, batch)
            to_image = self._smoothed(even_shares(positives, dtype, counts), marks.spared(part), compared_counts)
            if not num_drawn and not differs:
                return to_image, to_image
            to_text = even_shares(pad(positives, (0, num_drawn)), dtype)
            return self._smoothed(to_text, left_out(part)), to_image

        return shares

    def _differs_by_column(self, marks: PairMarks) -> bool:
        """Tell whether a pair's share in a row's target may be another than in its column's."""
        return not marks.is_even or (self.label_smoothing > 0 and marks.spares)

    def _raise(self, scores: Tensor, positives: Tensor | None) -> None:
        """Raise the scores of negatives in place, by what counts as constant; without positives all are negatives."""
        if self.hard_negatives:
            raised = scores.detach() if positives is None else scores.detach().masked_fill(positives, 0)
            scores.add_(raised, alpha=self.hard_negatives)

    def _smoothed(self, shares: Tensor, left_out: Tensor | None, counts: Tensor | None = None) -> Tensor:
        if not self.label_smoothing:
            return shares
        even = shares.new_full((), 1 / shares.shape[1])
        if left_out is not None:
            even = even_shares(~left_out, shares.dtype, counts)
        return shares.lerp(even, self.label_smoothing)


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


def _without(scores: Tensor, left_out: Tensor | None) -> Tensor:
    """Bring the scores of what is left out to the lowest number, in place: -inf * 0 would be NaN."""
    return scores if left_out is None else scores.masked_fill_(left_out, torch.finfo(scores.dtype).min)


def _check_hard_negatives(beta: float, *, learn_temperature: bool) -> None:
    if not (math.isfinite(beta) and beta >= 0):
        raise ProtoRKDError(f"hard_negatives of infonce must be a finite number, not negative; got {beta}.")
    if beta and learn_temperature:
        raise ProtoRKDError(
            f"hard_negatives of infonce must go with a fixed temperature; got {beta} with one that is learnt, which "
            "would run to its bound. Add --loss-option infonce.learn-temperature=false, and a temperature such as "
            "infonce.temperature=0.05."
        )


def _draw_from(corpus: Corpus | None, size: int) -> CorpusDraw:
    if size < 0:
        raise ProtoRKDError(f"corpus_negatives of infonce must not be negative; got {size}. 0 draws none.")
    if corpus is None:
        raise ProtoRKDError(
            f"corpus_negatives of infonce must be 0 where no corpus of teacher embeddings is given; got {size}. "
            "Pass corpus=, or leave the option out."
        )
    return CorpusDraw(corpus, size)
