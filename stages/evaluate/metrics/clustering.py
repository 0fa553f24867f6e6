"""Cluster images: does the student group the images of one class without being told the classes?"""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.components.compute.faiss_library import find_faiss, import_faiss
from stages.components.metrics.embedding_space import draw_rows
from stages.components.metrics.ranking import check_labels
from stages.components.metrics.unit_rows import STUDENT_REMEDY, exact_scores, unit_rows

_ITERATIONS, _RESTARTS = 30, 5


@exact_scores()
def find_clusters(image_embeddings: Tensor, *, num_clusters: int, seed: int = 0) -> Tensor:
    """Group images by k-means of their unit rows: by faiss where it imports, by scikit-learn otherwise.

    Args:
        image_embeddings: One row per image.
        num_clusters: Number of clusters, at most one per image; a cluster may come out empty.
        seed: Seed of the starting centroids. The same library, rows and seed give the same clusters.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
        ValueError: there are fewer images than clusters.

    Shapes:
        image_embeddings: (images, dim), float, any scale.
        returns: (images,), int64, from 0 to num_clusters - 1, on the CPU.
    """
    rows = unit_rows(image_embeddings, name="Image embeddings", remedy=STUDENT_REMEDY).cpu().numpy()
    if not 1 <= num_clusters <= len(rows):
        raise ValueError(f"num_clusters must be from 1 to {len(rows)}; got {num_clusters}.")
    find = clusters_by_sklearn if find_faiss() is None else clusters_by_faiss
    return find(rows, num_clusters=num_clusters, seed=seed)


def clusters_by_faiss(rows: NDArray[np.float32], *, num_clusters: int, seed: int) -> Tensor:
    """Run k-means by faiss, on all rows, on the CPU.

    Raises:
        ImportError: faiss is not installed, or not whole.

    Shapes:
        rows: (rows, dim), float32.
        returns: (rows,), int64.
    """
    kmeans = import_faiss().Kmeans(
        rows.shape[1],
        num_clusters,
        niter=_ITERATIONS,
        nredo=_RESTARTS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),  # its default draws 256 rows a centroid and drops the others
    )
    kmeans.train(rows)
    _, nearest = kmeans.index.search(rows, 1)
    return torch.from_numpy(nearest[:, 0])


def clusters_by_sklearn(rows: NDArray[np.float32], *, num_clusters: int, seed: int) -> Tensor:
    """Run k-means by scikit-learn.

    Shapes:
        rows: (rows, dim), float32.
        returns: (rows,), int64.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    kmeans = KMeans(num_clusters, n_init=_RESTARTS, max_iter=_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters: some stay empty
        return torch.from_numpy(kmeans.fit_predict(rows)).long()


@exact_scores()
def clustering_metrics(
    *, image_embeddings: Tensor, labels: Tensor, clusters: Tensor, silhouette_rows: int = 5_000, seed: int = 0
) -> dict[str, float]:
    """Compare clusters with classes, and measure how compact and how far apart both are.

    Args:
        image_embeddings: One row per image.
        labels: Class of each image.
        clusters: Cluster of each image, from `find_clusters` with as many clusters as there are classes.
        silhouette_rows: Most images in the silhouette; more are sampled down to this size.
        seed: Seed of that sample.

    Returns:
        ``ari`` and ``ami``: adjusted Rand index and adjusted mutual information of clusters and classes; 1 where they
        are the same, 0 on average for random clusters. Three measures come once for the classes, as
        ``<measure>/classes``, and once for the clusters, as ``<measure>/clusters``:
        ``silhouette``: from -1 to 1, the best.
        ``calinski_harabasz``: spread between groups over spread within them; the higher the better.
        ``davies_bouldin``: size of two groups over their distance; from 0, the best.
        They are left out for a single group, and where every image is a group of its own.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
        ValueError: the labels or the clusters do not fit the images.

    Shapes:
        image_embeddings: (images, dim), float, any scale.
        labels: (images,), int64; clusters: (images,), int64.
    """
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    rows = unit_rows(image_embeddings, name="Image embeddings", remedy=STUDENT_REMEDY).cpu()
    for groups in (labels, clusters):
        check_labels(groups, num_rows=len(rows), num_classes=1 + int(groups.max()))
    by_class, by_cluster = labels.cpu().numpy(), clusters.cpu().numpy()
    metrics = {
        "ari": float(adjusted_rand_score(by_class, by_cluster)),
        "ami": float(adjusted_mutual_info_score(by_class, by_cluster)),
    }
    sample = draw_rows(len(rows), limit=silhouette_rows, seed=seed).numpy()
    for name, grouping in (("classes", by_class), ("clusters", by_cluster)):
        shape = _shape(rows.numpy(), grouping, sample=sample)
        metrics |= {f"{measure}/{name}": value for measure, value in shape.items()}
    return metrics


def _shape(rows: NDArray[np.float32], groups: NDArray[np.int64], *, sample: NDArray[np.int64]) -> dict[str, float]:
    from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

    measures = {}
    if _is_grouping(groups[sample]):
        measures["silhouette"] = float(silhouette_score(rows[sample], groups[sample]))
    if _is_grouping(groups):
        measures["calinski_harabasz"] = float(calinski_harabasz_score(rows, groups))
        measures["davies_bouldin"] = float(davies_bouldin_score(rows, groups))
    return measures


def _is_grouping(groups: NDArray[np.int64]) -> bool:
    return 2 <= len(np.unique(groups)) < len(groups)
