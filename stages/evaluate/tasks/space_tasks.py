"""Tasks that describe a space: geometry, neighbourhoods and clusters, with intervals by the jackknife."""

from collections.abc import Mapping

import torch
from torch import Tensor

from stages.evaluate.embeddings.cached_embeddings import ImageEmbeddings
from stages.evaluate.metrics.clustering import clustering_metrics, find_clusters
from stages.evaluate.metrics.geometry import geometry_metrics
from stages.evaluate.metrics.geometry_jackknife import geometry_replicates
from stages.evaluate.metrics.neighbour_overlap import neighbourhood_chance, neighbourhood_metrics
from stages.evaluate.sets.evaluation_sets import ClassSet, RetrievalSet
from stages.evaluate.statistics.bootstrap import Places
from stages.evaluate.statistics.jackknife import jackknife_interval, jackknife_intervals, random_groups
from stages.evaluate.tasks.caption_tasks import EmbedCaptions, captioned_entry, captioned_rows
from stages.evaluate.tasks.class_tasks import class_entry, labels_of, split_of
from stages.evaluate.tasks.task_result import TaskResult, as_json

_SIDES = ("images", "captions")
# Most rows that a measure of all their pairs takes; more are sampled.
_UNIFORMITY_ROWS = 5_000
_STRUCTURE_ROWS = 2_000
_SILHOUETTE_ROWS = 5_000
# The same in the jackknife, which repeats such measures for every group that is left out.
_JACKKNIFE_IMAGES = 1_000
_JACKKNIFE_SILHOUETTE_ROWS = 2_000


def geometry(
    retrieval_set: RetrievalSet, images: ImageEmbeddings, embed_captions: EmbedCaptions, *, seed: int
) -> TaskResult:
    """Measure the gap between images and captions, and how each of the two fills the space.

    Args:
        retrieval_set: The set to measure on.
        images: Embeddings of the set's images.
        embed_captions: Gives one embedding per caption, in order.
        seed: Seed of the samples and of the jackknife's groups.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
    """
    rows = captioned_rows(retrieval_set, images, embed_captions)
    metrics = geometry_metrics(**rows.all(), uniformity_rows=_UNIFORMITY_ROWS, seed=seed)
    num_rows = {f"num_uniformity_{side}": int(metrics.pop(f"uniformity_num_rows/{side}", 0)) for side in _SIDES}
    groups = torch.from_numpy(random_groups(len(rows.images), seed=seed))
    replicates = (
        geometry_replicates(**rows.all(), groups=groups, uniformity_rows=_UNIFORMITY_ROWS, seed=seed)
        if len(groups) > 1
        else {}
    )
    intervals = {
        name: jackknife_interval(values, estimate=metrics[name], num_pictures=len(groups))
        for name, values in replicates.items()
    }
    entry = captioned_entry(retrieval_set, images, rows, task="geometry") | {
        **num_rows,
        "metrics": metrics,
        "intervals": as_json({name: intervals[name] for name in metrics if name in intervals}),
        "chance": {},
    }
    return TaskResult(entry)


def neighbourhoods(
    retrieval_set: RetrievalSet, images: ImageEmbeddings, embed_captions: EmbedCaptions, *, seed: int, k: int = 10
) -> TaskResult:
    """Compare the student's space of the images with the teacher's space of their captions.

    Args:
        retrieval_set: The set to measure on.
        images: Embeddings of the set's images.
        embed_captions: Gives one embedding per caption, in order.
        seed: Seed of the samples and of the jackknife's groups.
        k: Number of neighbours of each image that are compared.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
    """
    rows = captioned_rows(retrieval_set, images, embed_captions)
    num_images = len(rows.images)
    metrics = neighbourhood_metrics(**rows.all(), k=k, sample_size=_STRUCTURE_ROWS, seed=seed)
    intervals = jackknife_intervals(
        lambda kept: neighbourhood_metrics(**rows.take(kept), k=k, sample_size=len(kept), seed=seed),
        estimates=metrics,
        num_pictures=num_images,
        seed=seed,
        limit=_JACKKNIFE_IMAGES,
        rests_on={"similarity_spearman": _STRUCTURE_ROWS, "cka": _STRUCTURE_ROWS},
    )
    entry = captioned_entry(retrieval_set, images, rows, task="neighbourhoods") | {
        "k": k,
        "metrics": metrics,
        "intervals": as_json(intervals),
        "chance": neighbourhood_chance(num_images=num_images, k=k),
    }
    return TaskResult(entry)


def clustering(class_set: ClassSet, test: ImageEmbeddings, *, seed: int) -> TaskResult:
    """Group the test images into as many clusters as there are classes among them, and compare the two.

    The jackknife leaves images out of the comparison alone; the clusters stay as they are.

    Args:
        class_set: The set to measure on.
        test: Embeddings of its test images.
        seed: Seed of the clusters, of the silhouette's sample, and of the jackknife's groups.

    Raises:
        ProtoRKDError: the set has no test images, or an embedding is NaN or infinite.
    """
    labels = labels_of(split_of(class_set, "test"), test)
    num_images, num_clusters = len(labels), len(set(labels.tolist()))
    clusters = find_clusters(test.embeddings, num_clusters=num_clusters, seed=seed)

    def measure(rows: Tensor, silhouette_rows: int) -> dict[str, float]:
        return clustering_metrics(
            image_embeddings=test.embeddings[rows],
            labels=labels[rows],
            clusters=clusters[rows],
            silhouette_rows=silhouette_rows,
            seed=seed,
        )

    def agreement(rows: Places) -> Mapping[str, float]:
        return measure(torch.from_numpy(rows), 0)

    def silhouettes(rows: Places) -> Mapping[str, float]:
        measures = measure(torch.from_numpy(rows), len(rows))
        return {name: value for name, value in measures.items() if name.startswith("silhouette/")}

    metrics = measure(torch.arange(num_images), _SILHOUETTE_ROWS)
    intervals = jackknife_intervals(agreement, estimates=metrics, num_pictures=num_images, seed=seed)
    intervals |= jackknife_intervals(
        silhouettes,
        estimates=metrics,
        num_pictures=num_images,
        seed=seed,
        limit=_JACKKNIFE_SILHOUETTE_ROWS,
        rests_on={f"silhouette/{name}": _SILHOUETTE_ROWS for name in ("classes", "clusters")},
    )
    entry = class_entry(class_set, test, task="clustering") | {
        "num_clusters": num_clusters,
        "metrics": metrics,
        "intervals": as_json({name: intervals[name] for name in metrics if name in intervals}),
        "chance": {"ari": 0.0, "ami": 0.0},
    }
    return TaskResult(entry)
