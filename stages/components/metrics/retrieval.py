"""Measure retrieval between captions and images: recall@k and median rank both ways, exact, and fair to ties."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stages.components.metrics.ranking import TIE_TOLERANCE, expected_hits, expected_ranks
from stages.components.metrics.unit_rows import STUDENT_REMEDY, TEACHER_REMEDY, exact_scores, unit_rows


class Matches(NamedTuple):
    """The best candidates of each query, best first.

    Shapes:
        indices: (queries, k), int64, rows of the candidates.
        scores: (queries, k), float32, cosine similarity.
        ranks: (queries,), int64, rank of the first right candidate among all, from 1.
    """

    indices: Tensor
    scores: Tensor
    ranks: Tensor


class Standing(NamedTuple):
    """Counts that give the rank of each query's best right answer, ties included: see `expected_hits`.

    Shapes:
        greater, tied, positives: (queries,), int64, on the CPU; positives from 1.
    """

    greater: Tensor
    tied: Tensor
    positives: Tensor

    def hits(self, *, k: int) -> Tensor:
        """Return the chance of a right answer among the first k, (queries,), float64, 0 to 1; recall@k is its mean."""
        return expected_hits(greater=self.greater, tied=self.tied, positives=self.positives, k=k)

    def ranks(self) -> Tensor:
        """Return the expected rank, from 1, of the first right answer: (queries,), float64."""
        return expected_ranks(greater=self.greater, tied=self.tied, positives=self.positives)


class RetrievalStandings(NamedTuple):
    """The result of comparing all captions with all images once; every retrieval metric follows from it.

    Args:
        text_to_image: Standing of each caption as a query; its image is the one right answer.
        image_to_text: Standing of each image as a query; any of its captions is a right answer.
    """

    text_to_image: Standing
    image_to_text: Standing

    def metrics(self, *, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """Compute the metrics that `retrieval_metrics` returns.

        Raises:
            ValueError: there is no cut-off, or one below 1.
        """
        if not ks or min(ks) < 1:
            raise ValueError(f"ks must be whole numbers from 1; got {tuple(ks)}.")
        directions = self._asdict()
        metrics = {
            f"{direction}/recall@{k}": 100 * float(standing.hits(k=k).mean())
            for direction, standing in directions.items()
            for k in ks
        }
        metrics["mean_recall"] = sum(metrics.values()) / len(metrics)
        for direction, standing in directions.items():
            metrics[f"{direction}/median_rank"] = float(np.median(standing.ranks().numpy()))
        return metrics


class RetrievalRanks(NamedTuple):
    """Expected rank, from 1, of the first right answer to each query.

    Shapes:
        captions: (captions,), float64, rank of each caption's image among the images.
        images: (images,), float64, rank of the first of each image's captions among the captions.
    """

    captions: Tensor
    images: Tensor


def retrieval_metrics(
    *,
    image_embeddings: Tensor,
    caption_embeddings: Tensor,
    caption_image: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    block: int = 1024,
) -> dict[str, float]:
    """Measure how well captions find their images, and images any of their captions, by cosine similarity.

    Equal similarities count as the mean over all orders of the tied candidates. A student that gives every image the
    same embedding therefore scores exactly what `chance_recall` gives, as do zero vectors.

    Args:
        image_embeddings: One row for each image.
        caption_embeddings: One row for each caption.
        caption_image: Row of the image that each caption describes; every image has at least one caption.
        ks: Cut-offs k of recall@k.
        block: Captions and images compared at a time; at most block x block similarities are held at once.

    Returns:
        ``text_to_image/recall@k`` and ``image_to_text/recall@k`` for every k and their mean ``mean_recall``, as
        percentages; and ``text_to_image/median_rank`` and ``image_to_text/median_rank``, where 1 is the best.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
        ValueError: the shapes do not fit together, a caption's image is out of range, or an image has no caption.

    Shapes:
        image_embeddings: (images, dim), float, any scale.
        caption_embeddings: (captions, dim), float, any scale.
        caption_image: (captions,), int64.
    """
    standings = retrieval_standings(
        image_embeddings=image_embeddings,
        caption_embeddings=caption_embeddings,
        caption_image=caption_image,
        block=block,
    )
    return standings.metrics(ks=ks)


def retrieval_ranks(
    *, image_embeddings: Tensor, caption_embeddings: Tensor, caption_image: Tensor, block: int = 1024
) -> RetrievalRanks:
    """Compute the expected rank of every query, both ways; arguments and errors are those of `retrieval_metrics`.

    To get the metrics, too, with a single comparison, take both from `retrieval_standings`.
    """
    standings = retrieval_standings(
        image_embeddings=image_embeddings,
        caption_embeddings=caption_embeddings,
        caption_image=caption_image,
        block=block,
    )
    return RetrievalRanks(captions=standings.text_to_image.ranks(), images=standings.image_to_text.ranks())


def retrieval_standings(
    *, image_embeddings: Tensor, caption_embeddings: Tensor, caption_image: Tensor, block: int = 1024
) -> RetrievalStandings:
    """Compare every caption with every image once, block by block; arguments and errors as in `retrieval_metrics`."""
    images, captions = _unit_pair(image_embeddings, caption_embeddings)
    return score_standings(images=images, captions=captions, caption_image=caption_image, block=block)


@exact_scores()
def score_standings(
    *, images: Tensor, captions: Tensor, caption_image: Tensor, block: int = 1024
) -> RetrievalStandings:
    """Compare every caption with every image once by their inner product, whatever their lengths.

    Args:
        images: One row for each image.
        captions: One row for each caption.
        caption_image: Row of the image that each caption describes; every image has at least one caption.
        block: Captions and images compared at a time.

    Raises:
        ValueError: a caption's image is out of range, or an image has no caption.

    Shapes:
        images: (images, dim), captions: (captions, dim), float32, finite.
        caption_image: (captions,), int64.
    """
    num_captions_of = _count_captions(caption_image, num_captions=len(captions), num_images=len(images))
    caption_image = caption_image.to(images.device)
    caption_score = torch.cat(
        [(captions[rows] * images[caption_image[rows]]).sum(dim=1) for rows in _blocks(len(captions), block)]
    )
    image_score = torch.full((len(images),), -torch.inf, device=images.device)
    image_score.scatter_reduce_(0, caption_image, caption_score, "amax")

    caption_above, caption_level = torch.zeros(2, len(captions), dtype=torch.int64, device=images.device)
    image_above, image_level = torch.zeros(2, len(images), dtype=torch.int64, device=images.device)
    for rows in _blocks(len(captions), block):
        for columns in _blocks(len(images), block):
            scores = captions[rows] @ images[columns].T  # (block, block)
            caption_above[rows] += (scores > caption_score[rows, None] + TIE_TOLERANCE).sum(dim=1, dtype=torch.int32)
            caption_level[rows] += (scores >= caption_score[rows, None] - TIE_TOLERANCE).sum(dim=1, dtype=torch.int32)
            image_above[columns] += (scores > image_score[columns] + TIE_TOLERANCE).sum(dim=0, dtype=torch.int32)
            image_level[columns] += (scores >= image_score[columns] - TIE_TOLERANCE).sum(dim=0, dtype=torch.int32)

    best = caption_score >= image_score[caption_image] - TIE_TOLERANCE
    positives = torch.bincount(caption_image[best].cpu(), minlength=len(num_captions_of))
    return RetrievalStandings(
        text_to_image=_standing(above=caption_above, level=caption_level, positives=torch.ones(len(captions))),
        image_to_text=_standing(above=image_above, level=image_level, positives=positives),
    )


def chance_recall(*, caption_image: Tensor, num_images: int, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Compute the mean of `retrieval_metrics` over all orders of the candidates, under the same keys.

    An image with n captions among N finds one of them in the first k with probability 1 - C(N - n, k) / C(N, k).

    Args:
        caption_image: Row of the image that each caption describes.
        num_images: Number of images.
        ks: Cut-offs k of recall@k.

    Raises:
        ValueError: a caption's image is out of range, or an image has no caption.

    Shapes:
        caption_image: (captions,), int64.
    """
    num_captions = len(caption_image)
    positives = _count_captions(caption_image, num_captions=num_captions, num_images=num_images)
    nothing, one = torch.zeros(num_captions, dtype=torch.int64), torch.ones(num_captions, dtype=torch.int64)
    standings = RetrievalStandings(
        text_to_image=Standing(greater=nothing, tied=(num_images - 1) * one, positives=one),
        image_to_text=Standing(greater=torch.zeros_like(positives), tied=num_captions - positives, positives=positives),
    )
    return standings.metrics(ks=ks)


@exact_scores()
def top_images(
    *, image_embeddings: Tensor, caption_embeddings: Tensor, caption_image: Tensor, captions: Sequence[int], k: int
) -> Matches:
    """Find the k images nearest to each of the given captions, and the rank of the caption's own image.

    Args:
        image_embeddings: One row for each image.
        caption_embeddings: One row for each caption.
        caption_image: Row of the image that each caption describes.
        captions: Rows of the captions that are queries.
        k: Number of images to return, or all if there are fewer. Equal scores come in the order of the rows.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.

    Shapes:
        image_embeddings: (images, dim), float; caption_embeddings: (captions, dim), float.
        caption_image: (captions,), int64.
    """
    images, all_captions = _unit_pair(image_embeddings, caption_embeddings)
    asked = torch.as_tensor(captions, dtype=torch.int64)
    scores = (all_captions[asked.to(all_captions.device)] @ images.T).cpu()
    is_right = caption_image.cpu()[asked, None] == torch.arange(len(images))
    return _best(scores, is_right=is_right, k=k)


@exact_scores()
def top_captions(
    *, image_embeddings: Tensor, caption_embeddings: Tensor, caption_image: Tensor, images: Sequence[int], k: int
) -> Matches:
    """Find the k captions nearest to each of the given images, and the rank of the first that describes it.

    Args:
        image_embeddings: One row for each image.
        caption_embeddings: One row for each caption.
        caption_image: Row of the image that each caption describes.
        images: Rows of the images that are queries.
        k: Number of captions to return, or all if there are fewer. Equal scores come in the order of the rows.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.

    Shapes:
        image_embeddings: (images, dim), float; caption_embeddings: (captions, dim), float.
        caption_image: (captions,), int64.
    """
    all_images, captions = _unit_pair(image_embeddings, caption_embeddings)
    asked = torch.as_tensor(images, dtype=torch.int64)
    scores = (all_images[asked.to(all_images.device)] @ captions.T).cpu()
    return _best(scores, is_right=caption_image.cpu() == asked[:, None], k=k)


def _unit_pair(image_embeddings: Tensor, caption_embeddings: Tensor) -> tuple[Tensor, Tensor]:
    images = unit_rows(image_embeddings, name="Image embeddings", remedy=STUDENT_REMEDY)
    captions = unit_rows(caption_embeddings, name="Caption embeddings", remedy=TEACHER_REMEDY)
    if images.shape[1] != captions.shape[1]:
        raise ValueError(f"Images and captions must share one dim; got {images.shape[1]} and {captions.shape[1]}.")
    return images, captions.to(images.device)


def _blocks(num_rows: int, block: int) -> list[slice]:
    return [slice(start, start + block) for start in range(0, num_rows, block)]


def _count_captions(caption_image: Tensor, *, num_captions: int, num_images: int) -> Tensor:
    """Return the number of captions of each image, (images,), int64, on the CPU."""
    if caption_image.shape != (num_captions,) or num_captions == 0:
        raise ValueError(
            f"caption_image must have shape ({num_captions},) and not be empty; got {tuple(caption_image.shape)}."
        )
    low, high = int(caption_image.min()), int(caption_image.max())
    if low < 0 or high >= num_images:
        raise ValueError(f"caption_image must lie from 0 to {num_images - 1}; got {low} to {high}.")
    counts = torch.bincount(caption_image.cpu(), minlength=num_images)
    if not counts.all():
        raise ValueError(f"Every image must have a caption; got none for image {int((counts == 0).nonzero()[0])}.")
    return counts


def _standing(*, above: Tensor, level: Tensor, positives: Tensor) -> Standing:
    greater, positives = above.cpu(), positives.to(torch.int64)
    # A right answer on the edge of the tolerance may be missing in the count of level scores: hence the clamp.
    return Standing(greater=greater, tied=(level.cpu() - greater - positives).clamp_min(0), positives=positives)


def _best(scores: Tensor, *, is_right: Tensor, k: int) -> Matches:
    ordered, order = scores.sort(dim=1, descending=True, stable=True)
    ranks = is_right.gather(1, order).int().argmax(dim=1) + 1
    return Matches(indices=order[:, :k], scores=ordered[:, :k], ranks=ranks)
