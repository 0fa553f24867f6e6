"""Landmarks that embeddings are related to: constant prototypes, and where the student puts their members."""

import math

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.corpus import PrototypeSource
from stages.distill.objectives.parts.embeddings import check_above_zero, unit_rows

_MAX_SCALE = 100.0  # CLIP's: beyond it, training becomes unstable


class PrototypeMap(nn.Module):
    """Prototypes of the teacher's space, and a running mean of the student's embeddings for each.

    The prototypes are constant and come from their source anew in every run, so they are no part of the state. Without
    a source the batch's own captions are the prototypes, other ones at every step, and no running mean outlasts it.

    The mean of prototype k starts at prototype k itself. Each batch that has members of k, images whose caption is
    nearest to k, moves it: momentum * old + (1 - momentum) * mean of the members.

    Args:
        centroids: The prototypes, or None for the batch's own captions.
        momentum: Share of the old mean that stays.
        with_means: Whether `translate` is going to be called; means cost as much memory as the prototypes.

    Shapes:
        centroids: (num_prototypes, dim), float32, unit length.
    """

    centroids: Tensor | None
    means: Tensor | None

    def __init__(self, centroids: Tensor | None, *, momentum: float, with_means: bool) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centroids", centroids, persistent=False)
        self.register_buffer("means", centroids.clone() if with_means and centroids is not None else None)

    def prototypes(self, teacher: Tensor) -> Tensor:
        """Return the prototypes, (num_prototypes, dim), in the dtype of ``teacher``, unit rows."""
        return teacher if self.centroids is None else self.centroids.to(teacher.dtype)

    def translate(self, *, student: Tensor, nearest: Tensor, prototypes: Tensor) -> Tensor:
        """Say where the prototypes lie for the student, this batch included, with a gradient to it.

        Prototypes have unit length, so the means are brought to it here; they are kept as they are, in training only.

        Shapes:
            student: (batch, dim), float32 or float64, unit rows.
            nearest: (batch,), int64: which prototype each image's caption belongs to.
            prototypes: (num_prototypes, dim), as `prototypes` gave them.
            returns: (num_prototypes, dim), the student's dtype, unit rows.
        """
        old = prototypes if self.means is None else self.means.to(student.dtype)
        means = move_means(old, student, nearest, momentum=self.momentum)
        if self.training and self.means is not None:
            self.means.copy_(means.detach())
        return unit_rows(means)


def move_means(old: Tensor, embeddings: Tensor, members_of: Tensor, *, momentum: float) -> Tensor:
    """Move the mean of every cluster that has members in the batch; the rest stay.

    Members are added up in the order of the batch, so that all processes get the same means.

    Shapes:
        old: (clusters, dim).
        embeddings: (batch, dim), the same dtype.
        members_of: (batch,), int64, from 0 to clusters - 1.
        returns: (clusters, dim), memory of its own.
    """
    ordered, order = members_of.sort(stable=True)
    starts = torch.searchsorted(ordered, torch.arange(len(old) + 1, device=old.device))
    batch_means = nn.functional.embedding_bag(order, embeddings, starts[:-1], mode="mean")
    return torch.where(starts.diff()[:, None] > 0, old.lerp(batch_means, 1 - momentum), old)


class StudentScale(nn.Module):
    """Factor of the student's cosines: the inverse of its temperature.

    Args:
        temperature: Temperature of the student's scores; where it is learnt, at the first step.
        learn: Learn its logarithm; like CLIP's (arXiv:2103.00020), training keeps the scale at 100 at most.
    """

    def __init__(self, *, temperature: float, learn: bool) -> None:
        super().__init__()
        self._scale = 1 / temperature
        self.log_scale = nn.Parameter(torch.tensor(math.log(self._scale))) if learn else None

    def forward(self) -> Tensor | float:
        """Return the scale, a scalar with a gradient where it is learnt."""
        if self.log_scale is None:
            return self._scale
        if self.training:
            with torch.no_grad():
                self.log_scale.clamp_(max=math.log(_MAX_SCALE))
        return self.log_scale.exp()


def build_map(
    objective: str,
    *,
    prototypes: PrototypeSource | None,
    num_prototypes: int,
    dim: int,
    momentum: float,
    with_means: bool,
) -> PrototypeMap:
    """Get prototypes from their source, and make their map.

    Args:
        objective: Name that errors give.
        prototypes: Where they come from; None for the batch's own captions.
        num_prototypes: How many to ask for.
        dim: Their width.
        momentum: Of the student's running means.
        with_means: Whether the student's means are wanted.

    Raises:
        ProtoRKDError: If num_prototypes is below 2, the momentum is not from 0 to 1, or the source gives prototypes
            of another width.
    """
    if num_prototypes < 2:
        raise ProtoRKDError(
            f"num_prototypes of {objective} must be at least 2; got {num_prototypes}. The default is 1024."
        )
    if not 0 <= momentum <= 1:
        raise ProtoRKDError(f"momentum of {objective} must be from 0 to 1; got {momentum}. The default is 0.9.")
    if prototypes is None:
        return PrototypeMap(None, momentum=momentum, with_means=with_means)
    centroids = prototypes(num_prototypes)
    if centroids.ndim != 2 or centroids.shape[1] != dim:
        raise ProtoRKDError(
            f"Prototypes for {objective} must have the teacher's width {dim}; got shape {tuple(centroids.shape)}. "
            "Take prototypes of the same teacher's embeddings."
        )
    return PrototypeMap(unit_rows(centroids.detach()), momentum=momentum, with_means=with_means)


def build_student_scale(objective: str, *, student_temperature: float, learn_temperature: bool) -> StudentScale:
    """Make the student's scale from the options of its temperature.

    Raises:
        ProtoRKDError: If the temperature is not finite and above 0, or is to be learnt and starts below 0.01.
    """
    check_above_zero(objective, student_temperature=student_temperature)
    if learn_temperature and student_temperature < 1 / _MAX_SCALE:
        raise ProtoRKDError(
            f"student_temperature of {objective} must be at least {1 / _MAX_SCALE} where it is learnt; "
            f"got {student_temperature}. Start higher, or leave learn_temperature out."
        )
    return StudentScale(temperature=student_temperature, learn=learn_temperature)
