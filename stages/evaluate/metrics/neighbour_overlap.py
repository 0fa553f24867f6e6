"""Compare two spaces: does the student place two images near each other where the teacher does so with captions?"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.components.metrics.embedding_space import draw_rows, paired_rows, spearman
from stages.components.metrics.space_comparison import MIN_ROWS, debiased_cka, neighbour_overlap
from stages.components.metrics.unit_rows import exact_scores


@exact_scores()
def neighbourhood_metrics(
    *,
    image_embeddings: Tensor,
    caption_embeddings: Tensor,
    caption_image: Tensor,
    k: int = 10,
    sample_size: int = 2_000,
    seed: int = 0,
) -> dict[str, float]:
    """Compare the student's space of the images with the teacher's, in which an image is the mean of its captions.

    Equal similarities count as the mean over all orders of the tied neighbours, in each space separately. A student
    that gives every image the same embedding therefore scores exactly `neighbourhood_chance`.

    Args:
        image_embeddings: The student's embeddings, one row per image.
        caption_embeddings: The teacher's embeddings, one row per caption.
        caption_image: Row of the image that each caption describes; every image has at least one caption.
        k: Number of neighbours of each image that are compared.
        sample_size: Most images whose pairs the similarity measures take; more are sampled down to this size.
        seed: Seed of that sample.

    Returns:
        ``neighbour_overlap@k``: percentage of the k nearest other images that the two spaces share; left out for k
        images or fewer.
        ``similarity_spearman``: rank correlation of the cosines of all pairs of images, from -1 to 1.
        ``cka``: linear centred kernel alignment, at most 1 (Kornblith et al., arXiv:1905.00414), with the
        unbiased estimator (Nguyen et al., arXiv:2010.15327): unrelated spaces give 0 on average, however few the
        images. Both are 0 for a collapsed space, and left out for fewer than four images.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
        ValueError: the shapes do not fit together, a caption's image is out of range, or an image has no caption.

    Shapes:
        image_embeddings: (images, dim), float, any scale; caption_embeddings: (captions, dim), float, any scale.
        caption_image: (captions,), int64.
    """
    if k < 1:
        raise ValueError(f"k must be a whole number from 1; got {k}.")
    student, captions, caption_image = paired_rows(
        image_embeddings=image_embeddings, caption_embeddings=caption_embeddings, caption_image=caption_image
    )
    teacher = normalize(torch.zeros_like(student).index_add_(0, caption_image, captions), dim=1)
    metrics = {}
    if len(student) > k:
        metrics[f"neighbour_overlap@{k}"] = neighbour_overlap(student, teacher, k=k)
    rows = draw_rows(len(student), limit=sample_size, seed=seed)
    if len(rows) >= MIN_ROWS:
        pair = (space[rows].double() @ space[rows].double().T for space in (student, teacher))
        metrics |= _structure(*pair)
    return metrics


def neighbourhood_chance(*, num_images: int, k: int = 10) -> dict[str, float]:
    """Give what `neighbourhood_metrics` gives on average for unrelated spaces, under the same keys."""
    overlap = {f"neighbour_overlap@{k}": 100 * k / (num_images - 1)} if num_images > k else {}
    return overlap | ({"similarity_spearman": 0.0, "cka": 0.0} if num_images >= MIN_ROWS else {})


def _structure(student: Tensor, teacher: Tensor) -> dict[str, float]:
    first, second = torch.triu_indices(len(student), len(student), offset=1)
    return {
        "similarity_spearman": spearman(student[first, second].numpy(), teacher[first, second].numpy()),
        "cka": debiased_cka(student, teacher),
    }
