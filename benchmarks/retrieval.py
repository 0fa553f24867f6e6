"""Time retrieval block by block against the whole matrix of similarities, counted or sorted, and its product alone."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import Comparison, Limit, compare_peak_memory, compare_time
from benchmarks.settings import Settings
from stages.components.metrics.retrieval import retrieval_ranks

CAPTIONS_AN_IMAGE = 5


def compare(settings: Settings) -> list[Comparison]:
    """Compare at the size of COCO's test split."""
    return compare_retrieval(num_images=5000, dim=768, num_pairs=settings.num_pairs)


def compare_retrieval(*, num_images: int, dim: int, num_pairs: int) -> list[Comparison]:
    """Compare time and memory of the ranks of all queries, both ways, after a check that all ways agree.

    Args:
        num_images: Images; five captions describe each.
        dim: Width of the embeddings.
        num_pairs: Timed pairs of calls.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(num_images, dim, generator=generator)
    caption_image = torch.arange(num_images).repeat_interleave(CAPTIONS_AN_IMAGE)
    captions = images[caption_image] + 4 * torch.randn(len(caption_image), dim, generator=generator)

    def ours() -> tuple[Tensor, Tensor]:
        return retrieval_ranks(image_embeddings=images, caption_embeddings=captions, caption_image=caption_image)

    def product() -> Tensor:
        return torch.stack([(captions @ images[start : start + 1024].T).amax() for start in range(0, num_images, 1024)])

    comparisons = []
    limit = Limit("the matrix product alone", product)
    subject = f"retrieval, {len(captions):,} captions x {num_images:,} images x {dim}"
    for name, rank in (("the whole matrix, counted", counted_ranks), ("the whole matrix, sorted", sorted_ranks)):

        def direct(rank: Callable[[Tensor, Tensor], Tensor] = rank) -> tuple[Tensor, Tensor]:
            scores, is_right = whole_matrix(images=images, captions=captions, caption_image=caption_image)
            return rank(scores, is_right), rank(scores.T, is_right.T)

        for ranks, expected in zip(ours(), direct(), strict=True):
            _check_ranks(ranks, expected)
        comparisons += [
            compare_time(
                f"{subject}: time", baseline_name=name, baseline=direct, ours=ours, num_pairs=num_pairs, limit=limit
            ),
            compare_peak_memory(f"{subject}: peak memory", baseline_name=name, baseline=direct, ours=ours),
        ]
    return comparisons


def whole_matrix(*, images: Tensor, captions: Tensor, caption_image: Tensor) -> tuple[Tensor, Tensor]:
    """Compute every cosine, and mark the right answers: (captions, images), float32 and bool."""
    scores = functional.normalize(captions, dim=1) @ functional.normalize(images, dim=1).T
    return scores, caption_image[:, None] == torch.arange(len(images))


def counted_ranks(scores: Tensor, is_right: Tensor) -> Tensor:
    """Rank the best right candidate by counting those above it: (queries,), int64, from 1."""
    best = scores.masked_fill(~is_right, -torch.inf).amax(dim=1, keepdim=True)
    return 1 + (scores > best).sum(dim=1)


def sorted_ranks(scores: Tensor, is_right: Tensor) -> Tensor:
    """Rank the first right candidate by sorting all of them: (queries,), int64, from 1."""
    order = scores.argsort(dim=1, descending=True)
    return 1 + is_right.gather(1, order).int().argmax(dim=1)


def _check_ranks(ranks: Tensor, expected: Tensor) -> None:
    """Compare ranks, which may differ by the few candidates whose cosines differ by rounding alone."""
    torch.testing.assert_close(ranks, expected.double(), rtol=1e-3, atol=1.0)
