"""SigLIP: each image and caption of the batch by themselves, as a pair or as none."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.embeddings import check_above_zero, check_same_shape, unit_rows
from stages.distill.objectives.parts.negatives import mean_over_rows
from stages.distill.objectives.parts.positives import PairRules


class SigLIPLoss(nn.Module):
    """Classify each image with each caption of the batch as a pair or as none, each for itself.

    Zhai et al., SigLIP, 2023, arXiv:2303.15343: the sum of -log sigmoid(z_ij (scale s_i . t_j + bias)) over all i and
    j, divided by the batch, where z is 1 for pairs and -1 for others. The logarithm of the scale and the bias are
    learnt; the bias starts low, for nearly all are no pairs. Unlike in `InfoNCELoss` nothing is normalised over the
    batch, so rows are taken block by block, with their gradient at once, and any batch fits.

    Args:
        temperature: Inverse of the scale at the start.
        bias: What is added to all scores at the start.
        merge_duplicates: Images and captions whose pairs have equal captions count as pairs.
        merge_images: Images and captions whose pairs have the same image count as pairs.
        spare_above: An image and a caption whose pairs' captions have a cosine above it are not classified; 1
            classifies all.

    Raises:
        ProtoRKDError: If a number is out of range.

    Shapes:
        student: (batch, dim), float, any scale.
        teacher: (batch, dim), float, any scale; gets no gradient.
        rows: (batch,), int64: the corpus row of each caption; without them equal embeddings are equal captions.
        images: (batch,), int64: equal for equal images; needed for merge_images.
        returns: (), float32, at least 0 up to rounding.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        bias: float = -10.0,
        merge_duplicates: bool = False,
        merge_images: bool = False,
        spare_above: float = 1.0,
    ) -> None:
        super().__init__()
        check_above_zero("siglip", temperature=temperature)
        if not math.isfinite(bias):
            raise ProtoRKDError(f"bias of siglip must be a finite number; got {bias}. The default is -10.")
        self.rules = PairRules(merge_duplicates, merge_images, spare_above)
        self.rules.check("siglip")
        self.unread = frozenset() if merge_images else frozenset({"images"})
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(
        self, *, student: Tensor, teacher: Tensor, rows: Tensor | None = None, images: Tensor | None = None
    ) -> Tensor:
        """Return the sum over captions of the logistic losses, averaged over images."""
        check_same_shape(student=student, teacher=teacher)
        with torch.autocast(student.device.type, enabled=False):
            units = unit_rows(student)
            captions = unit_rows(teacher.detach()).to(units.dtype)
            marks = self.rules.among(captions, teacher=teacher, rows=rows, images=images)
            # The bias as one more dimension: all gradients go through the student's rows.
            scaled = torch.cat([self.logit_scale.exp() * units, self.bias.to(units.dtype).expand(len(units), 1)], dim=1)
            keys = torch.cat([captions, captions.new_ones(len(captions), 1)], dim=1)  # (batch, dim + 1)

            def losses(block: Tensor, part: slice) -> Tensor:
                logits = block @ keys.T  # (rows, batch)
                # -log sigmoid(z) is softplus(z) - z, so pairs need no pass of their own.
                if marks.is_identity:
                    of_pairs = torch.linalg.vecdot(block, keys[part])
                else:
                    of_pairs = logits.masked_fill(~marks.positives(part), 0).sum(dim=1)
                of_all, spared = softplus(logits), marks.spared(part)
                summed: Tensor = (of_all if spared is None else of_all.masked_fill(spared, 0)).sum(dim=1) - of_pairs
                return summed

            return mean_over_rows(losses, scaled)
