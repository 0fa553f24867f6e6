"""STRUCTURE: images stay as like and unlike one another as the features of a frozen backbone have them."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.embeddings import check_above_zero, check_same_batch, unit_rows


class StructureLoss(nn.Module):
    """Keep the relations between the images of a batch as the features have them that the student embeds.

    Gröger et al., STRUCTURE, 2025, arXiv:2506.16895. Features and embeddings are brought to length 1 and centred over
    the batch; P and Q are the row-wise softmax of their products over a temperature. The loss is the Jensen-Shannon
    divergence of the rows of P^l and Q^l, l steps of a walk from image to image, averaged over rows, weighted by 1 / l
    and averaged over the levels l. It gives the head no place in the teacher's space, so it stands beside an objective
    that does, as ``--loss infonce=1 --loss structure=10``, the authors' weight.

    We depart from the authors in that text has no such term, for captions are embedded by a frozen teacher alone, and
    in that the weight does not rise over the first steps.

    Args:
        temperature: Temperature of both softmaxes.
        levels: Number of powers; each beyond the first costs three products of (batch, batch) matrices.

    Raises:
        ProtoRKDError: If the temperature is not finite and above 0, or levels is below 1.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, teacher_dim), float; not looked at.
        features: (batch, feature_dim), float, any scale; get no gradient.
        returns: (), float32, from 0 to log 2. A few (batch, batch) float32 are held for each level.
    """

    def __init__(self, *, temperature: float = 0.07, levels: int = 1) -> None:
        super().__init__()
        check_above_zero("structure", temperature=temperature)
        if levels < 1:
            raise ProtoRKDError(f"levels of structure must be at least 1; got {levels}. The default is 1.")
        self.temperature = temperature
        self.levels = levels

    def forward(self, *, student: Tensor, teacher: Tensor, features: Tensor) -> Tensor:
        """Return the divergence of the relations between images in embeddings and in features."""
        check_same_batch(student=student, teacher=teacher)
        check_same_batch(student=student, teacher=features)
        with torch.autocast(student.device.type, enabled=False):
            wanted = self._powers(unit_rows(features.detach()).to(unit_rows(student).dtype))
            found = self._powers(unit_rows(student))
            terms = [_divergence(p, q) / level for level, (p, q) in enumerate(zip(wanted, found, strict=True), start=1)]
            return torch.stack(terms).mean()

    def _powers(self, rows: Tensor) -> Iterator[Tensor]:
        """Yield the relations of unit rows, (batch, batch), and their powers; rows add up to 1."""
        centred = rows - rows.mean(dim=0)
        relations = power = (centred @ centred.T / self.temperature).softmax(dim=1)
        yield power
        for _ in range(1, self.levels):
            power = power @ relations
            yield power


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Compute the Jensen-Shannon divergence of rows of shares, averaged over rows: (batch, columns) each, to ()."""
    # Shares that underflow to 0 add nothing, and have no infinite gradient.
    p, q = p.clamp_min(_LEAST), q.clamp_min(_LEAST)
    log_mean = ((p + q) / 2).log()
    return (p * (p.log() - log_mean) + q * (q.log() - log_mean)).sum(dim=1).mean() / 2


_LEAST = 1e-30  # share; its logarithm is finite in float32
