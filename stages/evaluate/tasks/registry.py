"""The tasks by name: each embeds what it looks at, and measures it.

All are asked for as ``TASKS[name](found, embedder, seed=..., num_resamples=...)``, with settings of their own beside
these. Those that describe a space take their intervals from a jackknife, and leave ``num_resamples`` alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from pipeline.stage import Input
from stages.components.images.image_set import ImageSet
from stages.evaluate.embeddings.cached_embeddings import ImageEmbeddings
from stages.evaluate.sets.evaluation_sets import ClassSet, RetrievalSet, STSSet
from stages.evaluate.tasks import caption_tasks, class_tasks, space_tasks
from stages.evaluate.tasks.class_tasks import Space, split_of
from stages.evaluate.tasks.task_result import TaskResult


class Embedder(Protocol):
    """Embeds images with a student and captions with its teacher."""

    @property
    def fit_device(self) -> torch.device:
        """Where linear layers are fitted on the embeddings, and neighbours searched among them."""

    def images(self, images: Input[ImageSet]) -> ImageEmbeddings:
        """One row a readable image."""

    def captions(self, captions: tuple[str, ...]) -> Tensor:
        """One row a caption: (captions, dim), float32."""


def _retrieval(found: RetrievalSet, embedder: Embedder, *, seed: int, num_resamples: int) -> TaskResult:
    images = embedder.images(found.images)
    return caption_tasks.retrieval(found, images, embedder.captions, seed=seed, num_resamples=num_resamples)


def _geometry(found: RetrievalSet, embedder: Embedder, *, seed: int, num_resamples: int) -> TaskResult:
    return space_tasks.geometry(found, embedder.images(found.images), embedder.captions, seed=seed)


def _neighbourhoods(found: RetrievalSet, embedder: Embedder, *, seed: int, num_resamples: int) -> TaskResult:
    return space_tasks.neighbourhoods(found, embedder.images(found.images), embedder.captions, seed=seed)


def _sts(found: STSSet, embedder: Embedder, *, seed: int, num_resamples: int) -> TaskResult:
    return caption_tasks.sts(found.name, found.pairs, embedder.captions, seed=seed, num_resamples=num_resamples)


def _zero_shot(
    found: ClassSet, embedder: Embedder, *, templates: Sequence[str], seed: int, num_resamples: int
) -> TaskResult:
    test = embedder.images(split_of(found, "test").images)
    return class_tasks.zero_shot(
        found, test, embedder.captions, templates=templates, seed=seed, num_resamples=num_resamples
    )


def _knn(
    found: ClassSet, embedder: Embedder, *, space: Space, k: int, temperature: float, seed: int, num_resamples: int
) -> TaskResult:
    train, test = (embedder.images(split_of(found, split).images) for split in ("train", "test"))
    return class_tasks.knn(
        found,
        train,
        test,
        k=k,
        temperature=temperature,
        space=space,
        device=embedder.fit_device,
        seed=seed,
        num_resamples=num_resamples,
    )


def _linear_probe(
    found: ClassSet,
    embedder: Embedder,
    *,
    space: Space,
    solver: str,
    max_iterations: int,
    seed: int,
    num_resamples: int,
) -> TaskResult:
    train, test = (embedder.images(split_of(found, split).images) for split in ("train", "test"))
    return class_tasks.linear_probe(
        found,
        train,
        test,
        solver=solver,
        max_iterations=max_iterations,
        space=space,
        device=embedder.fit_device,
        seed=seed,
        num_resamples=num_resamples,
    )


def _clustering(found: ClassSet, embedder: Embedder, *, seed: int, num_resamples: int) -> TaskResult:
    return space_tasks.clustering(found, embedder.images(split_of(found, "test").images), seed=seed)


TASKS: dict[str, Callable[..., TaskResult]] = {
    "retrieval": _retrieval,
    "zero_shot": _zero_shot,
    "knn": partial(_knn, space="embedding"),
    "knn_backbone": partial(_knn, space="backbone"),
    "linear_probe": partial(_linear_probe, space="embedding"),
    "linear_probe_backbone": partial(_linear_probe, space="backbone"),
    "geometry": _geometry,
    "neighbourhoods": _neighbourhoods,
    "clustering": _clustering,
    "sts": _sts,
}
