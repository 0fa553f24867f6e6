"""The tasks by name: each embeds the images and captions of a set, and measures them.

All are called as ``TASKS[name](set, embeddings, seed=..., num_resamples=...)``, some with settings of their own. Tasks
that describe a space take their intervals from a jackknife, and ignore ``num_resamples``.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from data_schemas.calibration import MIXED, QUERY_BANK, Calibration
from pipeline.stage import Input
from stages.components.images.image_set import ImageSet
from stages.evaluate.embeddings.cached_embeddings import ImageEmbeddings
from stages.evaluate.sets.evaluation_sets import ClassSet, RetrievalSet, STSSet
from stages.evaluate.tasks import calibrated_tasks, caption_tasks, class_tasks, space_tasks
from stages.evaluate.tasks.class_tasks import Space, split_of
from stages.evaluate.tasks.task_result import TaskResult


class Embeddings(Protocol):
    """Embeds images with a student and captions with its teacher."""

    @property
    def fit_device(self) -> torch.device:
        """Device on which linear layers are fitted and neighbours searched."""

    def images(self, images: Input[ImageSet]) -> ImageEmbeddings:
        """Embed images: one row per image that could be read."""

    def captions(self, captions: tuple[str, ...], *, prompt: str | None = None) -> Tensor:
        """Embed captions behind a prompt, or behind their usual one: one row per caption, (captions, dim), float32."""

    def calibration(self, kind: str) -> Calibration:
        """Find or make a calibration of the student's scores."""


def _queries(embeddings: Embeddings, prompt: str | None) -> caption_tasks.EmbedCaptions | None:
    """Return what embeds captions that look for their image; None where that is what embeds captions."""
    return None if prompt is None else partial(embeddings.captions, prompt=prompt)


def _noting(query_prompt: str | None, measured: TaskResult) -> TaskResult:
    return (
        measured if query_prompt is None else replace(measured, entry=measured.entry | {"query_prompt": query_prompt})
    )


def _retrieval(
    retrieval_set: RetrievalSet,
    embeddings: Embeddings,
    *,
    query_prompt: str | None = None,
    seed: int,
    num_resamples: int,
) -> TaskResult:
    measured = caption_tasks.retrieval(
        retrieval_set,
        embeddings.images(retrieval_set.images),
        embeddings.captions,
        embed_queries=_queries(embeddings, query_prompt),
        seed=seed,
        num_resamples=num_resamples,
    )
    return _noting(query_prompt, measured)


def _calibrated(
    retrieval_set: RetrievalSet,
    embeddings: Embeddings,
    *,
    kind: str,
    query_prompt: str | None = None,
    seed: int,
    num_resamples: int,
) -> TaskResult:
    measured = calibrated_tasks.MEASURES[kind](
        retrieval_set,
        embeddings.images(retrieval_set.images),
        embeddings.captions,
        embed_queries=_queries(embeddings, query_prompt),
        calibration=embeddings.calibration(kind),
        seed=seed,
        num_resamples=num_resamples,
    )
    return _noting(query_prompt, measured)


def _geometry(retrieval_set: RetrievalSet, embeddings: Embeddings, *, seed: int, num_resamples: int) -> TaskResult:
    return space_tasks.geometry(retrieval_set, embeddings.images(retrieval_set.images), embeddings.captions, seed=seed)


def _neighbourhoods(
    retrieval_set: RetrievalSet, embeddings: Embeddings, *, seed: int, num_resamples: int
) -> TaskResult:
    return space_tasks.neighbourhoods(
        retrieval_set, embeddings.images(retrieval_set.images), embeddings.captions, seed=seed
    )


def _sts(sts_set: STSSet, embeddings: Embeddings, *, seed: int, num_resamples: int) -> TaskResult:
    return caption_tasks.sts(sts_set.name, sts_set.pairs, embeddings.captions, seed=seed, num_resamples=num_resamples)


def _zero_shot(
    class_set: ClassSet, embeddings: Embeddings, *, templates: Sequence[str], seed: int, num_resamples: int
) -> TaskResult:
    test = embeddings.images(split_of(class_set, "test").images)
    return class_tasks.zero_shot(
        class_set, test, embeddings.captions, templates=templates, seed=seed, num_resamples=num_resamples
    )


def _knn(
    class_set: ClassSet,
    embeddings: Embeddings,
    *,
    space: Space,
    k: int,
    temperature: float,
    seed: int,
    num_resamples: int,
) -> TaskResult:
    train, test = (embeddings.images(split_of(class_set, split).images) for split in ("train", "test"))
    return class_tasks.knn(
        class_set,
        train,
        test,
        k=k,
        temperature=temperature,
        space=space,
        device=embeddings.fit_device,
        seed=seed,
        num_resamples=num_resamples,
    )


def _linear_probe(
    class_set: ClassSet,
    embeddings: Embeddings,
    *,
    space: Space,
    solver: str,
    max_iterations: int,
    seed: int,
    num_resamples: int,
) -> TaskResult:
    train, test = (embeddings.images(split_of(class_set, split).images) for split in ("train", "test"))
    return class_tasks.linear_probe(
        class_set,
        train,
        test,
        solver=solver,
        max_iterations=max_iterations,
        space=space,
        device=embeddings.fit_device,
        seed=seed,
        num_resamples=num_resamples,
    )


def _clustering(class_set: ClassSet, embeddings: Embeddings, *, seed: int, num_resamples: int) -> TaskResult:
    return space_tasks.clustering(class_set, embeddings.images(split_of(class_set, "test").images), seed=seed)


TASKS: dict[str, Callable[..., TaskResult]] = {
    "retrieval": _retrieval,
    "query_bank": partial(_calibrated, kind=QUERY_BANK),
    "mixed": partial(_calibrated, kind=MIXED),
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
