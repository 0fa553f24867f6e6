"""Queries of a retrieval set for the page: captions that find their image, captions that do not, and an even sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.components.metrics.retrieval import RetrievalRanks, retrieval_ranks, top_captions, top_images
from stages.components.report.even_sample import choose_queries
from stages.components.report.thumbnails import Thumbnails
from stages.evaluate.page.gallery import CaptionQuery, FoundCaption, FoundImage, ImageQuery

_NUM_FOUND_IMAGES, _NUM_FOUND_CAPTIONS = 6, 5


@dataclass(frozen=True)
class RetrievalSpace:
    """A retrieval set as a student and its teacher see it; every image has at least one caption.

    Args:
        texts: Captions as text.
        thumbnails: Thumbnails of the images.

    Shapes:
        images: (images, dim), float; captions: (captions, dim), float; queries: (captions, dim), float, the captions as
            they look for their image.
        caption_image: (captions,), int64, the image that each caption describes.
    """

    images: Tensor
    captions: Tensor
    queries: Tensor
    caption_image: Tensor
    texts: list[str]
    thumbnails: Thumbnails

    def ranks(self) -> RetrievalRanks:
        """Rank, from 1, the right answer to every caption and to every image, with ties counted as in the figures."""
        ranks = retrieval_ranks(
            image_embeddings=self.images, caption_embeddings=self.captions, caption_image=self.caption_image
        )
        if self.queries is self.captions:
            return ranks
        as_queries = retrieval_ranks(
            image_embeddings=self.images, caption_embeddings=self.queries, caption_image=self.caption_image
        )
        return ranks._replace(captions=as_queries.captions)

    def first_captions(self) -> dict[int, str]:
        """Return the first caption of each image, to be read out in the image's place."""
        pairs = list(zip(self.caption_image.tolist(), self.texts, strict=True))
        return dict(reversed(pairs))


def choose_hits(ranks: Tensor, *, num: int) -> list[int]:
    """Choose captions whose own image is the nearest one, spread evenly over all such captions.

    Shapes:
        ranks: (captions,), float64.
    """
    hits: list[int] = (ranks == 1).nonzero().flatten().tolist()
    return [hits[place] for place in choose_queries(num, len(hits))]


def choose_misses(ranks: Tensor, caption_image: Tensor, *, num: int) -> list[int]:
    """Choose the captions with the worst ranks above 1, the worst first, and one per image.

    Shapes:
        ranks: (captions,), float64; caption_image: (captions,), int64.
    """
    worst: dict[int, int] = {}
    for caption in ranks.argsort(descending=True, stable=True).tolist():
        if len(worst) == num or ranks[caption] <= 1:
            break
        worst.setdefault(int(caption_image[caption]), caption)
    return list(worst.values())


def caption_queries(space: RetrievalSpace, ranks: Tensor, captions: list[int]) -> tuple[CaptionQuery, ...]:
    """Show some captions with the images that they find.

    Args:
        space: Embeddings of all captions and images.
        ranks: Ranks for all captions.
        captions: Captions to show, by number.
    """
    if not captions:
        return ()
    nearest = top_images(
        image_embeddings=space.images,
        caption_embeddings=space.queries,
        caption_image=space.caption_image,
        captions=captions,
        k=_NUM_FOUND_IMAGES,
    )
    own = space.caption_image[captions]
    similarity = torch.nn.functional.cosine_similarity(space.queries[captions], space.images[own], dim=1)
    first_caption = space.first_captions()

    def show(image: int, score: float, *, is_true: bool) -> FoundImage:
        return FoundImage(
            image=space.thumbnails.image(image),
            caption=first_caption[image],
            path=space.thumbnails.path(image),
            similarity=score,
            is_true=is_true,
        )

    return tuple(
        CaptionQuery(
            caption=space.texts[caption],
            true_image=show(int(own[query]), float(similarity[query]), is_true=True),
            rank=_whole(ranks[caption]),
            found=tuple(
                show(int(image), float(score), is_true=int(image) == int(own[query]))
                for image, score in zip(nearest.indices[query], nearest.scores[query], strict=True)
            ),
        )
        for query, caption in enumerate(captions)
    )


def image_queries(space: RetrievalSpace, ranks: Tensor, images: list[int]) -> tuple[ImageQuery, ...]:
    """Show some images with the captions that they find.

    Args:
        space: Embeddings of all captions and images.
        ranks: Ranks for all images.
        images: Images to show, by number.
    """
    nearest = top_captions(
        image_embeddings=space.images,
        caption_embeddings=space.captions,
        caption_image=space.caption_image,
        images=images,
        k=_NUM_FOUND_CAPTIONS,
    )
    first_caption = space.first_captions()
    return tuple(
        ImageQuery(
            image=space.thumbnails.image(image),
            caption=first_caption[image],
            path=space.thumbnails.path(image),
            rank=_whole(ranks[image]),
            found=tuple(
                FoundCaption(
                    caption=space.texts[int(caption)],
                    similarity=float(score),
                    is_true=int(space.caption_image[int(caption)]) == image,
                )
                for caption, score in zip(nearest.indices[query], nearest.scores[query], strict=True)
            ),
        )
        for query, image in enumerate(images)
    )


def _whole(rank: Tensor) -> int:
    return int(rank.ceil())  # a tie for the first place is not the first place
