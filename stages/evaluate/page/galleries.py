"""Choose what the page shows of each set, and of what a student makes of it: its gallery."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data_schemas.prototypes import Prototypes
from stages.components.images.image_set import ImageSet
from stages.components.metrics.unit_rows import STUDENT_REMEDY, exact_scores, unit_rows
from stages.components.report.even_sample import choose_queries
from stages.components.report.prototype_examples import NearestCaptions, choose_examples, cosine_sums
from stages.components.report.thumbnails import Thumbnails, thumbnail_or_stand_in
from stages.evaluate.embeddings.cached_embeddings import ImageEmbeddings
from stages.evaluate.overlap.near_duplicates import OverlapPair
from stages.evaluate.page.class_examples import ScoredClasses, class_accuracies, class_examples, worst_confusions
from stages.evaluate.page.embedding_maps import class_map, cluster_map
from stages.evaluate.page.gallery import ContactSheet, FoundImage, Gallery, OverlapExample
from stages.evaluate.page.retrieval_examples import (
    RetrievalSpace,
    caption_queries,
    choose_hits,
    choose_misses,
    image_queries,
)
from stages.evaluate.sets.evaluation_sets import ClassSet, RetrievalSet

_NUM_CAPTION_QUERIES, _NUM_IMAGE_QUERIES = 4, 8
_SHEET_GROUPS = ("largest", "smallest", "tightest")
_PROTOTYPES_PER_GROUP, _CAPTIONS_PER_SHEET, _IMAGES_PER_SHEET = 4, 3, 6
_NUM_OVERLAPS = 6


def retrieval_gallery(
    retrieval_set: RetrievalSet,
    images: ImageEmbeddings,
    captions: Tensor,
    *,
    queries: Tensor | None = None,
    map_method: str,
    seed: int,
) -> Gallery:
    """Show captions that find their image, captions that do not, an even sample both ways, and a map.

    Args:
        retrieval_set: Set to show; captions of images that could not be read are left out with them.
        images: Embeddings of its readable images.
        captions: Embeddings of all its captions, in their order.
        queries: Their embeddings as they look for their image; None where these are the same.
        map_method: Layout of the map: ``pca`` or ``tsne``.
        seed: Seed of the clusters that colour the map, and of its sample of images.

    Raises:
        ProtoRKDError: the method is unknown, or an embedding is NaN or infinite.

    Shapes:
        captions, queries: (captions, dim), float32.
    """
    space = retrieval_space(retrieval_set, images, captions, queries)
    ranks = space.ranks()
    sample = choose_queries(_NUM_CAPTION_QUERIES, len(space.texts))
    hits = choose_hits(ranks.captions, num=_NUM_CAPTION_QUERIES)
    misses = choose_misses(ranks.captions, space.caption_image, num=_NUM_CAPTION_QUERIES)
    asked_images = choose_queries(_NUM_IMAGE_QUERIES, len(images.rows))
    return Gallery(
        set_name=retrieval_set.name,
        caption_queries=caption_queries(space, ranks.captions, sample),
        caption_hits=caption_queries(space, ranks.captions, hits),
        caption_misses=caption_queries(space, ranks.captions, misses),
        image_queries=image_queries(space, ranks.images, asked_images),
        embedding_map=cluster_map(images.embeddings, names=space.first_captions(), method=map_method, seed=seed),
    )


def class_gallery(
    class_set: ClassSet, test: ImageEmbeddings, scores: Tensor | None, *, map_method: str, seed: int
) -> Gallery:
    """Show an even sample, the accuracy of each class, what the worst classes are taken for, and a map.

    Args:
        class_set: Set to show, with test images.
        test: Embeddings of its readable test images.
        scores: Scores of the classes by zero-shot classification; without them only the map is shown.
        map_method: Layout of the map: ``pca`` or ``tsne``.
        seed: Seed of the map's sample of images.

    Raises:
        ProtoRKDError: the method is unknown, or an embedding is NaN or infinite.
        ValueError: the set has no test images.

    Shapes:
        scores: (readable, classes), float.
    """
    if class_set.test is None:
        raise ValueError(f"{class_set.name} must have test images to be shown; got none.")
    labels = torch.tensor(class_set.test.folder.labels)[test.rows]
    drawn = class_map(test.embeddings, labels=labels, class_names=class_set.class_names, method=map_method, seed=seed)
    if scores is None:
        return Gallery(set_name=class_set.name, embedding_map=drawn)
    classes = ScoredClasses(
        names=class_set.class_names,
        labels=labels,
        scores=scores.cpu(),
        thumbnails=Thumbnails(class_set.test.images.value, test.rows),
    )
    return Gallery(
        set_name=class_set.name,
        class_examples=class_examples(classes),
        class_accuracies=class_accuracies(classes),
        confusions=worst_confusions(classes),
        embedding_map=drawn,
    )


@exact_scores()
def prototype_sheets(
    prototypes: Prototypes, captions: pa.Array, retrieval_set: RetrievalSet, images: ImageEmbeddings
) -> tuple[ContactSheet, ...]:
    """Show some prototypes: the captions nearest to each centroid, and the images of a set nearest to it.

    Args:
        prototypes: Prototypes that the student was trained with.
        captions: Captions that they are made of, by row.
        retrieval_set: Set whose images are shown.
        images: Embeddings of its readable images, in the prototypes' space.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
        ValueError: the images have another width than the prototypes.
    """
    rows = unit_rows(images.embeddings, name="Image embeddings", remedy=STUDENT_REMEDY).cpu()
    if rows.shape[1] != prototypes.centroids.shape[1]:
        raise ValueError(f"Images must have {prototypes.centroids.shape[1]} dimensions; got {rows.shape[1]}.")
    sizes = prototypes.sizes
    means = cosine_sums(prototypes) / np.maximum(sizes, 1)
    hearts = NearestCaptions(prototypes)
    thumbnails, first_caption = Thumbnails(retrieval_set.images.value, images.rows), _first_captions(retrieval_set)

    def nearest(number: int) -> tuple[FoundImage, ...]:
        cosines = rows @ torch.from_numpy(prototypes.centroids[number])
        best = cosines.sort(descending=True, stable=True).indices[:_IMAGES_PER_SHEET].tolist()
        return tuple(
            FoundImage(
                image=thumbnails.image(image),
                caption=first_caption[int(images.rows[image])],
                path=thumbnails.path(image),
                similarity=float(cosines[image]),
                is_true=False,
            )
            for image in best
        )

    chosen = choose_examples(sizes, means, num=_PROTOTYPES_PER_GROUP)
    return tuple(
        ContactSheet(
            group=group,
            prototype=number,
            size=int(sizes[number]),
            mean_cosine=float(means[number]),
            captions=tuple(
                (captions[row].as_py(), float(prototypes.cosines[row]))
                for row in hearts.rows(number, _CAPTIONS_PER_SHEET)
            ),
            images=nearest(number),
        )
        for group in _SHEET_GROUPS
        for number in chosen[group]
    )


def overlap_examples(
    pairs: Sequence[OverlapPair], evaluation: ImageSet, training: ImageSet
) -> tuple[OverlapExample, ...]:
    """Show the first pair of some evaluation images that are among the training images.

    Args:
        pairs: Pairs from `find_overlap`.
        evaluation: Evaluation images.
        training: Training images.
    """
    firsts: Mapping[str, OverlapPair] = {pair.evaluation: pair for pair in reversed(pairs)}
    shown = [pair for pair in pairs if firsts[pair.evaluation] is pair]
    return tuple(
        OverlapExample(
            evaluation_image=thumbnail_or_stand_in(evaluation, evaluation.paths.index(pair.evaluation)),
            evaluation_path=pair.evaluation,
            training_image=thumbnail_or_stand_in(training, training.paths.index(pair.training)),
            training_path=pair.training,
            exact=pair.exact,
            distance=pair.distance,
        )
        for pair in (shown[place] for place in choose_queries(_NUM_OVERLAPS, len(shown)))
    )


def retrieval_space(
    retrieval_set: RetrievalSet, images: ImageEmbeddings, captions: Tensor, queries: Tensor | None
) -> RetrievalSpace:
    """Leave out captions of images that could not be read, and renumber the images that are left.

    Shapes:
        captions, queries: (captions, dim), float32, of all captions of the set.
    """
    place = {int(row): index for index, row in enumerate(images.rows)}
    kept = [index for index, image in enumerate(retrieval_set.caption_image) if image in place]
    readable = captions[kept]
    return RetrievalSpace(
        images=images.embeddings,
        captions=readable,
        queries=readable if queries is None else queries[kept],
        caption_image=torch.tensor([place[retrieval_set.caption_image[index]] for index in kept]),
        texts=[retrieval_set.captions[index] for index in kept],
        thumbnails=Thumbnails(retrieval_set.images.value, images.rows),
    )


def _first_captions(retrieval_set: RetrievalSet) -> dict[int, str]:
    return dict(reversed(list(zip(retrieval_set.caption_image, retrieval_set.captions, strict=True))))
