"""The page of an evaluation, from the embeddings of the checkpoint that is shown in full."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_index import read_captions
from data_schemas.prototypes import Prototypes
from pipeline.log import log
from pipeline.stage import Context, Input
from stages.components.images.image_set import ImageSet
from stages.evaluate.embeddings.embedder import Embedder
from stages.evaluate.inputs import AbsentImages, Checkpoints
from stages.evaluate.metrics.zero_shot import class_embeddings, class_scores
from stages.evaluate.overlap.near_duplicates import OverlapPair
from stages.evaluate.page.galleries import class_gallery, overlap_examples, prototype_sheets, retrieval_gallery
from stages.evaluate.page.gallery import ContactSheet, Gallery, OverlapExample
from stages.evaluate.page.render import render_page
from stages.evaluate.sets.evaluation_sets import ClassSet, RequestedSet, RetrievalSet
from stages.evaluate.sets.prompts import fill


def draw_page(
    report: Mapping[str, Any],
    entries: Sequence[RequestedSet],
    *,
    checkpoints: Checkpoints,
    embedder: Embedder,
    training: Input[ImageSet] | AbsentImages | None,
    map_method: str,
    seed: int,
    context: Context,
) -> str:
    """Write the page: figures from the report, images from the sets that were measured.

    Args:
        report: of the evaluation.
        entries: its sets; one of which no task was done is not shown.
        checkpoints: the student.
        embedder: with the checkpoint that is shown.
        training: Training images, or why they are not to be had; None where nobody asked for the overlap.
        map_method: how the maps are laid out.
        seed: of the samples.
        context: the store.
    """
    done = {(entry["name"], entry["task"]) for entry in report["sets"]}
    galleries: list[Gallery] = []
    sheets: dict[str, Sequence[ContactSheet]] = {}
    for entry in entries:
        found = entry.evaluation_set
        try:
            if isinstance(found, RetrievalSet) and any((found.name, task) in done for task in entry.tasks):
                images, captions = embedder.images(found.images), embedder.captions(found.captions)
                galleries.append(retrieval_gallery(found, images, captions, map_method=map_method, seed=seed))
                if not sheets:
                    sheets = dict(_sheets(found, embedder, checkpoints, context))
            elif isinstance(found, ClassSet) and found.test and any((found.name, task) in done for task in entry.tasks):
                test = embedder.images(found.test.images)
                scores = _scores(entry, found, embedder) if (found.name, "zero_shot") in done else None
                galleries.append(class_gallery(found, test, scores, map_method=map_method, seed=seed))
        except ProtoRKDError as error:
            log.info("evaluate: %s is not shown in images: %s", found.name, error)
    return render_page(report, galleries, sheets=sheets, overlaps=dict(_overlaps(report, entries, training)))


def _scores(entry: RequestedSet, found: ClassSet, embedder: Embedder) -> Tensor:
    """Scores of zero-shot classification once more: (readable, classes)."""
    assert found.test is not None
    names, templates = found.class_names, entry.templates
    prompts = embedder.captions(tuple(fill(template, name) for name in names for template in templates))
    classes = class_embeddings(prompts.reshape(len(names), len(templates), -1))
    return class_scores(image_embeddings=embedder.images(found.test.images).embeddings, class_embeddings=classes)


def _sheets(
    found: RetrievalSet, embedder: Embedder, checkpoints: Checkpoints, context: Context
) -> Iterator[tuple[str, tuple[ContactSheet, ...]]]:
    """Contact sheets of the prototypes that the student was trained with, where the store still has them."""
    record = checkpoints.artifact.record
    used = {*record.uses, *(entry.digest for entry in record.inputs.values())}
    for artifact in context.store.artifacts("prototypes"):
        if artifact.record.digest not in used:
            continue
        made_from = artifact.record.inputs["embeddings"].digest
        for embeddings in context.store.artifacts("encode-teacher"):
            if embeddings.record.digest == made_from:
                captions = read_captions(context.store.fetch(embeddings).path)
                prototypes = Prototypes.read(context.store.fetch(artifact).path)
                yield found.name, prototype_sheets(prototypes, captions, found, embedder.images(found.images))
                return


def _overlaps(
    report: Mapping[str, Any], entries: Sequence[RequestedSet], training: Input[ImageSet] | AbsentImages | None
) -> Iterator[tuple[str, tuple[OverlapExample, ...]]]:
    sets = dict(_images(entries))
    for found in report["overlap"]:
        pairs = [OverlapPair(**pair) for pair in found["pairs"]]
        if pairs and training is not None and not isinstance(training, AbsentImages):
            yield found["name"], overlap_examples(pairs, sets[found["name"]], training.value)


def _images(entries: Sequence[RequestedSet]) -> Iterator[tuple[str, ImageSet]]:
    for entry in entries:
        match entry.evaluation_set:
            case RetrievalSet(name=name, images=images):
                yield name, images.value
            case ClassSet(name=name, test=test) if test is not None:
                yield name, test.images.value
