"""Compare two spaces: does the student place two images near each other where the teacher does so with captions?"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.components.metrics.ranking import TIE_TOLERANCE
from stages.components.metrics.unit_rows import exact_scores
from stages.evaluate.metrics.embedding_space import draw_rows, paired_rows, spearman

_MAX_SCORES = 2**24  # similarities held at once: 64 MiB of float32
_MIN_IMAGES = 4  # that the debiased similarity measures need


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
        metrics[f"neighbour_overlap@{k}"] = _overlap(student, teacher, k=k)
    rows = draw_rows(len(student), limit=sample_size, seed=seed)
    if len(rows) >= _MIN_IMAGES:
        pair = (space[rows].double() @ space[rows].double().T for space in (student, teacher))
        metrics |= _structure(*pair)
    return metrics


def neighbourhood_chance(*, num_images: int, k: int = 10) -> dict[str, float]:
    """Give what `neighbourhood_metrics` gives on average for unrelated spaces, under the same keys."""
    overlap = {f"neighbour_overlap@{k}": 100 * k / (num_images - 1)} if num_images > k else {}
    return overlap | ({"similarity_spearman": 0.0, "cka": 0.0} if num_images >= _MIN_IMAGES else {})


def _overlap(student: Tensor, teacher: Tensor, *, k: int) -> float:
    num_rows = len(student)
    total = 0.0
    for own in torch.split(torch.arange(num_rows), max(1, _MAX_SCORES // num_rows)):
        shared = _neighbours(student, own, k=k) * _neighbours(teacher, own, k=k)
        total += float(shared.sum(dtype=torch.float64))
    return 100 * total / (k * num_rows)


def _neighbours(rows: Tensor, own: Tensor, *, k: int) -> Tensor:
    """Compute the chance that a row is among the k nearest of each query, with equal similarities in random order.

    Shapes:
        rows: (rows, dim), float32.
        own: (block,), int64, the query rows; none is its own neighbour.
        returns: (block, rows), float32, from 0 to 1; each row sums to k.
    """
    scores = rows[own] @ rows.T
    scores[torch.arange(len(own)), own] = -torch.inf
    last = scores.topk(k, dim=1).values[:, -1:]
    is_nearer = scores > last + TIE_TOLERANCE
    is_level = (scores >= last - TIE_TOLERANCE) & ~is_nearer
    places = k - is_nearer.sum(dim=1, keepdim=True)
    return is_nearer + is_level * (places / is_level.sum(dim=1, keepdim=True))


def _structure(student: Tensor, teacher: Tensor) -> dict[str, float]:
    first, second = torch.triu_indices(len(student), len(student), offset=1)
    return {
        "similarity_spearman": spearman(student[first, second].numpy(), teacher[first, second].numpy()),
        "cka": _alignment(_centred(student), _centred(teacher)),
    }


def _alignment(student: Tensor, teacher: Tensor) -> float:
    strengths = [float(kernel.square().mean().sqrt()) for kernel in (student, teacher)]
    if min(strengths) <= TIE_TOLERANCE:  # in a collapsed space only rounding is left
        return 0.0
    return float((student * teacher).mean()) / (strengths[0] * strengths[1])


def _centred(kernel: Tensor) -> Tensor:
    """Subtract the mean of every row and column, leaving the diagonal out (U-centring)."""
    num_rows = len(kernel)
    kernel = kernel.clone().fill_diagonal_(0)
    sums = kernel.sum(dim=0)
    means = (sums[:, None] + sums) / (num_rows - 2) - sums.sum() / ((num_rows - 1) * (num_rows - 2))
    return (kernel - means).fill_diagonal_(0)
