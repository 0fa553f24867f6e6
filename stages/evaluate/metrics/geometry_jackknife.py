"""Measure the geometry of a space without each group of images, for the jackknife, in one pass over all rows."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from stages.components.metrics.embedding_space import draw_rows, paired_rows
from stages.components.metrics.spectrum import blocks_of, covariance_of, effective_ranks
from stages.components.metrics.unit_rows import exact_scores
from stages.evaluate.metrics.geometry import kernel_blocks, squared_distances
from stages.evaluate.statistics.bootstrap import Values


@exact_scores()
def geometry_replicates(
    *,
    image_embeddings: Tensor,
    caption_embeddings: Tensor,
    caption_image: Tensor,
    groups: Tensor,
    uniformity_rows: int = 10_000,
    seed: int = 0,
) -> dict[str, Values]:
    """Compute `geometry_metrics` once without each group of images and their captions.

    Sums are kept per group, and a group's share is subtracted from the whole. Uniformity uses one sample, from which
    each group's rows are left out. The eigenvalues of the covariance change, to first order, as the variances along its
    eigenvectors do; the effective rank is computed from these variances.

    Args:
        image_embeddings: As in `geometry_metrics`, which also says what is raised.
        caption_embeddings: As in `geometry_metrics`.
        caption_image: As in `geometry_metrics`.
        groups: Group of each image; no group is empty.
        uniformity_rows: As in `geometry_metrics`.
        seed: As in `geometry_metrics`.

    Returns:
        The measures of `geometry_metrics`, without its number of rows; measures of pairs only where at least two rows
        remain without any group.

    Shapes:
        groups: (images,), int64, from 0.
        returns: (groups,) each, float64.
    """
    images, captions, caption_image = paired_rows(
        image_embeddings=image_embeddings, caption_embeddings=caption_embeddings, caption_image=caption_image
    )
    caption_groups = groups[caption_image]
    sides = {"images": _without_groups(images, groups), "captions": _without_groups(captions, caption_groups)}
    distances = _sums(squared_distances(images, captions, caption_image)[:, None], caption_groups)
    replicates = {
        "modality_gap": (sides["images"].means - sides["captions"].means).norm(dim=1),
        "alignment": _rest(distances)[:, 0] / sides["captions"].sizes,
    }
    for name, rows, of in (("images", images, groups), ("captions", captions, caption_groups)):
        side = sides[name]
        variances = side.mean_squares - side.means.square()
        replicates[f"feature_std/{name}"] = variances.clamp_min(0).sqrt().mean(dim=1)
        replicates[f"effective_rank/{name}"] = effective_ranks(side.variances_along_axes)
        sample = draw_rows(len(rows), limit=uniformity_rows, seed=seed)
        sizes = _rest(torch.bincount(of[sample], minlength=len(side.sizes)))
        if min(side.sizes.min(), sizes.min()) > 1:
            own = side.sizes * side.mean_squares.sum(dim=1)
            all_pairs = (side.sizes[:, None] * side.means).square().sum(dim=1)
            replicates[f"self_similarity/{name}"] = (all_pairs - own) / (side.sizes * (side.sizes - 1))
            replicates[f"uniformity/{name}"] = (
                _kernels(rows[sample], of[sample], num_groups=len(sizes)) / (sizes * (sizes - 1))
            ).log()
    return {name: values.numpy() for name, values in replicates.items()}


class _Side(NamedTuple):
    """Moments of the rows outside each group: sizes (groups,), the others (groups, dim), float64."""

    sizes: Tensor
    means: Tensor
    mean_squares: Tensor
    variances_along_axes: Tensor


def _without_groups(rows: Tensor, groups: Tensor) -> _Side:
    axes = torch.linalg.eigh(covariance_of(rows)).eigenvectors
    sizes = _rest(torch.bincount(groups)).double()
    means = _rest(_sums(rows, groups)) / sizes[:, None]
    squares, along = torch.zeros(2, len(sizes), rows.shape[1], dtype=torch.float64)
    for block, of in zip(blocks_of(rows), blocks_of(groups), strict=True):
        wide = block.double()
        squares.index_add_(0, of, wide.square())
        along.index_add_(0, of, (wide @ axes).square())
    return _Side(
        sizes=sizes,
        means=means,
        mean_squares=_rest(squares) / sizes[:, None],
        variances_along_axes=_rest(along) / sizes[:, None] - (means @ axes).square(),
    )


def _sums(values: Tensor, groups: Tensor) -> Tensor:
    """Sum the values of each group: (groups, dim), float64."""
    sums = torch.zeros(1 + int(groups.max()), values.shape[1], dtype=torch.float64)
    return sums.index_add_(0, groups, values.double())


def _rest(parts: Tensor) -> Tensor:
    """Subtract each group from the sum of all groups."""
    return parts.sum(dim=0) - parts


def _kernels(rows: Tensor, groups: Tensor, *, num_groups: int) -> Tensor:
    """Sum uniformity's kernel over all pairs of different rows outside each group: (groups,), float64."""
    is_member = one_hot(groups, num_groups).float()  # (rows, groups)
    between = torch.zeros(num_groups, num_groups, dtype=torch.float64)
    for own, kernel in kernel_blocks(rows):
        between.index_add_(0, groups[own], (kernel @ is_member).double())
    return between.sum() - between.sum(dim=0) - between.sum(dim=1) + between.diagonal()
