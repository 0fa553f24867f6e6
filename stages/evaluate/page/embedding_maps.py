"""Maps of sets: a student's images in the plane, coloured by class, or by cluster where there are no classes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from stages.components.metrics.unit_rows import STUDENT_REMEDY, exact_scores, unit_rows
from stages.evaluate.metrics.clustering import find_clusters
from stages.evaluate.page.gallery import EmbeddingMap
from stages.evaluate.page.scatter_svg import COLOURS, draw_map, project

MIN_IMAGES = 4  # t-SNE takes no fewer, and a map of fewer says nothing

_IMAGES_PER_CLUSTER = 5


def class_map(
    embeddings: Tensor, *, labels: Tensor, class_names: Sequence[str], method: str, seed: int
) -> EmbeddingMap | None:
    """Draw the images of a set in the colours of their classes; None for fewer than four.

    Args:
        embeddings: Embeddings, one row per image.
        labels: Class of each image.
        class_names: Names of the classes, by label.
        method: Layout of the map: ``pca`` or ``tsne``.
        seed: Seed of the sample where there are many images.

    Raises:
        ProtoRKDError: the method is unknown, or an embedding is NaN or infinite.

    Shapes:
        embeddings: (images, dim), float, any scale; labels: (images,), int64.
    """
    if len(embeddings) < MIN_IMAGES:
        return None
    return _draw(embeddings, groups=labels, names=class_names, grouping="class", method=method, seed=seed)


@exact_scores()
def cluster_map(embeddings: Tensor, *, names: Mapping[int, str], method: str, seed: int) -> EmbeddingMap | None:
    """Draw the images of a set in the colours of their k-means clusters; None for fewer than four.

    Args:
        embeddings: Embeddings, one row per image.
        names: Names of all images, by row; a cluster is named after the image nearest to its centre.
        method: Layout of the map: ``pca`` or ``tsne``.
        seed: Seed of the clusters, and of the sample where there are many images.

    Raises:
        ProtoRKDError: the method is unknown, or an embedding is NaN or infinite.

    Shapes:
        embeddings: (images, dim), float, any scale.
    """
    if len(embeddings) < MIN_IMAGES:
        return None
    rows = unit_rows(embeddings, name="Image embeddings", remedy=STUDENT_REMEDY).cpu()
    num_clusters = max(1, min(len(COLOURS), len(rows) // _IMAGES_PER_CLUSTER))
    clusters = find_clusters(rows, num_clusters=num_clusters, seed=seed)
    middles = [_middle(rows, (clusters == number).nonzero().flatten()) for number in range(num_clusters)]
    titles = ["" if middle is None else names[middle] for middle in middles]
    return _draw(rows, groups=clusters, names=titles, grouping="cluster", method=method, seed=seed)


def _middle(rows: Tensor, members: Tensor) -> int | None:
    """Find the row nearest to the mean of its cluster, the first among equals; None for an empty cluster."""
    if not len(members):
        return None
    cosines = rows[members] @ rows[members].mean(dim=0)
    return int(members[cosines.argsort(descending=True, stable=True)[0]])


def _draw(
    embeddings: Tensor, *, groups: Tensor, names: Sequence[str], grouping: str, method: str, seed: int
) -> EmbeddingMap:
    laid_out = project(embeddings, method=method, seed=seed)
    shown = groups.cpu()[laid_out.rows].to(torch.int64).tolist()
    title = f"{len(shown):,} images as dots in the plane, coloured by {grouping}"
    drawn = draw_map(laid_out.points, groups=shown, group_names=names, title=title)
    return EmbeddingMap(drawn=drawn, method=method, grouping=grouping, num_images=len(embeddings))
