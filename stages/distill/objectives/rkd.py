"""Relational knowledge distillation: distances and angles inside the batch, without a cube of angles in memory."""

import math
from itertools import product
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.embeddings import check_same_batch, full_precision

# Two rows coincide when their squared distance is lost in the rounding of the Gram matrix.
_COINCIDENCE_ULPS = 32
# Angles held at once. Larger blocks come fresh from the system each time on a CPU, page by page: twice as slow.
_BLOCK_ELEMENTS_CPU, _BLOCK_ELEMENTS_GPU = 1 << 20, 1 << 25

_TILES = 8  # that the rows of angles are cut into: of n^2 boxes, n * (n + 1) / 2 are computed


class RKDLoss(nn.Module):
    """Give the student's batch the shape of the teacher's: the same relative distances, the same angles.

    Park et al., RKD, 2019, arXiv:1904.05068. Value and gradient are those of the authors' code: smooth L1 averaged
    over all batch^2 distances and all batch^3 angles, degenerate ones included as 0, on embeddings that are not
    normalised. We depart from it in memory: it builds tensors of (batch, batch, dim) and (batch, batch, batch), here
    the angles come from the Gram matrix, a box of them at a time, which leaves its gradient and is forgotten.

    The loss ignores translation, rotation and common scale, so it fixes no position: the widths may differ, and
    retrieval across student and teacher needs a second objective beside it. A batch of one has no relations: loss 0.

    Args:
        distance_weight: Weight of the distance term; 0 leaves the term out.
        angle_weight: Weight of the angle term; 0 leaves the term out.
        angle_block: Vertices whose angles are held at once, each batch^2 float32; changes memory and speed only. 0: as
            many as make 4 MB on a CPU, which is as fast as it gets there, and 128 MB on a GPU.

    Raises:
        ProtoRKDError: If a weight is negative or not finite, both are 0, or angle_block is below 0.

    Shapes:
        student: (batch, student_dim), float; computed in float32 also under autocast.
        teacher: (batch, teacher_dim), float; gets no gradient.
        returns: (), float32, at least 0.
    """

    def __init__(self, *, distance_weight: float = 0.5, angle_weight: float = 1.0, angle_block: int = 0) -> None:
        super().__init__()
        weights = (distance_weight, angle_weight)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
            raise ProtoRKDError(
                "distance_weight and angle_weight of rkd must be finite, not negative and not both 0; "
                f"got {distance_weight} and {angle_weight}. The paper's are 0.5 and 1."
            )
        if angle_block < 0:
            raise ProtoRKDError(f"angle_block of rkd must be 0 or more; got {angle_block}. 0 chooses by the batch.")
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight
        self.angle_block = angle_block

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the weighted sum of the distance and the angle term."""
        check_same_batch(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            student_relations = Relations.of(student)
            teacher_relations = Relations.of(teacher.detach())
            loss = student_relations.gram.new_zeros(())
            if self.distance_weight:
                loss = loss + self.distance_weight * distance_loss(student_relations, teacher_relations)
            if self.angle_weight:
                loss = loss + self.angle_weight * angle_loss(
                    student_relations, teacher_relations, block=self.angle_block or _block_of(student)
                )
        return loss


class Relations(NamedTuple):
    """Inner products and distances of a set of embeddings, up to translation and scale.

    Shapes:
        gram: (batch, batch), float32 or float64, of the embeddings after centring and scaling.
        distances: (batch, batch), the same dtype, 0 where two rows coincide.
        inverse_distances: (batch, batch), the same dtype, 0 where two rows coincide.
    """

    gram: Tensor
    distances: Tensor
    inverse_distances: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> Self:
        """Relate the rows of ``embeddings``, (batch, dim), float; gradients are finite also where rows coincide."""
        embeddings = _standardised(full_precision(embeddings))
        gram = embeddings @ embeddings.T
        # The diagonal of this very product, so that the rounding of equal rows cancels.
        squared_norms = gram.diagonal()
        norm_sums = squared_norms[:, None] + squared_norms[None, :]
        squared_distances = norm_sums - 2 * gram
        coincide = squared_distances <= _COINCIDENCE_ULPS * torch.finfo(gram.dtype).eps * norm_sums
        coincide.fill_diagonal_(fill_value=True)
        # Masked before the root as well as after: its gradient at 0 is infinite, and 0 times that is not a number.
        distances = squared_distances.masked_fill(coincide, 1.0).sqrt()
        return cls(gram, distances.masked_fill(coincide, 0.0), distances.reciprocal().masked_fill(coincide, 0.0))


def distance_loss(student: Relations, teacher: Relations) -> Tensor:
    """Compute smooth L1 between distances, divided by each side's mean over distinct pairs, averaged over batch^2."""
    return nn.functional.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


def angle_loss(student: Relations, teacher: Relations, *, block: int) -> Tensor:
    """Smooth L1 between the cosines of the angles at i between j and k, averaged over batch^3. Differentiable once.

    Args:
        student: Relations of the student's embeddings.
        teacher: Relations of the teacher's embeddings; constants.
        block: No tensor has more than block * batch^2 elements.
    """
    loss: Tensor = _AngleLoss.apply(student.gram, student.inverse_distances, teacher, block)
    return loss


def _block_of(embeddings: Tensor) -> int:
    most = _BLOCK_ELEMENTS_GPU if embeddings.device.type == "cuda" else _BLOCK_ELEMENTS_CPU
    return max(1, most // len(embeddings) ** 2)


def _standardised(embeddings: Tensor) -> Tensor:
    """Move the mean to 0 and the mean square to 1, so that the Gram matrix keeps its precision.

    Mean and scale count as constants: relations ignore both, so the gradient is the same, and exact.
    """
    centred = embeddings - embeddings.detach().mean(dim=0)
    scale = centred.detach().square().mean().sqrt()
    return centred / scale.clamp_min(torch.finfo(scale.dtype).tiny)


def _relative_distances(relations: Relations) -> Tensor:
    distances = relations.distances
    num_pairs = max(1, len(distances) * (len(distances) - 1))
    mean = distances.sum() / num_pairs
    return distances / mean.clamp_min(torch.finfo(mean.dtype).eps)


class _AngleLoss(torch.autograd.Function):
    """Value and gradient in one go, a box of angles at a time, so that no angle is kept or computed twice.

    The angle between j and k is that between k and j: of the square of all pairs, boxes beside the diagonal count
    twice, and their mirror images are left out.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, inverses: Tensor, teacher: Relations, block: int) -> Tensor:
        size = len(gram)
        side = -(-size // _TILES)
        num_vertices = max(1, block * size // side)
        total = gram.new_zeros(())
        gradients = _Gradients(torch.zeros_like(gram), torch.zeros_like(gram)) if any(ctx.needs_input_grad) else None
        for start, vertex in product(range(0, size, side), range(0, size, num_vertices)):
            vertices, tile = slice(vertex, vertex + num_vertices), slice(start, start + side)
            for beside, weight in ((tile, 1.0), (slice(start + side, size), 2.0)):
                if beside.start < size:
                    box = _Box(vertices, tile, beside)
                    total += weight * _add_box(box, Relations(gram, gram, inverses), teacher, gradients, weight)
        if gradients is not None:
            ctx.save_for_backward(*(gradient.div_(size**3) for gradient in gradients))
        return total / size**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        for_gram, for_inverses = ctx.saved_tensors
        return grad_loss * for_gram, grad_loss * for_inverses, None, None


class _Gradients(NamedTuple):
    """Gradients of the Gram matrix and of the inverse distances, added up box by box: (batch, batch) each."""

    gram: Tensor
    inverses: Tensor


class _Box(NamedTuple):
    """Angles at some vertices i, between some rows j and some k."""

    i: slice
    j: slice
    k: slice


def _add_box(box: _Box, student: Relations, teacher: Relations, gradients: _Gradients | None, weight: float) -> Tensor:
    """Return the sum of smooth L1 over a box, (), and add its weighted gradient to the others."""
    i, j, k = box
    cosines, errors = _cosines(student, box), _cosines(teacher, box)
    torch.sub(cosines, errors, out=errors)
    slopes = errors.clamp(-1, 1)
    # e^2 / 2 up to 1, |e| - 1 / 2 beyond: slope * (e - slope / 2)
    loss = torch.vdot(slopes.flatten(), errors.flatten()) - torch.vdot(slopes.flatten(), slopes.flatten()) / 2
    if gradients is None:
        return loss
    # A cosine is inner * inverse_j * inverse_k, so slope * cosine, added up, is inverse_j times the gradient of it.
    cosines.mul_(slopes)
    to_j, to_k = student.inverse_distances[i, j], student.inverse_distances[i, k]
    for part, sums, inverses in ((j, cosines.sum(dim=2), to_j), (k, cosines.sum(dim=1), to_k)):
        gradients.inverses[i, part] += weight * torch.where(inverses > 0, sums / inverses, 0)
    slopes.mul_(to_j[:, :, None]).mul_(to_k[:, None, :])
    gradients.gram[j, k].add_(slopes.sum(dim=0), alpha=weight)
    diagonal = gradients.gram.diagonal()
    for part, sums in ((j, slopes.sum(dim=2)), (k, slopes.sum(dim=1))):
        gradients.gram[i, part].sub_(sums, alpha=weight)
        diagonal[i].add_(sums.sum(dim=1), alpha=weight / 2)
    return loss


def _cosines(relations: Relations, box: _Box) -> Tensor:
    """Compute the cosine of the angle at i between j and k, 0 where i coincides with j or k: (i, j, k)."""
    i, j, k = box
    gram, inverses = relations.gram, relations.inverse_distances
    # (e_j - e_i).(e_k - e_i) = G_jk - G_ij - G_ik + G_ii, with the last term shared out between the two before it.
    offsets = gram[i] - gram.diagonal()[i, None] / 2
    inner = gram[None, j, k] - offsets[:, j, None]
    return inner.sub_(offsets[:, None, k]).mul_(inverses[i, j, None]).mul_(inverses[i, None, k])
