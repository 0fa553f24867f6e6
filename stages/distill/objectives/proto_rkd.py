"""Prototypical relational distillation: images relate to a map of the teacher's whole space as captions do."""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.corpus import Corpus, PrototypeSource
from stages.distill.objectives.parts.embeddings import check_above_zero, check_same_shape, unit_rows
from stages.distill.objectives.parts.negatives import CorpusDraw, StepCount
from stages.distill.objectives.parts.prototype_map import PrototypeMap, build_map, build_student_scale
from stages.distill.objectives.parts.relation_losses import choose_prototypes, column_loss, row_loss, with_own_caption
from stages.distill.objectives.rkd import RKDLoss

TARGETS = ("soft", "hard")


class ProtoRKDLoss(StepCount):
    """Relate each image to prototypes of the teacher's space as its caption relates to them.

    A batch shows a small part of the teacher's space; prototypes are a map of all of it. As the teacher is constant, so
    is the map. With prototypes C, p = softmax(t C^T / teacher_temperature), q = softmax(s C_s^T / student_temperature):
    KL(p || q), averaged over the batch, plus ``structure_weight`` times RKD (arXiv:1904.05068) between C_s and C.

    C_s is C, or with back translation (ProtoCLIP, arXiv:2206.10996) the student's own map: row k is the running mean
    of its embeddings of the members of prototype k, this batch counted in and with a gradient, brought to unit length
    as C is. The structure term compares the student's own map with C in either case. Without a source of prototypes,
    the captions of the batch are the map.

    Args:
        dim: Width of the embeddings.
        prototypes: Where prototypes come from.
        corpus: All teacher embeddings; needed for corpus_landmarks.
        num_prototypes: Size of the map; each costs dim float32, and batch float32 a few times over.
        coarse_prototypes: Size of a second map, whose loss is averaged with the first's; 0 for none.
        teacher_temperature: Temperature of p; a lower one looks at fewer prototypes.
        student_temperature: Temperature of q; where it is learnt, at the first step.
        learn_temperature: Learn the student's temperature, not below 0.01.
        targets: "soft" for p, or "hard" for the nearest landmark alone.
        back_translation: Score images against the student's own map, so that a gap between the two spaces does not
            distort the relations; little then ties the two, so retrieval needs a second objective beside it.
        momentum: Share of the student's own map that a batch leaves in place.
        structure_weight: Weight of the structure term; 0 leaves it out.
        structure_prototypes: Prototypes in that term, those with members in the batch first, the others at random;
            its time grows with the third power.
        own_caption: Add each pair's own caption to its landmarks, as SEED does (arXiv:2101.04731).
        corpus_landmarks: Captions of the corpus, others at every step, that are landmarks beside the prototypes.
        symmetric: Weight of the other direction: each landmark relates to the images of the batch as to their captions.

    The coarse map uses neither own captions nor the corpus: beside the nearest captions, coarse relations vanish.

    Raises:
        ProtoRKDError: If an option is out of range, prototypes or the corpus are missing where an option needs them,
            the prototypes have another width, or the second map would be the first again.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        rows: (batch,), int64: the corpus row of each caption; with own_caption, it is left out where it is drawn too.
        returns: (), float32, at least 0 up to rounding.
    """

    def __init__(
        self,
        *,
        dim: int,
        prototypes: PrototypeSource | None = None,
        corpus: Corpus | None = None,
        num_prototypes: int = 1024,
        coarse_prototypes: int = 0,
        teacher_temperature: float = 0.05,
        student_temperature: float = 0.07,
        learn_temperature: bool = False,
        targets: str = "soft",
        back_translation: bool = False,
        momentum: float = 0.9,
        structure_weight: float = 0.0,
        structure_prototypes: int = 256,
        own_caption: bool = False,
        corpus_landmarks: int = 0,
        symmetric: float = 0.0,
    ) -> None:
        super().__init__()
        check_above_zero("proto-rkd", teacher_temperature=teacher_temperature)
        _check_not_negative(
            structure_weight=structure_weight,
            symmetric=symmetric,
            coarse_prototypes=coarse_prototypes,
            corpus_landmarks=corpus_landmarks,
        )
        if targets not in TARGETS:
            raise ProtoRKDError(f"targets of proto-rkd must be one of {', '.join(TARGETS)}; got {targets!r}.")
        if coarse_prototypes == 1:
            raise ProtoRKDError("coarse_prototypes of proto-rkd must be 0 or at least 2; got 1.")
        if structure_prototypes < 3:
            raise ProtoRKDError(
                f"structure_prototypes of proto-rkd must be at least 3, for an angle; got {structure_prototypes}."
            )
        self.teacher_scale = 1 / teacher_temperature
        self.student_scale = build_student_scale(
            "proto-rkd", student_temperature=student_temperature, learn_temperature=learn_temperature
        )
        self.hard = targets == "hard"
        self.back_translation = back_translation
        self.structure = RKDLoss()
        self.structure_weight = structure_weight
        self.structure_prototypes = structure_prototypes
        self.own_caption = own_caption
        self.symmetric = symmetric
        with_means = back_translation or structure_weight > 0
        new_map = partial(
            build_map, "proto-rkd", prototypes=prototypes, dim=dim, momentum=momentum, with_means=with_means
        )
        self.map = new_map(num_prototypes=num_prototypes)
        self.coarse_map = new_map(num_prototypes=coarse_prototypes) if coarse_prototypes else None
        if self.coarse_map is not None:
            _check_differ(self.map.centroids, self.coarse_map.centroids)
        self.corpus_draw = _draw_from(corpus, corpus_landmarks) if corpus_landmarks else None

    def forward(self, *, student: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the loss, this batch counted in the student's own map; in training, keep that map and go on."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            student = unit_rows(student)
            teacher = unit_rows(teacher.detach()).to(student.dtype)
            loss = self._loss_on(self.map, student, teacher, self._extra_landmarks(teacher, rows))
            if self.coarse_map is not None:
                nothing = _ExtraLandmarks(teacher[:0], is_own=None, own_caption=False)
                loss = (loss + self._loss_on(self.coarse_map, student, teacher, nothing)) / 2
        if self.training:
            self.step.add_(1)
            if self.corpus_draw is not None:
                self.corpus_draw.advance(teacher)
        return loss

    def _extra_landmarks(self, teacher: Tensor, rows: Tensor | None) -> "_ExtraLandmarks":
        if self.corpus_draw is None:
            return _ExtraLandmarks(teacher[:0], is_own=None, own_caption=self.own_caption)
        captions, drawn_rows = self.corpus_draw.keys()
        is_own = None if rows is None else rows[:, None].to(drawn_rows.device) == drawn_rows
        return _ExtraLandmarks(captions.to(teacher.dtype), is_own=is_own, own_caption=self.own_caption)

    def _loss_on(
        self, prototype_map: PrototypeMap, student: Tensor, teacher: Tensor, extra: "_ExtraLandmarks"
    ) -> Tensor:
        prototypes = prototype_map.prototypes(teacher)
        teacher_scale, student_scale = self.teacher_scale, self.student_scale()
        teacher_scores = (teacher_scale * teacher) @ _joined(prototypes, extra.captions).T
        own_map = prototypes
        if self.back_translation or self.structure_weight:
            nearest = teacher_scores[:, : len(prototypes)].argmax(dim=1)
            own_map = prototype_map.translate(student=student, nearest=nearest, prototypes=prototypes)
        related = own_map if self.back_translation else prototypes
        student_scores = (student_scale * student) @ _joined(related, extra.captions).T  # (batch, landmarks)

        loss = student.new_zeros(())
        if self.symmetric:
            loss = loss + self.symmetric * column_loss(student=student_scores, teacher=teacher_scores)
        if self.structure_weight:
            chosen = choose_prototypes(nearest, len(prototypes), size=self.structure_prototypes, seed=self.steps_taken)
            structure = self.structure(student=own_map[chosen], teacher=prototypes[chosen])
            loss = loss + self.structure_weight * structure
        if extra.own_caption:
            left_out = None if extra.is_own is None else nn.functional.pad(extra.is_own, (len(prototypes), 0))
            student_scores = with_own_caption(student_scores, student, teacher, scale=student_scale, left_out=left_out)
            teacher_scores = with_own_caption(teacher_scores, teacher, teacher, scale=teacher_scale, left_out=left_out)
        return loss + row_loss(student=student_scores, teacher=teacher_scores, hard=self.hard)


class _ExtraLandmarks(NamedTuple):
    """Landmarks beside the prototypes.

    Shapes:
        captions: (drawn, dim), unit rows, of the corpus.
        is_own: (batch, drawn), bool: which of them is a row's own caption; None where that is not known.
        own_caption: whether each row's own caption is one more.
    """

    captions: Tensor
    is_own: Tensor | None
    own_caption: bool


def _joined(prototypes: Tensor, captions: Tensor) -> Tensor:
    return torch.cat([prototypes, captions]) if len(captions) else prototypes


def _draw_from(corpus: Corpus | None, size: int) -> CorpusDraw:
    if corpus is None:
        raise ProtoRKDError(
            f"corpus_landmarks of proto-rkd must be 0 where no corpus of teacher embeddings is given; got {size}. "
            "Pass corpus=, or leave the option out."
        )
    return CorpusDraw(corpus, size)


def _check_not_negative(**options: float) -> None:
    for name, value in options.items():
        if not (math.isfinite(value) and value >= 0):
            raise ProtoRKDError(f"{name} of proto-rkd must be a finite number, not negative; got {value}.")


def _check_differ(centroids: Tensor | None, coarse: Tensor | None) -> None:
    if centroids is None or coarse is None:
        raise ProtoRKDError(
            "coarse_prototypes of proto-rkd must be 0 where no prototypes are given. Pass prototypes=, or leave it out."
        )
    if len(centroids) == len(coarse):
        raise ProtoRKDError(
            "coarse_prototypes of proto-rkd must give a second map; got as many prototypes as in the first, "
            f"{len(coarse)}. Ask for another number, or leave the option out; a given set of prototypes is one map."
        )
