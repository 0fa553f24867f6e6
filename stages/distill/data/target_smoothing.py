"""Smooth targets: mix each caption's embedding with those of its neighbours in the corpus."""

import torch
from torch import Tensor

from stages.distill.data.targets import Targets
from stages.distill.objectives.parts.embeddings import unit_rows
from stages.distill.objectives.parts.negatives import draw_rows

_MOST_RELATIONS = 1 << 27  # of a batch to landmarks, at once


class TargetSmoothing:
    """Mix each target with the mean of the corpus as seen from it.

    A caption is one of many that would fit its image. With landmarks L, captions of the corpus, its relation to them is
    p = softmax(t L^T / temperature), and p L is where captions like it lie. The target becomes
    (1 - share) * t + share * p L, each part and the whole brought to unit length. The teacher is constant, so the
    corpus is exact; a batch, in which most captions have no neighbour, could not give such a mean.

    Args:
        landmarks: Captions of the corpus.
        share: Of the mean in the target, 0 to 1.
        temperature: A low one listens to the nearest captions alone, and at last to the caption itself.

    Shapes:
        landmarks: (num_landmarks, dim), float, on the training device.
    """

    def __init__(self, landmarks: Tensor, *, share: float, temperature: float) -> None:
        self._landmarks = unit_rows(landmarks)
        self._share = share
        self._temperature = temperature

    @classmethod
    def over(cls, targets: Targets, *, share: float, temperature: float, num_landmarks: int) -> "TargetSmoothing":
        """Take the landmarks from the cached embeddings: all of them, or as many, always the same ones."""
        if targets.num_captions <= num_landmarks:
            rows = torch.arange(targets.num_captions)
        else:
            rows = draw_rows(targets.num_captions, num_landmarks, seed=0)
        return cls(targets.gather(rows), share=share, temperature=temperature)

    @torch.no_grad()
    def __call__(self, teacher: Tensor) -> Tensor:
        """Smooth targets.

        Shapes:
            teacher: (batch, dim), float, on the training device.
            returns: (batch, dim), float32, unit rows.
        """
        if len(teacher) * len(self._landmarks) > _MOST_RELATIONS:  # rows do not depend on one another
            return torch.cat(
                [self(part) for part in torch.split(teacher, max(1, _MOST_RELATIONS // len(self._landmarks)))]
            )
        with torch.autocast(teacher.device.type, enabled=False):
            teacher = unit_rows(teacher)
            relation = torch.softmax(teacher @ self._landmarks.T / self._temperature, dim=1)
            return unit_rows(teacher.lerp(unit_rows(relation @ self._landmarks), self._share))
