"""Tasks that classify images: by prompts, by nearest neighbours and by a linear probe."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from data_schemas.per_query_results import QueryResults
from stages.components.metrics.ranking import TIE_TOLERANCE
from stages.evaluate.embeddings.cached_embeddings import ImageEmbeddings
from stages.evaluate.metrics import linear_probe as probe
from stages.evaluate.metrics.classification import Classified, classify
from stages.evaluate.metrics.knn import knn_votes
from stages.evaluate.metrics.zero_shot import class_embeddings, class_scores
from stages.evaluate.sets.evaluation_sets import ClassSet, LabelledSet
from stages.evaluate.sets.prompts import class_prompts
from stages.evaluate.statistics.bootstrap import NUM_RESAMPLES
from stages.evaluate.statistics.summary import summarise
from stages.evaluate.tasks.task_result import TaskResult, as_json, rejected

EmbedCaptions = Callable[[tuple[str, ...]], Tensor]
Space = Literal["embedding", "backbone"]


def zero_shot(
    class_set: ClassSet,
    test: ImageEmbeddings,
    embed_captions: EmbedCaptions,
    *,
    templates: Sequence[str],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> TaskResult:
    """Classify the test images by prompts with the names of the classes.

    Args:
        class_set: The set to measure on.
        test: Embeddings of its test images.
        embed_captions: Gives one embedding per caption, in order.
        templates: Templates of the prompts, with ``{}`` for the class name; all have equal weight.
        seed: Seed of the resamples.
        num_resamples: Number of resamples for the intervals.

    Raises:
        ProtoRKDError: the set has no test images, a template has no place for the name, or an embedding is NaN or
            infinite.
    """
    labels = labels_of(split_of(class_set, "test"), test)
    prompts = embed_captions(class_prompts(class_set.class_names, templates))
    classes = class_embeddings(prompts.reshape(len(class_set.class_names), len(templates), -1))
    scores = class_scores(image_embeddings=test.embeddings, class_embeddings=classes)
    answers = classify(scores=scores, labels=labels, tolerance=TIE_TOLERANCE)
    settings = {"templates": list(templates)}
    return _measured(
        class_set, test, answers, task="zero_shot", settings=settings, seed=seed, num_resamples=num_resamples
    )


def knn(
    class_set: ClassSet,
    train: ImageEmbeddings,
    test: ImageEmbeddings,
    *,
    k: int,
    temperature: float,
    space: Space,
    device: torch.device,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> TaskResult:
    """Classify the test images by their nearest training images.

    Args:
        class_set: The set to measure on.
        train: Embeddings of its training images.
        test: Embeddings of its test images.
        k: Number of neighbours that vote.
        temperature: Divisor of the cosines; the lower, the more the nearest neighbours decide.
        space: Which features to use: "embedding", or "backbone" for those before the projection head.
        device: Device that the search runs on.
        seed: Seed of the resamples.
        num_resamples: Number of resamples for the intervals.

    Raises:
        ProtoRKDError: the set lacks a split, fewer than k training images can be read, or a feature is NaN or
            infinite.
    """
    votes = knn_votes(
        train_embeddings=_rows(train, space),
        train_labels=labels_of(split_of(class_set, "train"), train),
        test_embeddings=_rows(test, space),
        num_classes=len(class_set.class_names),
        k=k,
        temperature=temperature,
        device=device,
    )
    answers = classify(scores=votes, labels=labels_of(split_of(class_set, "test"), test), tolerance=0.0)
    settings = {**_train_sizes(train), "k": k, "temperature": temperature}
    task = _task("knn", space)
    return _measured(class_set, test, answers, task=task, settings=settings, seed=seed, num_resamples=num_resamples)


def linear_probe(
    class_set: ClassSet,
    train: ImageEmbeddings,
    test: ImageEmbeddings,
    *,
    solver: str,
    max_iterations: int,
    space: Space,
    device: torch.device,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> TaskResult:
    """Classify the test images by a linear layer fitted on the training images.

    Args:
        class_set: The set to measure on.
        train: Embeddings of its training images.
        test: Embeddings of its test images.
        solver: Who fits the layer, "torch" or "sklearn".
        max_iterations: Number of steps after which a fit ends, converged or not.
        space: Which features to use: "embedding", or "backbone" for those before the projection head.
        device: Device that the solver "torch" fits on; it must support float64.
        seed: Seed of the validation split and of the resamples.
        num_resamples: Number of resamples for the intervals; the layer is not fitted anew for them.

    Raises:
        ProtoRKDError: the set lacks a split, a class has no training image that can be read, or
            `metrics.linear_probe` refuses the features.
    """
    fitted = probe.linear_probe(
        train_features=_rows(train, space).to(device),
        train_labels=labels_of(split_of(class_set, "train"), train),
        test_features=_rows(test, space).to(device),
        test_labels=labels_of(split_of(class_set, "test"), test),
        num_classes=len(class_set.class_names),
        solver=solver,
        max_iterations=max_iterations,
        seed=seed,
    )
    settings = {
        **_train_sizes(train),
        "solver": solver,
        "max_iterations": max_iterations,
        "l2_weight": fitted.l2_weight,
        "converged": fitted.converged,
    }
    task = _task("linear_probe", space)
    return _measured(
        class_set, test, fitted.answers, task=task, settings=settings, seed=seed, num_resamples=num_resamples
    )


def split_of(class_set: ClassSet, name: str) -> LabelledSet:
    """Take the split called "train" or "test" of a set.

    Raises:
        ProtoRKDError: the set has none.
    """
    split = {"train": class_set.train, "test": class_set.test}[name]
    if split is None:
        raise ProtoRKDError(f"{class_set.name} must have {name} images for this task; got none. Leave the task out.")
    return split


def _measured(
    class_set: ClassSet,
    test: ImageEmbeddings,
    answers: Classified,
    *,
    task: str,
    settings: dict[str, Any],
    seed: int,
    num_resamples: int,
) -> TaskResult:
    """Sum up a classifier's answers as metrics, intervals and outcomes."""
    split = split_of(class_set, "test")
    names = _distinct(class_set.class_names)
    rows = test.rows.tolist()
    outcomes = QueryResults(
        set_name=class_set.name,
        task=task,
        images=[split.folder.images[row] for row in rows],
        labels=[names[split.folder.labels[row]] for row in rows],
        predicted=[names[label] for label in answers.predicted.tolist()],
        measures={name: hits.numpy() for name, hits in answers.hits.items()},
    )
    summary = summarise(outcomes, seed=seed, num_resamples=num_resamples)
    chance = {name: (500 if name == "top5" else 100) / len(names) for name in summary.metrics}
    entry = class_entry(class_set, test, task=task) | settings
    entry |= {
        "headline": "mean_per_class" if class_set.mean_per_class else "top1",
        "metrics": summary.metrics,
        "intervals": as_json(summary.intervals),
        "chance": chance,
    }
    return TaskResult(entry, (outcomes,))


def class_entry(class_set: ClassSet, test: ImageEmbeddings, *, task: str) -> dict[str, Any]:
    """Begin a report's entry: the set's name, the task, and the set's sizes."""
    sizes = {"num_images": len(test.rows), "num_classes": len(class_set.class_names)}
    return {"name": class_set.name, "task": task, **sizes, **rejected(*test.rejections)}


def _train_sizes(train: ImageEmbeddings) -> dict[str, int]:
    return {"num_train_images": len(train.rows), "num_train_rejected": len(train.rejections)}


def labels_of(split: LabelledSet, images: ImageEmbeddings) -> Tensor:
    """Take the classes of the images that could be read: (readable,), int64."""
    return torch.tensor(split.folder.labels)[images.rows]


def _rows(images: ImageEmbeddings, space: Space) -> Tensor:
    return {"embedding": images.embeddings, "backbone": images.features}[space]


def _task(name: str, space: Space) -> str:
    return {"embedding": name, "backbone": f"{name}_backbone"}[space]


def _distinct(names: Sequence[str]) -> list[str]:
    """Number classes that share a name, such as ImageNet's two cranes: outcomes know classes by name alone."""
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names)]
