"""Measure the shape of a space that images and captions share: the gap between the two, and how they fill it."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from stages.components.metrics.embedding_space import draw_rows, paired_rows
from stages.components.metrics.spectrum import blocks_of, centroid_of, covariance_of, effective_ranks
from stages.components.metrics.unit_rows import exact_scores

_MAX_DISTANCES = 2**24  # distances held at once: 64 MiB of float32
_UNIFORMITY_TEMPERATURE = 2.0


@exact_scores()
def geometry_metrics(
    *,
    image_embeddings: Tensor,
    caption_embeddings: Tensor,
    caption_image: Tensor,
    uniformity_rows: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """Measure how far images lie from captions, and how each of the two spreads over the unit sphere.

    Args:
        image_embeddings: One row per image.
        caption_embeddings: One row per caption.
        caption_image: Row of the image that each caption describes; every image has at least one caption.
        uniformity_rows: Most rows whose pairs uniformity takes; more are sampled down to this size.
        seed: Seed of that sample.

    Returns:
        ``modality_gap``: distance of the two centroids, from 0 to 2 (Liang et al., arXiv:2203.02053).
        ``alignment``: mean squared distance of a caption and its image, from 0, the best, to 4 (Wang and Isola,
        arXiv:2005.10242). The others come once as ``<measure>/images`` and once as ``<measure>/captions``:
        ``self_similarity``: mean cosine of two different rows; 1 for a collapsed space.
        ``uniformity``: log of the mean of exp(-2 squared distance) over two different rows (Wang and Isola); 0 for a
        collapsed space, the lower the more even. ``uniformity_num_rows``: how many rows it was measured on.
        ``feature_std``: mean standard deviation of a dimension; 0 for a collapsed space, 1 / sqrt(dim) for an even one
        (Chen and He, arXiv:2011.10566).
        ``effective_rank``: exp of the entropy of the covariance's eigenvalues, from 1 to dim (Roy and Vetterli, The
        Effective Rank, 2007); 0 for a collapsed space.
        Self-similarity and uniformity are left out for a single row.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
        ValueError: the shapes do not fit together, a caption's image is out of range, or an image has no caption.

    Shapes:
        image_embeddings: (images, dim), float, any scale; caption_embeddings: (captions, dim), float, any scale.
        caption_image: (captions,), int64.
    """
    images, captions, caption_image = paired_rows(
        image_embeddings=image_embeddings, caption_embeddings=caption_embeddings, caption_image=caption_image
    )
    metrics = {
        "modality_gap": float((centroid_of(images) - centroid_of(captions)).norm()),
        "alignment": float(squared_distances(images, captions, caption_image).mean()),
    }
    for name, rows in (("images", images), ("captions", captions)):
        metrics |= {f"{measure}/{name}": value for measure, value in _spread(rows).items()}
        if len(rows) > 1:
            sample = rows[draw_rows(len(rows), limit=uniformity_rows, seed=seed)]
            metrics[f"self_similarity/{name}"] = _self_similarity(rows)
            metrics[f"uniformity/{name}"] = _uniformity(sample)
            metrics[f"uniformity_num_rows/{name}"] = float(len(sample))
    return metrics


def squared_distances(images: Tensor, captions: Tensor, caption_image: Tensor) -> Tensor:
    """Measure the squared distance of each caption from its image: (captions,), float64."""
    blocks = zip(blocks_of(captions), blocks_of(caption_image), strict=True)
    return torch.cat([(block - images[of]).double().square().sum(dim=1) for block, of in blocks])


def kernel_blocks(rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield uniformity's exp(-2 squared distance) between a block of rows and all rows; 0 for a row and itself.

    Shapes:
        rows: (rows, dim), float32, of unit length.
        yields: (block,), int64, the block's rows; and (block, rows), float32.
    """
    num_rows = len(rows)
    squared_norms = rows.square().sum(dim=1)
    for own in torch.split(torch.arange(num_rows), max(1, _MAX_DISTANCES // num_rows)):
        squared = squared_norms[own, None] + squared_norms - 2 * rows[own] @ rows.T
        kernel = squared.clamp_min_(0).mul_(-_UNIFORMITY_TEMPERATURE).exp_()
        kernel[torch.arange(len(own)), own] = 0
        yield own, kernel


def _self_similarity(rows: Tensor) -> float:
    """Average the cosine over all pairs of different rows: the squared norm of the sum, less each row's own square."""
    num_rows = len(rows)
    all_pairs = rows.sum(dim=0, dtype=torch.float64).square().sum()
    own = math.fsum(float(block.double().square().sum()) for block in blocks_of(rows))
    return (float(all_pairs) - own) / (num_rows * (num_rows - 1))


def _uniformity(rows: Tensor) -> float:
    total = math.fsum(float(kernel.sum(dtype=torch.float64)) for _, kernel in kernel_blocks(rows))
    return math.log(total / (len(rows) * (len(rows) - 1)))


def _spread(rows: Tensor) -> dict[str, float]:
    covariance = covariance_of(rows)
    return {
        "feature_std": float(covariance.diagonal().clamp_min(0).sqrt().mean()),
        "effective_rank": float(effective_ranks(torch.linalg.eigvalsh(covariance)[None])),
    }
